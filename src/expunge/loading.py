"""Models and rows from wherever the user has them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import data
from .core.errors import UserError
from .core.parts import Modality, Rows
from .core.words import did_you_mean

Source = str | Path | Sequence[Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Opened:
    """A model with its port, and where it came from."""

    model: nn.Module
    port: Modality
    source: str


def cache_home() -> Path:
    """Where trained models and observations are kept by content: $EXPUNGE_CACHE, else ~/.cache/expunge."""
    return Path(os.environ.get("EXPUNGE_CACHE") or Path.home() / ".cache" / "expunge")


def load(
    path: str | Path, prompt_format: str = "", *, dtype: str = "float32", trust_remote_code: bool = False, allow_pickle: bool = False
) -> Opened:
    """A model and its port from a folder or hub id, or from the folder of a run (its model, its adapter, or its guard around the original).

    prompt_format: how a question becomes a prompt; '' is the chat template, or the format that the run was made with.
    Errors: UserError for what is not there or not safe to load.
    """
    from .modalities import text

    folder, inner = Path(path), Path(path)
    if (folder / "receipt.json").exists():
        receipt = json.loads((folder / "receipt.json").read_text())
        stored = receipt.get("port", {}).get("prompt_format", "")
        prompt_format = prompt_format or ("" if stored == "chat template" else stored)
        found = [n for n in ("model", "adapter", "guard") if (folder / n).is_dir()]
        if not found:
            raise UserError(f"the run in {path} has not finished: it holds no model yet (go on with --resume)")
        inner = folder / found[0]
        if found[0] == "guard":
            return _guarded(folder, receipt, prompt_format, dtype, trust_remote_code, allow_pickle)
    elif str(path).startswith((".", "/", "~")) and not folder.exists():
        near = did_you_mean(folder.name, [p.name for p in folder.parent.iterdir()]) if folder.parent.is_dir() else ""
        raise UserError(f"there is no folder {path}{near}")
    model, port = text.load(
        str(inner), prompt_format, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code, allow_pickle=allow_pickle
    )
    return Opened(model, port, str(path))


def _guarded(folder: Path, receipt: dict[str, Any], *how: Any) -> Opened:
    from .core import catalog

    prompt_format, dtype, remote, pickle = how
    base = load(receipt["model"]["source"], prompt_format, dtype=dtype, trust_remote_code=remote, allow_pickle=pickle)
    model = catalog.load(receipt["method"]).restore(base.model, base.port, folder / "guard")
    return Opened(model, base.port, str(folder))


def records(source: Source, what: str) -> list[Mapping[str, Any]]:
    """Records of a file, a hub id or a list. Errors: UserError where it is empty or cannot be read."""
    found = data.read(str(source)) if isinstance(source, (str, Path)) else list(source)
    if not found:
        raise UserError(f"the {what} set is empty")
    return list(found)


def rows(port: Modality, name: str, source: Source | Rows | None) -> Rows | None:
    """Records as rows of a port, with messages that name the file."""
    if source is None or isinstance(source, Rows):
        return source
    return port.rows(name, records(source, name), str(source) if isinstance(source, (str, Path)) else name)
