"""What a run works on: the options, the requests, the model that it begins with, the rows of its requests, of earlier ones, and to keep."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from expunge.core.errors import UserError
from expunge.functional.brief import brief
from expunge.io.models import Source, records
from expunge.modalities.common.records import Records
from expunge.service.intake import fingerprint, kept_rows, without
from expunge.service.ledger import Ledger, numbered
from expunge.service.states import REMOVED, check_step

FallBack = Literal["none", "union", "retrain"]
OPEN = ("accepted", "guarded", "failed", "reopened")


@brief("method", "model", "utility_budget", "fall_back")
@dataclass(frozen=True, kw_only=True)
class Removing:
    """How requests are carried out.

    Args:
        method: a name of the catalog; a guard hides the rows at once, and changes no weight.
        hyperparameters: of the method, by name.
        model: the model to begin with; later runs begin with the one that is served.
        retain: rows to keep, where the requests do not bring them.
        holdout, retrained, attack: of the audit.
        utility_budget: share of the original's utility that all runs together may cost.
        fall_back: what to do where earlier requests come back or the budget is spent: `union` forgets all requests from the original anew,
            `retrain` trains `retrain_from` on the rows to keep, where the union does not help either; `none` does nothing.
        retrain_from: a folder, hub id or built-in size to train anew; needs `fall_back="retrain"`.
        prompt_format, load_options: of the model.
        by: who runs it.
        progress: receives rows done, rows in all, and the activity.
    """

    method: str
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    retain: Source | None = None
    holdout: Source | None = None
    retrained: str = ""
    attack: Sequence[str] = ()
    utility_budget: float = 0.1
    fall_back: FallBack = "union"
    retrain_from: str = ""
    retrain_hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    prompt_format: str = ""
    load_options: Mapping[str, Any] = field(default_factory=dict)
    by: str = ""
    progress: Any = lambda done, total, text: None


@brief("forget", "earlier", "retain")
@dataclass(frozen=True)
class BatchRows:
    """The rows of a run: of its requests, of earlier ones that can still be read, and to keep."""

    forget: Records
    earlier: Mapping[int, Records]
    retain: Records | None
    unreadable: Sequence[int]  # earlier requests whose keys were deleted
    notes: Sequence[str]

    @property
    def union(self) -> Records:
        rows = {fingerprint(row): row for part in (self.forget, *self.earlier.values()) for row in part}
        return Records(rows.values(), "the rows of all requests")


@contextmanager
def running_alone(ledger: Ledger) -> Iterator[None]:
    """One run at a time. Raises: UserError where another process runs requests of this ledger."""
    try:
        with FileLock(ledger.folder / "run.lock", timeout=0):
            yield
    except Timeout:
        raise UserError("another process is carrying out requests of this ledger: wait for its end") from None


@contextmanager
def own_cache(ledger: Ledger) -> Iterator[None]:
    """Keep what is cached, answers of models among it, inside the ledger, where it goes with the first deleted key."""
    before = os.environ.get("EXPUNGE_CACHE")
    os.environ["EXPUNGE_CACHE"] = str((ledger.folder / "cache").resolve())
    try:
        yield
    finally:
        if before is None:
            del os.environ["EXPUNGE_CACHE"]
        else:
            os.environ["EXPUNGE_CACHE"] = before


def chosen_requests(ledger: Ledger, requests: Sequence[int]) -> list[int]:
    """The requests to carry out. Raises: UserError where there are none, or where one is not ready."""
    chosen = list(dict.fromkeys(requests)) or [r["id"] for r in ledger.requests() if r["state"] in OPEN]
    if not chosen:
        raise UserError("no request is accepted and open: expunge request list shows all")
    for number in chosen:
        check_step(number, ledger.request(number)["state"], "running")
    return sorted(chosen)


def parent_of(ledger: Ledger, model: str) -> str:
    """The model that a run begins with. Raises: UserError where none is known, and for another one than is served."""
    served, run_number = ledger.serving()
    if model and served and Path(model).expanduser().resolve() != Path(served).resolve():
        whose = f"the model of run {run_number}" if run_number else "the original"
        raise UserError(f"this ledger serves {served}, {whose}, and every run begins there: leave --model out, or use another ledger")
    if not (parent := served or model):
        raise UserError("name the model that was trained on these rows with --model: no run of this ledger has made one yet")
    return str(Path(parent).expanduser().resolve()) if Path(parent).expanduser().exists() else parent


def work_of(ledger: Ledger, chosen: Sequence[int], retain: Source | None) -> BatchRows:
    """The rows of a run. retain: rows to keep instead of those that the requests name."""
    contents = {number: ledger.vault.get(number) for number in chosen}
    earlier, unreadable, notes = dict[int, Records](), list[int](), list[str]()
    for row in ledger.requests():
        if row["state"] in REMOVED and row["id"] not in chosen:
            if row["key"]:
                earlier[row["id"]] = Records(ledger.vault.get(row["id"])["rows"], f"request {row['id']}")
            else:
                unreadable.append(row["id"])
                notes.append(f"request {row['id']} was not audited again: its key, and with it its rows, were deleted")
    rows = {fingerprint(row): row for content in contents.values() for row in content["rows"]}
    forget = Records(rows.values(), numbered(chosen))
    gone = {*rows, *(fingerprint(row) for part in earlier.values() for row in part)}
    kept = [records(retain, "retain")] if retain is not None else list(_distinct_kept(contents))
    if not kept:
        return BatchRows(forget, earlier, None, unreadable, notes)
    together = Records([row for part in kept for row in part], "the rows to keep")
    left = without(together, gone)
    if len(left) < len(together):
        notes.append(f"{len(together) - len(left)} of {len(together)} rows of the data are rows of requests, and were not kept")
    return BatchRows(forget, earlier, left, unreadable, notes)


def _distinct_kept(contents: Mapping[int, Mapping[str, Any]]) -> Iterator[Records]:
    """The rows to keep of several requests, each file once."""
    taken = set[str]()
    for number, content in contents.items():
        origin = content["origin"]
        name = str([origin["retain"] or origin["data"], sorted(origin["map"].items())])
        if name not in taken and (rows := kept_rows(content, number)) is not None:
            taken.add(name)
            yield rows


def original_of(ledger: Ledger) -> str:
    """The model before all runs of the ledger; '' where no run is done."""
    return next((ledger.place(r["parent"]) for r in ledger.runs() if r["state"] == "done"), "")


def is_present(model: str) -> bool:
    """Whether a model can still be opened, as far as names tell: a folder that was deleted cannot."""
    return not Path(model).is_absolute() or Path(model).exists()
