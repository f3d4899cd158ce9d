"""Gradient norms of single rows from one backward pass, compared with a backward pass for each row."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import worlds
from expunge.core.modality import ModelOutput
from expunge.core.rows import Rows
from expunge.engine.estimators import ghost_norms, layers
from expunge.modalities.image.modality import Image
from expunge.modalities.text.modality import Text
from modalities import makers

BATCHES = [[3, 0, 8, 1], [2, 4, 5, 6, 7]]


def losses(output: ModelOutput, places: Sequence[int]) -> Tensor:
    return -output.target_logp.mean()


def autograd_norms(model: nn.Module, modality: Any, rows: Rows, loss: Callable[[ModelOutput, Sequence[int]], Tensor] = losses) -> Tensor:
    """Gradient norms from one autograd pass for each row, (rows, tensors)."""
    norms = []
    params = [p.requires_grad_() for p in model.parameters()]
    for i in range(len(rows)):
        row = rows.select([i])
        grads = torch.autograd.grad(loss(modality.forward(model, [row])[0], [i]).sum(), params, allow_unused=True)
        norms.append(torch.stack([torch.zeros(()) if g is None else g.norm().float() for g in grads]))
    return torch.stack(norms)


def sentences(n: int = 9, seed: int = 0) -> Rows:
    """Rows of unequal lengths, with repeated tokens and with the token of padding."""
    r = random.Random(seed)
    prompts = [[1, *(r.randrange(60) for _ in range(r.randrange(1, 9)))] for _ in range(n)]
    answers = [[*(r.randrange(60) for _ in range(r.randrange(1, 12))), 2] for _ in range(n)]
    return Rows("forget", tuple(map(str, range(n))), {"prompt": prompts, "answer": answers})


@pytest.fixture(scope="module")
def modality() -> Text:
    return Text(makers.tokenizer(), limit=128)


@pytest.fixture
def forwards(modality: Text, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows in each forward pass."""
    sizes: list[int] = []
    plain = modality.forward
    monkeypatch.setattr(modality, "forward", lambda model, groups, *args: sizes.append(len(groups[0])) or plain(model, groups, *args))
    return sizes


@pytest.mark.parametrize("name", [*makers.CONFIGS, "adapted", "adapted-tied"])
def test_one_pass_gives_the_norms_of_every_tensor_and_row(name: str, modality: Text, forwards: list[int]) -> None:
    model = makers.adapted({"adapted": "llama", "adapted-tied": "llama-tied"}[name]) if "adapted" in name else makers.model(name)
    rows = sentences()
    flags = [p.requires_grad for p in model.parameters()]
    norms = ghost_norms.gradient_norms(model, modality, rows, losses, BATCHES)
    assert forwards == [2, 1, 4, 5]  # the test of a row both ways, then all rows
    assert [p.requires_grad for p in model.parameters()] == flags
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    expected = autograd_norms(model, modality, rows)
    assert norms.shape == expected.shape == (9, len(flags))
    torch.testing.assert_close(norms, expected, rtol=1e-4, atol=1e-6)


def test_tensors_of_a_batch_are_released(modality: Text) -> None:
    """Memory must not grow with the rows until the garbage collector finds reference cycles."""

    def alive() -> int:
        return sum(type(o) is Tensor for o in gc.get_objects())

    model, rows = makers.model("llama-tied"), sentences()
    gc.collect()
    gc.disable()
    try:
        before = alive()
        norms = ghost_norms.gradient_norms(model, modality, rows, losses, BATCHES)
        assert alive() == before + 1, "the norms themselves"
    finally:
        gc.enable()
    assert len(norms) == 9


