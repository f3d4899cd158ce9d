"""Methods for recommenders from files and folders, by the command line and by the Python API."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import expunge
import tastes
from cases import expunge as command
from expunge.io.models import load

METHODS = {
    "mmrecun": {"lr": 1e-2, "batch_size": 256, "cut": 10, "weight_decay": 1e-3},
    "scif": {},
    "ifru": {"curvature": "remaining"},
    "alteraser": {"rounds": 1},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, world = tmp_path_factory.mktemp("tastes"), tastes.world()
    world.modality.save(world.model(), folder / "original")
    for name in ("forget", "retain"):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["user", "item"])
            writer.writerows([r["user"], r["item"]] for r in world.records[name])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_command_line_and_python_end_in_the_same_model(method: str, files: Path, tmp_path: Path) -> None:
    sets = {n: files / f"{n}.csv" for n in ("forget", "retain")}
    words = [w for n, v in METHODS[method].items() for w in (f"--{n.replace('_', '-')}", v)]
    data = [w for n, path in sets.items() for w in (f"--{n}", path)]
    command("unlearn", method, "--model", files / "original", *data, "--out", tmp_path / "run", *words).fine()
    by_python = expunge.unlearn(method, str(files / "original"), **{n: str(p) for n, p in sets.items()}, **METHODS[method])
    opened, world = load(str(tmp_path / "run")), tastes.world()
    for name in ("forget", "test"):
        assert world.recall(opened.model, name) == world.recall(by_python.model, name)
    assert world.recall(opened.model, "forget") <= world.recall(world.model(), "forget") - 0.3
    assert world.recall(opened.model, "test") >= 0.95 * world.recall(world.model(), "test")
    receipt = json.loads((tmp_path / "run" / "receipt.json").read_text())
    assert receipt["method"] == method
    assert receipt["request"]["sets"] == {"forget": len(world.records["forget"]), "retain": len(world.records["retain"])}
