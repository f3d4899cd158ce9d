"""The same arithmetic everywhere: asked for before torch is loaded, and refused after that."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from expunge.io.models import cache_home
from studies import determinism, reproduction

ASK = (
    "from studies import determinism; print(determinism.hold()); "
    "import torch; print(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())"
)


def said(code: str) -> list[str]:
    plain = {n: v for n, v in os.environ.items() if n not in determinism.SETTINGS}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=plain).stdout.split()


def test_torch_is_loaded_with_it() -> None:
    assert said(ASK) == ["True", "DEFAULT", "1"]


def test_it_is_too_late_once_torch_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in determinism.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    assert not determinism.hold()
    assert not determinism.SETTINGS.keys() & os.environ.keys()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert not determinism.held(), "all of it, or nothing is known"


def test_the_command_asks_before_anything_loads_torch() -> None:
    code = (
        "import sys; from studies import determinism, reproduce; status = reproduce.main(['no such method']); "
        "print(status, determinism.held(), 'torch' in sys.modules)"
    )
    assert said(code)[-3:] == ["2", "True", "True"]


def test_models_of_another_arithmetic_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = cache_home()
    monkeypatch.setenv("EXPUNGE_CACHE", str(usual))
    with reproduction._apart():
        assert cache_home() == usual / "reproduce"
        assert not torch.backends.mkldnn.enabled
    assert cache_home() == usual
    assert torch.backends.mkldnn.enabled
    monkeypatch.delenv("EXPUNGE_CACHE")
    with reproduction._apart():
        pass
    assert "EXPUNGE_CACHE" not in os.environ


def test_a_rerun_in_another_arithmetic_says_so() -> None:
    found = reproduction.Reproduced("npo", {}, (), (), True, exact=False)
    assert "this processor's own arithmetic" in found.told()
    assert "arithmetic" not in reproduction.Reproduced("npo", {}, (), (), True).told()
