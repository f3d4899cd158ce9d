"""From a request to a run folder: the workflow behind `expunge unlearn`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from expunge.core.capabilities import HoldsRows, offers, require
from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.parts import ByDesign, Guard
from expunge.core.plan import Plan, Plans, as_plans
from expunge.core.rows import Rows, Sets
from expunge.engine import adapters, checkpoint, identity, loop, origin, receipt, stored
from expunge.engine.distributed.process_group import ProcessGroup
from expunge.engine.guarding import is_guarded
from expunge.engine.hooks import Hooks
from expunge.engine.retokenizing import as_read_now, changes_tokenizer
from expunge.engine.secret import sealed
from expunge.engine.validate import check, check_capabilities
from expunge.functional.brief import brief
from expunge.io import run_dirs, selection_files
from expunge.io.models import Opened, Source, receipt_of
from expunge.io.models import opened as open_model
from expunge.io.requested import ColumnMap, Conditions, notes_of, requested
from expunge.report import result_tables
from expunge.workflows import build_plan, resuming, stores
from expunge.workflows.aftermath import forget_loss, loss_before, still_known
from expunge.workflows.callbacks import Callbacks, result_of
from expunge.workflows.overlaps import shared_items
from expunge.workflows.run_log import RunLog
from expunge.workflows.trackers import Track, listening
from expunge.workflows.unlearn_folder import receipt_of_run, write
from expunge.workflows.unlearn_request import read_source, request_of
from expunge.workflows.watch import Watch


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
        method: a name of the catalog, or a plan; '': that which made the store in the folder of the model.
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
    method = method or stores.method_of(model)
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
    own_sources = {"forget": forget, "retain": retain, "holdout": holdout, "alternate_answers": alternate_answers}
    sources = requested(own_sources, where, map)
    read = {name: read_source(source, name) for name, source in sources.items()}
    request = request_of(modality, plans, read, allow_overlap)
    findings = [*notes_of(read), *request.findings, *shared_items(modality, request, allow_overlap)]
    read.clear()  # records may be large, and the rows hold what the run needs
    plans, store = stores.settled(plans, opened, method if isinstance(method, str) else "custom", request, hyperparameters)
    if isinstance(plans[0].action, ByDesign) and watch:
        raise UserError("a by-design method has no epochs to score, so leave --evaluate and --keep-best out, and audit the result")
    if store is not None and retain is not None:
        raise UserError("the store has the rows to retain, so leave --retain out")
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
    known_before = loss_before(opened.model, modality, request.forget, before)
    if request.forget is not None and offers(modality, HoldsRows) and not isinstance(plans[-1].action, Guard):
        findings += require(modality, HoldsRows).remove_rows(opened.model, request.forget)
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
            forget_now = as_read_now(run.modality, request.forget) if changes_tokenizer(plans) else request.forget
            known_after = forget_loss(run.model, run.modality, forget_now)
            watched = watch.failures(run.model, modality, start) if watch else []
            known = [] if stores.promised(run.store) else still_known(known_before, known_after)
            failures = [*known, *watched, *stores.still_there(opened, store), *stores.made_elsewhere(opened, store), *listeners.failures]
            receipt_record = receipt_of_run(description, run, plans, before["weights"], adapted, loaded, failures)
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
                write(run_folder, run.model, run.modality, receipt_record, run.store)

            process_group.agree(write_results)
        ended |= result_of(receipt_record)
    return Result(run.model, run.modality, receipt_record, folder, run.picked)


def check_folder(folder: Path, resume: bool, overwrite: bool, reads: tuple[object, ...]) -> None:
    """Refuse a run folder that does not fit `resume` and `overwrite`. reads: sources that the run reads. Raises: UserError."""
    ProcessGroup().agree(lambda: _check_folder(folder, resume, overwrite, reads))


def _check_folder(folder: Path, resume: bool, overwrite: bool, reads: tuple[object, ...]) -> None:
    run_dirs.check_resumable(folder, resume, overwrite)
    if not resume:
        run_dirs.check_free(folder, overwrite, reads, run_dirs.TO_RESUME if run_dirs.begun(folder) else "")


def _hooks(hooks: Hooks, folder: Path | None, key: Mapping[str, str], log: RunLog, watching: Mapping[str, Any]) -> Hooks:
    def record(entry: Mapping[str, Any]) -> None:
        log(entry)
        hooks.log(entry)

    def save(state: dict[str, Any]) -> None:
        if folder:
            checkpoint.save({**state, "key": key}, folder / "checkpoint")

    return replace(hooks, log=record, save=save if folder else hooks.save, **watching)
