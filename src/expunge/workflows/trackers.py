"""Trackers: the numbers of a run's log in TensorBoard, MLflow, Weights & Biases or trackio. Off unless asked for.

A tracker gets what log.jsonl holds (loss, learning rate, scores) and the settings of the method: names and numbers, never rows or texts.
Another one is any object with `start`, `log` and `end`.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.workflows.callbacks import Callback, Callbacks, Listeners, Record

PROJECT = "expunge"
Setting = str | int | float | bool


@runtime_checkable
class Tracker(Protocol):
    """A place that keeps the numbers of runs. A benchmark gives it several, one after the other."""

    def start(self, name: str, settings: Mapping[str, Setting], folder: Path | None) -> None:
        """Begin a run.

        Args:
            name: the method, or audit; in a benchmark the model of the table, or what is trained.
            settings: hyperparameters by qualified name, and `rows.NAME`, the number of rows of each set.
            folder: the run folder; None: nothing is written to disk.
        """

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Keep some numbers.

        Args:
            values: by name (`loss`, `terms/...`, `scores/...`).
            step: optimizer steps of the whole run so far; of an audit 0.
        """

    def end(self, failed: bool) -> None:
        """End the run.

        Args:
            failed: whether an error ended it.
        """


Track = str | Tracker | Sequence[str | Tracker]


class TensorBoard:
    """Event files in the folder `tensorboard` of the run folder, or under runs/ where nothing else is written."""

    def __init__(self) -> None:
        _module("tensorboard", "tensorboard")
        self.library = _module("torch.utils.tensorboard", "tensorboard")

    def start(self, name: str, settings: Mapping[str, Setting], folder: Path | None) -> None:
        place = folder / "tensorboard" if folder else Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        self.writer = self.library.SummaryWriter(str(place), purge_step=0)  # a resumed run writes its earlier steps again
        lines = ["| setting | value |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in settings.items())]
        self.writer.add_text("settings", "\n".join(lines))

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def end(self, failed: bool) -> None:
        self.writer.close()


class MLflow:
    """A run of the current experiment, on the server that MLflow's own settings name."""

    def __init__(self) -> None:
        self.library = _module("mlflow", "mlflow")

    def start(self, name: str, settings: Mapping[str, Setting], folder: Path | None) -> None:
        self.library.start_run(run_name=name, nested=self.library.active_run() is not None)
        self.library.log_params(dict(settings))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.library.log_metrics(dict(values), step=step)

    def end(self, failed: bool) -> None:
        self.library.end_run("FAILED" if failed else "FINISHED")


class WeightsAndBiases:
    """A run of the project `expunge`; console output, code and git state stay here."""

    def __init__(self) -> None:
        self.library = _module("wandb", "wandb")

    def start(self, name: str, settings: Mapping[str, Setting], folder: Path | None) -> None:
        quiet = self.library.Settings(console="off", save_code=False, disable_git=True)  # the console may print answers
        self.run = self.library.init(project=PROJECT, name=name, config=dict(settings), settings=quiet)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def end(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


class Trackio:
    """A run of the project `expunge` in the local database of trackio."""

    def __init__(self) -> None:
        self.library = _module("trackio", "trackio")

    def start(self, name: str, settings: Mapping[str, Setting], folder: Path | None) -> None:
        self.run = self.library.init(project=PROJECT, name=name, config=dict(settings), embed=False)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.library.log(dict(values), step=step)

    def end(self, failed: bool) -> None:
        self.library.finish()


TRACKERS: dict[str, Callable[[], Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WeightsAndBiases, "trackio": Trackio}


def _module(name: str, package: str) -> Any:
    """An optional package. Raises: UserError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"tracking needs the package {package}, which is not installed: pip install {package}") from None


def tracking(track: Track) -> list[Callback]:
    """The callbacks that feed trackers.

    Args:
        track: tensorboard, mlflow, wandb, trackio, an object of one's own, or several of them; empty: none.

    Raises:
        UserError: for an unknown name, a package that is not installed, and an object that is no tracker.
    """
    chosen = [track] if isinstance(track, str) or not isinstance(track, Sequence) else track
    return [Tracked(_tracker(one)) for one in chosen if one]


def listening(callbacks: Callbacks, track: Track, first: bool = True) -> Listeners:
    """The callbacks and trackers of a run. first: whether this process tells them; others tell nobody. Raises: UserError."""
    several = list(callbacks) if isinstance(callbacks, Sequence) else [callbacks]
    return Listeners([*several, *tracking(track)] if first else ())


def _tracker(named: str | Tracker) -> Tracker:
    if not isinstance(named, str):
        if isinstance(named, type) or not isinstance(named, Tracker):
            raise UserError(f"{getattr(named, '__name__', type(named).__name__)} is no tracker: it needs the methods start, log and end")
        return named
    if named not in TRACKERS:
        raise UserError(f"there is no tracker {named!r}{did_you_mean(named, TRACKERS) or '; there are ' + ', '.join(TRACKERS)}")
    return TRACKERS[named]()


class Tracked(Callback):
    """Feeds a tracker with the numbers that a run tells."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker, self.step = tracker, 0
        self.name = f"the tracker {type(tracker).__name__}"

    def on_start(self, run: Record) -> None:
        self.step = 0  # a benchmark tells several runs
        self.tracker.start(str(run["name"]), dict(_settings(run)), Path(run["folder"]) if run["folder"] else None)
        for record in run["log"]:
            if "loss" in record:
                self.on_step(record)
            elif "scores" in record:
                self.on_epoch(record)

    def on_step(self, record: Record) -> None:
        self.step += 1
        self._log({n: record[n] for n in ("epoch", "loss", "lr", "grad_norm", "terms") if n in record})

    def on_epoch(self, record: Record) -> None:
        self._log({"scores": record.get("scores", {})})

    def on_end(self, result: Record) -> None:
        self._log({n: result[n] for n in ("cost", "scores", "attacks", "checks") if n in result})
        self.tracker.end("failed" in result)

    def _log(self, record: Record) -> None:
        if values := dict(_numbers(record)):
            self.tracker.log(values, self.step)


def _numbers(record: Record, before: str = "") -> Iterator[tuple[str, float]]:
    """The finite numbers in nested mappings, by the path of their names; everything else is left out."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{before}{name}/")
        elif isinstance(value, (int, float)) and math.isfinite(value):
            yield f"{before}{name}", float(value)


def _settings(run: Record) -> Iterator[tuple[str, Setting]]:
    stages = run["stages"]
    for stage in stages:
        for name, value in stage["hyperparameters"].items():
            plain = value if isinstance(value, (str, int, float, bool)) else str(value)
            yield (f"{stage['name']}.{name}" if len(stages) > 1 else name), plain
    yield from ((f"rows.{name}", int(rows)) for name, rows in run["rows"].items())
