"""Shared fixtures. One thread in every process, so that two test processes, and those that they start, do not fight over two cores."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch

import cases as cases_module
import worlds

pytest_plugins = ["ledgers"]  # fixtures of the service
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex()  # one for all tests: a process keeps the first token that Ray reads in it


@pytest.fixture(scope="session")
def text() -> worlds.World:
    return worlds.text()


@pytest.fixture(scope="session")
def digits() -> worlds.World:
    return worlds.digits()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads what a user, or another run of the tests, has left in the cache."""
    with mock.patch.dict(os.environ, EXPUNGE_CACHE=str(tmp_path_factory.mktemp("cache"))):
        yield


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> cases_module.Cases:
    return cases_module.make(tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="session")
def tofu_folder() -> str:
    """A local copy of TOFU: the folder that EXPUNGE_TOFU names, or ../shared/data/tofu beside the repository."""
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "tofu"
    folder = Path(os.environ.get("EXPUNGE_TOFU") or beside)
    if not (folder / "full.json").is_file():
        pytest.skip(f"no copy of TOFU in {folder}; set EXPUNGE_TOFU to one")
    return str(folder)
