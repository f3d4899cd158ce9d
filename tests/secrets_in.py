"""A walk over everything of ours that can be reached from some objects, to look for a text that none of them may say."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

LONGEST = 300  # characters of a repr
SECRET = "Zyxwvut-4711-Ψ"  # stands in the rows


def ours(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "expunge"


def reachable(*roots: Any) -> Iterator[Any]:
    """Every object of the package below the roots: fields, attributes, properties, items of mappings and sequences."""
    known: dict[int, Any] = {}
    remaining = list(roots)
    while remaining:
        value = remaining.pop()
        if value is None or isinstance(value, (str, bytes, bool, int, float, type, torch.Tensor, np.ndarray)) or id(value) in known:
            continue
        known[id(value)] = value  # kept alive, so that no other object gets its id
        if isinstance(value, Mapping):
            remaining += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            remaining += value
        if ours(value) and not callable(value):
            yield value
            remaining += list(getattr(value, "__dict__", {}).values())
            remaining += [getattr(value, f.name) for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []


def shown(value: Any) -> Iterator[str]:
    """Everything that a console or a notebook shows of an object."""
    yield repr(value)
    yield str(value)
    yield f"{value}"
    if hasattr(type(value), "_repr_html_"):
        yield value._repr_html_()
