"""Norms of gradients of single rows from one backward pass, against a backward pass of each row."""

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


def losses(answer: ModelOutput, places: Sequence[int]) -> Tensor:
    return -answer.target_logp.mean()


def alone(model: nn.Module, modality: Any, rows: Rows, loss: Callable[[ModelOutput, Sequence[int]], Tensor] = losses) -> Tensor:
    """Norms of the gradients as autograd gives them for each row, (rows, tensors)."""
    found = []
    params = [p.requires_grad_() for p in model.parameters()]
    for i in range(len(rows)):
        mine = rows.select([i])
        grads = torch.autograd.grad(loss(modality.forward(model, [mine])[0], [i]).sum(), params, allow_unused=True)
        found.append(torch.stack([torch.zeros(()) if g is None else g.norm().float() for g in grads]))
    return torch.stack(found)


def sentences(n: int = 9, seed: int = 0) -> Rows:
    """Of unequal lengths, with tokens that repeat and tokens that padding has, too."""
    r = random.Random(seed)
    prompts = [[1, *(r.randrange(60) for _ in range(r.randrange(1, 9)))] for _ in range(n)]
    answers = [[*(r.randrange(60) for _ in range(r.randrange(1, 12))), 2] for _ in range(n)]
    return Rows("forget", tuple(map(str, range(n))), {"prompt": prompts, "answer": answers})


@pytest.fixture(scope="module")
def modality() -> Text:
    return Text(makers.tokenizer(), limit=128)


