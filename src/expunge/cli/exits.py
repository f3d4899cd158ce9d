"""Exit codes: one table, and the ways to end a command."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import NoReturn

from expunge.core.errors import UserError


class ExitCode(IntEnum):
    """What a command returns to the shell. Each code has its meaning in MEANINGS, which the help prints."""

    OK = 0
    ERROR = 1
    USAGE = 2
    VERDICT = 3  # for --fail-on
    INTERRUPTED = 130


MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.ERROR: "the run failed: rows, models or files are not as they must be",
    ExitCode.USAGE: "the command is wrong: nothing was loaded, and nothing written",
    ExitCode.VERDICT: "done, and the verdict is one that --fail-on names",
    ExitCode.INTERRUPTED: "stopped by Ctrl-C",
}


class UsageError(UserError):
    """The words of a command are wrong, which shows before any work begins."""


@contextmanager
def usage() -> Iterator[None]:
    """Whatever is refused within counts as an error of usage."""
    try:
        yield
    except UserError as error:
        raise UsageError(str(error)) from None


def rank() -> int:
    """The index of this process under a launcher (`accelerate launch`, `torchrun`). Only process 0 prints."""
    return int(os.environ.get("RANK", "0"))


def fail(sentence: str, code: int) -> NoReturn:
    """Print a sentence to stderr and exit."""
    if not rank():
        print(sentence, file=sys.stderr)
    else:
        time.sleep(1)  # a launcher ends all processes with the first that fails; process 0 must have printed its sentence by then
    raise SystemExit(int(code))


PACKAGES = {"sklearn": "scikit-learn", "rouge_score": "rouge-score"}  # packages whose name differs from the name of the import
SERVICE = frozenset(
    {"sqlalchemy", "cryptography", "rfc8785", "securesystemslib", "starlette", "uvicorn", "argon2", "httpx2"}
)  # of the extra
FULL = "the memory is full: a smaller --batch-size, --micro-batch-size or --limit, or --dtype bfloat16, needs less"


def sentence_of(error: Exception) -> str:
    """What an error of machine or installation means, in one sentence; '' for an error of this package, which needs its traceback."""
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "expunge").split(".")[0]
        if package == "expunge":
            return ""
        if package in SERVICE:
            return f"this needs the package {package}, which is not installed: pip install 'expunge[service]'"
        return f"this needs the package {package}, which is not installed: pip install {PACKAGES.get(package, package)}"
    if isinstance(error, OSError):
        if error.errno == errno.EPIPE:  # the reader of a pipe has gone, which ends the command without a word
            return ""
        reason = (error.strerror or str(error) or type(error).__name__).lower() if error.errno else str(error)
        return f"{error.filename}: {reason}" if error.filename else reason
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return FULL
    if type(error).__name__ == "SafetensorError":
        return f"the weights cannot be read or written: {error}"
    if isinstance(error, TypeError) and "MPS" in str(error) and "float64" in str(error):
        return "this computes in float64, which mps cannot: give --device cpu"
    return ""
