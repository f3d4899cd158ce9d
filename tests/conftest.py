"""Shared fixtures. Two threads, so that two test processes do not fight over two cores."""

from __future__ import annotations

import pytest
import torch

import worlds

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def text() -> worlds.World:
    return worlds.text()
