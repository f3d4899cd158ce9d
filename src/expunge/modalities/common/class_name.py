"""The class of a row in a data set that names its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class ClassName(str):
    """The name of a class, which knows its number in its own data set.

    Models number their classes in an order of their own, so a name is what data and model have in common. The number counts only where
    a model has no names.

    Args:
        number: of the class in the data set.
        names: of all classes of the data set, in its order.
    """

    number: int
    names: tuple[str, ...]

    def __new__(cls, number: int, names: Sequence[str]) -> ClassName:
        name = super().__new__(cls, names[number])
        name.number, name.names = number, tuple(names)
        return name

    def __getnewargs__(self) -> tuple[int, tuple[str, ...]]:  # type: ignore[override]
        return self.number, self.names


def named_classes(row: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A row whose class numbers are names.

    Args:
        row: with numbers, as `datasets` stores a `ClassLabel`; -1 and null say that a row has no class, and become null.
        names: by column, the names of its classes.
    """
    renamed = {}
    for column, known in names.items():
        if column in row and not isinstance(row[column], str):
            number = row[column]
            renamed[column] = ClassName(number, known) if number is not None and 0 <= number < len(known) else None
    return {**row, **renamed}
