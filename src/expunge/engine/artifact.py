"""The result of a run in its folder: a model, an adapter, a guard around a model, or a by-design store beside its model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.parts import Guard
from expunge.core.plan import Plans
from expunge.engine import checkpoint
from expunge.engine.adapters import is_adapted

LOADED = ("model", "adapter", "guard")  # names of the folders that a result can be loaded from
STORE = "store"
DIGESTS = "digests.json"  # of the files of a store
WARNING = (
    "# A by-design store\n\nThis folder holds training rows in the clear, because forgetting one of them takes the others. Keep it as "
    "confidential as the rows, and publish the model beside it alone. A store that rows were taken out of is a new folder: delete the old "
    "one, and its copies.\n"
)
GUARD = (
    "# A guard\n\nThis folder holds a guard without a model. It changes what is answered; the weights of the model around which it stands "
    "know what they knew. {} Open the folder of the run by `expunge.load`.\n"
)


def kind_of(plans: Plans, model: nn.Module) -> str:
    """The name of the folder for a result: `guard`, `adapter` or `model`."""
    if isinstance(plans[-1].action, Guard):
        return "guard"
    return "adapter" if is_adapted(model) else "model"


def write(folder: Path, kind: str, model: nn.Module, modality: Modality) -> None:
    """Write a result of the given kind into an empty folder."""
    if kind == "guard":
        guard: Any = modality
        guard.save_guard(folder)
        (folder / "README.md").write_text(GUARD.format(guard.holds).replace("  ", " "), encoding="utf-8")
    else:
        modality.save(model, folder)


def write_store(run: Path, store: Mapping[str, Any]) -> None:
    """Write a by-design store into the folder of its run."""
    checkpoint.save(store, run / STORE)
    (run / STORE / "README.md").write_text(WARNING, encoding="utf-8")
    (run / STORE / DIGESTS).write_text(json.dumps(_digests(run / STORE), indent=1) + "\n", encoding="utf-8")


def read_store(run: Path) -> dict[str, Any] | None:
    """The by-design store in the folder of a run, or None if it has none.

    Raises:
        UserError: where its files are not those that were written: what a guarantee says of them would be wrong.
    """
    folder = run / STORE
    if not folder.is_dir():
        return None
    try:
        written = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
        changed = sorted(name for name, digest in _digests(folder).items() if written.get(name) != digest)
        changed += sorted(set(written) - set(_digests(folder)))
    except (OSError, ValueError, AttributeError):
        changed = [DIGESTS]
    if changed:
        raise UserError(
            f"the store in {run} is not as it was written: {', '.join(changed)} changed, or is missing. No guarantee holds for it: take a "
            "copy of it that nobody changed, or make it anew from the rows, with expunge train"
        )
    store: dict[str, Any] | None = checkpoint.load(folder)
    return store


def _digests(folder: Path) -> dict[str, str]:
    """A hash of each file of a store."""
    digests = {}
    for name in ("data.json", "tensors.safetensors"):
        if (folder / name).exists():
            with (folder / name).open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
