"""Every script of `examples/` runs unchanged, stays short and writes a report."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


def test_examples_exist() -> None:
    assert [p.stem for p in EXAMPLES]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_runs_and_writes_a_report(path: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "EXPUNGE_CACHE": str(tmp_path / "cache")}
    process = subprocess.run([sys.executable, path, tmp_path / "run"], capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr[-2000:]
    report = next(line.removeprefix("report: ") for line in process.stdout.splitlines() if line.startswith("report: "))
    assert Path(report).is_relative_to(tmp_path)
    assert "</html>" in Path(report).read_text()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60
