"""FMN: attention by hand and as the model computes it, which tokens count, what the loss does not depend on, and the outcome."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import erasing
import worlds
from expunge import UserError
from expunge.core.plan import as_plans
from expunge.methods.objectives.fmn import Attending, Attention
from expunge.workflows import build_plan


def first(**options: Any) -> erasing.First:
    return erasing.First(as_plans(build_plan.plan("fmn", {"batch_size": 2, **options}))[0])


def attention(start: erasing.First) -> list[torch.Tensor]:
    patch = Attending(start.modality.cross_attention(start.model))
    rows = start.batch["forget"]
    start.modality.forward(start.model, [start.modality.recaption(rows, rows["caption"])], (), patch)
    return [p.detach() for p in patch.probabilities]


def test_probabilities_are_those_of_the_model() -> None:
    start = first()
    path = start.modality.cross_attention(start.model)[0]
    module: Any = start.model.get_submodule(path)
    outputs: list[torch.Tensor] = []
    values: list[torch.Tensor] = []
    handles = [
        module.register_forward_hook(lambda m, a, out: outputs.append(out)),
        module.to_v.register_forward_hook(lambda m, a, out: values.append(out)),
    ]
    probabilities = attention(start)[0]
    for handle in handles:
        handle.remove()
    assert torch.allclose(probabilities.sum(-1), torch.ones(()).double())
    value = values[0].unflatten(2, (module.heads, -1)).transpose(1, 2)
    mixed = (probabilities @ value).transpose(1, 2).flatten(2)
    assert torch.allclose(module.to_out[0](mixed), outputs[0].detach(), atol=1e-9)


def test_the_loss_is_the_norm_over_layers_heads_pixels_and_tokens() -> None:
    start = first(concept="red")
    layers = attention(start)
    # start, a, red, square or bar, end: the concept is the third token, the first end token the fifth
    expected = torch.stack([torch.cat([p[row][:, :, [2, 4]].flatten() for p in layers]).norm() for row in range(2)]).mean()
    assert start.loss()[0] == pytest.approx(float(expected), rel=1e-9)
    whole = torch.stack([torch.cat([p[row][:, :, [1, 2, 3, 4]].flatten() for p in layers]).norm() for row in range(2)]).mean()
    assert start.loss(Attention())[0] == pytest.approx(float(whole), rel=1e-9)
    assert float(expected) > 0


def test_keys_of_the_concept_alone_get_a_gradient_and_values_none() -> None:
    start = first(concept="red")
    _, gradient = start.loss()
    names = [n for n, p in start.model.named_parameters() if p.requires_grad]
    moved = {n.rpartition("attn2.")[2] for n, g in zip(names, gradient, strict=True) if float(g.abs().max()) > 0}
    assert {"to_q.weight", "to_k.weight"} <= moved


def test_a_concept_that_no_caption_contains_is_named() -> None:
    with pytest.raises(UserError, match="no caption of the rows to forget contains the concept 'purple'"):
        first(concept="purple").loss()


def test_attention_to_the_concept_falls() -> None:
    def paid(start: str | None, **options: Any) -> float:
        world = worlds.pictures()
        model: Any = world.model() if start else erasing.unlearned("fmn", options)[0]
        patch = Attending(world.modality.cross_attention(model))
        rows = world.sets["forget"]
        world.modality.forward(model, [rows], (), patch)
        return float(sum(p[..., 2].detach().mean() for p in patch.probabilities))

    assert paid(None, concept="red", steps=60, lr=3e-3, batch_size=6) < 0.5 * paid("original")
