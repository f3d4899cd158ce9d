"""From a request to a run folder: the workflow behind `expunge unlearn`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.parts import ByDesign, Guard
from expunge.core.plan import Plan, Plans, as_plans
from expunge.core.request import Request, digest
from expunge.core.rows import Rows, Sets
from expunge.engine import artifact, checkpoint, loop, receipt
from expunge.engine.adapters import is_adapted
from expunge.engine.distributed.process_group import ProcessGroup
from expunge.engine.guarding import is_guarded
from expunge.engine.loop import Hooks
from expunge.engine.run_state import RunState
from expunge.engine.validate import check, check_capabilities
from expunge.io import run_dirs, selection_files
from expunge.io.models import Opened, Source, load, receipt_of, records, rows
from expunge.io.secret import sealed
from expunge.workflows import build_plan
from expunge.workflows.aftermath import forget_loss, still_known, unchanged
from expunge.workflows.overlaps import overlaps, refuse
from expunge.workflows.watch import Watch

TO_RESUME = "go on with --resume, "
ASKED = frozenset({"question", "prompt", "messages"})  # columns that turn an alternate answer into a full row


@dataclass(frozen=True, eq=False)
class Result:
    """The result of a run: the model with its modality, the receipt, and the folder on disk (None: nothing on disk).

    selected: rows by set that a selector picked before the start; the receipt has their places.
    """

    model: nn.Module
    modality: Modality
    receipt: Mapping[str, Any]
    folder: Path | None = None
    selected: Sets = field(default_factory=dict)


def unlearn(
    method: str | Plan | Plans,
    model: str | Path | Opened,
    forget: Source | Rows | None = None,
    retain: Source | Rows | None = None,
    *,
    holdout: Source | Rows | None = None,
    alternate_answers: Source | Rows | None = None,
    out: str | Path | None = None,
    select: tuple[str, ...] = (),
    update: tuple[str, ...] = (),
    prompt_format: str = "",
    allow_overlap: bool = False,
    watch: Watch | None = None,
    resume: bool = False,
    overwrite: bool = False,
    hooks: Hooks | None = None,
    load_options: Mapping[str, Any] | None = None,
    **hyperparameters: Any,
) -> Result:
    """Remove the influence of rows from a model.

    Args:
        method: a name of the catalog, or a plan.
        model: a folder or hub id, the folder of an earlier run, or an opened model, which is then changed in place.
        forget, retain, holdout: a file, hub id or list of records each (see `expunge.io.data.read`); retain where the method reads it.
        alternate_answers: answers to give instead, for methods that use them; the modality's own where none are given.
        out: the run folder; None keeps nothing on disk.
        hyperparameters: the method's, by name.

    Raises:
        UserError: for every mistake that the user can correct.
        Interrupted: after a checkpoint, from which `resume` goes on.
    """
    plans = build_plan.plan(method, hyperparameters, select=select, update=update) if isinstance(method, str) else as_plans(method)
    folder = Path(out) if out is not None else None
    if folder:
        check_folder(folder, resume, overwrite, (model, forget, retain, holdout, alternate_answers))
    opened = model if isinstance(model, Opened) else load(model, prompt_format, **(load_options or {}))
    if is_guarded(opened.modality):
        base = receipt_of(opened.source).get("model", {}).get("source", "that it stands around")
        raise UserError(f"{opened.source} is a guard, whose model was not changed: unlearn the model {base} itself")
    modality = opened.modality
    check_capabilities(plans, modality)
    request = _request(modality, plans, forget, retain, holdout, alternate_answers, allow_overlap)
    store = _store_of(plans, opened, method if isinstance(method, str) else "custom", request)
    check(plans, request.sets, modality, known=store is not None)
    findings = [*request.findings, *_shared(modality, request, allow_overlap)]
    before, adapted = receipt.hash_weights(opened.model), is_adapted(opened.model)
    description: dict[str, Any] = {
        "method": method if isinstance(method, str) else "custom",
        "stages": receipt.describe(plans),
        "model": {"source": opened.source, "weights": before},
        "request": {"hash": sealed(request.hash), "sets": {n: len(r) for n, r in request.sets.items()}, "findings": findings},
        "modality": modality.about(),
        **({"watch": {"sets": {n: len(r) for n, r in watch.sets.items()}, "best": watch.best}} if watch else {}),
    }
    known_before = forget_loss(opened.model, modality, request.forget)
    key = digest({**description, "model": before})  # the same model may have another path
    saved, process_group = _resumed(folder, key) if resume and folder else None, ProcessGroup()
    log = _Log(folder if process_group.first else None)
    start, skipped = watch.start(opened) if watch else ({}, {})
    run_hooks = _hooks(hooks or Hooks(), folder, key, log, watch.hooks(modality, start, skipped) if watch else {})
    folder_existed = folder is not None and folder.exists()
    if folder and not resume and process_group.first:
        run_dirs.empty(folder)
    log.keep_until(saved)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        run = loop.run(plans, opened.model, modality, request.sets, hooks=run_hooks, resume=saved, store=store)
        selected_rows = selection_files.places(run.picked, request.sets)
        description |= {"selected": selected_rows} if selected_rows else {}
        known_after = forget_loss(run.model, run.modality, request.forget)
        failures = [*still_known(known_before, known_after), *(watch.failures(run.model, modality, start) if watch else [])]
        receipt_record = _receipt(description, run, plans, before, adapted, failures)
        receipt_record["forget_loss"] = {"before": known_before, "after": known_after}
    except UserError:
        if folder and not resume and process_group.first:  # a failed run leaves nothing behind
            run_dirs.empty(folder)
            if not folder_existed:
                folder.rmdir()
        raise
    if folder:
        run_folder = folder

        def write_results() -> None:
            selection_files.write(run_folder / selection_files.FOLDER, selected_rows, {"forget": forget, "retain": retain})
            _write(run_folder, run.model, run.modality, receipt_record, run.store)

        process_group.agree(write_results)
    return Result(run.model, run.modality, receipt_record, folder, run.picked)


def _store_of(plans: Plans, opened: Opened, method: str, request: Request) -> Mapping[str, Any] | None:
    """The store to remove rows from; None where a method has none or makes one.

    Raises:
        UserError: where the model has no store, or one of another method.
    """
    if not isinstance(plans[0].action, ByDesign):
        return None
    if request.forget is None:
        return None
    store = artifact.read_store(Path(opened.source))
    made_by = receipt_of(opened.source).get("method", "")
    if store is None:
        raise UserError(f"{opened.source} holds no store to forget from: make one with expunge train --method {method}")
    if made_by != method:
        raise UserError(f"the store in {opened.source} was made by {made_by!r}, and not by {method!r}: forget with that method")
    return store


def check_folder(folder: Path, resume: bool, overwrite: bool, reads: tuple[object, ...]) -> None:
    """Refuse a run folder that does not fit `resume` and `overwrite`. reads: sources that the run reads. Raises: UserError."""
    ProcessGroup().agree(lambda: _check_folder(folder, resume, overwrite, reads))


def _check_folder(folder: Path, resume: bool, overwrite: bool, reads: tuple[object, ...]) -> None:
    if resume and overwrite:
        raise UserError("--resume goes on with a run and --overwrite replaces it: give one of them")
    if not resume:
        run_dirs.check_free(folder, overwrite, reads, TO_RESUME if run_dirs.begun(folder) else "")
    elif (folder / "receipt.json").exists():
        raise UserError(f"the run in {folder} has ended, so there is nothing to resume")
    elif not run_dirs.begun(folder):
        raise UserError(f"there is no run in {folder} to resume: leave --resume out to start one")


def _request(
    modality: Modality,
    plans: Plans,
    forget: Source | Rows | None,
    retain: Source | Rows | None,
    holdout: Source | Rows | None,
    alternate_answers: Source | Rows | None,
    overlap: bool,
) -> Request:
    sets_read = frozenset[str]().union(*(p.sets_read() for p in plans))
    if alternate_answers is None:
        answer_rows = modality.answers(modality.refusals()) if "alternate_answers" in sets_read else None
    elif isinstance(alternate_answers, Rows):
        answer_rows = alternate_answers
    else:
        answer_records = records(alternate_answers, "alternate_answers")
        have_questions = all(not ASKED.isdisjoint(r) for r in answer_records)
        answer_rows = (
            modality.rows("alternate_answers", answer_records)
            if have_questions
            else modality.answers([_answer_of(r) for r in answer_records])
        )
    return Request(
        rows(modality, "forget", forget), rows(modality, "retain", retain), rows(modality, "holdout", holdout), answer_rows, overlap
    )


def _shared(modality: Modality, request: Request, allowed: bool) -> list[str]:
    """Sentences about sets that share items under other labels, or that only the audit keeps apart. Raises: UserError with the rows to
    forget in another set.
    """
    sets = {name: rows for name, rows in request.sets.items() if name != "alternate_answers"}
    found = overlaps(modality, sets)
    if not allowed:
        refuse([o for o in found if "forget" in (o.first, o.second)])
    return [
        f"{o.text}{' (allowed by request)' if allowed else ''}" for o in found if f"{o.second!r} also" not in " ".join(request.findings)
    ]


def _answer_of(record: Mapping[str, Any]) -> Any:
    for column in ("answer", "completion", "text", "label"):
        if column in record:
            return record[column]
    raise UserError(f"alternate answers need a column 'answer' (or 'completion', 'text', 'label'); found {', '.join(map(repr, record))}")


def _resumed(folder: Path, key: str) -> dict[str, Any] | None:
    saved: dict[str, Any] | None = checkpoint.load(folder / "checkpoint")
    if saved is None:
        return None  # killed before the first checkpoint: nothing is lost by starting over
    if saved.pop("key") != key:
        raise UserError(
            f"the run in {folder} was started with another method, model, data or hyperparameters; --resume goes on with the same ones"
        )
    return saved


@dataclass
class _Log:
    """log.jsonl: one record per step."""

    folder: Path | None
    records: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def path(self) -> Path | None:
        return self.folder / "log.jsonl" if self.folder else None

    def __call__(self, record: Mapping[str, Any]) -> None:
        if self.path:
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")

    def keep_until(self, saved: Mapping[str, Any] | None) -> None:
        """Drop what a killed run wrote after its last checkpoint."""
        if not self.path or not self.path.exists():
            return
        stage, done = (saved["stage"], saved["done"]) if saved else (-1, 0)
        lines = []
        for line in self.path.read_text().splitlines(keepends=True):
            if not line.endswith("\n"):  # the process died while it wrote the line
                break
            record = json.loads(line)
            # A checkpoint is older than the scores and the end that follow its step; both come again.
            if record["stage"] < stage or (record["stage"] == stage and record.get("done", done) < done + ("loss" in record)):
                lines.append(line)
        self.path.write_text("".join(lines))


def _hooks(hooks: Hooks, folder: Path | None, key: str, log: _Log, watching: Mapping[str, Any]) -> Hooks:
    def record(entry: Mapping[str, Any]) -> None:
        log(entry)
        hooks.log(entry)

    def save(state: dict[str, Any]) -> None:
        if folder:
            checkpoint.save({**state, "key": key}, folder / "checkpoint")

    return replace(hooks, log=record, save=save if folder else hooks.save, **watching)


def _receipt(
    description: Mapping[str, Any], run: RunState, plans: Plans, before: str, adapted: bool, failures: list[str]
) -> dict[str, Any]:
    after = receipt.hash_weights(run.model)
    guarded = isinstance(plans[-1].action, Guard)
    new_adapters = is_adapted(run.model) and not adapted  # its weights have new names, and change nothing until one of these is not zero
    changed = any(bool(p.any()) for n, p in run.model.named_parameters() if "lora_B" in n) if new_adapters else after != before
    if not changed and not guarded:
        raise UserError(unchanged(run, plans))
    return {
        **description,
        "expunge": receipt.versions()["expunge"],
        "result": {
            "weights": after,
            "changed": changed,
            "kind": artifact.kind_of(plans, run.model),
            **({"store": True} if run.store is not None else {}),
        },
        "seed": run.seed,
        "cost": receipt.cost(run),
        "warnings": [*run.warnings, *failures],
        "shown": run.shown,
        "ended": [{"stage": r["stage"], "epoch": r["epoch"], "why": r["ended"]} for r in run.log if "ended" in r],
        "versions": receipt.versions(),
        "machine": receipt.machine(),
    }


def _write(folder: Path, model: nn.Module, modality: Modality, receipt_record: Mapping[str, Any], store: Mapping[str, Any] | None) -> None:
    """The model under a temporary name, then its own, then the receipt: a run folder with a receipt is complete."""
    kind = str(receipt_record["result"]["kind"])
    temporary = folder / f"{kind}.tmp"
    run_dirs.empty(temporary)
    artifact.write(temporary, kind, model, modality)
    run_dirs.remove(folder / kind)
    temporary.rename(folder / kind)
    if store is not None:
        artifact.write_store(folder, store)
    receipt.write(folder / "receipt.json", receipt_record)
    for path in folder.glob("checkpoint*"):
        run_dirs.remove(path)
