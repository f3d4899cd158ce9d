"""From a request to a run folder: the workflow behind `expunge unlearn`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from expunge import catalog
from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.parts import ByDesign, Guard
from expunge.core.plan import Plan, Plans, as_plans
from expunge.core.request import Request
from expunge.core.rows import Rows, Sets
from expunge.engine import adapters, artifact, checkpoint, identity, loop, origin, receipt, stored
from expunge.engine.distributed.process_group import ProcessGroup
from expunge.engine.guarding import is_guarded
from expunge.engine.loop import Hooks
from expunge.engine.run_state import RunState
from expunge.engine.validate import check, check_capabilities
from expunge.functional.brief import brief
from expunge.io import run_dirs, selection_files
from expunge.io.models import Opened, Source, receipt_of, records, rows
from expunge.io.models import opened as open_model
from expunge.io.requested import ColumnMap, Conditions, notes_of, requested
from expunge.io.secret import sealed
from expunge.modalities.common.records import Records, columns_of
from expunge.report import model_card, result_tables
from expunge.workflows import build_plan, resuming
from expunge.workflows.aftermath import forget_loss, still_known, unchanged
from expunge.workflows.callbacks import Callbacks, result_of
from expunge.workflows.overlaps import shared_items
from expunge.workflows.run_log import RunLog
from expunge.workflows.trackers import Track, listening
from expunge.workflows.watch import Watch

ASKED = frozenset({"question", "prompt", "messages"})  # columns that turn an alternate answer into a full row


@brief("method", "kind", "changed", "folder")
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

    @property
    def method(self) -> str:
        """The name of the method; custom for a plan."""
        return str(self.receipt["method"])

    @property
    def kind(self) -> str:
        """What the result is on disk: model, adapter or guard."""
        return str(self.receipt["result"]["kind"])

    @property
    def changed(self) -> bool:
        """Whether the weights changed; those of a guarded model do not."""
        return bool(self.receipt["result"]["changed"])

    def to_dict(self) -> dict[str, Any]:
        """What receipt.json holds, as plain JSON values."""
        return receipt.as_json(self.receipt)

    def _repr_html_(self) -> str:
        return result_tables.receipt_html(self.receipt)


def unlearn(
    method: str | Plan | Plans,
    model: str | Path | Opened,
    forget: Source | Rows | None = None,
    retain: Source | Rows | None = None,
    *,
    holdout: Source | Rows | None = None,
    alternate_answers: Source | Rows | None = None,
    where: Conditions = (),
    map: ColumnMap = (),
    out: str | Path | None = None,
    select: tuple[str, ...] = (),
    update: tuple[str, ...] = (),
    prompt_format: str = "",
    allow_overlap: bool = False,
    watch: Watch | None = None,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Callbacks = (),
    track: Track = (),
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
        where: conditions such as `customer_id=17`: the rows of `forget` that meet all of them are forgotten, the others are retained.
        map: columns by the names that the modality reads, such as `prompt=subject,answer=body` or a mapping.
        out: the run folder; None keeps nothing on disk.
        select, update: methods whose selectors or updates are added.
        prompt_format: how a question becomes a prompt; '' is the model's chat template, or the format of the run that it comes from.
        allow_overlap: rows to forget may also stand in retain or holdout.
        watch: scores after every epoch (see `watching`).
        resume: go on with the run in `out`, which was stopped.
        overwrite: replace the run in `out`.
        callbacks: objects that are told of steps and epochs (see `Callback`).
        track: tensorboard, mlflow, wandb, trackio, or a `Tracker`, which get the numbers of the log; several in a list.
        hooks: of the training loop, for programs that show progress, stop the run or say how often it is saved.
        load_options: of `load`.
        hyperparameters: the method's, by name.

    Returns:
        The model with its modality, the receipt, and the run folder.

    Raises:
        UserError: for every mistake that the user can correct.
        Interrupted: after a checkpoint, from which `resume` goes on.
    """
    plans = build_plan.plan(method, hyperparameters, select=select, update=update) if isinstance(method, str) else as_plans(method)
    folder = Path(out) if out is not None else None
    listeners = listening(callbacks, track, ProcessGroup().first)
    if folder:
        check_folder(folder, resume, overwrite, (model, forget, retain, holdout, alternate_answers))
    opened = open_model(model, prompt_format, load_options)
    if is_guarded(opened.modality):
        base = receipt_of(opened.source).get("model", {}).get("source", "that it stands around")
        raise UserError(f"{opened.source} is a guard, whose model was not changed: unlearn the model {base} itself")
    modality = opened.modality
    check_capabilities(plans, modality)
    adapters.refuse_second(opened.model, plans, opened.source)
    given = {"forget": forget, "retain": retain, "holdout": holdout, "alternate_answers": alternate_answers}
    sources = requested(given, where, map)
    read = {name: _read(source, name) for name, source in sources.items()}
    request = _request(modality, plans, read, allow_overlap)
    findings = [*notes_of(read), *request.findings, *shared_items(modality, request, allow_overlap)]
    read.clear()  # records may be large, and the rows hold what the run needs
    store = _store_of(plans, opened, method if isinstance(method, str) else "custom", request)
    check(plans, request.sets, modality, known=store is not None)
    before, adapted = identity.of_model(opened.model), adapters.is_adapted(opened.model)
    loaded = stored.notes(opened.model)
    description: dict[str, Any] = {
        "method": method if isinstance(method, str) else "custom",
        "stages": receipt.describe(plans),
        "model": {
            "source": opened.source,
            **before,
            "written": stored.words(opened.model),
            **({"start": origin.FRESH} if opened.fresh else {}),
        },
        "request": {"hash": sealed(request.hash), "sets": {n: len(r) for n, r in request.sets.items()}, "findings": findings},
        "modality": modality.about(),
        **({"watch": {"sets": {n: len(r) for n, r in watch.sets.items()}, "best": watch.best}} if watch else {}),
    }
    known_before = forget_loss(opened.model, modality, request.forget)
    key = resuming.key_of(description, plans, opened, request, watch)
    saved, process_group = resuming.checkpoint_of(folder, key) if resume and folder else None, ProcessGroup()
    log = RunLog(folder if process_group.first else None)
    start, skipped = watch.start(opened) if watch else ({}, {})
    run_hooks = _hooks(listeners.hooks(hooks or Hooks()), folder, key, log, watch.hooks(modality, start, skipped) if watch else {})
    folder_existed = folder is not None and folder.exists()
    if folder and not resume and process_group.first:
        run_dirs.empty(folder)
    log.keep_until(saved)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    about = {"name": description["method"], "stages": description["stages"], "rows": description["request"]["sets"], "log": log.lines()}
    with listeners.during({**about, "folder": folder and str(folder)}) as ended:
        try:
            run = loop.run(plans, opened.model, modality, request.sets, hooks=run_hooks, resume=saved, store=store)
            if run.sharded is None and (rounding := stored.round_as_stored(run.model)):
                run.warnings.append(rounding)
            selected_rows = selection_files.places(run.picked, request.sets)
            description |= {"selected": selected_rows} if selected_rows else {}
            known_after = forget_loss(run.model, run.modality, request.forget)
            watched = watch.failures(run.model, modality, start) if watch else []
            failures = [*still_known(known_before, known_after), *watched, *listeners.failures]
            receipt_record = _receipt(description, run, plans, before["weights"], adapted, loaded, failures)
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
                selection_files.write(run_folder / selection_files.FOLDER, selected_rows, sources)
                _write(run_folder, run.model, run.modality, receipt_record, run.store)

            process_group.agree(write_results)
        ended |= result_of(receipt_record)
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
    run_dirs.check_resumable(folder, resume, overwrite)
    if not resume:
        run_dirs.check_free(folder, overwrite, reads, run_dirs.TO_RESUME if run_dirs.begun(folder) else "")


