"""Random weights: as if nothing had ever been learned, whatever the model was."""

import math

import pytest
import torch

import worlds
from expunge.engine import loop
from expunge.workflows import build_plan


def drawn(text: worlds.World, start: str = "original", seed: int = 0) -> torch.nn.Module:
    model = text.model(start)
    loop.run(build_plan.plan("random_weights", {"seed": seed}), model, text.modality, {})
    return model


def test_what_the_model_was_leaves_no_trace(text: worlds.World) -> None:
    first, second = worlds.tensors(drawn(text, "original")), worlds.tensors(drawn(text, "retrained"))
    assert worlds.same(first, second)
    assert all(not torch.equal(a, b) for a, b in zip(first, worlds.tensors(text.model()), strict=True) if a.dim() > 1)


def test_the_seed_decides(text: worlds.World) -> None:
    matrix = [drawn(text, seed=s).model.layers[0].mlp.down_proj.weight.detach() for s in (0, 0, 1)]
    assert torch.equal(matrix[0], matrix[1])
    assert not torch.equal(matrix[0], matrix[2])


def test_is_drawn_as_the_model_draws_its_own(text: worlds.World) -> None:
    model = drawn(text)
    assert float(model.model.layers[0].mlp.up_proj.weight.detach().std()) == pytest.approx(model.config.initializer_range, rel=0.05)
    assert torch.equal(model.model.norm.weight, torch.ones(64))
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_knows_nothing(text: worlds.World) -> None:
    model = drawn(text)
    for name in ("forget", "retain"):
        assert worlds.nll(model, text.modality, text.sets[name]) == pytest.approx(math.log(512), abs=0.3)
