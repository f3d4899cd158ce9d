"""Runs that operators start from a page: one process at a time, which is the command that they would have typed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from expunge.core.errors import UserError
from expunge.functional.brief import brief
from expunge.service.ledger import Ledger
from expunge.workflows import build_plan

LONGEST = 2000  # characters of settings
LAST = 400  # characters of an error that are shown


@brief("request", "method")
@dataclass
class Job:
    """A run that was started. `error` is what it said where it failed before the ledger could say it."""

    request: int
    method: str
    by: str
    error: str = ""
    running: bool = True


class Jobs:
    """The runs of a ledger that pages started.

    Args:
        ledger: whose requests are carried out.
        database: its URL; '': SQLite.
        more: words of the command that the operator of this server gives to each run, such as --retain FILE.
    """

    def __init__(self, ledger: Ledger, database: str = "", more: Sequence[str] = ()) -> None:
        self.ledger, self.database, self.more = ledger, database, tuple(more)
        self.lock = threading.Lock()
        self.job: Job | None = None

    def latest(self) -> Job | None:
        """The last one that was started."""
        return self.job

    def start(self, request: int, method: str, model: str, settings: str, budget: str, by: str) -> None:
        """Start `expunge request run`.

        Args:
            request: its number.
            method: a name of the catalog.
            model: to begin with; '' where the ledger serves one.
            settings: hyperparameters as on the command line, such as --lr 1e-3.
            budget: the utility budget.
            by: who starts it.

        Raises:
            UserError: where one is running, and for settings that are none.
        """
        words = _words(method, settings)
        command = [sys.executable, "-m", "expunge", "request", "run", str(request), f"--method={method}", "--by", by, "--quiet"]
        command += ["--ledger", str(self.ledger.folder), *([f"--model={model}"] if model else [])]
        command += [f"--utility-budget={budget}" if budget else "--utility-budget=0.1", *self.more, *words]
        environment = {**os.environ, **({"EXPUNGE_DATABASE": self.database} if self.database else {})}
        with self.lock:
            if self.job is not None and self.job.running:
                raise UserError(f"a run of request {self.job.request} is going on: wait for its end")
            job = self.job = Job(request, method, by)
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
            )
        threading.Thread(target=_wait, args=(process, job), daemon=True).start()


def _words(method: str, settings: str) -> list[str]:
    """The settings as words of the command. Raises: UserError for all that is no hyperparameter of the method."""
    known = {f"--{h.name.replace('_', '-')}" for h in build_plan.hyperparameters(method)}
    try:
        words = shlex.split(settings[:LONGEST])
    except ValueError:
        raise UserError("the settings have a quotation mark without its other one") from None
    if words and not words[0].startswith("--"):
        raise UserError("settings are written as on the command line, such as --lr 1e-3 --epochs 40")
    names = [word.partition("=")[0] for word in words if word.startswith("--")]
    if unknown := [name for name in names if name.replace("_", "-").replace("--no-", "--") not in known]:
        raise UserError(f"{unknown[0]} is no hyperparameter of {method}: everything else is given to expunge web by whoever starts it")
    return words


def _wait(process: subprocess.Popen[bytes], job: Job) -> None:
    _, error = process.communicate()
    if process.returncode not in (0, 3):  # 3: a bad verdict, which the ledger tells
        job.error = (error.decode(errors="replace").strip().splitlines() or ["it ended without a word"])[-1][-LAST:]
    job.running = False
