"""The files of a by-design store: read as they were written, and refused where somebody changed them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from expunge.core.errors import UserError
from expunge.engine import artifact

STORE = {"rows": ["Ada was born in Lund."], "weights": torch.arange(6.0), "guarantee": {"level": "E0"}}


def written(folder: Path) -> Path:
    artifact.write_store(folder, STORE)
    return folder / "store"


def test_a_store_is_read_as_it_was_written(tmp_path: Path) -> None:
    written(tmp_path)
    store = artifact.read_store(tmp_path)
    assert store is not None
    assert store["rows"] == STORE["rows"]
    assert torch.equal(store["weights"], torch.arange(6.0))
    assert artifact.read_store(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("change", ["a word", "a weight", "no weights", "no digests", "another digest", "cut"])
def test_a_store_that_somebody_changed_is_refused(tmp_path: Path, change: str) -> None:
    folder = written(tmp_path)
    data, tensors, digests = (folder / n for n in ("data.json", "tensors.safetensors", "digests.json"))
    named = {"a word": data, "a weight": tensors, "no weights": tensors, "no digests": digests, "another digest": data, "cut": data}[change]
    if change == "a word":
        data.write_text(data.read_text().replace("Lund", "Oslo"))
    elif change == "a weight":
        raw = bytearray(tensors.read_bytes())
        raw[-1] ^= 1
        tensors.write_bytes(bytes(raw))
    elif change == "another digest":
        digests.write_text(digests.read_text().replace(digests.read_text()[25:30], "00000"))
    elif change == "cut":
        data.write_bytes(data.read_bytes()[:20])
    else:
        named.unlink()
    with pytest.raises(UserError, match="is not as it was written") as refused:
        artifact.read_store(tmp_path)
    assert named.name in str(refused.value)
    assert "make it anew from the rows, with expunge train" in str(refused.value)
