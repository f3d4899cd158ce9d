"""Callbacks and trackers hear of steps, epochs, scores and ends, and of no row."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import cases as commands
import expunge
import toy_modality
from expunge.core.errors import UserError
from expunge.io.data import write_jsonl
from expunge.workflows import watch
from expunge.workflows.benchmark import bench
from expunge.workflows.callbacks import EVENTS
from expunge.workflows.sweep import Sweep
from expunge.workflows.trackers import TRACKERS
from secrets_in import SECRET

Record = Mapping[str, Any]


class Heard(expunge.Callback):
    """Keeps everything that it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattribute__(self, name: str) -> Any:
        if name in EVENTS:
            return lambda *values: self.calls.append((name, values))
        return object.__getattribute__(self, name)

    def of(self, event: str) -> list[Any]:
        return [values[0] for name, values in self.calls if name == event]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model of the toy modality, and its rows with a secret in a column that the modality shows."""
    folder = tmp_path_factory.mktemp("curve")
    with toy_modality.registered():
        suite = toy_modality._benchmark().load()
        for name, rows in suite.sets.items():
            write_jsonl(folder / f"{name}.jsonl", [{**r, "name": SECRET} for r in rows])
        expunge.train(suite.train["full"], "curve-nano", out=folder / "original", steps=4)
        yield folder


def forget(files: Path, out: Path | None = None, **options: Any) -> Any:
    sets = [str(files / f"{name}.jsonl") for name in ("forget", "retain")]
    return expunge.unlearn("graddiff", files / "original", *sets, out=out, lr=1e-3, batch_size=4, epochs=2, **options)


def test_a_run_tells_its_start_steps_epochs_and_end(files: Path, tmp_path: Path) -> None:
    heard = Heard()
    result = forget(files, tmp_path / "run", callbacks=heard, watch=watch.watching(str(files / "forget.jsonl")))
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    names = [name for name, _ in heard.calls]
    assert names[0] == "on_start"
    assert names[-1] == "on_end"
    assert heard.of("on_step") == [line for line in lines if "loss" in line]
    assert heard.of("on_epoch") == [line for line in lines if "scores" in line]
    assert [e["epoch"] for e in heard.of("on_epoch")] == [1, 2]
    (start,), (end,) = heard.of("on_start"), heard.of("on_end")
    assert start["rows"] == result.receipt["request"]["sets"]
    assert start["stages"] == result.receipt["stages"]
    assert end["cost"] == result.receipt["cost"]
    assert end["changed"] is True


def test_epochs_are_told_where_nobody_watches_too(files: Path) -> None:
    heard = Heard()
    forget(files, callbacks=[heard])
    assert [e["epoch"] for e in heard.of("on_epoch")] == [1, 2]
    assert all("scores" not in e for e in heard.of("on_epoch"))


def test_training_tells_once_and_a_cached_model_says_so(files: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (files / "retain.jsonl").read_text().splitlines()]
    first, second = Heard(), Heard()
    for heard in (first, second):
        expunge.train(rows, "curve-nano", steps=3, seed=5, callbacks=[heard])
    assert [name for name, _ in first.calls if name in ("on_start", "on_end")] == ["on_start", "on_end"]
    assert len(first.of("on_step")) == 3
    assert "cached" not in first.of("on_end")[0]
    assert [name for name, _ in second.calls] == ["on_start", "on_end"]
    assert second.of("on_end")[0]["cached"] is True


def test_an_audit_tells_progress_and_its_scores(files: Path) -> None:
    heard = Heard()
    sets = [str(files / f"{name}.jsonl") for name in ("forget", "retain")]
    result = expunge.audit(files / "original", *sets, callbacks=[heard])
    assert heard.of("on_progress")
    assert heard.of("on_end")[0]["scores"] == {name: record["value"] for name, record in result.scores.items()}
    assert heard.of("on_end")[0]["state"] == result.verdict.state
    assert sum(heard.of("on_end")[0]["checks"].values()) == len(result.verdict.checks)


def test_a_callback_that_fails_is_said_and_the_run_goes_on(files: Path, tmp_path: Path) -> None:
    class Broken(Heard):
        def __init__(self) -> None:
            super().__init__()
            self.tries = 0

        def __getattribute__(self, name: str) -> Any:
            return object.__getattribute__(self, name)

        def on_step(self, record: Record) -> None:
            self.tries += 1
            raise ZeroDivisionError("no disk")

    broken, heard, quiet = Broken(), Heard(), forget(files)
    with pytest.warns(RuntimeWarning, match="Broken failed in on_step and is not called again: ZeroDivisionError: no disk"):
        result = forget(files, tmp_path / "run", callbacks=[broken, heard])
    assert broken.tries == 1
    assert len(heard.of("on_step")) == result.receipt["cost"]["steps"]
    assert any("Broken failed in on_step" in w for w in json.loads((tmp_path / "run" / "receipt.json").read_text())["warnings"])
    assert result.receipt["result"]["weights"] == quiet.receipt["result"]["weights"]


def test_a_callback_cannot_change_the_run(files: Path, tmp_path: Path) -> None:
    class Meddler(expunge.Callback):
        def on_step(self, record: Record) -> None:
            record.clear()  # type: ignore[attr-defined]

    forget(files, tmp_path / "run", callbacks=Meddler())
    assert all("stage" in json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines())


def test_a_failed_run_ends_its_callbacks(files: Path) -> None:
    heard = Heard()
    with pytest.raises(UserError, match="weights did not change"):
        expunge.unlearn("graddiff", files / "original", *_sets(files), lr=0, epochs=1, callbacks=[heard])
    assert heard.of("on_end") == [{"failed": "UserError"}]


def _sets(files: Path) -> list[str]:
    return [str(files / f"{name}.jsonl") for name in ("forget", "retain")]


def test_what_is_no_callback_is_refused_before_anything_is_read() -> None:
    class Misspelled(expunge.Callback):
        def on_steps(self, record: Record) -> None: ...

    def function(record: Record) -> None: ...

    for callback, sentence in (
        (Misspelled(), "no run calls Misspelled.on_steps; did you mean 'on_step'"),
        (Misspelled, "Misspelled is a class, and a callback is an object: give Misspelled()"),
        (function, "function is no callback: derive its class from expunge.Callback"),
        (3, "int is no callback: derive its class from expunge.Callback"),
    ):
        with pytest.raises(UserError) as error:
            expunge.unlearn("graddiff", "nowhere", [], [], callbacks=callback)  # type: ignore[arg-type]
        assert sentence in str(error.value)


class Store:
    """A tracker of one's own."""

    def __init__(self) -> None:
        self.started: list[tuple[Any, ...]] = []
        self.values: list[tuple[Mapping[str, float], int]] = []
        self.ended: list[bool] = []

    def start(self, name: str, settings: Mapping[str, Any], folder: Path | None) -> None:
        self.started.append((name, settings, folder))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.values.append((values, step))

    def end(self, failed: bool) -> None:
        self.ended.append(failed)


