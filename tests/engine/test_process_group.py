"""Two processes compute the same as one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.utils import DistributedType
from torch import Tensor

import ranked
import worlds
from expunge.engine import checkpoint
from expunge.engine.distributed import sharding
from expunge.engine.distributed.process_group import ProcessGroup
from expunge.engine.distributed.sharding import Split

pytestmark = pytest.mark.slow

TESTS = Path(ranked.__file__).parent
WHOLE = ("npo", "micro", "kl", "flat", "sam", "penalised", "steered", "dual", "masked", "lora", "pictures", "npo-stopped")
SHARDED = ("npo", "kl", "flat", "sam", "averaged", "projected", "steered", "lora", "npo-stopped", "penalised")


def launched(folder: Path, names: tuple[str, ...], **environment: str) -> dict[str, list[Any]]:
    """Start two processes and return the results of each, by the name of the run."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--standalone",
        str(TESTS / "ranked.py"),
        str(folder),
        *names,
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS), **environment}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return {n: [checkpoint.load(folder / f"{n}.{rank}") for rank in range(2)] for n in names}


@pytest.fixture(scope="module")
def stored_worlds() -> None:
    """Write the worlds to disk before two processes read them."""
    worlds.text(), worlds.digits("resnet-nano")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, stored_worlds: None) -> dict[str, list[Any]]:
    return launched(tmp_path_factory.mktemp("whole"), WHOLE)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory, stored_worlds: None) -> dict[str, list[Any]]:
    return launched(tmp_path_factory.mktemp("sharded"), SHARDED, ACCELERATE_USE_FSDP="true")


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).abs().max()) for n in a)


def distance_from_original(name: str, weights: dict[str, Tensor]) -> float:
    """The largest change of a weight during a run."""
    world = worlds.digits(size) if (size := ranked.RUNS[name].get("world")) else worlds.text()
    return max(float((w - world.weights["original"][n]).abs().max()) for n, w in weights.items() if n in world.weights["original"])


@pytest.mark.parametrize("name", WHOLE)
def test_two_processes_take_the_same_steps_as_one(name: str, whole: dict[str, list[Any]]) -> None:
    alone, (first, second) = ranked.weights(name.partition("-")[0]), whole[name]
    assert largest_difference(first, second) == 0.0
    assert largest_difference(first, alone) < 1e-9
    assert name == "lora" or distance_from_original(name.partition("-")[0], alone) > 1e-4


@pytest.mark.parametrize("name", SHARDED[:-1])
def test_a_sharded_model_takes_the_same_steps(name: str, sharded: dict[str, list[Any]]) -> None:
    alone, (first, second) = ranked.weights(name.partition("-")[0]), sharded[name]
    assert largest_difference(first, second) == 0.0
    assert largest_difference(first, alone) < 1e-9


@pytest.mark.parametrize(
    ("environment", "processes", "expected"),
    [
        ({}, 2, False),
        ({"ACCELERATE_USE_FSDP": "true"}, 2, True),
        ({"ACCELERATE_USE_FSDP": "true"}, 1, False),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, 2, True),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}, 2, True),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "0"}, 2, False),
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, 2, False),
    ],
)
def test_sharding_is_requested_by_the_launcher_environment(
    environment: dict[str, str], processes: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DEEPSPEED_ZERO_STAGE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    accelerator: Any = SimpleNamespace(num_processes=processes, distributed_type=DistributedType.NO)
    assert sharding.requested(accelerator) is expected


def test_second_derivatives_of_a_sharded_model_are_refused(sharded: dict[str, list[Any]]) -> None:
    assert all("second derivatives, which a sharded model cannot give" in message for message in sharded["penalised"])


def test_a_checkpoint_stores_sharded_tensors_whole(tmp_path: Path) -> None:
    tensor = ranked.worlds.text().weights["original"]["model.norm.weight"]
    checkpoint.save({"a": Split(tensor)}, tmp_path / "kept")
    loaded = checkpoint.load(tmp_path / "kept")["a"]
    assert isinstance(loaded, Split)
    assert loaded.whole.equal(tensor)


def test_pieces_are_shared_evenly_between_processes() -> None:
    process_group = ProcessGroup()
    process_group.count, process_group.index = 3, 1
    assert list(process_group.deal(7)) == [1, 4]
    assert list(process_group.deal(6, together=True)) == [1, 4]
    assert list(process_group.deal(7, together=True)) == list(range(7))
