"""The catalog: the file name is the registration. Listing and reading cards imports nothing but this."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar, cast

from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.functional.brief import brief

if TYPE_CHECKING:
    from importlib import metadata

ROOT = Path(__file__).parent
FOLDERS = {  # what users list, by kind
    "methods": ("methods/objectives", "methods/updates", "methods/selectors", "methods/edits", "methods/guards", "methods/by_design"),
    "metrics": ("evaluation/metrics",),
    "attacks": ("evaluation/attacks",),
    "benchmarks": ("benchmarks",),
    "models": tuple(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "modalities").glob("*/models"))),
}
INNER = {"profiles": ("evaluation/profiles",), "panels": ("report/panels",)}  # what the package looks up by name
SHARED = ("benchmarks/suite.py", "evaluation/profiles/profile.py")  # files of these folders that are no entries
SINGULAR = {"modalities": "modality"}
FORMER = {"quantise": "quantize"}  # names of version 0.1, understood for one more release
_registered: dict[str, dict[str, ModuleType]] = {}
_remembering: list[Callable[[], None]] = []  # what forgets at a change
F = TypeVar("F", bound=Callable[..., object])


@dataclass(frozen=True)
class HyperparameterLine:
    """A hyperparameter as its source says it."""

    name: str
    default: str
    help: str


@brief("name", "kind", "status")
@dataclass(frozen=True)
class Card:
    """A module's docstring, read as a card: a summary, then fields, one a line (`Source: ...`), continued by indentation."""

    name: str
    kind: str
    folder: str
    summary: str
    fields: dict[str, str]
    source: str = ""

    @cached_property
    def hyperparameters(self) -> tuple[HyperparameterLine, ...]:
        """Read when they are asked for: lists of cards do without."""
        return tuple(_hyperparameters(ast.parse(self.source)))

    @property
    def headline(self) -> str:
        """The first sentence of the summary, on one line."""
        return re.split(r"(?<=[.?])\s", " ".join(self.summary.split()), maxsplit=1)[0].rstrip(".")

    @property
    def status(self) -> str:
        return self.fields.get("Status", "")


@cache
def _files(kind: str) -> dict[str, Path]:
    files: dict[str, Path] = {}
    if kind == "modalities":  # a modality is a folder, and its loader is how it is found
        return {path.parent.name: path for path in sorted((ROOT / "modalities").glob("*/loader.py"))}
    for folder in {**FOLDERS, **INNER}[kind]:
        for path in sorted((ROOT / folder).glob("[a-z]*.py")):
            if path.relative_to(ROOT).as_posix() in SHARED:
                continue
            if path.stem in files:
                raise RuntimeError(f"two files are called {path.stem}: {files[path.stem]} and {path}")
            files[path.stem] = path
    return files


@cache
def _installed() -> metadata.EntryPoints:
    """Entry points of all installed packages, which take 25 ms to read, so once for all kinds, and not for a help page."""
    from importlib import metadata

    return metadata.entry_points()


@cache
def _plugins(kind: str) -> dict[str, metadata.EntryPoint]:
    return {e.name: e for e in _installed().select(group=f"expunge.{kind}")}


def register(kind: str, name: str, module: ModuleType) -> None:
    """Add an entry for this process, as an installed plug-in does by its entry point `expunge.KIND`: from a notebook, or from a test.

    Args:
        kind: methods, metrics, attacks, benchmarks, models, modalities or profiles.
        name: the name that commands and functions know it by from now on.
        module: what a file of the kind defines, with a card as its docstring.

    Raises:
        UserError: for an unknown kind.
    """
    if kind not in (*FOLDERS, *INNER, "modalities"):
        raise UserError(f"there is no kind of thing called '{kind}'{did_you_mean(kind, list(FOLDERS))}")
    _registered.setdefault(kind, {})[name] = module
    _at_change()


def unregister(kind: str, name: str) -> None:
    """Take back what `register` added."""
    _registered.get(kind, {}).pop(name, None)
    _at_change()


def until_change(function: F) -> F:
    """A decorator: remember results, for hashable arguments, until `register` or `unregister` is called."""
    remembering = cache(function)
    _remembering.append(remembering.cache_clear)
    return cast(F, remembering)


def _at_change() -> None:
    for forget in _remembering:
        forget()


def kinds() -> tuple[str, ...]:
    """What users list."""
    return tuple(FOLDERS)


def names(kind: str = "methods") -> list[str]:
    """Names of one kind, plug-ins included.

    Args:
        kind: methods, metrics, attacks, benchmarks or models (also modalities and profiles).

    Returns:
        The names in alphabetical order.

    Raises:
        UserError: for another kind.
    """
    if kind not in (*FOLDERS, *INNER, "modalities"):
        raise UserError(f"there is no kind of thing called '{kind}'{did_you_mean(kind, list(FOLDERS))}")
    return sorted({*_files(kind), *_plugins(kind), *_registered.get(kind, {})})


