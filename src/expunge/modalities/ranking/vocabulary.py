"""Ids of users and items as the files have them, with the numbers that a model has for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Real
from typing import Any

from expunge.core.errors import UserError
from expunge.functional.brief import brief
from expunge.modalities.common.records import kind_of

SHOWN = 3  # unknown ids that a message names


def token(value: Any, place: str) -> str:
    """An id as text, so that 17, 17.0 and "17" are one user, whatever file they come from.

    Args:
        place: row and column, for messages.

    Raises:
        UserError: for a value that is neither a text nor a whole number, and for an empty text.
    """
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, Integral) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, Real) and not isinstance(value, bool) and float(value).is_integer():
        return str(int(float(value)))
    kind = "an empty text" if isinstance(value, str) else "a number with a fraction" if type(value) is float else kind_of(value)
    raise UserError(f"{place}: an id is a text or a whole number, and this is {kind}")


@brief("users", "items")
@dataclass(frozen=True)
class Vocabulary:
    """The users and the items that a model knows. Their places are their numbers in the model."""

    users: tuple[str, ...]
    items: tuple[str, ...]

    @cached_property
    def user_numbers(self) -> Mapping[str, int]:
        return {name: i for i, name in enumerate(self.users)}

    @cached_property
    def item_numbers(self) -> Mapping[str, int]:
        return {name: i for i, name in enumerate(self.items)}

    def check(self, source: str, users: Iterable[str], items: Iterable[str]) -> None:
        """Refuse ids that the model does not know.

        Raises:
            UserError: names some of them, and counts all.
        """
        unknown = {
            kind: list(dict.fromkeys(name for name in names if name not in numbers))
            for kind, names, numbers in (("user", users, self.user_numbers), ("item", items, self.item_numbers))
        }
        if sentences := [counted(kind, names) for kind, names in unknown.items() if names]:
            raise UserError(
                f"{source}: the model does not know {' and '.join(sentences)}; it knows {len(self.users)} users and {len(self.items)} "
                f"items. A model trained without some rows still knows their users and items with --vocabulary FILE (the whole data)"
            )


def counted(kind: str, names: Sequence[str]) -> str:
    """Some ids in words: `2 users ('a', 'b')`."""
    shown = ", ".join(repr(name[:40]) for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return f"{len(names)} {kind}{'s' if len(names) > 1 else ''} ({shown})"
