"""Who's Harry Potter: generic logits by hand, labels from the library's logits, renamed texts, and forgetting in the tiny world."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import worlds
from expunge.core.errors import UserError
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.methods.objectives.whp import GenericLabels, anchors_in, generic_logits
from expunge.workflows import build_plan


def test_generic_logits_by_hand_and_at_their_limits() -> None:
    original, reinforced = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 1.0, 3.5])
    assert generic_logits(original, reinforced, 5).tolist() == [-4.0, 2.0, 0.5]
    assert (generic_logits(original, reinforced, 5) <= original).all()
    assert torch.equal(generic_logits(original, reinforced, 0), original)
    assert torch.equal(generic_logits(original, original, 5), original)


def picked(text: worlds.World, tmp_path: Path, anchors: dict[str, str] | None = None) -> tuple[list[list[int]], loop.RunState]:
    """The labels that the selector gives two rows, with a reinforced model that is the random one."""
    model = text.model()
    run = loop.new_state(model, text.modality, worlds.accelerator(), models={"reinforced": text.weights["random"]})
    file = tmp_path / "anchors.json"
    file.write_text(json.dumps(anchors))
    part = GenericLabels(anchors=str(file) if anchors else "")
    sets = {"forget": text.some(2)["forget"]}
    return list(part.pick(sets, RunView(run, sets, "/select0", part))["forget"]["generic"]), run


@torch.no_grad()
def test_labels_are_the_likeliest_generic_tokens(text: worlds.World, tmp_path: Path) -> None:
    labels, _ = picked(text, tmp_path)
    rows = text.some(2)["forget"]
    for prompt, answer, row_labels in zip(rows["prompt"], rows["answer"], labels, strict=True):
        ids = torch.tensor([[*prompt, *answer]])
        z, r = (text.model(name)(input_ids=ids).logits[0, len(prompt) - 1 : -1] for name in ("original", "random"))  # type: ignore[operator]
        assert row_labels == (z - 5 * torch.clamp(r - z, min=0)).argmax(-1).tolist()


@torch.no_grad()
def test_names_are_replaced_before_the_original_reads_the_text(text: worlds.World, tmp_path: Path) -> None:
    anchors = {"Quenna Bexmoor": "Nadeki Farrowin"}
    labels, _ = picked(text, tmp_path, anchors)
    rows, tokenizer = text.some(2)["forget"], text.modality.tokenizer  # type: ignore[attr-defined]
    for question, answer, prompt, ids, row_labels in zip(
        text.modality.questions(rows),  # type: ignore[attr-defined]
        rows["answer_text"],
        rows["prompt"],
        rows["answer"],
        labels,
        strict=True,
    ):
        renamed = [s.replace("Quenna Bexmoor", "Nadeki Farrowin") for s in (question, answer)]
        (other,) = [text.modality.rows("other", [{"question": renamed[0], "answer": renamed[1]}])]
        z = text.model()(input_ids=torch.tensor([[*other["prompt"][0], *other["answer"][0]]])).logits[0, len(other["prompt"][0]) - 1 :]  # type: ignore[operator]
        r = text.model("random")(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 :]  # type: ignore[operator]
        after = len(tokenizer(" Quenna Bexmoor", add_special_tokens=False)["input_ids"])
        after_other = len(tokenizer(" Nadeki Farrowin", add_special_tokens=False)["input_ids"])
        assert row_labels[0] == int((z[0] - 5 * (r[0] - z[0]).relu()).argmax()), "the name begins at the same place"
        assert row_labels[1:after] == [-1] * (after - 1), "places within a name have no label"
        for i in range(after, len(ids)):
            k = i - after + after_other
            assert row_labels[i] == int((z[k] - 5 * (r[i] - z[k]).relu()).argmax())


def test_the_answers_are_forgotten_and_others_stay(text: worlds.World, tmp_path: Path) -> None:
    model, file = text.model(), tmp_path / "anchors.json"
    file.write_text(json.dumps({"Quenna Bexmoor": "Nadeki Farrowin"}))
    settings = {"reinforced.epochs": 1, "reinforced.lr": 1e-3, "generic.epochs": 10, "generic.lr": 3e-3, "batch_size": 4}
    run = loop.run(build_plan.plan("whp", {**settings, "anchors": str(file)}), model, text.modality, text.sets)
    before, after = (worlds.nll(m, text.modality, text.sets["forget"]) for m in (text.model(), model))
    assert after > before + 0.5
    assert worlds.nll(model, text.modality, text.sets["retain"]) < after
    assert not run.warnings


def test_a_file_of_names_that_holds_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "names.json"
    for content, message in (
        ("[1]", "one JSON object"),
        ("{", "cannot be read"),
        ('{"a": 1}', "one JSON object"),
        ("{}", "one JSON object"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=message):
            anchors_in(str(file))
    with pytest.raises(UserError, match="cannot be read"):
        anchors_in(str(tmp_path / "none.json"))
