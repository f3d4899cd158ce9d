"""The page of the command line, made from the commands themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from expunge.report.markdown import prose, table

HEAD = "<!-- Made by `make docs` from `src/expunge/cli`; edit that. -->\n"


def page() -> str:
    """Each command with its arguments and options."""
    import typer

    from expunge.cli import app

    group: Any = typer.main.get_command(app.app)
    lines = [HEAD, "# Command line", "", prose(_help(group)), ""]
    lines += [
        "`expunge COMMAND --help` shows the same in a terminal, and `expunge unlearn METHOD --help` the hyperparameters of a method.",
        "",
    ]
    for name, command in _commands(group):
        if command.hidden:
            continue
        lines += [f"## expunge {name}", "", prose(_help(command)), ""]
        parameters = [p for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
        if not parameters:
            continue
        lines += [*table(("option", "default", "meaning"), [_row(p) for p in parameters]), ""]
    return "\n".join(lines)


def _commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The commands by their words: those of a group follow it."""
    for name, command in group.commands.items():
        yield f"{prefix}{name}", command
        yield from _commands(command, f"{prefix}{name} ") if hasattr(command, "commands") else ()


def _help(command: Any) -> str:
    text = re.sub(r"\[/?\w*\]", "", command.help or "")  # marks of the terminal's colors
    return " ".join(text.replace("\b", "").split())


def _row(parameter: Any) -> list[str]:
    is_option = parameter.param_type_name == "option"
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts]) if is_option else f"`{parameter.name.upper()}`"
    default = parameter.default
    plain = isinstance(default, (int, float, str)) and not isinstance(default, bool) and default != ""
    shown = "required" if parameter.required else f"`{default}`" if plain else ""
    return [names, shown, prose(" ".join((parameter.help or "").split()))]
