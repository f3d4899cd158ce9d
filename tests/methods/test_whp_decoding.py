"""Answers by two models: logits and greedy answers as the library gives them, strength 0, files, and what is forgotten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import expunge
import worlds
from cases import Cases
from expunge.core.errors import UserError
from expunge.engine import loop
from expunge.engine.weights import weights_of
from expunge.methods.guards.whp_decoding import GenericGuard
from expunge.workflows import build_plan

STRONG = {"lr": 1e-3, "epochs": 2, "batch_size": 4, "trial": 0}


def guard_of(text: worlds.World, strength: float) -> GenericGuard:
    """A guard whose reinforced copy is the random model of the world."""
    return GenericGuard.fitted(text.modality, {"strength": strength}, weights_of(text.model("random")))


def combined(text: worlds.World, ids: list[int], strength: float) -> Tensor:
    """Logits after some tokens, by the library alone, (tokens, classes)."""
    z, r = (model(input_ids=torch.tensor([ids])).logits[0] for model in (text.model(), text.model("random")))  # type: ignore[operator]
    logits: Tensor = z - strength * (r - z).clamp_min(0)
    return logits


@torch.no_grad()
def test_scores_are_those_of_both_models(text: worlds.World) -> None:
    rows = text.some(3)["forget"]
    scores = guard_of(text, 0.7).forward(text.model(), [rows])[0].log_probs.split()
    for prompt, answer, own in zip(rows["prompt"], rows["answer"], scores, strict=True):
        expected = combined(text, [*prompt, *answer], 0.7)[len(prompt) - 1 : -1].log_softmax(-1)
        assert torch.allclose(own, expected, atol=1e-4)


@torch.no_grad()
def test_greedy_answers_are_chosen_token_by_token(text: worlds.World) -> None:
    rows, guard, model = text.some(3)["retain"], guard_of(text, 0.7), text.model()
    samples = guard.generate(model, rows, 8)
    ends = text.modality.ends(model)  # type: ignore[attr-defined]
    for i, prompt in enumerate(rows["prompt"]):
        ids = list[int]()
        while len(ids) < 8 and (token := int(combined(text, [*prompt, *ids], 0.7)[-1].argmax())) not in ends:
            ids.append(token)
        assert samples.ids[i] == ids
        streamed = "".join(guard.stream(model, rows.select([i]), 8))
        assert streamed.strip() == text.modality.decode([ids])[0].strip()  # type: ignore[attr-defined]


def test_without_strength_the_model_answers_as_before(text: worlds.World) -> None:
    rows, model = text.some(4)["forget"], text.model()
    own, bare = guard_of(text, 0.0).generate(model, rows, 12), text.modality.generate(model, rows, 12)  # type: ignore[attr-defined]
    assert own.ids == bare.ids


def test_what_is_forgotten_becomes_less_probable_and_no_weight_changes(text: worlds.World) -> None:
    model = text.model()
    settings = {"strength": 5.0, "lr": 3e-3, "epochs": 15, "batch_size": 4, "trial": 0}
    run = loop.run(build_plan.plan("whp_decoding", settings), model, text.modality, {"forget": text.sets["forget"]})
    assert all(torch.equal(a, b) for a, b in zip(weights_of(model).values(), weights_of(text.model()).values(), strict=True))
    nll = {n: [worlds.nll(model, m, text.sets[n]) for m in (text.modality, run.modality)] for n in ("forget", "retain")}
    rises = {n: after - before for n, (before, after) in nll.items()}
    assert rises["forget"] > 0.5
    assert rises["retain"] < rises["forget"] / 4


def test_a_saved_guard_answers_alike_and_says_what_it_holds(cases: Cases, tmp_path: Path) -> None:
    result = expunge.unlearn("whp_decoding", cases.model, cases.forget, out=tmp_path / "run", **STRONG)
    opened, modality = expunge.load(tmp_path / "run"), result.modality
    records = [json.loads(line) for line in Path(cases.forget).read_text().splitlines()[:3]]
    answers = [
        m.generate(model, m.rows("asked", records), 10).ids for model, m in ((result.model, modality), (opened.model, opened.modality))
    ]  # type: ignore[attr-defined]
    assert answers[0] == answers[1]
    assert "trained once more on the rows to forget" in result.receipt["result"]["guard"]["holds"]
    assert not result.changed


def test_what_cannot_be_guarded_so_is_refused(text: worlds.World) -> None:
    empty: dict[str, Any] = {"forget": text.sets["forget"].select([])}
    with pytest.raises(UserError, match="'forget' is empty"):
        loop.run(build_plan.plan("whp_decoding", STRONG), text.model(), text.modality, empty)
    with pytest.raises(UserError, match="leave --lora out"):
        loop.run(build_plan.plan("whp_decoding", {**STRONG, "lora": 4}), text.model(), text.modality, text.some(4))


def test_a_copy_is_made_once_for_a_model(text: worlds.World) -> None:
    guard, model = guard_of(text, 1.0), text.model()
    assert guard.reinforced(model) is guard.reinforced(model)
    assert isinstance(guard.reinforced(model), nn.Module)
    assert not any(p.requires_grad for p in guard.reinforced(model).parameters())
