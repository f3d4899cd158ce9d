"""What a benchmark tells callbacks and trackers: one run after the other, for each model that it trains and each model of its table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from expunge.io.models import receipt_of
from expunge.io.run_dirs import log_of
from expunge.report.report_data import Entry
from expunge.report.result_tables import entry_numbers
from expunge.workflows.callbacks import Callback, Listeners, Record, result_of


class ModelRun(Callback):
    """Passes a run on under the name that its model has in the benchmark. Its end is told later, with the scores of the model.

    Args:
        listeners: the callbacks of the benchmark.
        name: of the model, or of what is done.
        folder: of the run.
    """

    def __init__(self, listeners: Listeners, name: str, folder: Path) -> None:
        self.listeners, self.name, self.folder = listeners, name, folder
        self.begun = False
        self.result: dict[str, Any] = {}

    def on_start(self, run: Record) -> None:
        self.begun = True
        self.listeners.tell("on_start", {**run, "name": self.name, "folder": str(self.folder)})

    def on_step(self, record: Record) -> None:
        self.listeners.tell("on_step", record)

    def on_epoch(self, record: Record) -> None:
        self.listeners.tell("on_epoch", record)

    def on_end(self, result: Record) -> None:
        self.result |= result


@contextmanager
def model_run(listeners: Listeners, name: str, folder: Path, rows: Mapping[str, int]) -> Iterator[ModelRun]:
    """Tell the start and the end of a run of a benchmark.

    Args:
        listeners: the callbacks of the benchmark.
        name: of the run.
        folder: the run folder below that of the benchmark.
        rows: how many of each set, where the folder has no receipt.

    Yields:
        A callback for what trains the model, and the result that `on_end` gets, for the block to fill. Where nothing was trained, because
        that was done before or on another machine, callbacks get the log of the folder at the start.
    """
    run = ModelRun(listeners, name, folder)
    try:
        yield run
    except BaseException as error:
        if run.begun:
            listeners.tell("on_end", {"failed": type(error).__name__})
        raise
    if not run.begun:
        receipt = receipt_of(folder)
        sets = receipt["request"]["sets"] if receipt else dict(rows)
        run.on_start({"stages": receipt.get("stages", []), "rows": sets, "log": log_of(folder) if receipt else []})
        run.result |= {"cached": True} if receipt else {}
    listeners.tell("on_end", run.result)


def numbers_of(entry: Entry) -> dict[str, Any]:
    """What `on_end` gets of a model of the table: its scores, attacks and verdict, and of an unlearned one what its run took."""
    return {**(result_of(entry.receipt) if entry.role == "method" and entry.receipt else {}), **entry_numbers(entry)}


def run_folder(folder: Path, name: str) -> Path:
    """The folder of a run below that of its benchmark."""
    return folder / "runs" / name.replace(" ", "_")


def tell_entries(listeners: Listeners, entries: Sequence[Entry], folder: Path, rows: Mapping[str, int]) -> None:
    """Tell of models of the table that nothing is left to do for. folder: of the benchmark. rows: how many of each set."""
    for entry in entries:
        with model_run(listeners, entry.name, run_folder(folder, entry.name), rows) as run:
            run.result |= numbers_of(entry)
