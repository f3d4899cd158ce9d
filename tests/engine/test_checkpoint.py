"""Checkpoints: everything comes back as it was, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from expunge.core.rows import Rows
from expunge.engine import checkpoint


def test_nested_data_comes_back(tmp_path: Path) -> None:
    rows = Rows("forget", ("a", "b"), {"x": [[1, 2], [3]], "t": [torch.ones(2), torch.zeros(1)]}, (1.0, 0.5))
    data = {"n": 1, "f": 0.1, "inf": float("inf"), "none": None, "t": (1, "x"), 3: torch.arange(3), "rows": {"forget": rows}}
    checkpoint.save(data, tmp_path / "c")
    back = checkpoint.load(tmp_path / "c")
    assert {k: back[k] for k in ("n", "f", "inf", "none", "t")} == {k: data[k] for k in ("n", "f", "inf", "none", "t")}
    assert torch.equal(back[3], torch.arange(3))
    got = back["rows"]["forget"]
    assert (got.name, got.ids, got.weight, got["x"]) == (rows.name, rows.ids, rows.weight, rows["x"])
    assert all(torch.equal(a, b) for a, b in zip(got["t"], rows["t"], strict=True))


def test_a_tensor_in_many_places_is_written_once(tmp_path: Path) -> None:
    image, other = torch.rand(1000), torch.rand(1000)
    rows = Rows("impair", tuple("abc"), {"pixels": [image, other, image]})
    checkpoint.save({"chosen": rows, "current": rows.select([2, 1])}, tmp_path / "c")
    assert (tmp_path / "c" / "tensors.safetensors").stat().st_size < 8600
    back = checkpoint.load(tmp_path / "c")
    assert all(torch.equal(a, b) for a, b in zip(back["chosen"]["pixels"], rows["pixels"], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(back["current"]["pixels"], [image, other], strict=True))


def test_no_pickles_are_written(tmp_path: Path) -> None:
    checkpoint.save({"t": torch.ones(1)}, tmp_path / "c")
    assert sorted(p.suffix for p in (tmp_path / "c").iterdir()) == [".json", ".safetensors"]
    with pytest.raises(TypeError, match="plain data and tensors"):
        checkpoint.save({"x": object()}, tmp_path / "d")


def test_a_kill_while_writing_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "c"
    checkpoint.save({"n": 1}, place)
    rename = Path.rename
    for survived in range(2):  # killed before the first rename, and between the two

        def killed(self: Path, to: Path, left: list[int] = [survived]) -> Path:  # noqa: B006
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return rename(self, to)

        monkeypatch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save({"n": 2}, place)
        monkeypatch.setattr(Path, "rename", rename)
        assert checkpoint.load(place) == {"n": 1}
    checkpoint.save({"n": 3}, place)
    assert checkpoint.load(place) == {"n": 3}


def test_nothing_saved_is_none(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "nowhere") is None
