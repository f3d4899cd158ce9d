"""Short reprs: what an object is, in one line, and never what its rows hold, since notebooks and logs keep reprs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
LONGEST, VALUE = 280, 60  # characters of a repr, and of one value in it


def brief(*names: str) -> Callable[[type[T]], type[T]]:
    """A class decorator: the repr names the class and these attributes, and nothing else of the object.

    Texts, paths and numbers stand as they are, collections are counted, arrays and tensors give their shapes, other objects their class.

    Args:
        names: attributes or properties, in order.

    Returns:
        The decorator.
    """

    def shown(self: Any) -> str:
        text = f"{type(self).__name__}({', '.join(_described(name, getattr(self, name)) for name in names)})"
        return cut(text, LONGEST)

    def decorate(cls: type[T]) -> type[T]:
        cls.__repr__ = shown  # type: ignore[method-assign]
        return cls

    return decorate


def cut(text: str, longest: int) -> str:
    """The text on one line, of at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _described(name: str, value: object) -> str:
    if value is None or isinstance(value, (bool, int, str, Path)):
        return f"{name}={cut(repr(str(value) if isinstance(value, Path) else value), VALUE)}"
    if isinstance(value, float):
        return f"{name}={value:.4g}"
    if type(value).__module__.partition(".")[0] == __name__.partition(".")[0]:  # one of ours, whose own repr is short
        return f"{name}={cut(repr(value), VALUE)}"
    if (shape := getattr(value, "shape", None)) is not None:
        return f"{name}={tuple(shape)}"
    return f"{len(value)} {name.replace('_', ' ')}" if isinstance(value, Collection) else f"{name}={type(value).__name__}"
