"""The types in which the weights of a model lie in its files. A run computes in float32 and writes the types that it was given."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from expunge.functional.brief import brief

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # as in the headers of safetensors
LOST = 0.5  # share of changed values that rounding takes back from which on the message says what to do


@brief("default")
@dataclass(frozen=True)
class Stored:
    """The files of a model and the types in them.

    Args:
        dtypes: by name of a tensor in the files, of numbers with a fraction.
        files: the safetensors files, in no special order.
    """

    dtypes: Mapping[str, torch.dtype]
    files: tuple[Path, ...] = ()
    default: torch.dtype = field(init=False)

    def __post_init__(self) -> None:
        counts = Counter(self.dtypes.values())
        object.__setattr__(self, "default", counts.most_common(1)[0][0] if counts else torch.float32)

    def dtype(self, name: str) -> torch.dtype:
        """The type of a tensor in the files; for an unknown name that of most tensors."""
        return self.dtypes.get(name, self.default)

    @property
    def words(self) -> str:
        """The types, most common first, e.g. `bfloat16, float32`."""
        return ", ".join(str(d).removeprefix("torch.") for d, _ in Counter(self.dtypes.values()).most_common())


def read(files: Sequence[Path]) -> Stored:
    """The types in safetensors files, from their headers. Raises: SafetensorError for a broken file."""
    dtypes = {}
    for file in files:
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118
                kind = weights.get_slice(name).get_dtype()
                if kind in FLOATS:
                    dtypes[name] = FLOATS[kind]
    return Stored(dtypes, tuple(files))


def remember(model: nn.Module, stored: Stored | None) -> None:
    """Let a model know the files that it came from; None forgets them."""
    model.__dict__["_stored"] = stored


def of(model: nn.Module) -> Stored | None:
    """The files that a model or an adapter came from; None for a new one and for one that was loaded in a type of the user's choice."""
    stored: Stored | None = vars(model).get("_stored")
    return stored


def words(model: nn.Module) -> str:
    """The types that a model will be written in; '' for those that it has in memory."""
    known = of(model)
    return known.words if known else ""


def note(model: nn.Module, sentence: str) -> None:
    """Add a sentence about how the model was loaded, for the receipt."""
    model.__dict__["_notes"] = (*notes(model), sentence)


def notes(model: nn.Module) -> tuple[str, ...]:
    """What was noted about the model."""
    written: tuple[str, ...] = vars(model).get("_notes", ())
    return written


@torch.no_grad()
def round_as_stored(model: nn.Module) -> str:
    """Round the weights to the types of the files that they came from, in place, so that the model is the one that will be written.

    Of an adapted model only the tensors of the adapter are rounded. Values that the type cannot hold keep the whole tensor as it is.

    Returns:
        What was rounded and how many changes that took back; '' where nothing was.
    """
    stored = of(model)
    if stored is None or all(d.itemsize >= 4 for d in stored.dtypes.values()):
        return ""
    rounded: dict[str, Tensor] = {}
    state = model.state_dict()
    names = _names_in_files(model, state)
    wide = []
    for name, file_name in names.items():
        value, dtype = state[name], stored.dtype(file_name)
        if not value.is_floating_point() or dtype.itemsize >= value.dtype.itemsize:
            continue
        narrow = value.to(dtype).to(value.dtype)
        if not torch.equal(narrow.isfinite(), value.isfinite()):
            wide.append(file_name)
        elif not torch.equal(narrow, value):
            rounded[file_name] = value.clone()
            value.copy_(narrow)
    if wide:
        remember(model, Stored({**stored.dtypes, **dict.fromkeys(wide, torch.float32)}, stored.files))
    return _rounding_note(stored, rounded, {names[n]: state[n] for n in names}, wide)


def _names_in_files(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, str]:
    """The names in files of the tensors that are saved, by their name in the model."""
    configs: Any = getattr(model, "peft_config", None)
    if configs is None:
        return {n: n for n in state}
    import peft

    saved = peft.get_peft_model_state_dict(model, state_dict=dict(state), save_embedding_layers=False)
    by_storage = {t.data_ptr(): n for n, t in saved.items()}
    return {n: by_storage[t.data_ptr()] for n, t in state.items() if t.data_ptr() in by_storage and t.numel()}


def _rounding_note(stored: Stored, before: Mapping[str, Tensor], now: Mapping[str, Tensor], wide: Sequence[str]) -> str:
    """The sentence about a rounding. before: the rounded tensors before it."""
    if not before and not wide:
        return ""
    changed = lost = 0
    for file in stored.files:
        with safe_open(file, "pt") as weights:
            for name in now.keys() & set(weights.keys()):
                start, value = weights.get_tensor(name).to(now[name]), before.get(name, now[name])
                if start.shape == value.shape and stored.dtype(name).itemsize < now[name].itemsize:
                    moved = value != start
                    changed += int(moved.sum())
                    lost += int((moved & (now[name] == start)).sum())
    text = f"the weights are computed in float32 and written as in the files of the model ({stored.words})"
    if changed:
        text += f"; rounding took back {lost:,} of {changed:,} changed values ({lost / changed:.0%})"
        text += ": write float32 with --dtype float32 to keep them" if lost > LOST * changed else ""
    if wide:
        text += f"; {len(wide)} tensors stay float32, because their values do not fit, among them {wide[0]}"
    return text


def write_as_stored(folder: Path, stored: Stored | None) -> None:
    """Give the tensors in the safetensors files of a folder the types that they had, and say so in its configuration."""
    if stored is None or not stored.dtypes:
        return
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            metadata, tensors = weights.metadata(), {n: weights.get_tensor(n) for n in weights.keys()}  # noqa: SIM118
        cast = {n: t.to(stored.dtype(n)) if t.is_floating_point() else t for n, t in tensors.items()}
        total += sum(t.numel() * t.itemsize for t in cast.values())
        if any(cast[n].dtype != t.dtype for n, t in tensors.items()):
            save_file(cast, temporary := file.with_suffix(".tmp"), metadata)
            temporary.replace(file)
    for index in folder.glob("*.safetensors.index.json"):
        _edit(index, lambda entries: {**entries, "metadata": {**entries.get("metadata", {}), "total_size": total}})
    if (folder / "config.json").exists():
        name = str(stored.default).removeprefix("torch.")
        _edit(folder / "config.json", lambda entries: _with_dtype(entries, name))


def _with_dtype(entries: dict[str, Any], name: str) -> dict[str, Any]:
    """A configuration, and those inside it, with another type."""
    inner = {k: _with_dtype(v, name) if isinstance(v, dict) and "dtype" in v else v for k, v in entries.items()}
    return {**inner, "dtype": name} if "dtype" in entries else inner


def _edit(file: Path, change: Any) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text(encoding="utf-8"))), indent=2) + "\n", encoding="utf-8")
