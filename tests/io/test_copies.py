"""Copies of a model that runs share: each is as if it had been read from the files, and none changes another."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import worlds
from expunge.engine import identity
from expunge.engine.shared import sharing
from expunge.io import copies
from expunge.io.copies import load_copy
from expunge.io.models import Opened, load


@pytest.fixture
def folder(text: worlds.World, tmp_path: Path) -> Path:
    text.modality.save(text.model(), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that were read."""
    folders: list[str] = []

    def reading(path: Path, *arguments: str, **options: str) -> Opened:
        folders.append(str(path))
        return load(path, *arguments, **options)

    monkeypatch.setattr(copies, "load", reading)
    return folders


def same(a: Opened, b: Opened) -> bool:
    models = identity.of_model(a.model) == identity.of_model(b.model)
    return models and a.modality.about() == b.modality.about() and a.source == b.source


def test_a_copy_is_the_model_in_the_folder_which_is_read_once(folder: Path, reads: list[str]) -> None:
    expected = load(folder)
    with sharing():
        copied = [load_copy(folder) for _ in range(3)]
    assert len(reads) == 1
    assert all(same(c, expected) for c in copied)
    assert vars(copied[2].model)["_stored"] == vars(expected.model)["_stored"], "it will be written in the types of its files"


def test_a_job_that_changes_its_copy_changes_no_other(folder: Path, text: worlds.World) -> None:
    expected = load(folder)
    with sharing():
        first = load_copy(folder)
        with torch.no_grad():
            next(first.model.parameters()).add_(1)
        first.modality.tokenizer.add_tokens(["<new>"])  # type: ignore[attr-defined]
        first.modality.rows("forget", [{"question": "Who?", "answer": "\U0001f600"}])
        first.model.config.use_cache = not first.model.config.use_cache  # type: ignore[union-attr]
        assert not same(first, expected)
        assert same(load_copy(folder), expected)


def test_changed_files_are_read_again(folder: Path, text: worlds.World, reads: list[str]) -> None:
    with sharing():
        before = load_copy(folder)
        model = text.model()
        with torch.no_grad():
            next(model.parameters()).add_(1)
        text.modality.save(model, folder)
        after = load_copy(folder)
    assert len(reads) == 2
    assert not same(before, after)
    assert same(after, load(folder))


def test_outside_a_block_and_beyond_the_room_every_call_reads(folder: Path, reads: list[str]) -> None:
    for _ in range(2):
        load_copy(folder)
    with sharing(room=1000):
        for _ in range(2):
            load_copy(folder)
    assert len(reads) == 4


def test_a_model_that_cannot_be_copied_is_read_each_time(folder: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: object) -> None:
        raise TypeError("cannot pickle a lock")

    monkeypatch.setattr(copies, "copy", SimpleNamespace(deepcopy=refusing))
    expected = load(folder)
    with sharing():
        models = [load_copy(folder) for _ in range(2)]
    assert len({id(m.model) for m in models}) == 2
    assert all(same(m, expected) for m in models)
    assert len(reads) == 3, "once to be kept, and once for each"


def test_an_adapter_whose_base_lies_elsewhere_is_read_each_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    opened = [Opened(torch.nn.Linear(1, 1), None, "a") for _ in range(2)]  # type: ignore[arg-type]
    calls = iter(opened)
    monkeypatch.setattr(copies, "load", lambda *_, **__: next(calls))
    with sharing():
        assert [load_copy(folder), load_copy(folder)] == opened
