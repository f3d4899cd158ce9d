"""The same arithmetic everywhere: settings apply before torch is loaded, and are refused afterwards."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from expunge.io.models import cache_home
from studies import determinism, reproduction

CODE = (
    "from studies import determinism; print(determinism.enable()); "
    "import torch; print(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())"
)


def output_of(code: str) -> list[str]:
    environment = {n: v for n, v in os.environ.items() if n not in determinism.SETTINGS}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout.split()


@pytest.mark.slow
def test_torch_loads_with_the_settings() -> None:
    assert output_of(CODE) == ["True", "DEFAULT", "1"]


def test_settings_are_refused_once_torch_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in determinism.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    assert not determinism.enable()
    assert not determinism.SETTINGS.keys() & os.environ.keys()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert not determinism.is_enabled(), "one setting is not enough"


@pytest.mark.slow
def test_the_command_applies_the_settings_before_torch_is_loaded() -> None:
    code = (
        "import sys; from studies import determinism, reproduce; status = reproduce.main(['no such method']); "
        "print(status, determinism.is_enabled(), 'torch' in sys.modules)"
    )
    assert output_of(code)[-3:] == ["2", "True", "True"]


def test_reproduction_has_its_own_model_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    default = cache_home()
    monkeypatch.setenv("EXPUNGE_CACHE", str(default))
    with reproduction._isolated():
        assert cache_home() == default / "reproduce"
        assert not torch.backends.mkldnn.enabled
    assert cache_home() == default
    assert torch.backends.mkldnn.enabled
    monkeypatch.delenv("EXPUNGE_CACHE")
    with reproduction._isolated():
        pass
    assert "EXPUNGE_CACHE" not in os.environ


def test_a_rerun_in_other_arithmetic_reports_it() -> None:
    result = reproduction.Reproduced("npo", {}, (), (), True, exact=False)
    assert "this processor's own arithmetic" in result.summary()
    assert "arithmetic" not in reproduction.Reproduced("npo", {}, (), (), True).summary()
