"""The catalogue: the file name is the registration. Listing and reading cards imports nothing but this."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from .errors import UserError
from .words import did_you_mean

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "methods": ("methods/objectives", "methods/updates", "methods/selectors", "methods/edits", "methods/guards", "methods/by_design"),
    "metrics": ("audit/metrics",),
    "attacks": ("audit/attacks",),
    "benchmarks": ("benchmarks",),
    "models": ("models",),
}


@dataclass(frozen=True)
class Card:
    """A module's docstring, read as a card: a summary, then fields, one a line (`Source: ...`), continued by indentation."""

    name: str
    kind: str
    folder: str
    summary: str
    fields: dict[str, str]

    @property
    def status(self) -> str:
        return self.fields.get("Status", "")


@cache
def _files(kind: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in FOLDERS[kind]:
        for path in sorted((ROOT / folder).glob("[a-z]*.py")):
            if path.stem in found:
                raise RuntimeError(f"two files are called {path.stem}: {found[path.stem]} and {path}")
            found[path.stem] = path
    return found


def _plugins(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    return {e.name: e for e in importlib.metadata.entry_points(group=f"expunge.{kind}")}


def kinds() -> tuple[str, ...]:
    return tuple(FOLDERS)


def names(kind: str = "methods") -> list[str]:
    """Names of one kind: methods, metrics, attacks, benchmarks or models; plugins included."""
    if kind not in FOLDERS:
        raise UserError(f"there is no kind of thing called '{kind}'{did_you_mean(kind, list(FOLDERS))}")
    return sorted({*_files(kind), *_plugins(kind)})


def load(name: str, kind: str = "methods") -> ModuleType:
    """Import one entry. Errors: UserError for an unknown name, with the nearest known ones."""
    if path := _files(kind).get(name):
        return importlib.import_module("expunge." + ".".join(path.relative_to(ROOT).with_suffix("").parts))
    if plugin := _plugins(kind).get(name):
        return importlib.import_module(plugin.module)
    raise UserError(f"there is no {kind[:-1]} called '{name}'{did_you_mean(name, names(kind))}")


def find(name: str) -> str:
    """The kind that a name belongs to. Errors: UserError for an unknown name."""
    for kind in FOLDERS:
        if name in _files(kind) or name in _plugins(kind):
            return kind
    everything = [n for kind in FOLDERS for n in names(kind)]
    raise UserError(f"nothing here is called '{name}'{did_you_mean(name, everything)}")


def card(name: str, kind: str = "") -> Card:
    """The card of one entry, read from its source without importing it."""
    kind = kind or find(name)
    path = _files(kind).get(name)
    text, folder = (path.read_text(), str(path.parent.relative_to(ROOT))) if path else (f'"""{load(name, kind).__doc__}"""', "plugin")
    doc = ast.get_docstring(ast.parse(text)) or ""
    summary, _, rest = doc.partition("\n\n")
    fields: dict[str, str] = {}
    key, extra = "", []
    for line in rest.splitlines():
        if match := re.match(r"([A-Z][A-Za-z ]+): (.*)", line):
            key = match[1]
            fields[key] = match[2]
        elif key and line.startswith("  "):
            fields[key] += " " + line.strip()
        elif line.strip():
            key = ""
            extra.append(line)
    return Card(name, kind, folder, "\n".join([summary, *extra]).strip(), fields)
