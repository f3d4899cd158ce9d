"""The command line under a launcher: several processes, one answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import cases as cases_module

pytestmark = pytest.mark.slow

LAUNCH = ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
FEW = ["--epochs", "2", "--batch-size", "6", "--lr", "1e-3"]


def launched(*words: str, how: tuple[str, ...] = ("--multi_gpu",)) -> subprocess.CompletedProcess[str]:
    """`accelerate launch -m expunge`, on two processes of this machine."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *how, *LAUNCH, "-m", "expunge", *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)


def zero(stage: str) -> Any:
    """A ZeRO stage, which accelerate takes only where DeepSpeed is installed. It is no dependency, not even of the tests: what is installed
    changes how accelerate behaves in all of them.
    """
    missing = find_spec("deepspeed") is None
    return pytest.param(
        ("--use_deepspeed", "--zero_stage", stage), id=f"zero-{stage}", marks=pytest.mark.skipif(missing, reason="no DeepSpeed")
    )


WAYS = [
    pytest.param(("--multi_gpu",), id="whole"),
    pytest.param(("--use_fsdp", "--fsdp_version", "2"), id="sharded"),
    zero("2"),
    zero("3"),
]


@pytest.mark.parametrize("how", WAYS)
def test_two_processes_leave_the_model_of_one(how: tuple[str, ...], cases: cases_module.Cases, tmp_path: Path) -> None:
    command = ["unlearn", "npo", "--model", str(cases.model), "--forget", str(cases.forget), "--retain", str(cases.retain), *FEW]
    alone = subprocess.run(
        [sys.executable, "-m", "expunge", *command, "--out", str(tmp_path / "one")], capture_output=True, text=True, timeout=200
    )
    assert alone.returncode == 0, alone.stderr
    both = launched(*command, "--out", str(tmp_path / "two"), how=how)
    assert both.returncode == 0, both.stderr[-2000:]
    assert both.stdout.count("steps in") == 1
    one, two, start = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "one/model", tmp_path / "two/model", Path(cases.model))
    )
    # Sums of two halves round otherwise than the whole; Adam divides that by the gradient's size, so a small one may move a weight by some
    # hundredths of the rate (1e-3), more or less by processor. A lost or doubled half would move weights by the rate itself.
    assert max(float((one[n] - two[n]).abs().max()) for n in one) < 1e-4
    assert max(float((one[n] - start[n]).abs().max()) for n in one) > 1e-4
    steps = [len((tmp_path / run / "log.jsonl").read_text().splitlines()) for run in ("one", "two")]
    assert steps[0] == steps[1]
    costs = [json.loads((tmp_path / run / "receipt.json").read_text())["cost"] for run in ("one", "two")]
    assert [c["processes"] for c in costs] == [1, 2], "processes that do not find each other all do the whole work, in one folder"
    assert costs[0]["backward_tokens"] == costs[1]["backward_tokens"]


def test_what_runs_in_one_process_says_so_once() -> None:
    done = launched("list")
    assert done.returncode != 0
    assert done.stderr.count("error: list runs in one process: start it without a launcher; unlearn and train share their work") == 1
