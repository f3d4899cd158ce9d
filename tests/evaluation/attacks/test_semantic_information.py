"""Semantic information of a language model: plain forward passes, what forgetting leaves, the original beside it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import worlds
from expunge.benchmarks import people
from expunge.evaluation.attack import AttackOutcome, beside, chosen, intervene

DATA = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16)
SETS = {"forget": DATA.forget, "retain": DATA.retain[:30]}


def attacked(text: worlds.World, model: nn.Module, **hyperparameters: object) -> AttackOutcome:
    attack = chosen(("semantic_information",), {"prompts": 6, "samples": 0, **hyperparameters})["semantic_information"]
    return intervene("semantic_information", attack, model, text.modality, SETS)


def of(outcome: AttackOutcome, way: str) -> dict[str, float]:
    return dict(next(t.at for t in outcome.tries if t.way == way))


def test_the_information_is_that_of_plain_forward_passes(text: worlds.World) -> None:
    """Against the empty question: log p(y | x) - log p(y), each from the library's own logits."""
    model, modality = text.model(), text.modality
    outcome = attacked(text, model)
    values = next(t.items["pdi"] for t in outcome.tries if t.way == "null")

    def total(question: str, answer: str) -> float:
        row = modality.rows("one", [{"question": question, "answer": answer}])
        prompt, labels = row["prompt"][0], row["answer"][0]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *labels]])).logits[0, len(prompt) - 1 : -1]
        return float(logits.log_softmax(-1).gather(1, torch.tensor(labels)[:, None]).sum())

    expected = [total(r["question"], r["answer"]) - total("", r["answer"]) for r in SETS["forget"]]
    assert values == pytest.approx(expected, abs=1e-3)


def test_forgetting_takes_information_away_and_the_retrained_model_is_the_floor(text: worlds.World) -> None:
    original, retrained, unlearned = (attacked(text, text.model(n)) for n in ("original", "retrained", "random"))
    assert math.log(6) * 0.8 < of(original, "mixture")["pdi"] <= math.log(6)
    assert of(retrained, "mixture")["pdi"] < of(original, "mixture")["pdi"] - 0.5
    assert of(original, "masked")["granger"] > of(retrained, "masked")["granger"]
    assert of(beside("semantic_information", original, original, retrained), "residual")["rir"] == pytest.approx(1)
    assert of(beside("semantic_information", retrained, original, retrained), "residual")["rir"] == pytest.approx(0)
    rir = of(beside("semantic_information", unlearned, original, None), "residual")["rir"]
    assert rir == pytest.approx(of(unlearned, "mixture")["pdi"] / of(original, "mixture")["pdi"])


def test_own_samples_are_steered_at_most_log_m(text: worlds.World) -> None:
    outcome = attacked(text, text.model(), samples=2, facts=2, length=30)
    kdi = of(outcome, "mixture")["kdi"]
    assert math.log(6) / 2 < kdi <= math.log(6) + 1e-6
    blind = attacked(text, text.model("random"), samples=2, facts=2, length=30)
    assert of(blind, "mixture")["kdi"] < kdi / 2


def test_without_retained_questions_there_is_no_mixture(text: worlds.World) -> None:
    attack = chosen(("semantic_information",), {})["semantic_information"]
    outcome = intervene("semantic_information", attack, text.model(), text.modality, {"forget": DATA.forget[:2]})
    assert "no retain set" in outcome.missing["mixture"]
    assert np.isfinite(of(outcome, "null")["pdi"])