def test_a_tracker_gets_the_numbers_of_the_log(files: Path, tmp_path: Path) -> None:
    store = Store()
    forget(files, tmp_path / "run", track=store, watch=watch.watching(str(files / "forget.jsonl")))
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [v["loss"] for v, _ in store.values if "loss" in v] == [line["loss"] for line in steps]
    assert [s for v, s in store.values if "loss" in v] == list(range(1, len(steps) + 1))
    watched = [line["scores"] for line in lines if "scores" in line]
    tracked = [{k.removeprefix("scores/"): x for k, x in v.items()} for v, _ in store.values if any(k.startswith("scores/") for k in v)]
    assert tracked == [{n: x for n, x in scores.items() if math.isfinite(x)} for scores in watched]
    name, settings, folder = store.started[0]
    assert (name, folder, store.ended) == ("graddiff", tmp_path / "run", [False])
    assert settings["plan.lr"] == 1e-3
    assert settings["rows.forget"] == len((files / "forget.jsonl").read_text().splitlines())


def test_a_resumed_run_gives_trackers_the_earlier_steps_too(files: Path, tmp_path: Path) -> None:
    from expunge.core.errors import Interrupted
    from expunge.engine.hooks import Hooks

    whole, rest, entries = Store(), Store(), []
    forget(files, tmp_path / "whole", track=whole)
    stop = Hooks(log=entries.append, interrupted=lambda: len(entries) >= 3)
    with pytest.raises(Interrupted):
        forget(files, tmp_path / "run", hooks=stop, track=(cut := Store()))
    assert cut.ended == [True]
    forget(files, tmp_path / "run", resume=True, track=rest)
    losses = [[(v["loss"], s) for v, s in store.values if "loss" in v] for store in (whole, rest)]
    assert losses[0] == losses[1]


