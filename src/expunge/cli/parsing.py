"""From words to commands: options that belong to methods, former names, and errors of the user as one sentence."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import typer

from expunge import catalog
from expunge.cli import cards
from expunge.cli.console import out
from expunge.cli.exits import ExitCode, UsageError, fail, sentence_of, usage
from expunge.core.errors import Interrupted, UserError

TO_RESUME = {"unlearn": "the same command with --resume", **dict.fromkeys(("train", "bench", "demo"), "the same command")}
DISTRIBUTED = ("unlearn", "train")  # commands that several processes run together
FORMER_COMMANDS = {"names": "list", "card": "show"}  # names of version 0.1, understood for one more release
FORMER_OPTIONS = {"--substitutes": "--alternate-answers", "--asked": "--request-from", "--reference": "--retrained"}
HELP = ("-h", "--help")
FREE = {"allow_extra_args": True, "ignore_unknown_options": True}
ClickException: Any = typer.BadParameter.__mro__[2]  # typer brings its own click, or uses the installed one


def current(args: list[str]) -> list[str]:
    """Replace former names of options by the current ones."""
    return [FORMER_OPTIONS.get(name, name) + equals + value for name, equals, value in (a.partition("=") for a in args)]


class Commands(typer.core.TyperGroup):
    """Commands that report an error as one sentence, with an exit code of the table in `exits`."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        cmd_name = FORMER_COMMANDS.get(cmd_name, cmd_name)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and cmd_name in self.commands and cmd_name not in DISTRIBUTED:
            raise UsageError(f"{cmd_name} runs in one process: start it without a launcher; {' and '.join(DISTRIBUTED)} share their work")
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            fail(f"error: {error}", ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.ERROR)
        except KeyboardInterrupt as stop:
            place = "here" if isinstance(stop, Interrupted) else "its last checkpoint"
            command = TO_RESUME.get(str(ctx.invoked_subcommand), "")
            fail(f"stopped; {command} continues from {place}" if command else "stopped", ExitCode.INTERRUPTED)
        except ClickException as error:
            fail(f"error: {_sentence(error, ctx)}", ExitCode.USAGE)
        except Exception as error:
            if not (sentence := sentence_of(error)):
                raise
            fail(f"error: {sentence}", ExitCode.ERROR)


def _sentence(error: Any, ctx: Any) -> str:
    """The message of the option parser as one sentence, with the command whose help says more."""
    message = " ".join(str(error.format_message()).replace("Value error, ", "").split()).rstrip(".")
    known = ctx.invoked_subcommand if ctx.invoked_subcommand in ctx.command.commands else ""
    message = f"{message[:1].lower()}{message[1:]}".replace(". Did you mean", "; did you mean")
    return f"{message}{' See' if message.endswith('?') else '; see'} {' '.join(filter(None, ['expunge', known, '--help']))}"


