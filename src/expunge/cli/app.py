"""The command line: a thin layer over the Python API, which does the work."""

from __future__ import annotations

import gc
import os
import sys
import warnings
from typing import Annotated, NoReturn

import typer

from expunge.cli import (
    auditing,
    benchmarking,
    certifying,
    continuing,
    own_data,
    parsing,
    publishing,
    requesting,
    serving,
    showing,
    unlearning,
    verdicts,
    web,
)
from expunge.cli.exits import MEANINGS

ABOUT = "Remove the influence of chosen training data from a trained model, and give evidence that it is gone."
CODES = "Exit codes: " + "; ".join(f"{int(code)} {meaning}" for code, meaning in MEANINGS.items()) + "."
COLLECT_AFTER = 50_000  # new objects; torch and transformers make a million that all stay, among which the default looks for garbage
app = typer.Typer(
    cls=parsing.Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help=ABOUT,
    epilog=CODES,
    context_settings={"help_option_names": list(parsing.HELP)},
)


def _version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        print(f"expunge {version('expunge')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", help="print the version and exit", callback=_version, is_eager=True)] = False,
) -> None:
    """The options before a command."""


for add in (
    unlearning.add,
    auditing.add,
    verdicts.add,
    continuing.add,
    benchmarking.add,
    publishing.add,
    requesting.add,
    certifying.add,
    own_data.add,
    serving.add,
    web.add,
    showing.add,
):
    add(app)


def main() -> NoReturn:
    """Run the command line and exit."""
    gc.set_threshold(COLLECT_AFTER)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore", FutureWarning)  # from one library to another
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal of another encoding shows ? where it lacks a letter
    app()
    raise SystemExit(0)


if __name__ == "__main__":
    main()
