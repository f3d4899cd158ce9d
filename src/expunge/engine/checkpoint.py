"""Write nested plain data with tensors to a folder and read it back: safetensors and JSON without pickles, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from expunge.core.rows import Rows
from expunge.engine.distributed.sharding import Split

PLAIN = frozenset({int, float, str, bool, type(None)})


def save(data: Any, folder: Path) -> None:
    """Write data to a folder. It writes under a temporary name and then renames, so a killed process leaves the old or the new checkpoint.

    Raises:
        TypeError: if the data holds anything but plain data, tensors and rows.
    """
    tensors: dict[int, tuple[str, Tensor]] = {}
    skeleton = _pack(data, tensors)
    new, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    for stale in (new, old):
        shutil.rmtree(stale, ignore_errors=True)
    new.mkdir(parents=True)
    save_file({n: t.detach().cpu().contiguous().clone() for n, t in tensors.values()}, new / "tensors.safetensors")
    (new / "data.json").write_text(json.dumps(skeleton), encoding="utf-8")
    for file in new.iterdir():
        with file.open("rb") as f:
            os.fsync(f.fileno())
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load(folder: Path) -> Any:
    """Read what `save` wrote.

    A process killed between the two renames of `save` leaves a folder `.old`, which is then read instead.

    Returns:
        The data, with tensors on the CPU, or None if nothing was saved.
    """
    candidates = (folder, folder.with_name(folder.name + ".old"))
    source = next((p for p in candidates if (p / "data.json").exists()), None)
    if source is None:
        return None
    return _unpack(json.loads((source / "data.json").read_text(encoding="utf-8")), load_file(source / "tensors.safetensors"))


def _pack(x: Any, tensors: dict[int, tuple[str, Tensor]]) -> Any:
    """Nested data as JSON. `tensors` is filled with the name and tensor of each identity, since many rows may share one image."""
    if isinstance(x, Tensor):
        name, _ = tensors.setdefault(id(x), (str(len(tensors)), x))
        return {"$tensor": name}
    if isinstance(x, Rows):
        return {"$rows": _pack({"name": x.name, "ids": x.ids, "columns": dict(x.columns), "weight": x.weight}, tensors)}
    if isinstance(x, Split):
        return {"$split": _pack(x.whole, tensors)}
    if isinstance(x, dict):
        return {"$dict": [[_pack(k, tensors), _pack(v, tensors)] for k, v in x.items()]}
    if isinstance(x, tuple):
        return {"$tuple": [_pack(v, tensors) for v in x]}
    if isinstance(x, list):  # most are of numbers or texts, and there may be millions
        return x if set(map(type, x)) <= PLAIN else [_pack(v, tensors) for v in x]
    if x is None or isinstance(x, (bool, int, float, str)):
        return x
    raise TypeError(f"a checkpoint holds plain data and tensors, not {type(x).__name__}")


def _unpack(x: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(x, list):
        return x if set(map(type, x)) <= PLAIN else [_unpack(v, tensors) for v in x]
    if not isinstance(x, dict):
        return x
    ((kind, value),) = x.items()
    if kind == "$tensor":
        return tensors[value]
    if kind == "$split":
        return Split(_unpack(value, tensors))
    if kind == "$tuple":
        return tuple(_unpack(v, tensors) for v in value)
    if kind == "$rows":
        return Rows(**_unpack(value, tensors))
    return {_unpack(k, tensors): _unpack(v, tensors) for k, v in value}


def to_device(x: Any, device: torch.device) -> Any:
    """The same nested data with its tensors moved to a device."""
    if isinstance(x, Tensor):
        return x.to(device)
    if isinstance(x, dict):
        return {k: to_device(v, device) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return type(x)(to_device(v, device) for v in x)
    return x
