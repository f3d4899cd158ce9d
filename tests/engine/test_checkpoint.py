"""Checkpoints: data is restored exactly, and an interrupted write leaves a whole checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from expunge.core.rows import Rows
from expunge.engine import checkpoint


def test_nested_data_is_restored(tmp_path: Path) -> None:
    rows = Rows("forget", ("a", "b"), {"x": [[1, 2], [3]], "t": [torch.ones(2), torch.zeros(1)]}, (1.0, 0.5))
    data = {"n": 1, "f": 0.1, "inf": float("inf"), "none": None, "t": (1, "x"), 3: torch.arange(3), "rows": {"forget": rows}}
    checkpoint.save(data, tmp_path / "c")
    restored = checkpoint.load(tmp_path / "c")
    assert {k: restored[k] for k in ("n", "f", "inf", "none", "t")} == {k: data[k] for k in ("n", "f", "inf", "none", "t")}
    assert torch.equal(restored[3], torch.arange(3))
    restored_rows = restored["rows"]["forget"]
    assert (restored_rows.name, restored_rows.ids, restored_rows.weight) == (rows.name, rows.ids, rows.weight)
    assert restored_rows["x"] == rows["x"]
    assert all(torch.equal(a, b) for a, b in zip(restored_rows["t"], rows["t"], strict=True))


def test_a_tensor_that_occurs_several_times_is_written_once(tmp_path: Path) -> None:
    repeated, single = torch.rand(1000), torch.rand(1000)
    rows = Rows("impair", tuple("abc"), {"pixels": [repeated, single, repeated]})
    checkpoint.save({"chosen": rows, "current": rows.select([2, 1])}, tmp_path / "c")
    assert (tmp_path / "c" / "tensors.safetensors").stat().st_size < 8600
    restored = checkpoint.load(tmp_path / "c")
    assert all(torch.equal(a, b) for a, b in zip(restored["chosen"]["pixels"], rows["pixels"], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(restored["current"]["pixels"], [repeated, single], strict=True))


def test_no_pickles_are_written(tmp_path: Path) -> None:
    checkpoint.save({"t": torch.ones(1)}, tmp_path / "c")
    assert sorted(p.suffix for p in (tmp_path / "c").iterdir()) == [".json", ".safetensors"]
    with pytest.raises(TypeError, match="plain data and tensors"):
        checkpoint.save({"x": object()}, tmp_path / "d")


def test_a_kill_while_writing_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "c"
    checkpoint.save({"n": 1}, folder)
    rename = Path.rename
    for completed in range(2):  # killed before the first rename, and between the two renames

        def killed(self: Path, target: Path, remaining: list[int] = [completed]) -> Path:  # noqa: B006
            if not remaining[0]:
                raise KeyboardInterrupt
            remaining[0] -= 1
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save({"n": 2}, folder)
        monkeypatch.setattr(Path, "rename", rename)
        assert checkpoint.load(folder) == {"n": 1}
    checkpoint.save({"n": 3}, folder)
    assert checkpoint.load(folder) == {"n": 3}


def test_a_missing_checkpoint_loads_as_none(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "nowhere") is None
