"""Random weights: an untrained model, independent of the old weights."""

import math

import pytest
import torch

import worlds
from expunge.engine import loop
from expunge.workflows import build_plan


def reinitialized(text: worlds.World, start: str = "original", seed: int = 0) -> torch.nn.Module:
    model = text.model(start)
    loop.run(build_plan.plan("random_weights", {"seed": seed}), model, text.modality, {})
    return model


def test_result_does_not_depend_on_the_old_weights(text: worlds.World) -> None:
    first, second = worlds.tensors(reinitialized(text, "original")), worlds.tensors(reinitialized(text, "retrained"))
    assert worlds.same(first, second)
    assert all(not torch.equal(a, b) for a, b in zip(first, worlds.tensors(text.model()), strict=True) if a.dim() > 1)


def test_the_seed_determines_the_weights(text: worlds.World) -> None:
    matrix = [reinitialized(text, seed=s).model.layers[0].mlp.down_proj.weight.detach() for s in (0, 0, 1)]
    assert torch.equal(matrix[0], matrix[1])
    assert not torch.equal(matrix[0], matrix[2])


def test_weights_follow_the_models_own_initialization(text: worlds.World) -> None:
    model = reinitialized(text)
    assert float(model.model.layers[0].mlp.up_proj.weight.detach().std()) == pytest.approx(model.config.initializer_range, rel=0.05)
    assert torch.equal(model.model.norm.weight, torch.ones(64))
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_loss_is_that_of_uniform_predictions(text: worlds.World) -> None:
    model = reinitialized(text)
    for name in ("forget", "retain"):
        assert worlds.nll(model, text.modality, text.sets[name]) == pytest.approx(math.log(512), abs=0.3)
