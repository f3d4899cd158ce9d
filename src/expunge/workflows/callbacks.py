"""Callbacks: a run tells what it does while it does it. They get names, numbers and settings, and never a row or a text of one."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean

if TYPE_CHECKING:
    from expunge.engine.hooks import Hooks

Record = Mapping[str, Any]
Progress = Callable[[int, int, str], None]


@runtime_checkable
class Callback(Protocol):
    """What `unlearn`, `train`, `audit` and `bench` tell while they run. A callback derives from this class and overrides what it wants to
    hear. `bench` tells several runs, one after the other: each training, then each model of its table, with its scores at the end.

    The run does not depend on it: a callback gets copies, and one that raises an error is not called again, which a warning says.
    """

    def on_start(self, run: Record) -> None:
        """Before the first step, once.

        Args:
            run: `name` (the method, or audit; in a benchmark the model of the table, or what is trained), `stages` (with all
                hyperparameters), `rows` (how many of each set), `folder` (None: nothing on disk), and `log` (records of the steps that a
                run has behind it: one that is resumed, or one of a benchmark that was done before or on a cluster).
        """
        return None

    def on_step(self, record: Record) -> None:
        """After each optimizer step.

        Args:
            record: the line of log.jsonl: `stage` and `epoch` (from 0), `step` (in the epoch, from 0), `done` (steps of the stage so far),
                `loss`, `lr`, `grad_norm` (before clipping), `terms` (parts of the loss by name).
        """
        return None

    def on_epoch(self, record: Record) -> None:
        """After each epoch.

        Args:
            record: `stage` (from 0), `epoch` (epochs of the stage so far), `done` (steps of the stage so far) and, where a run is watched,
                `scores` by name.
        """
        return None

    def on_progress(self, done: int, total: int, activity: str) -> None:
        """Often, in audits too.

        Args:
            done: steps or rows of the activity so far.
            total: steps or rows of the activity in all; of training an estimate.
            activity: what the run does now, in words.
        """
        return None

    def on_end(self, result: Record) -> None:
        """Once, also where the run fails.

        Args:
            result: of a run `kind`, `changed`, `cost` and the number of `warnings` (and `cached` where a trained model was read from the
                cache); of an audit, and of a model of a benchmark too, `scores`, `attacks` (the worst case of each way), `state` (of the
                verdict) and `checks` (how many are in each state); where an error ends the run, `failed`, the name of its class.
        """
        return None


Callbacks = Callback | Sequence[Callback]
EVENTS = tuple(name for name in vars(Callback) if name.startswith("on_"))


class Listeners:
    """The callbacks of a run.

    Args:
        callbacks: in the order in which they are called.

    Raises:
        UserError: for an object that is no callback, and for a method that no run calls.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.active = list(callbacks)
        self.failures: list[str] = []
        for callback in self.active:
            name = getattr(callback, "__name__", type(callback).__name__)
            if isinstance(callback, type):
                raise UserError(f"{name} is a class, and a callback is an object: give {name}()")
            if not isinstance(callback, Callback):
                raise UserError(f"{name} is no callback: derive its class from expunge.Callback")
            if unknown := [m for m in dir(callback) if m.startswith("on_") and m not in EVENTS]:
                raise UserError(f"no run calls {name}.{unknown[0]}{did_you_mean(unknown[0], EVENTS)}")

    def tell(self, event: str, *values: Any) -> None:
        """Call a method of all callbacks; one that raises an error is left out from then on, and a warning says so."""
        for callback in list(self.active):
            try:
                getattr(callback, event)(*copy.deepcopy(values))
            except Exception as error:
                self.active.remove(callback)
                name = getattr(callback, "name", type(callback).__name__)
                failure = f"{name} failed in {event} and is not called again: {type(error).__name__}: {error}"
                self.failures.append(failure)
                warnings.warn(failure, RuntimeWarning, stacklevel=2)

    def hooks(self, hooks: Hooks) -> Hooks:
        """The hooks of the loop, which tell the callbacks too."""

        def log(record: Record) -> None:
            hooks.log(record)
            if "loss" in record:
                self.tell("on_step", record)

        def epoch(record: Record) -> None:
            hooks.epoch(record)
            self.tell("on_epoch", record)

        return replace(hooks, log=log, epoch=epoch, progress=self.progress(hooks.progress)) if self.active else hooks

    def progress(self, show: Progress) -> Progress:
        """Progress that the callbacks hear of too."""

        def both(done: int, total: int, activity: str) -> None:
            show(done, total, activity)
            self.tell("on_progress", done, total, activity)

        return both

    @contextmanager
    def during(self, run: Record) -> Iterator[dict[str, Any]]:
        """Tell the start and the end of a run.

        Yields:
            The result that `on_end` gets, for the block to fill.
        """
        result: dict[str, Any] = {}
        self.tell("on_start", run)
        try:
            yield result
        except BaseException as error:
            self.tell("on_end", {"failed": type(error).__name__})
            raise
        self.tell("on_end", result)


def result_of(receipt: Record) -> dict[str, Any]:
    """What `on_end` gets of a run, from its receipt."""
    kind, changed = (receipt["result"][name] for name in ("kind", "changed"))
    return {"kind": kind, "changed": changed, "cost": dict(receipt["cost"]), "warnings": len(receipt["warnings"])}