@pytest.fixture
def forwards(modality: Text, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each forward brings."""
    sizes: list[int] = []
    plain = modality.forward
    monkeypatch.setattr(modality, "forward", lambda model, groups, *more: sizes.append(len(groups[0])) or plain(model, groups, *more))
    return sizes


@pytest.mark.parametrize("name", [*makers.CONFIGS, "adapted", "adapted-tied"])
def test_one_pass_gives_the_norms_of_every_tensor_and_row(name: str, modality: Text, forwards: list[int]) -> None:
    model = makers.adapted({"adapted": "llama", "adapted-tied": "llama-tied"}[name]) if "adapted" in name else makers.model(name)
    rows = sentences()
    flags = [p.requires_grad for p in model.parameters()]
    found = ghost_norms.gradient_norms(model, modality, rows, losses, BATCHES)
    assert forwards == [2, 1, 4, 5]  # whether it can be done, both ways, and then all rows
    assert [p.requires_grad for p in model.parameters()] == flags
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    wanted = alone(model, modality, rows)
    assert found.shape == wanted.shape == (9, len(flags))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_nothing_of_a_batch_is_kept(modality: Text) -> None:
    """Memory must not grow with the rows until somebody collects circles."""

    def alive() -> int:
        return sum(type(o) is Tensor for o in gc.get_objects())

    model, rows = makers.model("llama-tied"), sentences()
    gc.collect()
    gc.disable()
    try:
        before = alive()
        found = ghost_norms.gradient_norms(model, modality, rows, losses, BATCHES)
        assert alive() == before + 1, "the norms themselves"
    finally:
        gc.enable()
    assert len(found) == 9


def test_a_linear_model_by_hand() -> None:
    """The gradient of a softmax classifier is (p - y) x^T: its norm is the product of two norms, and that of the bias is the first."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    modality = Image(("a", "b", "c"))
    rows = modality.rows("retain", [{"image": torch.rand(1, 2, 2).numpy(), "label": i % 3} for i in range(5)])
    found = ghost_norms.gradient_norms(model, modality, rows, losses, [range(5)])
    x = modality.pixels(rows, model[1].weight).flatten(1)
    off = model(x).softmax(-1) - nn.functional.one_hot(torch.tensor([y for (y,) in rows["answer"]]), 3)
    torch.testing.assert_close(found, torch.stack([off.norm(dim=1) * x.norm(dim=1), off.norm(dim=1)], 1))


def test_long_rows_are_multiplied_out(modality: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a row has more positions than a layer is wide, the gradient itself is cheaper than its ghost."""
    model, rows = makers.model("llama-tied"), sentences()
    short = ghost_norms.gradient_norms(model, modality, rows, losses, [range(9)])
    long = Rows("forget", ("0", "1"), {c: [2 * rows[c][0] + rows[c][k] + 3 * rows[c][4] for k in (1, 2)] for c in ("prompt", "answer")})
    assert min(len(p) + len(a) for p, a in zip(long["prompt"], long["answer"], strict=True)) > 32
    torch.testing.assert_close(
        ghost_norms.gradient_norms(model, modality, long, losses, [[0, 1]]), alone(model, modality, long), rtol=1e-4, atol=1e-6
    )
    assert short.shape == (9, 20)


def test_losses_that_leave_labels_out(modality: Text) -> None:
    model, rows = makers.model("llama-tied"), sentences()

    def first(answer: ModelOutput, places: Sequence[int]) -> Tensor:
        begins = answer.target_logp.lengths.cumsum(0) - answer.target_logp.lengths
        return -answer.target_logp.values[begins]

    found = ghost_norms.gradient_norms(model, modality, rows, first, BATCHES)
    torch.testing.assert_close(found, alone(model, modality, rows, first), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found, alone(model, modality, rows), rtol=1e-2)


@pytest.mark.parametrize(("size", "asked"), [("vit-nano", [2, 4, 4, 1]), ("resnet-nano", [2, 1, 4, 5])])
def test_classifiers(size: str, asked: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a vision transformer the first token is no output of a layer: gradients are made, those of a batch together. Of a residual network
    the filters are small.
    """
    world = worlds.digits(size)
    model, rows = world.model(), world.sets["retain"].select(range(9))
    sizes: list[int] = []
    plain = type(world.modality).forward
    monkeypatch.setattr(
        type(world.modality),
        "forward",
        lambda modality, model, groups, *m: sizes.append(len(groups[0])) or plain(modality, model, groups, *m),
    )
    found = ghost_norms.gradient_norms(model, world.modality, rows, losses, BATCHES)
    assert sizes[-len(asked) :] == asked, "whether it can be done, and then all rows"
    torch.testing.assert_close(found, alone(model, world.modality, rows), rtol=1e-3, atol=1e-6)


class Odd(nn.Module):
    """A layer of its own kind, too large for its gradients to be made for each row."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(inner.weight.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight)


class Reads(nn.Module):
    """Uses the weight of another layer without calling it."""

    def __init__(self, inner: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.inner, self.other = inner, other

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + nn.functional.linear(x, self.other.weight)


def odd(model: Any) -> None:
    model.model.layers[0].mlp.up_proj = Odd(model.model.layers[0].mlp.up_proj)


def reads(model: Any) -> None:
    mlp = model.model.layers[0].mlp
    mlp.up_proj = Reads(mlp.up_proj, mlp.gate_proj)


def twice(model: Any) -> None:
    model.model.layers[1].mlp.up_proj = model.model.layers[0].mlp.up_proj


@pytest.mark.parametrize("change", [odd, reads, twice])
def test_layers_that_are_not_covered_are_asked_row_by_row(
    change: Callable[[Any], None], modality: Text, forwards: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "SMALL", 100)
    model, rows = makers.model(), sentences()
    change(model)
    found = ghost_norms.gradient_norms(model, modality, rows, losses, BATCHES)
    assert forwards[-9:] == [1] * 9
    torch.testing.assert_close(found, alone(model, modality, rows), rtol=1e-4, atol=1e-6)


def test_modes_and_flags_stay_as_they_were(modality: Text) -> None:
    model = makers.model().train()
    model.model.embed_tokens.weight.requires_grad_(False)
    ghost_norms.gradient_norms(model, modality, sentences(), losses, BATCHES)
    assert all(m.training for m in model.modules())
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["model.embed_tokens.weight"]


def test_no_rows_no_norms(modality: Text) -> None:
    model = makers.model()
    assert ghost_norms.gradient_norms(model, modality, sentences(0), losses, []).shape == (0, 21)
