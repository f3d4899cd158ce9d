"""The hyperparameters that a method or an attack declares, read from sources: nothing is imported, so that a wrong one is refused at once.

What is read is more than what a plan has: every hyperparameter of every part that `plan()` may reach. So a name that is not here does not
exist, and a value that every declaration of its name refuses is wrong; the rest is for the plan itself.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from expunge import catalog
from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.functional.brief import brief

PACKAGE = catalog.ROOT.parent
WEIGHT = "_weight"  # weights of terms are named by the role of the term, e.g. retain_weight
Symbol = tuple[Path, str]
Node = ast.ClassDef | ast.FunctionDef | ast.Assign | ast.AnnAssign


@brief()
@dataclass(frozen=True)
class Declaration:
    """One hyperparameter as its source declares it: name, annotation and limits."""

    name: str
    annotation: str
    limits: tuple[tuple[str, Any], ...]

    def refusal(self, text: str) -> str:
        """Why it cannot have a value; '' where it can, or where only the part itself knows."""
        import typing

        import pydantic

        try:
            known = {n: getattr(typing, n) for n in ("Annotated", "Literal", "Any")}
            kind = eval(self.annotation, {**known, "Field": pydantic.Field, "pydantic": pydantic})
            adapter = pydantic.TypeAdapter(typing.Annotated[kind, pydantic.Field(**dict(self.limits))])
        except Exception:  # a type of the package
            return ""
        try:
            several = typing.get_origin(kind) is tuple
            adapter.validate_python([v for v in text.split(",") if v.strip()] if several else text)
        except pydantic.ValidationError as error:
            message = str(error.errors()[0]["msg"])
            return f"{message[0].lower()}{message[1:]}"
        return ""


@dataclass(frozen=True)
class _Module:
    symbols: Mapping[str, Node]
    imports: Mapping[str, Symbol]  # local name -> file and symbol; a module has the symbol ''


@cache
def _module(path: Path) -> _Module:
    symbols: dict[str, Node] = {}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            symbols[node.name] = node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            symbols |= {t.id: node for t in targets if isinstance(t, ast.Name)}
    imports = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("expunge"):
            for alias in node.names:
                if symbol := _symbol(str(node.module), alias.name):
                    imports[alias.asname or alias.name] = symbol
    return _Module(symbols, imports)


def _symbol(module: str, name: str) -> Symbol | None:
    folder = PACKAGE.joinpath(*module.split("."))
    if (file := folder / f"{name}.py").is_file():
        return file, ""
    return (folder.with_suffix(".py"), name) if folder.with_suffix(".py").is_file() else None


def _reached(path: Path) -> Iterator[tuple[str, Node]]:
    """Everything that `plan` of a file refers to, directly or through other files: name and definition."""
    waiting, done = [(path, "plan")], set[Symbol]()
    while waiting:
        symbol = waiting.pop()
        file, name = symbol
        if symbol in done or (node := _module(file).symbols.get(name)) is None:
            continue
        done.add(symbol)
        yield name, node
        module = _module(file)
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name):
                waiting.append(module.imports.get(inner.id, (file, inner.id)))
            elif isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name) and inner.value.id in module.imports:
                waiting.append((module.imports[inner.value.id][0], inner.attr))


@cache
def declarations(path: Path) -> dict[str, list[Declaration]]:
    """All hyperparameters that the plan of a file may have, by name."""
    by_name: dict[str, list[Declaration]] = {}

    def add(name: str, annotation: ast.expr | None, limits: Iterable[tuple[str, Any]] = ()) -> None:
        by_name.setdefault(name, []).append(Declaration(name, ast.unparse(annotation) if annotation else "Any", tuple(limits)))

    for name, node in _reached(path):
        if isinstance(node, ast.FunctionDef) and name == "plan":
            for argument in (*node.args.args, *node.args.kwonlyargs):
                add(argument.arg, argument.annotation)
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            call = inner.value if isinstance(inner, ast.AnnAssign) else None
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "hp" and isinstance(inner.target, ast.Name):
                add(inner.target.id, inner.annotation, ((k.arg or "", ast.literal_eval(k.value)) for k in call.keywords))
    return by_name


def check(values: Mapping[str, str], owners: Mapping[str, str]) -> None:
    """Refuse names that none of the methods or attacks can have, and values that none of them accepts.

    Args:
        values: text by name, as typed: `lr`, `sam.rho`, `npo:beta`.
        owners: kind (methods or attacks) of every method or attack that may be meant, by name.

    Raises:
        UserError: for the first wrong name or value.
    """
    if not values:
        return
    from expunge.core.hyperparameters import FORMER

    paths = {n: catalog.path_of(n, kind) for n, kind in owners.items()}
    for key, text in values.items():
        owner, _, name = key.rpartition(":")
        meant = {n: p for n, p in paths.items() if not owner or n == owner}
        if not meant or None in meant.values():
            continue  # a plug-in declares elsewhere
        plain = name.replace("-", "_").rpartition(".")[2]
        known: dict[str, list[Declaration]] = {}
        for path in meant.values():
            for n, ds in declarations(path).items():  # type: ignore[arg-type]  # None is excluded above
                known.setdefault(n, []).extend(ds)
        fitting = known.get(plain) or known.get(FORMER.get(plain, plain))
        if not known and len(meant) == 1:
            (one,) = meant
            raise UserError(f"the {owners[one].removesuffix('s')} {one!r} has no hyperparameters, so there is no use for --{name}")
        if not fitting and not plain.endswith(WEIGHT):
            raise UserError(f"there is no hyperparameter '{name}' here{did_you_mean(plain, known)}")
        if fitting and all(reasons := [d.refusal(text) for d in fitting]):
            raise UserError(f"hyperparameter '{name.replace('-', '_')}' = {text!r}: {reasons[0]}")


def hub_data(benchmark: str) -> str:
    """The hub id of the data of a benchmark: the text SOURCE in its file; '' where it has none."""
    path = catalog.path_of(benchmark, "benchmarks")
    value = getattr(_module(path).symbols.get("SOURCE") if path else None, "value", None)
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""


def built_in_sizes() -> list[str]:
    """Names of the built-in model sizes: the keys of SIZES in the files of models."""
    sizes = []
    for name in catalog.names("models"):
        if (path := catalog.path_of(name, "models")) is None:  # a plug-in
            sizes += [*getattr(catalog.load(name, "models"), "SIZES", ())]
            continue
        value = getattr(_module(path).symbols.get("SIZES"), "value", None)
        if isinstance(value, ast.Dict):
            sizes += [str(k.value) for k in value.keys if isinstance(k, ast.Constant)]
    return sizes
