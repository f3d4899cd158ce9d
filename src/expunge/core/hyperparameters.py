"""Hyperparameters: validated frozen fields, declared once. The command line, receipts and cards derive from them.

A part is a frozen dataclass, whose fields with a description are hyperparameters. `hyperparameters_of` lists those of a plan, a tree of
parts, and `override` changes some of them: by plain name (`beta`) or, if two parts share a name, by qualified name (`sam.rho`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast, dataclass_transform, get_origin

import pydantic

from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean

T = TypeVar("T")
Count = pydantic.PositiveInt
FORMER = {  # names of version 0.1, accepted for one more release
    "batch": "batch_size",
    "micro": "micro_batch_size",
    "decay": "weight_decay",
    "drops": "lr_milestones",
    "clip": "max_grad_norm",
    "checkpointing": "gradient_checkpointing",
    "trains": "trainable",
    "inner_batch": "inner_batch_size",
}


def hp(default: Any, help: str, **limits: Any) -> Any:
    """A field of a part: default, one line of meaning, and limits as in `pydantic.Field` (gt, ge, lt, le, pattern)."""
    return pydantic.Field(default, description=help, **limits)


@dataclass_transform(frozen_default=True)
def part(cls: type[T]) -> type[T]:
    """Make a class a frozen, validated dataclass, as every part of a plan is."""
    config = pydantic.ConfigDict(arbitrary_types_allowed=True, extra="forbid")
    cls.__repr__ = _changed  # type: ignore[method-assign]
    return cast(type[T], pydantic.dataclasses.dataclass(frozen=True, repr=False, config=config)(cls))


def _changed(self: Any) -> str:
    """The repr of a part: its fields that differ from their defaults, at most 280 characters."""
    fields = {n: getattr(self, n) for n, field in self.__pydantic_fields__.items() if getattr(self, n) != field.default}
    return f"{type(self).__name__}({', '.join(f'{n}={value!r}' for n, value in fields.items())})"[:280]


def snake(name: str) -> str:
    """`SimNPO` -> `sim_npo`, `NLL` -> `nll`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


@dataclass(frozen=True)
class Hyperparameter:
    """One hyperparameter of a tree: its path, its owner and name, its value, and its meaning."""

    path: tuple[str | int, ...]
    owner: str
    name: str
    value: Any
    annotation: Any
    help: str
    limits: str

    @property
    def qualified(self) -> str:
        return f"{self.owner}.{self.name}"


def _is_node(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type) and hasattr(type(value), "__pydantic_fields__")


def _walk(node: Any, path: tuple[str | int, ...], stage: str, idle: frozenset[str] = frozenset()) -> Iterator[Hyperparameter]:
    """Yield the hyperparameters below a node. Fields in `idle` are left out, since nothing reads them."""
    if isinstance(node, tuple):
        for i, item in enumerate(node):
            yield from _walk(item, (*path, i), stage if path else f"stage{i + 1}")
        return
    if not _is_node(node):
        return
    kind = type(node)
    if getattr(kind, "stage_owner", False):  # a plan: its name, if it has one, qualifies its settings
        stage = node.name or stage
    owner = stage if getattr(kind, "stage_owner", False) or getattr(kind, "stage_settings", False) else snake(kind.__name__)
    alias = getattr(node, "alias", None)
    for name, field in kind.__pydantic_fields__.items():
        value = getattr(node, name)
        if name in idle:
            continue
        if field.description:
            shown = alias(name) if alias else name
            yield Hyperparameter((*path, name), owner, shown, value, field.annotation, field.description, _limits(field))
        else:
            yield from _walk(value, (*path, name), stage, getattr(node, "idle", frozenset()) if name == "train" else frozenset())


def _limits(field: Any) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    return ", ".join(f"{s} {getattr(m, n)}" for m in field.metadata for n, s in signs.items() if getattr(m, n, None) is not None)


def hyperparameters_of(tree: Any) -> list[Hyperparameter]:
    """All hyperparameters of a plan, a tuple of plans or a part, in the order of declaration. Qualified names are unique."""
    paths_of: dict[tuple[str, str], set[tuple[str | int, ...]]] = {}
    hyperparameters = []
    for k in _walk(tree, (), "plan"):
        paths = paths_of.setdefault((k.owner, k.name), set())
        paths.add(k.path)
        hyperparameters.append(k if len(paths) == 1 else dataclasses.replace(k, owner=f"{k.owner}{len(paths)}"))
    return hyperparameters


def named(hyperparameters: Iterable[Hyperparameter], name: str) -> list[Hyperparameter]:
    """The hyperparameters of a plain or qualified name, with dashes or underscores; of a former name if no current one matches."""
    known, name = list(hyperparameters), name.replace("-", "_")
    matches = [k for k in known if name in (k.name, k.qualified)]
    owner, dot, last = name.rpartition(".")
    return matches or ([k for k in known if owner + dot + FORMER[last] in (k.name, k.qualified)] if last in FORMER else [])


def override(tree: T, values: Mapping[str, Any]) -> T:
    """The same tree with some hyperparameters changed. Strings are converted to the field's type; commas separate several values.

    The plain name of a training setting (`lr`) changes it in every stage. Any other name that occurs more than once must be qualified.

    Raises:
        UserError: for an unknown name (with the nearest known names), an ambiguous name, or a value out of range.
    """
    for name, value in values.items():
        known = hyperparameters_of(tree)
        underscored, matches = name.replace("-", "_"), named(known, name)
        if not matches:
            raise UserError(f"there is no hyperparameter '{name}' here{did_you_mean(underscored, [k.name for k in known])}")
        if len(matches) > 1 and not all(k.path[-2:-1] == ("train",) for k in matches):
            choices = " or ".join(sorted({k.qualified for k in matches}))
            raise UserError(f"'{name}' is a hyperparameter of more than one part: say {choices}")
        for match in matches:
            several = isinstance(value, str) and get_origin(match.annotation) is tuple
            tree = _replaced(tree, match.path, [v for v in value.split(",") if v.strip()] if several else value, underscored)
    return tree


def _replaced(node: Any, path: tuple[str | int, ...], value: Any, name: str) -> Any:
    head, rest = path[0], path[1:]
    if isinstance(head, int):
        return tuple(_replaced(item, rest, value, name) if i == head else item for i, item in enumerate(node))
    new = _replaced(getattr(node, head), rest, value, name) if rest else value
    try:
        return dataclasses.replace(node, **{head: new})
    except pydantic.ValidationError as error:
        first, shown = error.errors()[0], ",".join(value) if isinstance(value, list) and all(isinstance(v, str) for v in value) else value
        raise UserError(f"hyperparameter '{name}' = {shown!r}: {first['msg'][0].lower()}{first['msg'][1:]}") from None
