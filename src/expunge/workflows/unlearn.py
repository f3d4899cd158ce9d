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
from expunge.workflows import build_plan
from expunge.workflows.watch import Watch

TO_RESUME = "go on with --resume, "
ASKED = frozenset({"question", "prompt", "messages"})  # columns that make of a substitute answer a row: the model refuses this, so


@dataclass(frozen=True, eq=False)
class Result:
    """What came out: the model with its modality, the receipt, and the folder where they are kept (None: nowhere).

    selected: rows by set that a selector put in the place of those given, before the start; the receipt has their places.
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
        method: a name of the catalogue, or a plan.
        model: a folder or hub id, the folder of an earlier run, or an opened model, which is then changed in place.
        forget, retain, holdout: a file, hub id or list of records each (see `expunge.io.data.read`); retain where the method reads it.
        alternate_answers: answers to give instead, for methods that use them; the modality's own where none are given.
        out: the run folder; None keeps nothing on disk.
        hyperparameters: the method's, by name.

    Errors: UserError for everything that the user can mend; Interrupted after a checkpoint, from which `resume` goes on.
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
    before, adapted = receipt.hash_weights(opened.model), is_adapted(opened.model)
    described: dict[str, Any] = {
        "method": method if isinstance(method, str) else "custom",
        "stages": receipt.describe(plans),
        "model": {"source": opened.source, "weights": before},
        "request": {"hash": request.hash, "sets": {n: len(r) for n, r in request.sets.items()}, "findings": list(request.findings)},
        "modality": modality.about(),
        **({"watch": {"sets": {n: len(r) for n, r in watch.sets.items()}, "best": watch.best}} if watch else {}),
    }
    key = digest({**described, "model": before})  # the same model may be called by another path
    saved, process_group = _resumed(folder, key) if resume and folder else None, ProcessGroup()
    log = _Log(folder if process_group.first else None)
    start, skipped = watch.start(opened) if watch else ({}, {})
    mine = _hooks(hooks or Hooks(), folder, key, log, watch.hooks(modality, start, skipped) if watch else {})
    there = folder is not None and folder.exists()
    if folder and not resume and process_group.first:
        run_dirs.empty(folder)
    log.keep_until(saved)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        run = loop.run(plans, opened.model, modality, request.sets, hooks=mine, resume=saved, store=store)
        chosen = selection_files.places(run.picked, request.sets)
        described |= {"selected": chosen} if chosen else {}
        done = _receipt(described, run, plans, before, adapted, watch.failures(run.model, modality, start) if watch else [])
    except UserError:
        if folder and not resume and process_group.first:  # nothing came of it, so nothing is left behind
            run_dirs.empty(folder)
            if not there:
                folder.rmdir()
        raise
    if folder:
        kept = folder

        def keep() -> None:
            selection_files.write(kept / selection_files.FOLDER, chosen, {"forget": forget, "retain": retain})
            _write(kept, run.model, run.modality, done, run.store)

        process_group.agree(keep)
    return Result(run.model, run.modality, done, folder, run.picked)


def _store_of(plans: Plans, opened: Opened, method: str, request: Request) -> Mapping[str, Any] | None:
    """The store that rows are to be taken out of; None where a method has none, or is to make one. Raises: UserError."""
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
    """Refuse a run folder that cannot be used as asked. reads: what the run reads. Errors: UserError."""
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
    wanted = frozenset[str]().union(*(p.sets_read() for p in plans))
    if alternate_answers is None:
        given = modality.answers(modality.refusals()) if "alternate_answers" in wanted else None
    elif isinstance(alternate_answers, Rows):
        given = alternate_answers
    else:
        found = records(alternate_answers, "alternate_answers")
        asked = all(not ASKED.isdisjoint(r) for r in found)
        given = modality.rows("alternate_answers", found) if asked else modality.answers([_answer_of(r) for r in found])
    return Request(rows(modality, "forget", forget), rows(modality, "retain", retain), rows(modality, "holdout", holdout), given, overlap)


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
    """log.jsonl: one record a step."""

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
        kept = []
        for line in self.path.read_text().splitlines(keepends=True):
            if not line.endswith("\n"):  # the kill fell into it
                break
            r = json.loads(line)
            # A checkpoint is older than the scores and the end that follow its step; both come again.
            if r["stage"] < stage or (r["stage"] == stage and r.get("done", done) < done + ("loss" in r)):
                kept.append(line)
        self.path.write_text("".join(kept))


def _hooks(given: Hooks, folder: Path | None, key: str, log: _Log, watching: Mapping[str, Any]) -> Hooks:
    def record(entry: Mapping[str, Any]) -> None:
        log(entry)
        given.log(entry)

    def save(state: dict[str, Any]) -> None:
        if folder:
            checkpoint.save({**state, "key": key}, folder / "checkpoint")

    return replace(given, log=record, save=save if folder else given.save, **watching)


def _receipt(described: Mapping[str, Any], run: RunState, plans: Plans, before: str, adapted: bool, failures: list[str]) -> dict[str, Any]:
    after = receipt.hash_weights(run.model)
    guarded = isinstance(plans[-1].action, Guard)
    new = is_adapted(run.model) and not adapted  # its weights have new names, and change nothing until one of these is not zero
    changed = any(bool(p.any()) for n, p in run.model.named_parameters() if "lora_B" in n) if new else after != before
    if not changed and not guarded:
        why = f" ({run.warnings[-1]})" if run.warnings else ""
        raise UserError(f"the weights did not change: is the learning rate or the number of steps 0?{why}")
    return {
        **described,
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


def _write(folder: Path, model: nn.Module, modality: Modality, done: Mapping[str, Any], store: Mapping[str, Any] | None) -> None:
    """The model under a temporary name, then its own, then the receipt: a run folder with a receipt is complete."""
    kind = str(done["result"]["kind"])
    temporary = folder / f"{kind}.tmp"
    run_dirs.empty(temporary)
    artifact.write(temporary, kind, model, modality)
    run_dirs.remove(folder / kind)
    temporary.rename(folder / kind)
    if store is not None:
        artifact.write_store(folder, store)
    receipt.write(folder / "receipt.json", done)
    for rest in folder.glob("checkpoint*"):
        run_dirs.remove(rest)