def test_norms_of_a_linear_model_match_the_closed_form() -> None:
    """The gradient of a softmax classifier is (p - y) x^T. Its norm is |p - y| |x|, and the norm of the bias gradient is |p - y|."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    modality = Image(("a", "b", "c"))
    rows = modality.rows("retain", [{"image": torch.rand(1, 2, 2).numpy(), "label": i % 3} for i in range(5)])
    norms = ghost_norms.gradient_norms(model, modality, rows, losses, [range(5)])
    x = modality.pixels(rows, model[1].weight).flatten(1)
    residuals = model(x).softmax(-1) - nn.functional.one_hot(torch.tensor([y for (y,) in rows["answer"]]), 3)
    torch.testing.assert_close(norms, torch.stack([residuals.norm(dim=1) * x.norm(dim=1), residuals.norm(dim=1)], 1))


def test_long_rows_match_autograd(modality: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a row has more positions than a layer is wide, computing the gradient is cheaper than its ghost norm."""
    model, rows = makers.model("llama-tied"), sentences()
    short = ghost_norms.gradient_norms(model, modality, rows, losses, [range(9)])
    long = Rows("forget", ("0", "1"), {c: [2 * rows[c][0] + rows[c][k] + 3 * rows[c][4] for k in (1, 2)] for c in ("prompt", "answer")})
    assert min(len(p) + len(a) for p, a in zip(long["prompt"], long["answer"], strict=True)) > 32
    torch.testing.assert_close(
        ghost_norms.gradient_norms(model, modality, long, losses, [[0, 1]]), autograd_norms(model, modality, long), rtol=1e-4, atol=1e-6
    )
    assert short.shape == (9, 20)


def test_losses_of_some_labels_match_autograd(modality: Text) -> None:
    model, rows = makers.model("llama-tied"), sentences()

    def first_label_loss(output: ModelOutput, places: Sequence[int]) -> Tensor:
        starts = output.target_logp.lengths.cumsum(0) - output.target_logp.lengths
        return -output.target_logp.values[starts]

    norms = ghost_norms.gradient_norms(model, modality, rows, first_label_loss, BATCHES)
    torch.testing.assert_close(norms, autograd_norms(model, modality, rows, first_label_loss), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(norms, autograd_norms(model, modality, rows), rtol=1e-2)


@pytest.mark.parametrize(("size", "expected_sizes"), [("vit-nano", [2, 4, 4, 1]), ("resnet-nano", [2, 1, 4, 5])])
def test_norms_of_classifiers_match_autograd(size: str, expected_sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first token of a vision transformer is no output of a layer, so gradients are computed batch by batch. The filters of a residual
    network are small, so ghost norms work.
    """
    world = worlds.digits(size)
    model, rows = world.model(), world.sets["retain"].select(range(9))
    sizes: list[int] = []
    plain = type(world.modality).forward
    monkeypatch.setattr(
        type(world.modality),
        "forward",
        lambda modality, model, groups, *args: sizes.append(len(groups[0])) or plain(modality, model, groups, *args),
    )
    norms = ghost_norms.gradient_norms(model, world.modality, rows, losses, BATCHES)
    assert sizes[-len(expected_sizes) :] == expected_sizes, "the test of two rows, then all rows"
    torch.testing.assert_close(norms, autograd_norms(model, world.modality, rows), rtol=1e-3, atol=1e-6)


class UnknownLayer(nn.Module):
    """A layer of an unknown kind, too large for gradients row by row."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(inner.weight.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight)


class ForeignWeight(nn.Module):
    """A layer that uses the weight of another layer without calling it."""

    def __init__(self, inner: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.inner, self.other = inner, other

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + nn.functional.linear(x, self.other.weight)


def use_unknown_layer(model: Any) -> None:
    model.model.layers[0].mlp.up_proj = UnknownLayer(model.model.layers[0].mlp.up_proj)


def use_foreign_weight(model: Any) -> None:
    mlp = model.model.layers[0].mlp
    mlp.up_proj = ForeignWeight(mlp.up_proj, mlp.gate_proj)


def share_layer(model: Any) -> None:
    model.model.layers[1].mlp.up_proj = model.model.layers[0].mlp.up_proj


@pytest.mark.parametrize("change", [use_unknown_layer, use_foreign_weight, share_layer])
def test_unknown_layers_fall_back_to_single_rows(
    change: Callable[[Any], None], modality: Text, forwards: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "SMALL", 100)
    model, rows = makers.model(), sentences()
    change(model)
    norms = ghost_norms.gradient_norms(model, modality, rows, losses, BATCHES)
    assert forwards[-9:] == [1] * 9
    torch.testing.assert_close(norms, autograd_norms(model, modality, rows), rtol=1e-4, atol=1e-6)


def test_modes_and_flags_are_unchanged(modality: Text) -> None:
    model = makers.model().train()
    model.model.embed_tokens.weight.requires_grad_(False)
    ghost_norms.gradient_norms(model, modality, sentences(), losses, BATCHES)
    assert all(m.training for m in model.modules())
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["model.embed_tokens.weight"]


def test_no_rows_give_no_norms(modality: Text) -> None:
    model = makers.model()
    assert ghost_norms.gradient_norms(model, modality, sentences(0), losses, []).shape == (0, 21)