def load(name: str, kind: str = "methods") -> ModuleType:
    """Import one entry. Raises: UserError for an unknown name, with the nearest known ones."""
    if name in _registered.get(kind, {}):
        return _registered[kind][name]
    if path := _files(kind).get(FORMER.get(name, name)):
        return importlib.import_module("expunge." + ".".join(path.relative_to(ROOT).with_suffix("").parts))
    if plugin := _plugins(kind).get(name):
        return importlib.import_module(plugin.module)
    raise _unknown(name, kind)


def check(name: str, kind: str = "methods") -> None:
    """Raises: UserError for an unknown name, with the nearest known ones. Nothing is imported."""
    if name not in names(kind) and FORMER.get(name, name) not in _files(kind):
        raise _unknown(name, kind)


def _unknown(name: str, kind: str) -> UserError:
    return UserError(f"there is no {SINGULAR.get(kind, kind[:-1])} called '{name}'{did_you_mean(name, names(kind))}")


def path_of(name: str, kind: str = "methods") -> Path | None:
    """The file of an entry of this package; None for one that comes from elsewhere."""
    return None if name in _registered.get(kind, {}) else _files(kind).get(FORMER.get(name, name))


def defines(function: str, name: str, kind: str = "methods") -> bool:
    """Whether an entry defines a function of some name; the source of our own files is read, not imported. Raises: UserError."""
    path = path_of(name, kind)
    return function in _functions(path) if path else callable(getattr(load(name, kind), function, None))


@cache
def _functions(path: Path) -> frozenset[str]:
    return frozenset(re.findall(r"^def (\w+)\(", path.read_text(encoding="utf-8"), re.M))


def find(name: str) -> str:
    """The kind that a name belongs to. Raises: UserError for an unknown name."""
    for kind in FOLDERS:
        if FORMER.get(name, name) in _files(kind) or name in _plugins(kind) or name in _registered.get(kind, {}):
            return kind
    everything = [n for kind in FOLDERS for n in names(kind)]
    raise UserError(f"nothing here is called '{name}'{did_you_mean(name, everything)}")


def card(name: str, kind: str = "") -> Card:
    """The card of one entry, read from its source without importing it.

    Args:
        name: of a method, metric, attack, benchmark or model.
        kind: where several kinds have an entry of this name; '': the first of them.

    Returns:
        Its summary, and its fields by name (Equation, Source, Status ...).

    Raises:
        UserError: for an unknown name, with the nearest known ones.
    """
    kind = kind or find(name)
    path = _files(kind).get(FORMER.get(name, name)) if name not in _registered.get(kind, {}) else None
    text, folder = (
        (path.read_text(encoding="utf-8"), str(path.parent.relative_to(ROOT))) if path else (f'"""{load(name, kind).__doc__}"""', "plugin")
    )
    doc = _docstring(text)
    paragraphs = doc.split("\n\n")
    place = next((i for i, p in enumerate(paragraphs) if re.search(r"^Source: ", p, re.M)), len(paragraphs))
    fields: dict[str, str] = {}
    key = ""
    for line in paragraphs[place].splitlines() if place < len(paragraphs) else []:
        if match := re.match(r"([A-Z][A-Za-z ]+): (.*)", line):
            key = match[1]
            fields[key] = match[2]
        elif key:
            fields[key] += " " + line.strip()
    summary = "\n\n".join(p for i, p in enumerate(paragraphs) if i != place)
    return Card(name, kind, folder, summary.strip(), fields, text)


def _docstring(text: str) -> str:
    """Of a file that begins with it as they all do, without reading the rest."""
    head = re.match(r'"""[^\\]*?"""', text)
    return inspect.cleandoc(head[0][3:-3]) if head else ast.get_docstring(ast.parse(text)) or ""


def _hyperparameters(tree: ast.Module) -> Iterator[HyperparameterLine]:
    """Fields of the parts in a file that are made by `hp(default, help)`, and the annotated choices of its `plan`."""
    nodes = list(ast.walk(tree))
    choices = {a.arg for n in nodes if isinstance(n, ast.FunctionDef) and n.name == "plan" for a in n.args.args}
    for node in nodes:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(node.value, ast.Call):
            if node.target.id in choices:  # `plan` passes it on
                continue
            if getattr(node.value.func, "id", "") == "hp" and len(node.value.args) == 2:
                default, help_ = node.value.args
                yield HyperparameterLine(node.target.id, ast.unparse(default), str(ast.literal_eval(help_)))
        elif isinstance(node, ast.FunctionDef) and node.name == "plan":
            for argument, default in zip(node.args.args, node.args.defaults, strict=False):
                notes = [n.value for n in ast.walk(argument) if isinstance(n, ast.Constant) and isinstance(n.value, str) and " " in n.value]
                yield HyperparameterLine(argument.arg, ast.unparse(default), notes[0] if notes else "")
