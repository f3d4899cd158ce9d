"""Carrying out requests: one run for a batch, its audit, the audit of all earlier requests, and what follows from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.core.errors import UserError
from expunge.core.parts import ByDesign, Guard
from expunge.engine import receipt
from expunge.evaluation.prompting import way_of
from expunge.functional.brief import brief
from expunge.modalities.common.records import Records
from expunge.service.batch import (
    BatchRows,
    Removing,
    chosen_requests,
    is_present,
    original_of,
    own_cache,
    parent_of,
    running_alone,
    work_of,
)
from expunge.service.files import digest_of_model
from expunge.service.ledger import Ledger, numbered
from expunge.service.outcome import outcome_of, still_answered, unmoved, utility_of
from expunge.service.promises import RETRAIN, promise_of, weaker
from expunge.workflows import build_plan
from expunge.workflows.audit import audit
from expunge.workflows.train import train
from expunge.workflows.unlearn import unlearn

RECEIPT, SUMMARY, AUDITS = "receipt.json", "outcome.json", "audits"


@brief("run", "state", "verdict", "folder")
@dataclass(frozen=True)
class RunResult:
    """The end of a run: its state (done, failed, guarded), the verdict, and the reasons."""

    run: int
    requests: Sequence[int]
    state: str
    verdict: str
    folder: Path
    reasons: Sequence[str]
    summary: Mapping[str, Any]


def run(ledger: Ledger, requests: Sequence[int] = (), **options: Any) -> RunResult:
    """Carry out requests in one run, audit it, and audit all earlier requests again.

    Args:
        ledger: that holds them.
        requests: numbers of accepted requests; default: all that are open.
        options: the fields of `Removing`, by name.

    Returns:
        The run and its end. It is "done" where its audit does not say that the rows are still known, no earlier request came back, and
        the utility budget is kept; then its model is served. A guard makes the requests "guarded".

    Raises:
        UserError: for every mistake that the user can correct; what began is then "failed" in the ledger.
    """
    removing = Removing(**options)
    if not 0 <= removing.utility_budget < 1:
        raise UserError(f"the utility budget is a share from 0 up to, and not including, 1, and this is {removing.utility_budget}")
    if removing.fall_back not in ("none", "union", "retrain"):
        raise UserError(f"--fall-back is none, union or retrain, and not {removing.fall_back!r}")
    if (removing.fall_back == "retrain") is not bool(removing.retrain_from):
        raise UserError("--fall-back retrain and --retrain-from MODEL, which is trained anew on the rows to keep, go together")
    plans = build_plan.plan(removing.method, dict(removing.hyperparameters))
    action = plans[-1].action
    with running_alone(ledger), own_cache(ledger):
        recover(ledger, removing.by)
        chosen = chosen_requests(ledger, requests)
        may_promise = isinstance(action, (Guard, ByDesign)) or RETRAIN in (removing.method, removing.fall_back)
        if not may_promise and (less := weaker([ledger.request(n) for n in chosen], "measured")):  # known before anything is computed
            raise UserError(f"{less[0]}. Exact are --method retrain and stores (expunge train --method sisa)")
        parent = parent_of(ledger, removing.model)
        work = work_of(ledger, chosen, removing.retain)
        return _carried_out(ledger, chosen, parent, work, removing, isinstance(action, Guard))


def recover(ledger: Ledger, by: str = "") -> list[int]:
    """Mark as failed what is running, although this process holds the lock: whoever ran it is gone. Returns the numbers of requests."""
    lost = [r for r in ledger.requests() if r["state"] == "running"]
    why = "the process that ran it ended without a result"
    with ledger.writing() as writer:
        ended = set[int]()
        for row in lost:
            body: dict[str, Any] = {"run": row["run"], "why": why}
            if row["run"] not in ended:
                body["ends"] = _ending("failed", ledger.run(row["run"])["folder"], "", {"reasons": [why]})
                ended.add(row["run"])
            writer.append(row["id"], "failed", body, by)
    return [r["id"] for r in lost]


def _carried_out(ledger: Ledger, chosen: Sequence[int], parent: str, work: BatchRows, removing: Removing, guard: bool) -> RunResult:
    original = original_of(ledger) or parent
    with ledger.writing() as writer:
        number = writer.new_run()
        folder = f"runs/{number:04}"
        begins = {
            "batch": list(chosen),
            "method": removing.method,
            "folder": folder,
            "parent": _stored(ledger, parent),
            "parent_weights": digest_of_model(parent),
        }
        if not guard:
            for i, request in enumerate(chosen):
                writer.append(request, "running", {"run": number, **({"begins": begins} if i == 0 else {})}, removing.by)
    try:
        if guard:
            return _guarded(ledger, chosen, number, folder, begins, parent, original, work, removing)
        return _attempts(ledger, chosen, number, folder, parent, original, work, removing)
    except BaseException as error:
        if not guard:
            why = str(error) if isinstance(error, UserError) else f"it was stopped by {type(error).__name__}"
            _end(ledger, chosen, number, "failed", folder, {"reasons": [why], "notes": list(work.notes)}, removing.by)
        raise


def _attempts(
    ledger: Ledger, chosen: Sequence[int], number: int, folder: str, parent: str, original: str, work: BatchRows, removing: Removing
) -> RunResult:
    """The step from the served model, then the ways to fall back, until one is good."""
    ways: list[tuple[str, str]] = [("step", folder)]
    if work.earlier and removing.fall_back != "none" and not work.unreadable and is_present(original):
        ways.append(("union", f"{folder}-union"))
    if removing.fall_back == "retrain":
        ways.append(("retrain", f"{folder}-retrained"))
    tried = dict[str, list[str]]()
    for way, place in ways:
        target = ledger.folder / place
        if way == "step":
            _unlearn(parent, work.forget, work.retain, target, removing)
        elif way == "union":
            _unlearn(original, work.union, work.retain, target, removing)
        else:
            if work.retain is None:
                raise UserError("retraining needs the rows to keep: give them with --retain")
            settings = dict(removing.retrain_hyperparameters)
            train([dict(r) for r in work.retain], removing.retrain_from, out=target, prompt_format=removing.prompt_format, **settings)
        summary = _judged(ledger, chosen, target, original, work, removing)
        summary["promise"] = promise_of(target, RETRAIN if way == "retrain" else removing.method)
        summary["reasons"] += weaker([ledger.request(n) for n in chosen], summary["promise"])
        tried[way] = summary["reasons"]
        summary |= {"way": way, "tried": tried, "notes": list(work.notes), "original": digest_of_model(original)}
        state = "failed" if summary["reasons"] else "done"
        if state == "done" or way == ways[-1][0]:
            _end(ledger, chosen, number, state, place, summary, removing.by)
            return RunResult(number, chosen, state, summary["state"], target, summary["reasons"], summary)
    raise AssertionError("the last way ends the run")


def _unlearn(model: str, forget: Records, retain: Records | None, out: Path, removing: Removing) -> None:
    progress = removing.progress
    progress(0, 0, f"forgetting {len(forget)} rows")
    unlearn(
        removing.method,
        model,
        forget,
        retain,
        out=out,
        overwrite=True,
        prompt_format=removing.prompt_format,
        load_options=removing.load_options,
        **removing.hyperparameters,
    )


def _judged(ledger: Ledger, chosen: Sequence[int], model: Path, original: str, work: BatchRows, removing: Removing) -> dict[str, Any]:
    """The audit of a run, those of all earlier requests, and the reasons why the run is not good."""
    first = _audit(model, work.forget, original, work, removing, "these requests")
    summary: dict[str, Any] = {**outcome_of(first.to_dict()), "rows": len(work.forget)}
    reasons = []
    if summary["state"] == "not removed":
        reasons.append(f'the rows of {numbered(chosen)} are still known: the verdict is "not removed"')
    elif count := still_answered(first.to_dict()):
        reasons.append(
            f"{count} of {len(work.forget)} rows of {numbered(chosen)} are still answered with the forgotten answer, word for word"
        )
    elif unmoved(summary):
        reasons.append(f"the rows of {numbered(chosen)} are as known as before: no score moved by more than its margin")
    utility, spent = utility_of(first, _utility_before(ledger)), None
    if utility:
        name, value, before = utility
        spent = 1 - value / before if before > 0 else 0.0
        if spent > removing.utility_budget:
            reasons.append(f"{name} is {value:.3g} and was {before:.3g} of the original: more than {removing.utility_budget:.0%} is lost")
    earlier = {}
    for number, rows in work.earlier.items():
        again = _audit(model, rows, original, work, removing, f"request {number}")
        before_state = next((s for s in _verdicts(ledger, number)), "")
        earlier[str(number)] = {"state": again.verdict.state, "was": before_state}
        receipt.write(model / AUDITS / summary_name(number), {**outcome_of(again.to_dict()), "rows": len(rows)})
        if again.verdict.state == "not removed" and before_state != "not removed":
            reasons.append(f"the rows of request {number}, which were forgotten earlier, are known again")
    shown = {"name": utility[0], "value": utility[1], "original": utility[2], "spent": spent} if utility else None
    summary |= {"reasons": reasons, "earlier": earlier, "utility": shown, "utility_budget": removing.utility_budget}
    receipt.write(model / AUDITS / SUMMARY, summary)
    return summary


def summary_name(request: int) -> str:
    """The file with the numbers of the audit of an earlier request, which stays when its rows are deleted."""
    return SUMMARY.replace(".", f"-{request}.")


def _utility_before(ledger: Ledger) -> Mapping[str, float]:
    """What earlier runs measured of the original, by score, for when it is gone."""
    measured = [r["summary"].get("utility") for r in ledger.runs()]
    return {m["name"]: float(m["original"]) for m in measured if m}


def _verdicts(ledger: Ledger, request: int) -> Iterator[str]:
    """What the ledger last knew of a request: verdicts, the newest first."""
    for ended in reversed(ledger.runs()):
        if ended["state"] == "done":
            if request in ended["batch"]:
                yield ended["verdict"]
            elif str(request) in ended["summary"].get("earlier", {}):
                yield ended["summary"]["earlier"][str(request)]["state"]


def _audit(model: Path, forget: Records, original: str, work: BatchRows, removing: Removing, whose: str) -> Any:
    def progress(done: int, total: int, text: str) -> None:
        removing.progress(done, total, f"audit of {whose}: {text}")

    return audit(
        model,
        forget,
        work.retain,
        removing.holdout,
        original=original if is_present(original) else None,
        retrained=removing.retrained or None,
        attack=removing.attack if whose == "these requests" else (),
        request_from=removing.method if way_of(removing.method) else "",
        out=model / AUDITS / whose.replace(" ", "-"),
        overwrite=True,
        prompt_format=removing.prompt_format,
        progress=progress,
        load_options=removing.load_options,
    )


def _guarded(
    ledger: Ledger,
    chosen: Sequence[int],
    number: int,
    folder: str,
    begins: Mapping[str, Any],
    parent: str,
    original: str,
    work: BatchRows,
    removing: Removing,
) -> RunResult:
    """Hide the rows behind a guard: the weights stay, and no such run is ever done."""
    target = ledger.folder / folder
    _unlearn(parent, work.forget, work.retain, target, removing)
    summary = _judged(ledger, chosen, target, original, work, removing)
    summary |= {"way": "guard", "notes": list(work.notes), "original": digest_of_model(original)}
    ends = _ending("guarded", folder, _sha256(target / RECEIPT), summary, digest_of_model(str(target)))
    with ledger.writing() as writer:
        for i, request in enumerate(chosen):
            first = {"begins": dict(begins), "ends": ends} if i == 0 else {}
            writer.append(request, "guarded", {"run": number, **first}, removing.by)
    return RunResult(number, chosen, "guarded", summary["state"], target, summary["reasons"], summary)


def _end(ledger: Ledger, chosen: Sequence[int], number: int, state: str, folder: str, summary: Mapping[str, Any], by: str) -> None:
    target = ledger.folder / folder
    sha256 = _sha256(target / RECEIPT) if (target / RECEIPT).exists() else ""
    ends = _ending(state, folder, sha256, summary, digest_of_model(str(target)) if sha256 else "")
    with ledger.writing() as writer:
        for i, request in enumerate(chosen):
            body: dict[str, Any] = {"run": number, "why": "; ".join(summary["reasons"])}
            if i == 0:
                body |= {"ends": ends} | ({"serves": {"source": folder, "run": number}} if state == "done" else {})
            writer.append(request, state, body, by)


def _ending(state: str, folder: str, sha256: str, summary: Mapping[str, Any], weights: str = "") -> dict[str, Any]:
    return {
        "state": state,
        "folder": folder,
        "receipt_sha256": sha256,
        "weights": weights,
        "verdict": summary.get("state", ""),
        "summary": dict(summary),
    }


def _stored(ledger: Ledger, source: str) -> str:
    """A model's place as the ledger keeps it: relative to its folder for models of its runs."""
    path = Path(source)
    runs = (ledger.folder / "runs").resolve()
    return f"runs/{path.resolve().relative_to(runs)}" if path.exists() and path.resolve().is_relative_to(runs) else source


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
