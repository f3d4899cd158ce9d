"""Gradients of the rows of a batch, from what the layers took in and got back, against those of each row alone."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor

import worlds
from engine.test_ghost import odd, reads, sentences, twice
from expunge.core.modality import ModelOutput
from expunge.core.rows import Rows
from expunge.engine.estimators import layers, per_example_grads
from expunge.modalities.text.modality import Text
from modalities import makers


@pytest.fixture(scope="module")
def modality() -> Text:
    return Text(makers.tokenizer(), limit=128)


def both(answer: ModelOutput) -> list[Tensor]:
    """Two losses of the same answers."""
    return [-answer.target_logp.mean(), answer.target_logp.sum().square()]


def found(model: Any, modality: Any, rows: Rows, way: Any = None, batch_size: int = 4) -> tuple[list[list[Tensor]], Any]:
    """Gradients by parameter, those of the first loss and those of the second, and how they were come by."""
    got: list[list[Tensor]] = []
    way = per_example_grads.row_gradients(model, lambda some: modality.forward(model, [some])[0], rows, both, got.append, batch_size, way)
    return [[torch.cat(parts) for parts in zip(*got[k::2], strict=True)] for k in (0, 1)], way


def apart(a: list[list[Tensor]], b: list[list[Tensor]]) -> float:
    """The largest difference, as a share of the largest number."""
    pairs = [(x, y) for mine, other in zip(a, b, strict=True) for x, y in zip(mine, other, strict=True)]
    assert all(x.shape == y.shape for x, y in pairs)
    return max(float((x - y).abs().max()) for x, y in pairs) / max(float(y.abs().max()) for _, y in pairs)


@pytest.mark.parametrize("name", [*makers.CONFIGS, "adapted", "adapted-tied"])
def test_one_pass_gives_the_gradients_of_every_row(name: str, modality: Text) -> None:
    model = makers.adapted({"adapted": "llama", "adapted-tied": "llama-tied"}[name]) if "adapted" in name else makers.model(name)
    flags = [p.requires_grad for p in model.parameters()]
    fast, way = found(model, modality, sentences())
    assert way is per_example_grads.watched
    assert [p.requires_grad for p in model.parameters()] == flags
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    slow, way = found(model, modality, sentences(), batch_size=1)
    assert way is per_example_grads.alone
    assert len(fast[0]) == sum(flags)
    assert apart(fast, slow) < 1e-5


def test_only_what_moves_is_told(modality: Text) -> None:
    model = makers.model("llama-tied")
    whole, _ = found(model, modality, sentences())
    names = [n for n, _ in model.named_parameters()]
    for n, p in model.named_parameters():
        p.requires_grad_("mlp" in n)
    some, way = found(model, modality, sentences())
    assert way is per_example_grads.watched
    assert apart(some, [[g for n, g in zip(names, each, strict=True) if "mlp" in n] for each in whole]) < 1e-6


@pytest.mark.parametrize("change", [odd, reads, twice])
def test_other_layers_are_asked_row_by_row(change: Any, modality: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "SMALL", 100)
    model = makers.model()
    change(model)
    _, way = found(model, modality, sentences(3))
    assert way is per_example_grads.alone


def test_a_first_table_with_padding(modality: Text) -> None:
    """The vector of padding does not move."""
    model, rows = makers.model("llama"), sentences()
    model.model.embed_tokens.padding_idx = 5
    assert any(5 in [*p, *a] for p, a in zip(rows["prompt"], rows["answer"], strict=True))
    fast, _ = found(model, modality, rows)
    assert apart(fast, found(model, modality, rows, batch_size=1)[0]) < 1e-5
    table = [n for n, _ in model.named_parameters()].index("model.embed_tokens.weight")
    assert not fast[0][table][:, 5].any()


def test_nothing_of_a_batch_is_kept(modality: Text) -> None:
    def alive() -> int:
        return sum(type(o) is Tensor for o in gc.get_objects())

    model, rows = makers.model("llama-tied"), sentences()
    sizes: list[int] = []
    gc.collect()
    gc.disable()
    try:
        before = alive()
        per_example_grads.row_gradients(
            model,
            lambda some: modality.forward(model, [some])[0],
            rows,
            both,
            lambda g: sizes.append(len(g[0])),
            4,
            per_example_grads.watched,
        )
        assert alive() == before
    finally:
        gc.enable()
    assert sizes == [4, 4, 4, 4, 1, 1]


def test_a_way_that_is_known_is_not_tried_again(modality: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = makers.model(), sentences()
    _, way = found(model, modality, rows)
    sizes: list[int] = []
    plain = modality.forward
    monkeypatch.setattr(modality, "forward", lambda model, groups, *more: sizes.append(len(groups[0])) or plain(model, groups, *more))
    found(model, modality, rows, way)
    assert sizes == [4, 4, 1]


def test_pictures_by_either_way() -> None:
    world = worlds.digits("resnet-nano")
    rows = world.sets["retain"].select(range(5))
    watched, way = found(world.model(), world.modality, rows, per_example_grads.watched, batch_size=5)
    assert way is per_example_grads.watched
    vectorised, way = found(world.model(), world.modality, rows, batch_size=5)
    assert way is per_example_grads.vectorized
    assert apart(watched, vectorised) < 1e-4