class WithHyperparameters(typer.core.TyperCommand):
    """A command whose help lists the hyperparameters of the named method or attack, and that reports options without a value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = current(args)
        kind = "attacks" if self.name in ("attack", "audit") else "methods"
        name = "finetune" if self.name == "train" else next((a for a in args if a in catalog.names(kind)), "")
        if not set(HELP).isdisjoint(args) and name:
            out.print(self.get_help(ctx))
            cards.show_hyperparameters(name, kind, out.print)
            ctx.exit()
        try:
            remaining = super().parse_args(ctx, args)
        except ClickException:
            with usage():  # what is missing may have been given under a misspelled name
                self._check_spelling(args, args)
            raise
        with usage():
            self._check(ctx, name)
        return remaining

    def _check(self, ctx: Any, name: str) -> None:
        """Refuse an option that took another one for its value or stands at an argument's place, and a word that is nearly an option."""
        arguments = {p.name for p in self.params if p.param_type_name == "argument"}
        words = {key: value for key, value in ctx.params.items() if isinstance(value, str) and value.startswith("--")}
        for key, value in words.items():
            if key not in arguments:
                raise UsageError(f"--{key.replace('_', '-')} needs a value, but {value} follows it")
        chosen = (ctx.params.get(key) or () for key in ("select", "update", "methods", "attack"))
        names = [n for value in chosen for n in ([value] if isinstance(value, str) else value)]
        self._check_spelling((*words.values(), *ctx.args), [name, *names])
        for key, value in words.items():
            expected = key.upper()
            raise UsageError(
                f"{value.partition('=')[0]} stands where {expected} is expected: give {expected} first, and such options after it"
            )

    def _check_spelling(self, words: Sequence[str], names: Sequence[str]) -> None:
        """Refuse a word that is nearly an option, and no hyperparameter of the methods and attacks among names."""
        options = [o.removeprefix("--") for p in self.params for o in (*p.opts, *p.secondary_opts) if o.startswith("--")]
        for word in (w.removeprefix("--").partition("=")[0] for w in words if w.startswith("--")):
            near = difflib.get_close_matches(word, options, n=1, cutoff=0.75)
            if near and word not in options and word.replace("-", "_") not in _hyperparameters(names):
                raise UsageError(f"there is no option or hyperparameter --{word}; did you mean --{near[0]}?")


def _hyperparameters(names: Sequence[str]) -> set[str]:
    """Names of the hyperparameters that some methods or attacks may have. names: also several in one word, with commas."""
    from expunge.cli import declared

    known: set[str] = set()
    for kind in ("methods", "attacks"):
        for name in {n for word in names for n in word.split(",")} & {*catalog.names(kind)}:
            path = catalog.path_of(name, kind)
            known |= set(declared.declarations(path)) if path else {h.name for h in cards.hyperparameters_of(name, kind)}
    return known


class OnCluster(WithHyperparameters):
    """A command whose `--ray` may stand alone, as `--ray auto`: the next word is its value only where it looks like an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = current(args)
        for i in [i for i, word in enumerate(args) if word == "--ray"]:
            following = args[i + 1] if i + 1 < len(args) else ""
            if not re.fullmatch(r"auto|local|[^-].*:\d+", following):
                args = [*args[:i], "--ray=auto", *args[i + 1 :]]
        return super().parse_args(ctx, args)


def hyperparameters_from(args: Sequence[str]) -> dict[str, str]:
    """Read `--beta 0.2 --npo:lr=1e-4` as a mapping; the owner of a hyperparameter may be written with dashes.

    Raises:
        UserError: for a word that is not an option, or a hyperparameter without a value.
    """
    values: dict[str, str] = {}
    remaining = list(args)
    while remaining:
        word = remaining.pop(0)
        if not word.startswith("--"):
            raise UserError(f"unexpected argument '{word}': hyperparameters are given as --NAME VALUE")
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not remaining or (remaining[0].startswith("--") and len(remaining[0]) > 2 and not remaining[0][2].isdigit()):
                raise UserError(f"the hyperparameter --{name} needs a value")
            value = remaining.pop(0)
        owner, colon, own_name = name.rpartition(":")
        values[f"{owner.replace('-', '_')}{colon}{own_name}"] = value
    return values


def settings(words: Sequence[str] | None) -> dict[str, str]:
    """Read `["lr=1e-3", "epochs=5"]` as a mapping. Raises: UserError, as `hyperparameters_from`."""
    return hyperparameters_from([f"--{word}" for word in words or ()])


def split_names(names: str) -> tuple[str, ...]:
    """Split `a, b` into two names."""
    return tuple(n.strip() for n in names.split(",") if n.strip())


def command_line() -> str:
    """The command as it was typed."""
    return f"expunge {shlex.join(sys.argv[1:])}"


def required(**options: Any) -> None:
    """Raises: UserError that names the options without a value."""
    missing = [f"--{name.replace('_', '-')}" for name, value in options.items() if not value]
    if missing:
        raise UserError(f"missing option{'s' if len(missing) > 1 else ''} {' and '.join(missing)}")
