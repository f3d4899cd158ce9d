"""What a user installs: the wheel alone, outside the checkout, with every command's help and the smallest demo."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
COMMANDS = ("unlearn", "train", "audit", "attack", "verdict", "bench", "demo", "report", "merge", "push", "list", "show")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment that holds the wheel, and finds its dependencies where the tests do."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, ROOT], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    (wheel,) = folder.glob("expunge-*.whl")
    site = next((folder / "env").glob("lib/python*/site-packages"))
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # a path in a .pth brings no editable packages with it
    return folder


def run(installed: Path, *words: str) -> str:
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")} | {"EXPUNGE_CACHE": str(installed / "cache")}
    command = [installed / "env" / "bin" / "python", "-m", "expunge", *words]
    done = subprocess.run(command, cwd=installed, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_package_comes_from_the_wheel_and_brings_no_studies(installed: Path) -> None:
    code = "import expunge, importlib.util; print(expunge.__file__, importlib.util.find_spec('studies'))"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    out = subprocess.run(
        [installed / "env/bin/python", "-c", code], cwd=installed, env=env, capture_output=True, text=True, check=True
    ).stdout
    file, _, spec = out.strip().rpartition(" ")
    assert Path(file).is_relative_to(installed)
    assert spec == "None"


def test_the_wheel_says_that_it_is_typed(installed: Path) -> None:
    (wheel,) = installed.glob("expunge-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "expunge/py.typed" in names
    assert "expunge/report/notebook.html.j2" in names, "results in a notebook need their template"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(installed: Path, command: str) -> None:
    assert "Usage" in run(installed, command, "--help")


def test_the_catalogue_can_be_listed_and_shown(installed: Path) -> None:
    assert "npo" in run(installed, "list", "methods")
    assert "Equation" in run(installed, "show", "npo")


@pytest.mark.timeout(900)
def test_the_smallest_demo_ends_with_a_report(installed: Path) -> None:
    assert "report:" in run(installed, "demo", "--quick", "--out", "small")
    assert (installed / "small" / "report.html").stat().st_size > 10_000


def test_only_chosen_settings_ship(installed: Path) -> None:
    presets = list(installed.glob("env/lib/python*/site-packages/expunge/benchmarks/presets/*.json"))
    assert presets
    assert sum(p.stat().st_size for p in presets) < 40_000
    assert not any('"tried"' in p.read_text() for p in presets)
