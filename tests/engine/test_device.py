"""Devices and dtypes: what is chosen is used and told, and what cannot be done is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cases import Cases, expunge, receipt_of
from expunge.core.errors import UserError
from expunge.engine import device, receipt
from expunge.io.models import load


@pytest.fixture(autouse=True)
def _afterwards() -> Iterator[None]:
    yield
    device.choose("auto")


def test_what_this_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device.choose("cpu") == torch.device("cpu")
    for name in ("cuda", "mps"):
        with pytest.raises(UserError, match=f"torch finds no {name} device on this machine, only cpu"):
            device.choose(name)
    with pytest.raises(UserError, match="there is no device called 'gpu'"):
        device.choose("gpu")
    with pytest.raises(UserError, match="there is no dtype called 'float61'; did you mean 'float16'"):
        device.dtype_of("float61")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_machine_computes_where_it_is_told(cases: Cases) -> None:
    for name in ("cpu", "cuda", "auto", "cpu"):
        model = load(cases.model, device=name).model
        assert next(model.parameters()).device.type == {"auto": "cuda"}.get(name, name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "auto"])
def test_weights_are_loaded_in_the_chosen_dtype(dtype: str, cases: Cases) -> None:
    stored = next(iter(load_file(Path(cases.model) / "model.safetensors").values())).dtype
    model = load(cases.model, dtype=dtype).model
    assert {p.dtype for p in model.parameters()} == {stored if dtype == "auto" else getattr(torch, dtype)}
    assert receipt.compute(model) == {"device": next(model.parameters()).device.type, "dtype": str(next(model.parameters()).dtype)[6:]}


@pytest.mark.slow
def test_bfloat16_is_unlearned_and_float16_is_refused(cases: Cases, tmp_path: Path) -> None:
    done = cases.unlearn("ga", tmp_path / "half", "--dtype", "float16")
    assert (done.code, done.error[:39]) == (1, "weights in float16 cannot be trained: t")
    assert not (tmp_path / "half").exists()
    cases.unlearn("ga", tmp_path / "run", "--dtype", "bfloat16").fine()
    assert receipt_of(tmp_path / "run")["compute"] == {"device": device.choose().type, "dtype": "bfloat16"}
    assert {t.dtype for t in load_file(tmp_path / "run" / "model" / "model.safetensors").values()} == {torch.bfloat16}
    expunge("audit", cases.model, "--forget", cases.forget, "--out", tmp_path / "audit", "--dtype", "float16", "--limit", 2).fine()


def test_the_device_is_told_for_every_command(cases: Cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    shared_options = ("--out", tmp_path / "run", "--device", "cuda")
    commands = [
        ("unlearn", "ga", "--model", cases.model, "--forget", cases.forget),
        ("train", "--data", cases.forget, "--model", "nano"),
        ("audit", cases.model, "--forget", cases.forget),
        ("attack", "quantize", cases.model, "--forget", cases.forget),
        ("bench", "people"),
        ("demo", "images"),
    ]
    for words in commands:
        done = expunge(*words, *shared_options)
        assert (done.code, done.error[:23]) == (2, "torch finds no cuda dev"), words
    assert not (tmp_path / "run").exists()
