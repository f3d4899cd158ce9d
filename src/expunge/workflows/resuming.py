"""What must be the same in a run that goes on, and what differs where it is not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.core.errors import UserError
from expunge.core.plan import Plans
from expunge.core.request import Request, digest
from expunge.engine import checkpoint, identity, loop
from expunge.io.models import Opened
from expunge.workflows.watch import Watch

DIFFERS = {  # words for the entries of a key
    "method": "method",
    "stages": "hyperparameters",
    "inputs": "content of the files that hyperparameters name",
    "weights": "model",
    "configuration": "model configuration",
    "modules": "model settings",
    "code": "model code",
    "written": "type of the written weights",
    "request": "data",
    "modality": "tokenizer, processor or prompt format",
    "watch": "rows or options of --evaluate",
    "device": "device",
}


class AnotherRun(UserError):
    """A checkpoint is of a run with other inputs, or of another version."""


def key_of(description: Mapping[str, Any], plans: Plans, opened: Opened, request: Request, watch: Watch | None) -> dict[str, str]:
    """Digests of everything that the result depends on, by what it is. The path of the model is not among them.

    Args:
        description: the part of the receipt that is known before the start.
    """
    watched = {n: identity.of_rows(opened.modality.rows(n, rows)) for n, rows in watch.sets.items()} if watch else {}
    retrained = watch.retrained.about.get("key") if watch and watch.retrained else None
    return {
        "method": str(description["method"]),
        "stages": digest(description["stages"]),
        "inputs": digest(identity.of_inputs(plans)),
        **{name: str(value) for name, value in description["model"].items() if name not in ("source", "start")},
        "request": digest({n: identity.of_rows(r) for n, r in request.sets.items()}),
        "modality": digest(description["modality"]),
        "watch": digest([description.get("watch"), watched, retrained]),
        **identity.of_setting(opened.model),
    }


def checkpoint_of(folder: Path, key: Mapping[str, str]) -> dict[str, Any] | None:
    """The last checkpoint of a run, without its key; None where the run was stopped before its first one.

    Raises:
        AnotherRun: when the run was started with something else; the message says with what.
    """
    saved: dict[str, Any] | None = checkpoint.load(folder / "checkpoint")
    if saved is None:
        return None  # nothing is lost by starting over
    began = saved.pop("key")
    began = began if isinstance(began, dict) else {"expunge": "older"}
    if differing := [name for name in {**key, **began} if began.get(name) != key.get(name)]:
        words = [DIFFERS.get(n) or f"version of {n} ({began.get(n, 'none')}, now {key.get(n, 'none')})" for n in differing]
        raise AnotherRun(f"the run in {folder} was started with another {', another '.join(words)}; --resume goes on with the same")
    if not saved.keys() >= set(loop.SAVED):
        raise AnotherRun(f"the run in {folder} was started with another version of expunge; start it again with --overwrite")
    return saved
