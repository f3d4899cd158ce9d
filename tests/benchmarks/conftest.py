"""Where the real data of benchmarks is found, and what happens without it."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tofu_folder() -> str:
    """A local copy of TOFU: the folder that EXPUNGE_TOFU names, or ../shared/data/tofu beside the repository."""
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "tofu"
    folder = Path(os.environ.get("EXPUNGE_TOFU") or beside)
    if not (folder / "full.json").is_file():
        pytest.skip(f"no copy of TOFU in {folder}; set EXPUNGE_TOFU to one")
    return str(folder)
