"""What there is: lists of names, cards, and tables of hyperparameters."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.text import Text

from expunge import catalog
from expunge.cli.console import Printer, out

if TYPE_CHECKING:
    from expunge.core.hyperparameters import Hyperparameter

INDENT = 21  # columns in front of the sentence of a listed name


def hyperparameters_of(name: str, kind: str) -> list[Hyperparameter]:
    """The hyperparameters of a method or an attack. An attack without a plan has none."""
    from expunge.core.hyperparameters import hyperparameters_of as list_hyperparameters
    from expunge.workflows import build_plan

    if kind == "methods":
        return build_plan.hyperparameters(name)
    module = catalog.load(name, kind)
    return list_hyperparameters(module.plan()) if hasattr(module, "plan") else []


def show_hyperparameters(name: str, kind: str, out: Callable[[Any], None]) -> None:
    """Print a table of the hyperparameters of a method or an attack."""
    from rich.table import Table

    table = Table(title=f"hyperparameters of {name}", title_justify="left", box=None, pad_edge=False)
    for column in ("option", "default", "range", "meaning"):
        table.add_column(column, no_wrap=column == "option", overflow="fold")
    for hyperparameter in hyperparameters_of(name, kind):
        choices = getattr(hyperparameter.annotation, "__args__", ())
        limits = "|".join(map(str, choices)) if choices and all(isinstance(c, str) for c in choices) else hyperparameter.limits
        option = f"--{hyperparameter.name.replace('_', '-')}"
        table.add_row(option, escape(str(hyperparameter.value)), escape(limits), escape(hyperparameter.help))
    out(table)


def show_names(kind: str, printer: Printer) -> None:
    """Print the names of one kind, or of all kinds; quiet: the names alone, one a line.

    Raises:
        UserError: for an unknown kind.
    """
    kinds = [kind] if kind else list(catalog.kinds())
    if printer.quiet and not printer.as_json:
        print("\n".join(n for k in kinds for n in catalog.names(k)))
        return
    cards = {k: [catalog.card(n, k) for n in catalog.names(k)] for k in kinds}
    if printer.as_json:
        entries = {k: [{"name": c.name, "status": c.status, "summary": c.headline} for c in cs] for k, cs in cards.items()}
        print(json.dumps(entries[kind] if kind else entries, indent=1))
        return
    for k, cs in cards.items():
        out.print(f"[bold]{k}[/]")
        for c in cs:
            line = Text(f"  {c.name:{INDENT - 3}} {c.headline}")
            if not printer.wide:
                line.truncate(max(out.width, len(c.name) + 3), overflow="ellipsis")
            out.print(line, soft_wrap=True, highlight=False)


def show_cards(name: str, printer: Printer) -> None:
    """Print every card of a name; a metric may have the name of its benchmark. quiet: what it does alone.

    Raises:
        UserError: for an unknown name.
    """
    catalog.find(name)
    cards = [catalog.card(name, kind) for kind in catalog.kinds() if name in catalog.names(kind)]
    if printer.as_json:
        print(json.dumps([_as_data(c) for c in cards], indent=1))
        return
    if printer.quiet:
        print("\n".join(c.headline for c in cards))
        return
    for c in cards:
        printer.say(f" ({c.kind[:-1]}, {c.folder}/{c.name}.py)\n\n{c.summary}\n", f"[bold]{c.name}[/]")
        for key, text in c.fields.items():
            printer.say(f": {text}", f"[bold]{key}[/]")
        for k in c.hyperparameters:
            printer.say(f"  --{k.name.replace('_', '-')} {k.default}  {k.help}")
        printer.say("")


def _as_data(card: catalog.Card) -> dict[str, Any]:
    settings = [{"name": h.name, "default": h.default, "meaning": h.help} for h in card.hyperparameters]
    return {"name": card.name, "kind": card.kind, "summary": card.summary, "fields": card.fields, "hyperparameters": settings}
