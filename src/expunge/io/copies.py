"""Copies of a model that several runs of a process start from, so that its files are read once."""

from __future__ import annotations

import copy
from contextlib import suppress
from pathlib import Path

from expunge.core.request import digest
from expunge.engine import identity
from expunge.engine.shared import shared
from expunge.io.models import Opened, load

ELSEWHERE = ("adapter_config.json", "guard")  # files and folders of models that also lie somewhere else
SHARE = 4  # a model may take a fourth of the room


def load_copy(path: str | Path, prompt_format: str = "", *, dtype: str = "", device: str = "") -> Opened:
    """As `load`. In a block of `sharing` a small model is kept by the content of its files, and each call gives a copy of its own.

    Args:
        path, prompt_format, dtype, device: of `load`.
    """
    results, folder = shared(), Path(path).expanduser()
    if results is None or not folder.is_dir() or any(any(folder.rglob(name)) for name in ELSEWHERE):
        return load(path, prompt_format, dtype=dtype, device=device)
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    if SHARE * size > results.room:  # a second copy would cost more memory than reading costs time
        return load(path, prompt_format, dtype=dtype, device=device)
    key = digest(["model", str(folder.resolve()), identity.of_files(folder), prompt_format, dtype, device])
    kept: Opened | None = results.get(key)
    if kept is None:
        kept = load(path, prompt_format, dtype=dtype, device=device)
        results.put(key, kept, size)
    with suppress(TypeError, ValueError, RuntimeError, NotImplementedError):  # a plug-in's model or modality may not let itself be copied
        return copy.deepcopy(kept)
    return load(path, prompt_format, dtype=dtype, device=device)