def _read(source: Source | Rows | None, name: str) -> Records | Rows | None:
    """The records of a set, which keep what is said about them; encoded rows as they are."""
    return source if source is None or isinstance(source, Rows) else records(source, name)


def _request(
    modality: Modality,
    plans: Plans,
    read: Mapping[str, Records | Rows | None],
    overlap: bool,
) -> Request:
    alternate_answers = read["alternate_answers"]
    sets_read = frozenset[str]().union(*(p.sets_read() for p in plans))
    if alternate_answers is None:
        answer_rows = modality.answers(modality.refusals()) if "alternate_answers" in sets_read else None
    elif isinstance(alternate_answers, Rows):
        answer_rows = alternate_answers
    else:
        have_questions = all(not ASKED.isdisjoint(r) for r in alternate_answers)
        answer_rows = (
            modality.rows("alternate_answers", alternate_answers)
            if have_questions
            else modality.answers([_answer_of(r) for r in alternate_answers])
        )
    forget, retain, holdout = (rows(modality, name, read[name]) for name in ("forget", "retain", "holdout"))
    return Request(forget, retain, holdout, answer_rows, overlap)


def _answer_of(record: Mapping[str, Any]) -> Any:
    for column in ("answer", "completion", "text", "label"):
        if column in record:
            return record[column]
    raise UserError(f"alternate answers need a column 'answer' (or 'completion', 'text', 'label'); found {columns_of(record)}")


