"""What would be ignored is said with its number, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import makers
import numpy as np
import pytest
from torch import nn

import expunge
from expunge.core.errors import UserError
from expunge.io.models import Opened, opened, records, rows
from expunge.modalities.image.modality import Image
from expunge.modalities.text.modality import Text
from expunge.workflows.sweep import Sweep
from expunge.workflows.train import start

FORMAT = "Q: {prompt}\nA: "
TURNS = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]
BLACK = np.zeros((2, 2), np.uint8)


def notes(modality: Any, data: list[dict[str, Any]]) -> list[str]:
    given = records(data, "forget")
    for _ in range(2):  # read twice, said once
        rows(modality, "forget", given)
    return given.notes


def test_text_that_is_not_read_is_said() -> None:
    text = Text(makers.tokenizer(template=makers.CHATML), limit=512)
    both = {"question": "Who?", "answer": "Me.", "text": "Who? Me."}
    read = text.rows("forget", [both])
    assert read.ids == text.rows("forget", [{"question": "Who?", "answer": "Me."}]).ids
    assert notes(text, [both, {"text": "a"}, {"question": "Why?", "answer": "So."}]) == [
        "1 of 3 rows of 'forget' have a column 'text' that was not read"
    ]
    chats = [{"messages": TURNS, "prompt": "Who?", "completion": "Me."}] * 2
    assert notes(text, chats) == [f"2 of 2 rows of 'forget' have a column '{c}' that was not read" for c in ("completion", "prompt")]
    cells = [{"question": "Who?", "answer": "Me.", "prompt": "", "completion": "", "text": ""}]
    assert notes(text, [*cells, {"prompt": "Who?", "answer": "Me."}]) == []


def test_classes_and_pictures_that_are_not_read_are_said() -> None:
    image = Image(("a", "b"))
    two = [{"image": BLACK, "label": 0, "y": 1}, {"img": BLACK, "y": 1}]
    assert [y for (y,) in image.rows("forget", two)["answer"]] == [0, 1]
    assert notes(image, two) == ["1 of 2 rows of 'forget' have a column 'y' that was not read"]
    assert notes(image, [{"image": BLACK, "label": 0, "coarse": 1}]) == []


def test_lines_of_a_text_file_are_the_texts_of_other_files(tmp_path: Path) -> None:
    lines = ["  indented", "a tab\t", "plain"]
    (tmp_path / "a.txt").write_bytes("\r\n".join([*lines, "", " "]).encode())
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    assert list(records(str(tmp_path / "a.txt"), "forget")) == [{"text": line} for line in lines]
    text = Text(makers.tokenizer(), limit=512)
    one, other = (rows(text, "forget", str(tmp_path / name)) for name in ("a.txt", "a.jsonl"))
    assert one is not None
    assert other is not None
    assert one.ids == other.ids


def test_options_that_come_too_late_for_an_opened_model_are_refused() -> None:
    model = Opened(nn.Linear(1, 1), Text(makers.tokenizer(), prompt_format=FORMAT), "here")
    assert opened(model, FORMAT) is opened(model, "Q: {prompt}\\nA: ") is opened(model) is model
    with pytest.raises(UserError, match="opened with another prompt format"):
        opened(model, "{prompt} ")
    with pytest.raises(UserError, match="the model is open already, so dtype would have no effect"):
        opened(model, load_options={"dtype": "float16"})
    with pytest.raises(UserError, match="opened with another prompt format"):
        expunge.unlearn("ga", model, [{"question": "Who?", "answer": "Me."}], prompt_format="{prompt} ")
    with pytest.raises(UserError, match="opened with another prompt format"):
        expunge.audit(model, [{"question": "Who?", "answer": "Me."}], prompt_format="{prompt} ")


def test_settings_without_use_are_refused() -> None:
    with pytest.raises(UserError, match=r"a vocabulary .* is for built-in sizes alone"):
        start("owner/model", [], texts=["a"])
    with pytest.raises(UserError, match="nothing is trained: leave --train epochs out"):
        Sweep("people", ("ga",), original="a", retrained="b", train={"epochs": 2}).check()