class Recorder(ModuleType):
    """A library that keeps every call, with all that it was given."""

    def __init__(self, name: str, calls: list[tuple[str, Any, Any]]) -> None:
        super().__init__(name)
        self.calls = calls

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Call(f"{self.__name__}.{name}", self.calls)


class Call:
    """A function or an object of a recorded library."""

    def __init__(self, name: str, calls: list[tuple[str, Any, Any]]) -> None:
        self.name, self.calls = name, calls

    def __call__(self, *values: Any, **options: Any) -> Call:
        self.calls.append((self.name, values, options))
        return Call(f"{self.name}()", self.calls)

    def __getattr__(self, name: str) -> Call:
        return Call(f"{self.name}.{name}", self.calls)


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, Any]]:
    calls: list[tuple[str, Any, Any]] = []
    for name in ("tensorboard", "torch.utils.tensorboard", "mlflow", "wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, Recorder(name, calls))
    return calls


LOSS: dict[str, Callable[[str, Any, Any], Any]] = {  # how each library is given the loss of a step
    "tensorboard": lambda name, values, options: values[1] if name.endswith("add_scalar") and values[0] == "loss" else None,
    "mlflow": lambda name, values, options: values[0].get("loss") if name == "mlflow.log_metrics" else None,
    "wandb": lambda name, values, options: values[0].get("loss") if name == "wandb.init().log" else None,
    "trackio": lambda name, values, options: values[0].get("loss") if name == "trackio.log" else None,
}


@pytest.mark.parametrize("name", list(TRACKERS))
def test_every_library_gets_every_loss_and_no_row(
    name: str, files: Path, tmp_path: Path, libraries: list[tuple[str, Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    forget(files, out, track=name, watch=watch.watching(str(files / "forget.jsonl")))
    losses = [json.loads(line).get("loss") for line in (out / "log.jsonl").read_text().splitlines()]
    logged = [x for call in libraries if (x := LOSS[name](*call)) is not None]
    assert logged == [x for x in losses if x is not None]
    expunge.audit(files / "original", *_sets(files), track=[name])
    calls = repr(libraries)
    ids = [i for rows in _ids(files) for i in rows]
    assert SECRET not in calls
    assert not [i for i in ids if i in calls], "an id is a hash of a row, which can be guessed"
    assert json.loads((out / "receipt.json").read_text())["request"]["hash"] not in calls


def _ids(files: Path) -> Iterator[tuple[str, ...]]:
    modality = expunge.load(files / "original").modality
    for name in ("forget", "retain"):
        yield modality.rows(name, [json.loads(line) for line in (files / f"{name}.jsonl").read_text().splitlines()]).ids


def test_wandb_keeps_the_console_and_the_code_here(files: Path, libraries: list[tuple[str, Any, Any]]) -> None:
    forget(files, track="wandb")
    (settings,) = [options for name, _, options in libraries if name == "wandb.Settings"]
    assert settings == {"console": "off", "save_code": False, "disable_git": True}


@pytest.mark.parametrize("name", list(TRACKERS))
def test_a_missing_library_is_named_before_anything_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"tracking needs the package {name}, which is not installed: pip install {name}"):
        expunge.unlearn("graddiff", "nowhere", [], [], track=name)


def test_unknown_trackers_and_objects_are_refused() -> None:
    with pytest.raises(UserError, match="there is no tracker 'mlfow'; did you mean 'mlflow'"):
        expunge.audit("nowhere", [], track="mlfow")
    with pytest.raises(UserError, match="int is no tracker: it needs the methods start, log and end"):
        expunge.audit("nowhere", [], track=3)


def test_nothing_is_tracked_unless_asked(files: Path, libraries: list[tuple[str, Any, Any]]) -> None:
    forget(files)
    assert libraries == []


def test_the_command_line_tracks(files: Path, tmp_path: Path, libraries: list[tuple[str, Any, Any]]) -> None:
    words = ("--forget", files / "forget.jsonl", "--retain", files / "retain.jsonl")
    run = ("--model", files / "original", *words, "--out", tmp_path / "run", "--steps", 2, "--lr", 1e-3)
    commands.expunge("unlearn", "graddiff", *run, "--track", "mlflow", "--track", "trackio").fine()
    assert {name.partition(".")[0] for name, _, _ in libraries} == {"mlflow", "trackio"}
    refused = commands.expunge("audit", tmp_path / "run", *words, "--out", tmp_path / "audit", "--track", "nothing").error
    assert refused == "there is no tracker 'nothing'; there are tensorboard, mlflow, wandb, trackio"


def benchmark(out: Path, **options: Any) -> Any:
    settings = {"lr": "1e-3", "epochs": "2", "batch_size": "4"}
    sweep = Sweep("waves", ("graddiff", "npo"), seeds=2, hyperparameters=settings, train={"steps": 4}, relearning=False)
    return bench(sweep, out, **options)


@pytest.fixture(scope="module")
def compared(files: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Heard, Store]:
    """A benchmark with a callback and a tracker."""
    heard, store = Heard(), Store()
    return benchmark(tmp_path_factory.mktemp("bench") / "run", callbacks=heard, track=store), heard, store


@pytest.mark.slow
def test_a_benchmark_tells_a_run_for_each_model(compared: tuple[Any, Heard, Store]) -> None:
    result, heard, _ = compared
    names = [entry.name for entry in result.entries]
    trained = [f"training the {kind} model" for kind in ("original", "retrained")]
    assert [start["name"] for start in heard.of("on_start")] == [*trained, *names]
    ends = dict(zip([*trained, *names], heard.of("on_end"), strict=True))
    steps: dict[str, list[Record]] = {name: [] for name in ends}
    current = ""
    for event, values in heard.calls:
        current = values[0]["name"] if event == "on_start" else current
        steps[current] += [values[0]] if event == "on_step" else []
    for entry in result.entries:
        record = json.loads((result.folder / "bench.json").read_text())["entries"][names.index(entry.name)]
        known = {name: score["value"] for name, score in record["scores"].items() if score["value"] is not None}
        assert ends[entry.name]["scores"] == known
        assert ends[entry.name].get("state") == (record["verdict"] or {}).get("state")
        log = result.folder / "runs" / entry.name.replace(" ", "_") / "log.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        assert steps[entry.name] == [line for line in lines if "loss" in line]
    assert steps["npo seed 1"]
    assert ends["npo seed 1"]["cost"]["steps"] == len(steps["npo seed 1"])
    assert heard.of("on_progress")


@pytest.mark.slow
def test_a_benchmark_gives_trackers_every_number_under_the_name_of_its_model(compared: tuple[Any, Heard, Store]) -> None:
    result, heard, store = compared
    assert [name for name, _, _ in store.started] == [start["name"] for start in heard.of("on_start")]
    assert store.ended == [False] * len(store.started)
    name, settings, folder = store.started[-1]
    assert (name, folder) == ("npo seed 1", result.folder / "runs" / "npo_seed_1")
    assert settings["lr" if "lr" in settings else "plan.lr"] == 1e-3
    assert [v["loss"] for v, _ in store.values if "loss" in v] == [record["loss"] for record in heard.of("on_step")]
    last = [step for values, step in store.values if "loss" in values][-result.entries[-1].receipt["cost"]["steps"] :]
    assert last == list(range(1, len(last) + 1)), "each run counts its own steps"
    scored = [v for v, _ in store.values if any(k.startswith("scores/") for k in v)]
    assert len(scored) == len(result.entries)


@pytest.mark.slow
def test_a_benchmark_that_is_done_tells_its_logs_again(compared: tuple[Any, Heard, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.workflows import benchmark as module

    result, _, store = compared
    monkeypatch.setattr(module, "unlearn", None)
    heard, again = Heard(), Store()
    benchmark(result.folder, callbacks=[heard], track=again)
    assert [s for s in again.started if "seed" in s[0]] == [s for s in store.started if "seed" in s[0]]
    of_methods = sum(len(start["log"]) > 0 for start in heard.of("on_start"))
    assert of_methods == 4
    assert [end.get("cached") for end in heard.of("on_end")][-4:] == [True] * 4


@pytest.mark.slow
def test_a_benchmark_on_a_cluster_tells_of_its_jobs_when_all_have_ended(
    files: Path, compared: tuple[Any, Heard, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from expunge.parallel import ray_cluster

    def spread(do: Any, jobs: Mapping[str, Any], *_: object, **__: object) -> Mapping[str, Any]:
        return {name: do(*job) for name, job in jobs.items()}

    monkeypatch.setattr(ray_cluster, "check", lambda on: None)
    monkeypatch.setattr(ray_cluster, "spread", spread)
    store = Store()
    benchmark(tmp_path / "run", ray="local", track=store)
    _, _, alone = compared
    assert [name for name, _, _ in store.started] == [name for name, _, _ in alone.started]
    losses = [[v["loss"] for v, _ in s.values if "loss" in v][-8:] for s in (store, alone)]
    assert losses[0] == pytest.approx(losses[1])


@pytest.mark.slow
def test_a_callback_that_fails_in_a_benchmark_is_called_no_more_and_the_report_says_so(files: Path, tmp_path: Path) -> None:
    class Broken(expunge.Callback):
        tries = 0

        def on_end(self, result: Record) -> None:
            self.tries += 1
            raise ZeroDivisionError("no disk")

    broken = Broken()
    with pytest.warns(RuntimeWarning, match="Broken failed in on_end and is not called again"):
        result = benchmark(tmp_path / "run", callbacks=broken)
    assert broken.tries == 1
    assert result.report_data.notes == ["Broken failed in on_end and is not called again: ZeroDivisionError: no disk"]
    with pytest.raises(UserError, match="int is no tracker"):
        benchmark(tmp_path / "run", track=3)


def test_no_row_of_a_benchmark_is_told(files: Path, tmp_path: Path, libraries: list[tuple[str, Any, Any]]) -> None:
    out = tmp_path / "run"
    words = ("--methods", "graddiff", "--no-relearn", "--train", "steps=4", "--epochs", 1, "--out", out)
    commands.expunge("bench", "waves", *words, *(w for name in TRACKERS for w in ("--track", name))).fine()
    kept_by_trackers = repr(libraries)
    assert {name.partition(".")[0] for name, _, _ in libraries} == {"torch", "mlflow", "wandb", "trackio"}
    rows = toy_modality._benchmark().load().sets
    modality = expunge.load(files / "original").modality
    ids = [i for name in ("forget", "retain", "holdout") for i in modality.rows(name, rows[name]).ids]
    assert not [i for i in ids if i in kept_by_trackers], "an id is a hash of a row, which can be guessed"
    assert json.loads((out / "runs" / "graddiff" / "receipt.json").read_text())["request"]["hash"] not in kept_by_trackers


def test_an_attack_is_tracked_from_the_command_line(files: Path, tmp_path: Path, libraries: list[tuple[str, Any, Any]]) -> None:
    words = ("--forget", files / "forget.jsonl", "--retain", files / "retain.jsonl", "--out", tmp_path / "attack")
    commands.expunge("attack", "relearn", files / "original", *words, "--steps", 2, "--track", "trackio").fine()
    assert [name for name, _, _ in libraries if name == "trackio.init"] == ["trackio.init"]
    numbers = {k for name, values, _ in libraries if name == "trackio.log" for k in values[0]}
    assert any(k.startswith("attacks/relearn") for k in numbers)
    refused = commands.expunge("bench", "waves", "--out", tmp_path / "bench", "--track", "nothing").error
    assert refused == "there is no tracker 'nothing'; there are tensorboard, mlflow, wandb, trackio"
