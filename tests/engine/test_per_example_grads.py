"""Gradients of the rows of a batch, from the inputs and output gradients of layers, compared with those of each row alone."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor

import worlds
from engine.test_ghost_norms import sentences, share_layer, use_foreign_weight, use_unknown_layer
from expunge.core.modality import ModelOutput
from expunge.core.rows import Rows
from expunge.engine.estimators import layers, per_example_grads
from expunge.modalities.text.modality import Text
from modalities import makers


@pytest.fixture(scope="module")
def modality() -> Text:
    return Text(makers.tokenizer(), limit=128)


def two_losses(output: ModelOutput) -> list[Tensor]:
    """Two losses of the same output."""
    return [-output.target_logp.mean(), output.target_logp.sum().square()]


def gradients_of(model: Any, modality: Any, rows: Rows, way: Any = None, batch_size: int = 4) -> tuple[list[list[Tensor]], Any]:
    """Gradients by parameter of the first and of the second loss, and the way of computing them."""
    grads: list[list[Tensor]] = []
    way = per_example_grads.row_gradients(
        model, lambda batch: modality.forward(model, [batch])[0], rows, two_losses, grads.append, batch_size, way
    )
    return [[torch.cat(parts) for parts in zip(*grads[k::2], strict=True)] for k in (0, 1)], way


def relative_difference(a: list[list[Tensor]], b: list[list[Tensor]]) -> float:
    """The largest difference, as a share of the largest number."""
    pairs = [(x, y) for xs, ys in zip(a, b, strict=True) for x, y in zip(xs, ys, strict=True)]
    assert all(x.shape == y.shape for x, y in pairs)
    return max(float((x - y).abs().max()) for x, y in pairs) / max(float(y.abs().max()) for _, y in pairs)


@pytest.mark.parametrize("name", [*makers.CONFIGS, "adapted", "adapted-tied"])
def test_one_pass_gives_the_gradients_of_every_row(name: str, modality: Text) -> None:
    model = makers.adapted({"adapted": "llama", "adapted-tied": "llama-tied"}[name]) if "adapted" in name else makers.model(name)
    flags = [p.requires_grad for p in model.parameters()]
    batched, way = gradients_of(model, modality, sentences())
    assert way is per_example_grads.watched
    assert [p.requires_grad for p in model.parameters()] == flags
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    by_row, way = gradients_of(model, modality, sentences(), batch_size=1)
    assert way is per_example_grads.alone
    assert len(batched[0]) == sum(flags)
    assert relative_difference(batched, by_row) < 1e-5


def test_only_trainable_parameters_get_gradients(modality: Text) -> None:
    model = makers.model("llama-tied")
    complete, _ = gradients_of(model, modality, sentences())
    names = [n for n, _ in model.named_parameters()]
    for n, p in model.named_parameters():
        p.requires_grad_("mlp" in n)
    moving, way = gradients_of(model, modality, sentences())
    assert way is per_example_grads.watched
    assert relative_difference(moving, [[g for n, g in zip(names, grads, strict=True) if "mlp" in n] for grads in complete]) < 1e-6


@pytest.mark.parametrize("change", [use_unknown_layer, use_foreign_weight, share_layer])
def test_unknown_layers_fall_back_to_single_rows(change: Any, modality: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "SMALL", 100)
    model = makers.model()
    change(model)
    _, way = gradients_of(model, modality, sentences(3))
    assert way is per_example_grads.alone


def test_the_embedding_of_padding_gets_no_gradient(modality: Text) -> None:
    """The embedding of padding is not trained."""
    model, rows = makers.model("llama"), sentences()
    model.model.embed_tokens.padding_idx = 5
    assert any(5 in [*p, *a] for p, a in zip(rows["prompt"], rows["answer"], strict=True))
    batched, _ = gradients_of(model, modality, rows)
    assert relative_difference(batched, gradients_of(model, modality, rows, batch_size=1)[0]) < 1e-5
    table = [n for n, _ in model.named_parameters()].index("model.embed_tokens.weight")
    assert not batched[0][table][:, 5].any()


def test_tensors_of_a_batch_are_released(modality: Text) -> None:
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
            lambda batch: modality.forward(model, [batch])[0],
            rows,
            two_losses,
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
    _, way = gradients_of(model, modality, rows)
    sizes: list[int] = []
    plain = modality.forward
    monkeypatch.setattr(modality, "forward", lambda model, groups, *args: sizes.append(len(groups[0])) or plain(model, groups, *args))
    gradients_of(model, modality, rows, way)
    assert sizes == [4, 4, 1]


def test_images_give_equal_gradients_watched_and_vectorized() -> None:
    world = worlds.digits("resnet-nano")
    rows = world.sets["retain"].select(range(5))
    watched, way = gradients_of(world.model(), world.modality, rows, per_example_grads.watched, batch_size=5)
    assert way is per_example_grads.watched
    vectorized, way = gradients_of(world.model(), world.modality, rows, batch_size=5)
    assert way is per_example_grads.vectorized
    assert relative_difference(watched, vectorized) < 1e-4
