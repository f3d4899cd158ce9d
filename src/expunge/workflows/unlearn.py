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
from expunge.core.parts import Guard
from expunge.core.plan import Plan, Plans, as_plans
from expunge.core.request import Request, digest
from expunge.core.rows import Rows, Sets
from expunge.core.suggest import did_you_mean
from expunge.core.view import View
from expunge.engine import checkpoint, loop, receipt
from expunge.engine.adapters import is_adapted
from expunge.engine.distributed.process_group import ProcessGroup
from expunge.engine.loop import Hooks
from expunge.engine.run_state import RunState
from expunge.engine.validate import check
from expunge.evaluation.audited_models import spread
from expunge.evaluation.measure import Evidence
from expunge.evaluation.observation import Observation
from expunge.evaluation.observe import ObservationSpec, observe
from expunge.evaluation.verdict import audit_scores, verdict
from expunge.io import run_dirs, selection_files
from expunge.io.models import Opened, Source, cache_home, format_of, load, receipt_of, records, rows
from expunge.workflows import build_plan
from expunge.workflows.audit import Alike

TO_RESUME = "go on with --resume, "
Records = dict[str, dict[str, Any]]
ASKED = frozenset({"question", "prompt", "messages"})  # columns that make of a substitute answer a row: the model refuses this, so
QUICK = ObservationSpec(generations=False, moments=False, gradient_norms=False)  # what is looked at after every epoch


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


@dataclass(frozen=True)
class Watch:
    """Scores after every epoch: on what, against which retrained model, and which one decides the weights that are kept."""

    sets: Mapping[str, Any]
    retrained: Observation | None = None
    best: str = ""

    def scores(self, model: nn.Module, modality: Modality, resamples: int = 1) -> tuple[Records, dict[str, str]]:
        """Records of the scores that are quick to have, and why there are no others."""
        seen = observe(model, modality, self.sets, wants=QUICK)
        return audit_scores(Evidence(seen, self.retrained), resamples)

    def failures(self, model: nn.Module, modality: Modality, before: Records) -> list[str]:
        """What failed in the end, in words: utility that collapsed, too much or too little forgotten."""
        found = verdict(*self.scores(model, modality, resamples=200), before)
        return [f["text"] for f in found if f["level"] == "fail"]

    def hooks(self, modality: Modality, records: Records, skipped: Mapping[str, str]) -> dict[str, Any]:
        """What the loop needs to watch. records: scores before the start, so that one that cannot be had is known before anything is spent.

        Errors: UserError.
        """

        def look(view: View) -> Mapping[str, float]:
            return {n: float(r["value"]) for n, r in self.scores(view.model, modality)[0].items()}

        if not self.best:
            return {"watch": look}
        if self.best not in records:
            near = did_you_mean(self.best, [*records, *skipped]) or f"; there are {', '.join(records)}"
            raise UserError(f"cannot keep the best '{self.best}': {skipped.get(self.best) or f'there is no such score{near}'}")
        r = records[self.best]
        ideal = r["ideal"] if r["ideal"] is not None else r["retrained"]
        if r["direction"] == "retrained" and ideal is None:
            raise UserError(f"'{self.best}' is best where it is as in the retrained model: give one with --retrained")
        good = {"higher": float, "lower": lambda value: -value, "retrained": lambda value: -abs(value - ideal)}[r["direction"]]
        return {"watch": look, "best": self.best, "good": good}


def watching(
    forget: Source,
    retain: Source | None = None,
    retrained: str | Path | None = None,
    *,
    best: str = "",
    prompt_format: str = "",
    model: str | Path = "",
    limit: int = 100,
    **load_options: Any,
) -> Watch:
    """What to watch while a model forgets: at most so many rows of each set, and what a retrained model says about them.

    Errors: UserError.
    """
    given = {"forget": forget, "retain": retain}
    sets = {n: spread(records(s, n), limit) for n, s in given.items() if s}
    if not sets:
        raise UserError("there are no rows to evaluate on: give --forget FILE")
    if not retrained:
        return Watch(sets, best=best)
    opened = load(retrained, prompt_format or format_of(model), **load_options)
    return Watch(sets, observe(opened.model, opened.modality, sets, wants=QUICK, cache=cache_home() / "observations"), best)


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
    if hasattr(opened.model, "unguarded"):
        base = receipt_of(opened.source).get("model", {}).get("source", "that it stands around")
        raise UserError(f"{opened.source} is a guard, whose model was not changed: unlearn the model {base} itself")
    modality = opened.modality
    request = _request(modality, plans, forget, retain, holdout, alternate_answers, allow_overlap)
    check(plans, request.sets, modality)
    before, adapted = receipt.hash_weights(opened.model), is_adapted(opened.model)
    described: dict[str, Any] = {
        "method": method if isinstance(method, str) else "custom",
        "stages": receipt.describe(plans),
        "model": {"source": opened.source, "weights": before},
        "request": {"hash": request.hash, "sets": {n: len(r) for n, r in request.sets.items()}, "findings": list(request.findings)},
        "modality": {**modality.about(), "format_given": bool(getattr(modality, "prompt_format", ""))},
        **({"watch": {"sets": {n: len(r) for n, r in watch.sets.items()}, "best": watch.best}} if watch else {}),
    }
    key = digest({**described, "model": before})  # the same model may be called by another path
    saved, process_group = _resumed(folder, key) if resume and folder else None, ProcessGroup()
    log = _Log(folder if process_group.first else None)
    start, skipped = _start(watch, opened) if watch else ({}, {})
    mine = _hooks(hooks or Hooks(), folder, key, log, watch.hooks(modality, start, skipped) if watch else {})
    there = folder is not None and folder.exists()
    if folder and not resume and process_group.first:
        run_dirs.empty(folder)
    log.keep_until(saved)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        run = loop.run(plans, opened.model, modality, request.sets, hooks=mine, resume=saved)
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
            _write(kept, run.model, modality, done)

        process_group.agree(keep)
    return Result(run.model, modality, done, folder, run.picked)


def _start(watch: Watch, opened: Opened) -> tuple[Records, dict[str, str]]:
    """Scores before the start. Errors: UserError for a reference that reads in another way."""
    if watch.retrained and "forget" in watch.sets:
        alike = Alike()
        alike.check("retrained model", watch.retrained)
        alike.check("model", opened.modality.rows("forget", watch.sets["forget"]), opened.modality)
    return watch.scores(opened.model, opened.modality)


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
            "kind": "guard" if guarded else "adapter" if is_adapted(run.model) else "model",
        },
        "seed": run.seed,
        "cost": receipt.cost(run),
        "warnings": [*run.warnings, *failures],
        "shown": run.shown,
        "ended": [{"stage": r["stage"], "epoch": r["epoch"], "why": r["ended"]} for r in run.log if "ended" in r],
        "versions": receipt.versions(),
        "machine": receipt.machine(),
    }


def _write(folder: Path, model: nn.Module, modality: Modality, done: Mapping[str, Any]) -> None:
    """The model under a temporary name, then its own, then the receipt: a run folder with a receipt is complete."""
    kind = str(done["result"]["kind"])
    temporary = folder / f"{kind}.tmp"
    run_dirs.empty(temporary)
    if kind == "guard":
        save: Any = getattr(model, "save")  # noqa: B009 - a guard's own, not torch's
        save(temporary)
    else:
        modality.save(model, temporary)
    run_dirs.remove(folder / kind)
    temporary.rename(folder / kind)
    receipt.write(folder / "receipt.json", done)
    for rest in folder.glob("checkpoint*"):
        run_dirs.remove(rest)
