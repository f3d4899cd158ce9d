"""Kronecker factors: exact for layers with one input, corrected eigenvalues otherwise, no effect of padding, and an unchanged model."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import worlds
from expunge.core.errors import UserError
from expunge.core.modality import ModelOutput
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.engine.estimators import kfac
from expunge.engine.estimators.fisher import squared_gradients
from expunge.engine.estimators.kfac import KfacLayer, batches_by_length, layers
from expunge.modalities.image.modality import Image, classifier_modality


def linear_classifier(same: bool = False, classes: int = 3, width: int = 4, rows: int = 7) -> tuple[nn.Module, Image, Rows]:
    """A linear classifier in 64 bits, its modality, and rows with the same input or with different inputs."""
    torch.manual_seed(0)
    model, modality = nn.Sequential(nn.Flatten(), nn.Linear(width, classes)).double(), classifier_modality(classes)
    images = torch.rand(1 if same else rows, 1, 2, width // 2).expand(rows, -1, -1, -1)
    return model, modality, modality.rows("retain", [{"image": x.numpy(), "label": i % classes} for i, x in enumerate(images)])


def exact_fisher_of(model: nn.Module, modality: Image, rows: Rows) -> Tensor:
    """Fisher information of a linear classifier, outputs before inputs, the bias last: (out x in, out x in)."""
    x = modality.pixels(rows, model[1].weight).flatten(1)
    p = (x @ model[1].weight.detach().T + model[1].bias.detach()).softmax(-1)
    a = torch.cat([x, torch.ones(len(x), 1).double()], 1)
    s = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    return torch.einsum("nij,nk,nl->ikjl", s, a, a).reshape(s.shape[1] * a.shape[1], -1) / len(x)


def dense_matrix(factors: dict[str, Tensor], path: str = "1") -> Tensor:
    """The matrix that the factors represent."""
    values = factors[f"{path}/values"]
    basis = torch.kron(factors[f"{path}/outputs"], factors[f"{path}/inputs"])
    return basis @ values.flatten().diag() @ basis.T


def fitted(model: nn.Module, modality, rows: Rows, strategy: str = "ekfac", **hyperparameters) -> dict[str, Tensor]:
    return RunView(loop.new_state(model, modality, worlds.accelerator()), {}).kfac(rows, strategy, **hyperparameters)


@pytest.mark.parametrize("strategy", ["ekfac", "kfac"])
def test_factors_are_exact_for_rows_with_one_input(strategy: str) -> None:
    model, modality, rows = linear_classifier(same=True)
    assert (
        float((dense_matrix(fitted(model, modality, rows, strategy, draws=0)) - exact_fisher_of(model, modality, rows)).abs().max()) < 1e-12
    )


def test_ekfac_corrects_the_eigenvalues() -> None:
    model, modality, rows = linear_classifier()
    exact_fisher, factors = exact_fisher_of(model, modality, rows), fitted(model, modality, rows, draws=0)
    basis = torch.kron(factors["1/outputs"], factors["1/inputs"])
    assert torch.allclose((basis.T @ exact_fisher @ basis).diag(), factors["1/values"].flatten(), rtol=1e-9, atol=1e-12)
    plain = fitted(model, modality, rows, "kfac", draws=0)
    errors = [float((dense_matrix(estimate) - exact_fisher).norm()) for estimate in (factors, plain)]
    assert errors[0] < errors[1]
    assert errors[1] > 1e-3


@pytest.mark.slow
def test_drawn_labels_approach_the_expectation_over_all() -> None:
    model, modality, rows = linear_classifier()
    all_labels, many_draws, one_draw = (fitted(model, modality, rows, "diagonal", draws=n)["1/values"] for n in (0, 150, 1))
    assert torch.allclose(many_draws, all_labels, rtol=0.25)
    assert not torch.allclose(one_draw, all_labels, rtol=0.25)


def likelihood_of_labels(output: ModelOutput) -> Iterator[Tensor]:
    yield output.target_logp.sum()


def test_diagonal_equals_squared_gradients_of_a_convolution() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).double()
    modality = classifier_modality(3)
    rows = modality.rows("retain", [{"image": torch.rand(1, 3, 3).numpy(), "label": i % 3} for i in range(5)])
    view = RunView(loop.new_state(model, modality, worlds.accelerator()), {})
    factors = kfac.fit(model, modality, view._ask, rows, likelihood_of_labels, ["0", "3"], "diagonal")
    squares = squared_gradients(model, view._ask, rows, likelihood_of_labels)
    for path, weight, bias in (("0", *squares[:2]), ("3", *squares[2:])):
        assert torch.allclose(factors[f"{path}/values"], torch.cat([weight.flatten(1), bias[:, None]], 1), atol=1e-12)
    ekfac = kfac.fit(model, modality, view._ask, rows, likelihood_of_labels, ["0"], "ekfac")
    assert ekfac["0/values"].sum() == pytest.approx(float(factors["0/values"].sum()))  # the trace is the same in every basis
    assert ekfac["0/inputs"].shape == (5, 5)


@pytest.mark.parametrize("strategy", ["ekfac", "kfac", "diagonal"])
def test_padding_does_not_change_factors(text: worlds.World, strategy: str) -> None:
    model, modality, rows = text.model().double(), text.modality, text.sets["retain"].select(range(6))
    view = RunView(loop.new_state(model, modality, worlds.accelerator()), {})
    path = "model.layers.0.mlp.down_proj"
    single, batched = (
        kfac.fit(model, modality, view._ask, rows, likelihood_of_labels, [path], strategy, batch_size=b)[f"{path}/values"] for b in (1, 4)
    )
    assert torch.allclose(single, batched, rtol=1e-6, atol=1e-12)
    assert len({modality.counts(rows.select([i]))["tokens"] for i in range(6)}) > 1


def test_batches_hold_rows_of_one_length(text: worlds.World) -> None:
    rows = text.sets["retain"]
    batches = list(batches_by_length(text.modality, rows, 3))
    assert sorted(i for b in batches for i in b) == list(range(len(rows)))
    assert all(len({text.modality.counts(rows.select([i]))["tokens"] for i in b}) == 1 and len(b) <= 3 for b in batches)
    assert max(map(len, batches)) > 1


def test_curvature_is_a_mean_over_labels(text: worlds.World) -> None:
    """The trace of the curvature is the squared gradient of a row divided by its number of labels."""
    model, modality, rows = text.model().double(), text.modality, text.sets["retain"].select(range(3))
    view, path = RunView(loop.new_state(model, modality, worlds.accelerator()), {}), "model.layers.1.mlp.up_proj"
    trace = kfac.fit(model, modality, view._ask, rows, likelihood_of_labels, [path])[f"{path}/values"].sum()
    place = [n for n, p in model.named_parameters() if p.requires_grad].index(f"{path}.weight")
    squares = 3 * squared_gradients(model, view._ask, rows, likelihood_of_labels)[place].sum()
    assert float(trace) == pytest.approx(float(squares) / modality.counts(rows)["labels"])


def test_fitting_leaves_the_model_unchanged() -> None:
    world = worlds.digits("resnet-nano")
    model, rows = world.model().train(), world.sets["retain"].select(range(4))
    model.requires_grad_(False)
    trainable = [p for n, p in model.named_parameters() if "weight" in n]
    for p in trainable:
        p.requires_grad_(True)
    modules, before = dict(model.named_modules()), {n: t.clone() for n, t in model.state_dict().items()}
    fitted(model, world.modality, rows)
    head = world.modality.head(model)
    with pytest.raises(ZeroDivisionError):
        kfac.fit(
            model,
            world.modality,
            lambda r: 1 / 0 if len(r) > 1 else world.modality.forward(model, [r])[0],
            rows,
            likelihood_of_labels,
            [head],
        )
    assert {n: id(m) for n, m in model.named_modules()} == {n: id(m) for n, m in modules.items()}
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(m.training for m in model.modules())
    assert [id(p) for p in model.parameters() if p.requires_grad] == list(map(id, trainable))
    assert all(p.grad is None for p in model.parameters())


def test_layers_with_own_trainable_weights_have_factors(text: worlds.World) -> None:
    kfac_layers = layers(text.model(), text.modality)
    assert len(kfac_layers) == 2 * 7  # without embeddings, norms and the head, which is tied to the embeddings
    names = [n for n, _ in text.model().named_parameters()]
    assert all(names[layer.weight] == f"{layer.path}.weight" and layer.bias is None for layer in kfac_layers)
    model, modality, _ = linear_classifier()
    assert layers(model, modality) == [KfacLayer("1", 0, 1)]
    model[1].bias.requires_grad_(False)
    assert layers(model, modality) == [KfacLayer("1", 0, None)]
    with pytest.raises(UserError, match="no linear or convolutional layer"):
        layers(model.requires_grad_(False), modality)


def test_missing_kronfluence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kronfluence.arguments", None)
    with pytest.raises(UserError, match=r"pip install 'expunge\[kronecker\]'"):
        fitted(*linear_classifier())