def _hooks(hooks: Hooks, folder: Path | None, key: Mapping[str, str], log: RunLog, watching: Mapping[str, Any]) -> Hooks:
    def record(entry: Mapping[str, Any]) -> None:
        log(entry)
        hooks.log(entry)

    def save(state: dict[str, Any]) -> None:
        if folder:
            checkpoint.save({**state, "key": key}, folder / "checkpoint")

    return replace(hooks, log=record, save=save if folder else hooks.save, **watching)


def _receipt(
    description: Mapping[str, Any], run: RunState, plans: Plans, before: str, adapted: bool, said: Sequence[str], failures: list[str]
) -> dict[str, Any]:
    after = receipt.hash_weights(run.model)
    guarded = isinstance(plans[-1].action, Guard)
    new_adapters = (
        adapters.is_adapted(run.model) and not adapted
    )  # its weights have new names, and change nothing until one of these is not zero
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
        "warnings": [*said, *run.warnings, *failures],
        "shown": run.shown,
        "ended": [{"stage": r["stage"], "epoch": r["epoch"], "why": r["ended"]} for r in run.log if "ended" in r],
        "versions": receipt.versions(),
        "machine": receipt.machine(),
        "compute": receipt.compute(run.model),
    }


def _card(receipt_record: Mapping[str, Any], folder: Path) -> str:
    """The card of a result in a folder."""
    method, kind = str(receipt_record["method"]), str(receipt_record["result"]["kind"])
    summary = f"{catalog.card(method).headline}." if method in catalog.names() else ""
    files = (folder / "config.json", folder / "adapter_config.json")
    config, adapter = (json.loads(f.read_text(encoding="utf-8")) if f.exists() else {} for f in files)
    base = str(adapter.get("base_model_name_or_path") or "")
    return model_card.card(receipt_record, summary, base, model_card.loading(kind, config))


def _write(folder: Path, model: nn.Module, modality: Modality, receipt_record: Mapping[str, Any], store: Mapping[str, Any] | None) -> None:
    """The model under a temporary name, then its own, then the receipt: a run folder with a receipt is complete."""
    kind = str(receipt_record["result"]["kind"])
    temporary = folder / f"{kind}.tmp"
    run_dirs.empty(temporary)
    artifact.write(temporary, kind, model, modality)
    if kind != "guard":
        (temporary / "README.md").write_text(_card(receipt_record, temporary), encoding="utf-8")
    run_dirs.remove(folder / kind)
    temporary.rename(folder / kind)
    if store is not None:
        artifact.write_store(folder, store)
    receipt.write(folder / "receipt.json", receipt_record)
    for path in folder.glob("checkpoint*"):
        run_dirs.remove(path)
