"""From a request to a run folder: the workflow behind `expunge unlearn`."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import resolve
from .audit.observed import Observed
from .core import checkpoint, loop, receipt
from .core.adapters import is_adapted
from .core.errors import UserError
from .core.loop import Hooks
from .core.parts import Guard, Modality, Plan, Plans, Rows, as_plans
from .core.request import Request, digest
from .core.step import Run, View
from .loading import Opened, Source, load, rows

FIRST_RUN = "the run folder {} exists: give another one, go on with --resume, or replace it with --overwrite"
Progress = Callable[[int, int, str], None]


def silent(done: int, total: int, what: str) -> None:
    """Progress that nobody sees."""


@dataclass(frozen=True, eq=False)
class Result:
    """What came out: the model with its port, the receipt, and the folder where they are kept (None: nowhere)."""

    model: nn.Module
    port: Modality
    receipt: Mapping[str, Any]
    folder: Path | None = None


@dataclass(frozen=True)
class Watch:
    """Scores after every epoch: on what, against which retrained model, and which one decides the weights that are kept."""

    sets: Mapping[str, Any]
    retrained: Observed | None = None
    best: str = ""

    def hook(self, port: Modality) -> Callable[[View], Mapping[str, float]]:
        from .audit.judge import audit_scores
        from .audit.observe import Wants, observe
        from .audit.score import Evidence

        def look(view: View) -> Mapping[str, float]:
            seen = observe(view.model, port, self.sets, wants=Wants(said=False, moments=False, gradnorm=False))
            records, skipped = audit_scores(Evidence(seen, self.retrained), resamples=1)
            scores = {n: float(r["value"]) for n, r in records.items()}
            if self.best:
                scores["goodness"] = self._goodness(records, skipped)
            return scores

        return look

    def _goodness(self, records: Mapping[str, Mapping[str, Any]], skipped: Mapping[str, str]) -> float:
        from .core.words import did_you_mean

        if self.best not in records:
            why = skipped.get(self.best) or f"no such score{did_you_mean(self.best, records)}"
            raise UserError(f"cannot keep the best '{self.best}': {why}")
        r = records[self.best]
        if r["direction"] != "retrained":
            return float(r["value"]) * (1 if r["direction"] == "higher" else -1)
        ideal = r["ideal"] if r["ideal"] is not None else r["retrained"]
        if ideal is None:
            raise UserError(f"'{self.best}' is best where it is as in the retrained model: give one with --reference")
        return -abs(float(r["value"]) - float(ideal))


def unlearn(
    method: str | Plan | Plans,
    model: str | Path | Opened,
    forget: Source | Rows | None = None,
    retain: Source | Rows | None = None,
    *,
    holdout: Source | Rows | None = None,
    substitutes: Source | Rows | None = None,
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
    **knobs: Any,
) -> Result:
    """Remove the influence of rows from a model.

    Args:
        method: a name of the catalogue, or a plan.
        model: a folder or hub id, the folder of an earlier run, or an opened model, which is then changed in place.
        forget, retain, holdout: a file, hub id or list of records each (see `expunge.data.read`); retain where the method reads it.
        substitutes: answers to give instead, for methods that use them; the port's own where none are given.
        out: the run folder; None keeps nothing on disk.
        knobs: the method's, by name.

    Errors: UserError for everything that the user can mend; Interrupted after a checkpoint, from which `resume` goes on.
    """
    plans = resolve.plan(method, knobs, select=select, update=update) if isinstance(method, str) else as_plans(method)
    folder = _folder(out, resume, overwrite)
    opened = model if isinstance(model, Opened) else load(model, prompt_format, **(load_options or {}))
    port = opened.port
    request = _request(port, plans, forget, retain, holdout, substitutes, allow_overlap)
    loop.check(plans, request.sets)
    before = receipt.hash_weights(opened.model)
    described = {
        "method": method if isinstance(method, str) else "custom",
        "stages": receipt.describe(plans),
        "model": {"source": opened.source, "weights": before},
        "request": {"hash": request.hash, "sets": {n: len(r) for n, r in request.sets.items()}, "findings": list(request.findings)},
        "port": port.about(),
    }
    key = digest(described)
    log = _Log(folder)
    saved = _resumed(folder, key) if resume else None
    mine = _hooks(hooks or Hooks(), folder, key, log, watch, port)
    log.keep_until(saved)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    started = time.monotonic()
    run = loop.run(plans, opened.model, port, request.sets, hooks=mine, resume=saved)
    done = _receipt(described, run, plans, before, time.monotonic() - started)
    if folder:
        _write(folder, run.model, port, plans, done)
    return Result(run.model, port, done, folder)


def _folder(out: str | Path | None, resume: bool, overwrite: bool) -> Path | None:
    if out is None:
        return None
    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        if (folder / "receipt.json").exists() and resume:
            raise UserError(f"the run in {folder} has ended; there is nothing to resume")
        if overwrite:
            shutil.rmtree(folder)
        elif not resume:
            raise UserError(FIRST_RUN.format(folder))
    elif resume:
        raise UserError(f"there is no run in {folder} to resume")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _request(
    port: Modality,
    plans: Plans,
    forget: Source | Rows | None,
    retain: Source | Rows | None,
    holdout: Source | Rows | None,
    substitutes: Source | Rows | None,
    overlap: bool,
) -> Request:
    wanted = frozenset[str]().union(*(p.sets_read() for p in plans))
    if substitutes is None:
        given = port.answers(port.refusals()) if "substitutes" in wanted else None
    elif isinstance(substitutes, Rows):
        given = substitutes
    else:
        from .loading import records

        given = port.answers([_answer_of(r) for r in records(substitutes, "substitutes")])
    return Request(rows(port, "forget", forget), rows(port, "retain", retain), rows(port, "holdout", holdout), given, overlap)


def _answer_of(record: Mapping[str, Any]) -> Any:
    for column in ("answer", "completion", "text", "label"):
        if column in record:
            return record[column]
    raise UserError(f"substitutes need a column 'answer' (or 'completion', 'text', 'label'); found {', '.join(map(repr, record))}")


def _resumed(folder: Path | None, key: str) -> dict[str, Any] | None:
    saved: dict[str, Any] | None = checkpoint.load(folder / "checkpoint") if folder else None
    if saved is None:
        return None  # killed before the first checkpoint: nothing is lost by starting over
    if saved.pop("key") != key:
        raise UserError(f"the run in {folder} was started with another method, model, data or knobs; --resume goes on with the same ones")
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
        lines = [json.loads(line) for line in self.path.read_text().splitlines() if line.endswith("}")]
        at = (saved["stage"], saved["done"]) if saved else (-1, 0)
        kept = [r for r in lines if (r["stage"], r.get("done", 0)) <= at]
        self.path.write_text("".join(json.dumps(r) + "\n" for r in kept))


def _hooks(given: Hooks, folder: Path | None, key: str, log: _Log, watch: Watch | None, port: Modality) -> Hooks:
    def record(entry: Mapping[str, Any]) -> None:
        log(entry)
        given.log(entry)

    def save(state: dict[str, Any]) -> None:
        if folder:
            checkpoint.save({**state, "key": key}, folder / "checkpoint")

    return Hooks(
        log=record,
        progress=given.progress,
        save=save if folder else given.save,
        every=given.every,
        interrupted=given.interrupted,
        watch=watch.hook(port) if watch else given.watch,
        best="goodness" if watch and watch.best else given.best,
        sign=given.sign,
    )


def _receipt(described: Mapping[str, Any], run: Run, plans: Plans, before: str, seconds: float) -> dict[str, Any]:
    after = receipt.hash_weights(run.model)
    guarded = isinstance(plans[-1].do, Guard)
    if after == before and not guarded:
        why = f" ({run.warnings[-1]})" if run.warnings else ""
        raise UserError(f"the weights did not change, so nothing was forgotten: is the learning rate or the number of steps 0?{why}")
    return {
        **described,
        "expunge": receipt.versions()["expunge"],
        "result": {
            "weights": after,
            "changed": after != before,
            "kind": "guard" if guarded else "adapter" if is_adapted(run.model) else "model",
        },
        "seed": run.seed,
        "cost": {**receipt.cost(run), "seconds": round(seconds, 3)},
        "warnings": list(run.warnings),
        "ended": [{"stage": r["stage"], "epoch": r["epoch"], "why": r["ended"]} for r in run.log if "ended" in r],
        "versions": receipt.versions(),
        "machine": receipt.machine(),
    }


def _write(folder: Path, model: nn.Module, port: Modality, plans: Plans, done: Mapping[str, Any]) -> None:
    """The model under a temporary name, then its own, then the receipt: a run folder with a receipt is complete."""
    kind = str(done["result"]["kind"])
    temporary = folder / f"{kind}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    if kind == "guard":
        save: Any = getattr(model, "save")  # noqa: B009 - a guard's own, not torch's
        save(temporary)
    else:
        port.save(model, temporary)
    shutil.rmtree(folder / kind, ignore_errors=True)
    temporary.rename(folder / kind)
    receipt.write(folder / "receipt.json", done)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
