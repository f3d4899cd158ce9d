"""Runs that are killed, or stopped by Ctrl-C, at any step: the same command with --resume ends in the same weights, bit for bit."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cases import Cases, left, rows_of
from expunge.core.errors import Interrupted, UserError
from expunge.engine import checkpoint, identity
from expunge.engine.hooks import Hooks
from expunge.workflows.train import train
from expunge.workflows.unlearn import Result, unlearn
from expunge.workflows.watch import Watch, watching

HYPERPARAMETERS: dict[str, Any] = {"epochs": 20, "batch_size": 3, "lr": 1e-4}
STEPS = 60
OPTIONS = [w for n, v in HYPERPARAMETERS.items() for w in (f"--{n}", str(v))]


def bits(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def numbers(run: Path) -> list[tuple[int, int]]:
    return [(r["stage"], r["done"]) for r in rows_of(run / "log.jsonl") if "loss" in r]


@pytest.fixture(scope="module")
def undisturbed(cases: Cases, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    cases.unlearn("npo", run, *OPTIONS).fine()
    return run


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda s: s.name)
def test_a_stopped_process_is_resumed_bit_for_bit(how: signal.Signals, undisturbed: Path, cases: Cases, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "run" / "log.jsonl"
    words = ["--model", cases.model, "--forget", cases.forget, "--retain", cases.retain, "--out", str(run), "--checkpoint-every", "0.1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as these tests: another number of threads adds up in another order
    command = [sys.executable, "-m", "expunge", "unlearn", "npo", *words, *OPTIONS]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") > 8):
        time.sleep(0.005)
    process.send_signal(how)
    _, stderr = process.communicate(timeout=60)
    assert left(run) == ["checkpoint", "log.jsonl"] or how is signal.SIGKILL
    assert len(numbers(run)) < STEPS
    if how is signal.SIGINT:
        assert process.returncode == 130
        assert stderr.splitlines()[-2:] == [
            "stopping after this step (Ctrl-C again: at once)",
            "stopped; the same command with --resume continues from here",
        ]
    assert "Traceback" not in stderr
    message = cases.unlearn("npo", run, *OPTIONS).error
    assert message == f"the run folder {run} exists: give another one, go on with --resume, or replace it with --overwrite"
    cases.unlearn("npo", run, *OPTIONS, "--resume").fine()
    assert bits(run) == bits(undisturbed)
    assert numbers(run) == [(0, i + 1) for i in range(STEPS)]
    assert rows_of(run / "log.jsonl") == rows_of(undisturbed / "log.jsonl")
    assert left(run) == ["log.jsonl", "model", "receipt.json"]


SHORT: dict[str, Any] = {"epochs": 2, "batch_size": 5, "lr": 1e-3}


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


@pytest.fixture(scope="module")
def watch(cases: Cases) -> Watch:
    return watching(cases.forget, None, cases.retrained, best="forget_probability", limit=3)


def short(cases: Cases, watch: Watch, out: Path, method: str = "ga", die_at: int = -1, **more: Any) -> Result:
    """Two epochs of two steps, watched; killed as a record of the log is written."""
    records = [0]

    def heard(_: Mapping[str, Any]) -> None:
        records[0] += 1
        if records[0] == die_at:
            raise Killed

    words = {**SHORT, "batch_size": 5 if method == "ga" else 50, "hooks": Hooks(log=heard, every=0), **more}
    words |= {"base": "fresh"} if method == "retrain" else {}
    return unlearn(method, cases.model, cases.forget, cases.retain, out=out, watch=watch, **words)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ga", "retrain"])
def test_killed_at_any_record_and_resumed_is_undisturbed(method: str, watch: Watch, cases: Cases, tmp_path: Path) -> None:
    whole = short(cases, watch, tmp_path / "whole", method)
    records = rows_of(tmp_path / "whole" / "log.jsonl")
    assert ["loss" in r for r in records] == [True, True, False, True, True, False, False]  # two steps and scores, twice, and the end
    for k in range(1, 8) if method == "ga" else (2, 3, 7):
        run = tmp_path / str(k)
        with pytest.raises(Killed):
            short(cases, watch, run, method, die_at=k)
        again = short(cases, watch, run, method, resume=True)
        assert bits(run) == bits(tmp_path / "whole")
        assert rows_of(run / "log.jsonl") == records
        for part in ("stages", "request", "watch", "result", "warnings", "ended"):
            assert again.receipt[part] == whole.receipt[part]
        for number in ("steps", "tokens", "backward_tokens"):
            assert again.receipt["cost"][number] == whole.receipt["cost"][number]


def test_an_interrupted_run_can_be_resumed_from_python(cases: Cases, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        unlearn("ga", cases.model, cases.forget, out=tmp_path / "run", hooks=Hooks(interrupted=lambda: True), **SHORT)
    assert left(tmp_path / "run")[0] == "checkpoint"
    unlearn("ga", cases.model, cases.forget, out=tmp_path / "run", resume=True, **SHORT)
    unlearn("ga", cases.model, cases.forget, out=tmp_path / "whole", **SHORT)
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


@pytest.mark.slow
def test_what_cannot_be_resumed(cases: Cases, watch: Watch, tmp_path: Path) -> None:
    run, words = tmp_path / "run", ("--batch-size", 5, "--resume")
    assert cases.unlearn("ga", run, *words).error == f"there is no run in {run} to resume: leave --resume out to start one"
    assert not run.exists()
    with pytest.raises(Killed):
        short(cases, watch, run, die_at=2)
    kept = left(run)
    refused = f"the run in {run} was started with another "
    assert cases.unlearn("ga", run, *words).error == f"{refused}rows or options of --evaluate; --resume goes on with the same"
    watched = ("--evaluate", *words)
    for other, difference in {
        ("--seed", 1): "hyperparameters",
        ("--batch-size", 7): "hyperparameters",
        ("--lora", 2): "hyperparameters",
        ("--holdout", cases.holdout): "data",
        ("--prompt-format", "Q: {prompt}\\nA:"): "data, another tokenizer, processor or prompt format",
    }.items():
        assert cases.unlearn("ga", run, *watched, *other).error.startswith(refused + difference)
    assert cases.unlearn("ga", run, *watched, model=cases.retrained).error.startswith(f"{refused}model")
    assert cases.unlearn("ga", run, *watched, forget=cases.holdout).error.startswith(f"{refused}data")
    assert "give one of them" in cases.unlearn("ga", run, "--resume", "--overwrite").error
    assert left(run) == kept
    done = tmp_path / "done"
    cases.unlearn("ga", done).fine()
    assert cases.unlearn("ga", done, "--resume").error == f"the run in {done} has ended, so there is nothing to resume"


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda m: edit(m / "generation_config.json", eos_token_id=[2, 3]), "model configuration; "),
        (lambda m: edit(m / "config.json", rms_norm_eps=0.01), "model configuration, another model settings; "),
        (
            lambda m: edit(m / "tokenizer_config.json", chat_template="{% for m in messages %}{{ m['content'] }} {% endfor %}"),
            "data, another tokenizer",
        ),
    ],
    ids=["generation", "configuration", "template"],
)
def test_a_changed_file_of_the_model_is_another_run(cases: Cases, tmp_path: Path, change: Callable[[Path], None], difference: str) -> None:
    shutil.copytree(cases.model, tmp_path / "model")
    options: dict[str, Any] = {"out": tmp_path / "run", **SHORT}
    with pytest.raises(Interrupted):
        unlearn("ga", tmp_path / "model", cases.forget, hooks=Hooks(interrupted=lambda: True), **options)
    change(tmp_path / "model")
    with pytest.raises(UserError, match=f"was started with another {difference}"):
        unlearn("ga", tmp_path / "model", cases.forget, resume=True, **options)


def test_another_version_of_a_library_is_another_run(cases: Cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted):
        unlearn("ga", cases.model, cases.forget, out=tmp_path / "run", hooks=Hooks(interrupted=lambda: True), **SHORT)
    now = identity.versions()
    monkeypatch.setattr(identity, "versions", lambda: {**now, "torch": "9.0"})
    with pytest.raises(UserError, match=rf"another version of torch \({re.escape(now['torch'])}, now 9.0\)"):
        unlearn("ga", cases.model, cases.forget, out=tmp_path / "run", resume=True, **SHORT)


def as_an_older_version_left_it(run: Path) -> None:
    """Take an entry out of a checkpoint that the present version needs."""
    saved = checkpoint.load(run / "checkpoint")
    del saved["finished"]
    checkpoint.save(saved, run / "checkpoint")


def test_a_run_of_an_older_version_is_another_run(cases: Cases, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        unlearn("ga", cases.model, cases.forget, out=tmp_path / "run", hooks=Hooks(interrupted=lambda: True), **SHORT)
    as_an_older_version_left_it(tmp_path / "run")
    with pytest.raises(UserError, match="was started with another version of expunge; start it again with --overwrite"):
        unlearn("ga", cases.model, cases.forget, out=tmp_path / "run", resume=True, **SHORT)


def test_a_training_that_an_older_version_began_starts_over(cases: Cases, tmp_path: Path) -> None:
    options: dict[str, Any] = {"cache": tmp_path / "cache", "epochs": 2, "batch_size": 8}
    with pytest.raises(Interrupted):
        train(cases.retain, "nano", hooks=Hooks(interrupted=lambda: True), **options)
    (begun,) = (tmp_path / "cache" / "models").iterdir()
    as_an_older_version_left_it(begun)
    assert train(cases.retain, "nano", **options).receipt["cost"]["steps"] > 0


def edit(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def test_the_same_files_by_other_paths_and_a_line_that_was_cut(
    cases: Cases, watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Killed):
        short(cases, watch, tmp_path / "run", die_at=2)
    log = tmp_path / "run" / "log.jsonl"
    log.write_text(log.read_text() + '{"stage": 0, "terms": {"a": 1}')
    monkeypatch.chdir(cases.folder)
    result = unlearn("ga", "original", "forget.jsonl", "retain.jsonl", out=tmp_path / "run", watch=watch, resume=True, **SHORT)
    assert result.receipt["cost"]["steps"] == 4
    assert numbers(tmp_path / "run") == [(0, i + 1) for i in range(4)]
