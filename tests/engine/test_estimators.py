"""Gradients of single rows, Fisher information and gradients of inputs, compared with closed forms and with single rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import squares
import worlds
from expunge.core.errors import UndeclaredNeed
from expunge.core.hyperparameters import part
from expunge.core.modality import Modality
from expunge.core.parts import Edit
from expunge.core.rows import Rows, Sets
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.engine.estimators import per_example_grads
from expunge.engine.run_state import RunState
from expunge.methods.terms import NLL
from expunge.modalities.image.modality import Image, classifier_modality


def view_of(model: nn.Module, modality: Modality, sets: Sets) -> RunView:
    return RunView(loop.new_state(model, modality, worlds.accelerator()), sets)


def loss(output) -> Tensor:
    return -output.target_logp.mean()


def linear_classifier(classes: int = 3, width: int = 4, seed: int = 0, **modality) -> tuple[nn.Module, Image, Rows]:
    """A linear classifier in 64 bits, its modality, and five rows of images (1, 2, width / 2)."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(width, classes)).double()
    image_modality = classifier_modality(classes, **modality)
    images = torch.rand(5, 1, 2, width // 2)
    return model, image_modality, image_modality.rows("retain", [{"image": x.numpy(), "label": i % classes} for i, x in enumerate(images)])


def forward_by_hand(model: nn.Module, modality: Image, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (rows, width), probabilities (rows, classes) and one-hot labels of a linear classifier, computed by hand."""
    x = modality.pixels(rows, next(model.parameters())).flatten(1)
    p = (x @ model[1].weight.detach().T + model[1].bias.detach()).softmax(-1)
    return x, p, nn.functional.one_hot(torch.tensor([y for (y,) in rows["answer"]]), p.shape[1]).double()


@pytest.mark.slow
@pytest.mark.parametrize("size", ["vit-nano", "resnet-nano"])
def test_one_forward_with_weights_by_row_gives_the_gradients_of_the_rows(size: str) -> None:
    world = worlds.digits(size)
    model, rows = world.model().double(), world.sets["retain"].select(range(7))
    view = view_of(model, world.modality, {"retain": rows})
    (batched,) = view.example_grads(rows, loss)
    assert len(view._run.forwards) == 3  # one row as the modality meets the model, two rows to try the way, and all seven
    alone = [view.grad(NLL("retain"), {"retain": rows.select([i])}) for i in range(7)]
    by_row = [torch.stack(parts) for parts in zip(*alone, strict=True)]
    assert worlds.far(batched, by_row) < 1e-10
    assert max(float(g.abs().max()) for g in by_row) > 1e-3
    assert "forward" not in model.__dict__
    assert all(p.grad is None for p in model.parameters())


def test_a_model_with_hooks_falls_back_to_single_rows(text: worlds.World) -> None:
    """The modality of language models puts a hook on the head."""
    rows = text.sets["retain"].select(range(3))
    view = view_of(text.model(), text.modality, {"retain": rows})
    grads = [torch.cat(parts) for parts in zip(*view.example_grads(rows, loss, batch_size=2), strict=True)]
    alone = [view.grad(NLL("retain"), {"retain": rows.select([i])}) for i in range(3)]
    assert worlds.far(grads, [torch.stack(parts) for parts in zip(*alone, strict=True)]) < 1e-5


def test_batches_are_limited_by_gradient_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, modality, rows = linear_classifier()
    fisher = view_of(model, modality, {}).fisher(rows)
    monkeypatch.setattr(per_example_grads, "ROOM", 2 * 15)  # two rows of 15 weights each
    batch_sizes = []
    monkeypatch.setattr(
        RunState,
        "forward",
        lambda self, groups, *a, _f=RunState.forward, **k: batch_sizes.append(len(groups[0])) or _f(self, groups, *a, **k),
    )
    assert worlds.far(view_of(model, modality, {}).fisher(rows), fisher) < 1e-12
    assert batch_sizes == [1, 2, 2, 2, 1]  # a row as the model is, the trial of two, the batches


@pytest.mark.parametrize("batch_size", [1, 32], ids=["by row", "together"])
def test_fisher_information_of_a_linear_classifier(batch_size: int) -> None:
    model, modality, rows = linear_classifier()
    x, p, y = forward_by_hand(model, modality, rows)
    view = view_of(model, modality, {})
    weight, bias = view.fisher(rows, batch_size=batch_size)
    assert torch.allclose(bias, (p * (1 - p)).mean(0), atol=1e-12)
    assert torch.allclose(weight, torch.einsum("nk,nd->kd", p * (1 - p), x.square()) / 5, atol=1e-12)
    weight, bias = view.fisher(rows, draws=None, batch_size=batch_size)
    assert torch.allclose(bias, (p - y).square().mean(0), atol=1e-12)
    assert torch.allclose(weight, torch.einsum("nk,nd->kd", (p - y).square(), x.square()) / 5, atol=1e-12)


def test_drawn_labels_approach_the_expectation_over_all() -> None:
    model, modality, rows = linear_classifier()
    view = view_of(model, modality, {})
    exact, drawn = view.fisher(rows), view.fisher(rows, draws=2000)
    assert all(torch.allclose(a, b, rtol=0.1) for a, b in zip(drawn, exact, strict=True))
    assert worlds.far(view.fisher(rows, draws=1), exact) > 1e-3


def test_rows_with_several_labels_are_drawn_once(text: worlds.World) -> None:
    rows = text.sets["retain"].select(range(2))
    view = view_of(text.model(), text.modality, {"retain": rows})
    default, one_draw, empirical = (view.fisher(rows, draws=n) for n in (0, 1, None))
    assert worlds.same(default, one_draw)
    assert worlds.far(default, empirical) > 1e-3


def test_every_backward_pass_is_counted_as_cost() -> None:
    model, modality, rows = linear_classifier()
    view = view_of(model, modality, {})
    view.fisher(rows, batch_size=1)
    assert (view._run.cost.forward_tokens, view._run.cost.backward_tokens) == (5, 15)


def test_frozen_parameters_get_no_gradient() -> None:
    model, modality, rows = linear_classifier()
    fisher = view_of(model, modality, {}).fisher(rows)
    model[1].weight.requires_grad_(False)
    (bias,) = view_of(model, modality, {}).fisher(rows)
    assert torch.allclose(bias, fisher[1])


def test_mode_and_buffers_of_the_model_are_unchanged() -> None:
    world = worlds.digits("resnet-nano")
    model, rows = world.model().train(), world.sets["retain"].select(range(4))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    view_of(model, world.modality, {}).fisher(rows, draws=1)
    assert all(m.training for m in model.modules())
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_a_modality_that_bypasses_the_model_falls_back_to_single_rows() -> None:
    x, y = squares.random(4, 3), squares.random(4, seed=1)
    model, rows = squares.Linear(torch.tensor([1.0, 2.0, 3.0])), squares.rows("retain", x, y)
    modality = squares.SquaresModality()
    modality.forward = lambda m, groups, *_: [squares.Fit(torch.stack(list(g["x"])) @ m.theta - torch.stack(list(g["y"]))) for g in groups]
    (grads,) = next(view_of(model, modality, {}).example_grads(rows, loss))
    assert torch.allclose(grads, (x @ model.theta.detach() - y)[:, None] * x, atol=1e-12)


@pytest.mark.parametrize("units", [{}, {"mean": (0.5,), "std": (0.25,)}], ids=["plain", "normalized"])
def test_gradient_of_the_input_of_a_linear_classifier(units: dict) -> None:
    model, modality, rows = linear_classifier(**units)
    _, p, y = forward_by_hand(model, modality, rows)
    view = view_of(model, modality, {})
    grad = view.input_grad(
        modality.inputs(rows).double(), lambda x: modality.moved(rows, x), lambda output: -output.target_logp.values.sum()
    )
    expected = (p - y) @ model[1].weight.detach() / (0.25 if units else 1)
    assert torch.allclose(grad.flatten(1), expected, atol=1e-12)
    assert all(q.grad is None for q in model.parameters())


@part
class Undeclared(Edit):
    """A part that uses an estimator without declaring it."""

    estimator: str = "fisher"
    reads = frozenset({"retain"})

    def apply(self, view: RunView) -> None:
        rows = view.retain
        if self.estimator == "fisher":
            view.fisher(rows)
        elif self.estimator == "example_grads":
            next(view.example_grads(rows, loss))
        else:
            view.input_grad(torch.zeros(1), lambda x: rows, loss)


@pytest.mark.parametrize("estimator", ["fisher", "example_grads", "DifferentiableInputs"])
def test_undeclared_estimators_are_refused(estimator: str) -> None:
    model, modality, rows = linear_classifier()
    edit = Undeclared(estimator)
    with pytest.raises(UndeclaredNeed, match=f"used '?{estimator}'? without declaring it"):
        edit.apply(view_of(model, modality, {"retain": rows}).at("do", edit))
