"""Drawing that begins with pictures: exact limits, and what the score says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import denoisers
import recalling
import worlds
from expunge.evaluation.attack import AttackOutcome, chosen, intervene
from expunge.evaluation.attacks.latent_leak import COMPLETION, Begun

RECORDS = denoisers.records(2)[:4]


def latents(modality: Any) -> list[Tensor]:
    return [modality.latents.read(x) for x in modality.rows("forget", RECORDS)["latent"]]


def leaked(model: Any, modality: Any, **hyperparameters: Any) -> AttackOutcome:
    attack = chosen(("latent_leak",), {"pictures": 3, "seeds": 2, **hyperparameters})["latent_leak"]
    return intervene("latent_leak", attack, model, modality, {"forget": RECORDS})


def test_the_visible_half_stays_and_other_captions_are_drawn_as_ever() -> None:
    model, modality = denoisers.built()
    x = latents(modality)
    begun = Begun(modality, {"a red square": x[:2]}, 1.0, True)
    captions, seeds = ["a red square", "a blue bar", "a red square"], [0, 5, 1]
    drawn, index = begun.sample(model, captions, seeds, 4)
    assert index.tolist() == [-1, -1, -1]
    level = torch.tensor([1])
    for k, picture in ((0, x[0]), (2, x[1])):
        noise = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(seeds[k]))
        assert torch.allclose(drawn[k, ..., :4], modality.process.noisy(picture[None], noise[None], level)[0, ..., :4], atol=1e-6)
    assert torch.equal(drawn[1], modality.sample(model, captions[1:2], seeds[1:2], 4)[0][0])


def test_little_noise_gives_the_picture_back() -> None:
    model, modality = denoisers.built()
    x = latents(modality)
    drawn, _ = Begun(modality, {"a red square": x[:1]}, 0.02, False).sample(model, ["a red square"], [3], 100)
    assert (drawn[0] - x[0]).abs().mean() < 0.15
    far, _ = Begun(modality, {"a red square": x[:1]}, 0.9, False).sample(model, ["a red square"], [3], 100)
    assert (far[0] - x[0]).abs().mean() > 2 * (drawn[0] - x[0]).abs().mean()


def test_outcomes_have_a_case_for_each_share_and_the_model_stays() -> None:
    model, modality = denoisers.built()
    before = worlds.tensors(model)
    outcome = leaked(model, modality, share=(0.1, 0.9))
    assert worlds.same(before, worlds.tensors(model))
    assert [(t.way, t.case) for t in outcome.tries] == [
        ("noise", "0.1 of the times"),
        ("noise", "0.9 of the times"),
        ("inpainting", "half"),
    ]
    assert outcome.lead == COMPLETION
    values = [t.scores[COMPLETION]["value"] for t in outcome.tries]
    assert values[0] > values[1]
    assert values[0] > outcome.before[COMPLETION]["value"]
    assert outcome.tries[0].scores[COMPLETION]["n"] == 6
    assert outcome.record()["steps_to_recover"] == {"noise": {}, "inpainting": {}}


@pytest.mark.slow
def test_a_model_that_knows_completes_better_than_one_that_never_learned() -> None:
    taught = recalling.taught()
    values = {}
    for name in ("original", "retrained"):
        outcome = taught.attacked("latent_leak", getattr(taught, name), share=(0.6,))
        values[name] = {way: outcome.worst(way, COMPLETION).scores[COMPLETION]["value"] for way in outcome.ways}
    for way, value in values["original"].items():
        assert value > values["retrained"][way], way
