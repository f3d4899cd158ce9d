"""Jobs on a cluster of two workers: the results equal those of one process, even if a worker is killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
import pytest
import torch
import typer

import toys
from expunge.cli.app import app
from expunge.core.errors import UserError
from expunge.engine.ensemble import subsets
from expunge.engine.hooks import Hooks
from expunge.evaluation.observation import Observation
from expunge.parallel import ensembles, ray_cluster
from expunge.workflows import benchmark as module
from expunge.workflows.benchmark import Setting, SweepResult, bench
from expunge.workflows.sweep import Sweep

pytestmark = pytest.mark.slow

VICTIM, LAST = "neggrad_plus seed 1", 8  # the job whose worker is killed, and the step after which it is killed
SWEEP = Sweep(
    "digits",
    ("neggrad_plus",),
    model="resnet-nano",
    seeds=2,
    sizes={"forget": 40, "retain": 60, "holdout": 60},
    train={"epochs": 1},
    hyperparameters={"epochs": "1"},
    relearning=False,
    attacks=("quantize",),
)


@pytest.fixture(scope="module", autouse=True)
def two_workers() -> Iterator[Any]:
    with ray_cluster.connected("local:2") as ray:
        yield ray


def run_job_killed_once(marks: Path, setting: Setting, name: str, *job: Any) -> Any:
    """Run a job whose worker dies in the middle of training. The second call records the steps that it takes."""

    def progress(done: int, total: int, what: str) -> None:
        if what == "forgetting" and first and done == LAST:
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "forgetting":
            (marks / ("before" if first else "after")).open("a").write(f"{done}\n")

    first = name == VICTIM and not (marks / "before").exists()
    saving = partial(Hooks, every=0.0) if name == VICTIM else Hooks
    with mock.patch.object(module, "Hooks", saving):
        return module._job(setting, name, *job, *([progress] if name == VICTIM else []))


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("marks")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, marks: Path) -> SweepResult:
    with mock.patch.object(module, "_job", partial(run_job_killed_once, marks)):
        return bench(SWEEP, tmp_path_factory.mktemp("spread") / "run", ray="auto")


def comparable(entry: Any) -> dict[str, Any]:
    """An entry without the fields that differ between equal runs."""
    record = asdict(entry)
    for cost in (record["cost"], record["receipt"].get("cost")):
        for changing in ("seconds", "peak_memory_bytes"):
            cost and cost.pop(changing)
    record["receipt"].get("model", {}).pop("source", None)
    record["receipt"].get("request", {}).pop("hash", None)  # sealed with a secret that lies in the cache, of which there are two here
    return record


def test_a_sweep_with_a_killed_worker_equals_one_process(
    swept: SweepResult, marks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))  # separate from the cache of the workers
    alone = bench(SWEEP, tmp_path / "run")
    assert [e.name for e in swept.entries][-2:] == ["neggrad_plus seed 0", VICTIM]
    assert [comparable(e) for e in swept.entries] == [comparable(e) for e in alone.entries]
    assert swept.report_data.samples == alone.report_data.samples
    assert [e.verdict for e in swept.report_data.models] == [e.verdict for e in alone.report_data.models]
    files = [sorted(p.relative_to(o.folder) for p in o.folder.rglob("*")) for o in (swept, alone)]
    assert files[0] == files[1]
    before, after = ([int(line) for line in (marks / name).read_text().split()] for name in ("before", "after"))
    assert before[-1] == LAST - 1, "killed in the middle of training"
    assert after[0] >= LAST - 1, "and went on from its checkpoint"


def test_a_finished_sweep_is_only_read(swept: SweepResult, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[int, int, str]] = []
    again = bench(SWEEP, swept.folder, ray="auto", progress=lambda *step: steps.append(step))
    assert [comparable(e) for e in again.entries] == [comparable(e) for e in swept.entries]
    assert steps[-1] == (2, 2, "methods and seeds on the cluster")
    assert json.loads((swept.folder / "sweep.json").read_text())["key"]


@pytest.mark.parametrize(
    ("typed", "address"),
    [
        ("people --methods npo", ""),
        ("people --ray", "auto"),
        ("--ray people", "auto"),
        ("people --ray --npo:beta 4", "auto"),
        ("--ray local people", "local"),
        ("people --ray local:4", "local:4"),
        ("people --ray=10.0.0.1:6379 --npo:beta 4", "10.0.0.1:6379"),
        ("--ray ray://head:10001 people", "ray://head:10001"),
    ],
)
def test_the_address_of_the_ray_option_is_optional(typed: str, address: str) -> None:
    options = typer.main.get_command(app).commands["bench"].make_context("bench", typed.split()).params  # type: ignore[attr-defined]
    assert (options["suite"], options["ray"]) == ("people", address)


def fail(error: Exception) -> None:
    raise error


def test_errors_of_jobs_are_raised_unchanged(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^mend this$") as caught:
        ray_cluster.spread(fail, {"a": (UserError("mend this"),)}, tmp_path)
    assert caught.value.__cause__ is None
    with pytest.raises(KeyError) as caught:
        ray_cluster.spread(fail, {"a": (KeyError("a bug"),)}, tmp_path)
    assert "in fail" in str(caught.value.__cause__), "with the traceback of the worker"
    with pytest.raises(UserError, match=r"does not see /nowhere: .* share"):
        ray_cluster.spread(fail, {"a": ()}, tmp_path, reads=[Path("/nowhere")])
    assert not list(tmp_path.iterdir())


def test_an_ensemble_on_a_cluster_equals_one_process(tmp_path: Path) -> None:
    modality = toys.modality(3)
    arguments = (toys.fresh(epochs=2, batch_size=5), toys.mlp(3), modality, toys.noise(20, modality), subsets(20, 5))
    on_cluster, in_process = (
        ensembles.train(*arguments, work=ensembles.Work(n, by, 2, tmp_path / by)) for n, by in ((2, "ray"), (0, "processes"))
    )
    assert torch.equal(on_cluster.trained_on, in_process.trained_on)
    assert all(torch.equal(w, in_process.weights[n]) for n, w in on_cluster.weights.items())


def test_two_workers_can_save_the_same_observation(swept: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = next(p.parent for p in (Path(os.environ["EXPUNGE_CACHE"]) / "observations").glob("*/observed.json"))
    observation, savez = Observation.load(folder), np.savez

    def save_meanwhile(*args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(np, "savez", savez)
        savez(*args, **kwargs)
        observation.save(tmp_path)

    monkeypatch.setattr(np, "savez", save_meanwhile)
    observation.save(tmp_path)
    assert Observation.load(tmp_path).about == observation.about
    assert sorted(p.name for p in tmp_path.iterdir()) == ["observed.json", "observed.npz"]


def test_a_local_cluster_listens_on_loopback_only() -> None:
    process = psutil.Process()
    addresses = [
        c.laddr for p in (process, *process.children(recursive=True)) for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN
    ]
    assert addresses
    assert {p.ip.removeprefix("::ffff:") for p in addresses} == {"127.0.0.1"}


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere", "local:0", "ray://127.0.0.1:9"])
def test_an_unreachable_address_is_refused_at_once(two_workers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(two_workers, "is_initialized", lambda: False)
    with pytest.raises(UserError, match=f"no Ray cluster answers at {address}"):
        bench(SWEEP, tmp_path / "run", ray=address)
    assert not (tmp_path / "run").exists()


def nap(folder: Path) -> None:
    try:
        for n in range(1000):
            (folder / "naps").write_text(str(n))
            time.sleep(0.1)
    finally:
        (folder / "woken").touch()


def test_an_interrupt_stops_running_jobs(tmp_path: Path) -> None:
    folders = [tmp_path / n for n in "abc"]  # two workers nap, and the third job waits for a worker
    for folder in folders:
        folder.mkdir()

    def asleep() -> bool:
        return all((f / "naps").exists() for f in folders[:2])

    with pytest.raises(KeyboardInterrupt):
        ray_cluster.spread(nap, {f.name: (f,) for f in folders}, tmp_path, interrupted=asleep)
    deadline = time.monotonic() + 30  # a busy machine may take longer than the grace that jobs are given
    while not all((f / "woken").exists() for f in folders[:2]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [sorted(p.name for p in f.iterdir()) for f in folders] == [["naps", "woken"], ["naps", "woken"], []]


def test_a_job_whose_workers_always_die_is_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "RETRIES", 0)
    with pytest.raises(UserError, match="every worker that tried 'a' died, 1 in all"):
        ray_cluster.spread(os.abort, {"a": ()}, tmp_path)
