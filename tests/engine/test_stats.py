"""Gradients of single rows, Fisher information and gradients of inputs: closed forms, and the fast way against the slow one."""

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


def loss(answer) -> Tensor:
    return -answer.target_logp.mean()


def softmax(classes: int = 3, width: int = 4, seed: int = 0, **modality) -> tuple[nn.Module, Image, Rows]:
    """A linear classifier in 64 bits, its modality, and five rows of images (1, 2, width / 2)."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(width, classes)).double()
    made = classifier_modality(classes, **modality)
    images = torch.rand(5, 1, 2, width // 2)
    return model, made, made.rows("retain", [{"image": x.numpy(), "label": i % classes} for i, x in enumerate(images)])


def inside(model: nn.Module, modality: Image, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (rows, width), probabilities (rows, classes) and one-hot labels of a linear classifier, written out."""
    x = modality.pixels(rows, next(model.parameters())).flatten(1)
    p = (x @ model[1].weight.detach().T + model[1].bias.detach()).softmax(-1)
    return x, p, nn.functional.one_hot(torch.tensor([y for (y,) in rows["answer"]]), p.shape[1]).double()


@pytest.mark.parametrize("size", ["vit-nano", "resnet-nano"])
def test_one_forward_with_weights_by_row_gives_the_gradients_of_the_rows(size: str) -> None:
    world = worlds.digits(size)
    model, rows = world.model().double(), world.sets["retain"].select(range(7))
    view = view_of(model, world.modality, {"retain": rows})
    (fast,) = view.example_grads(rows, loss)
    assert len(view._run.forwards) == 2  # whether it can be done, and all seven rows
    alone = [view.grad(NLL("retain"), {"retain": rows.select([i])}) for i in range(7)]
    slow = [torch.stack(parts) for parts in zip(*alone, strict=True)]
    assert worlds.far(fast, slow) < 1e-10
    assert max(float(g.abs().max()) for g in slow) > 1e-3
    assert "forward" not in model.__dict__
    assert all(p.grad is None for p in model.parameters())


def test_a_model_with_hooks_is_asked_row_by_row(text: worlds.World) -> None:
    """A language model's modality hooks the head."""
    rows = text.sets["retain"].select(range(3))
    view = view_of(text.model(), text.modality, {"retain": rows})
    found = [torch.cat(parts) for parts in zip(*view.example_grads(rows, loss, batch_size=2), strict=True)]
    alone = [view.grad(NLL("retain"), {"retain": rows.select([i])}) for i in range(3)]
    assert worlds.far(found, [torch.stack(parts) for parts in zip(*alone, strict=True)]) < 1e-5


def test_memory_does_not_grow_with_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model, modality, rows = softmax()
    whole = view_of(model, modality, {}).fisher(rows)
    monkeypatch.setattr(per_example_grads, "ROOM", 2 * 15)  # two rows of 15 weights each
    asked = []
    monkeypatch.setattr(
        RunState, "forward", lambda self, groups, *a, _f=RunState.forward, **k: asked.append(len(groups[0])) or _f(self, groups, *a, **k)
    )
    assert worlds.far(view_of(model, modality, {}).fisher(rows), whole) < 1e-12
    assert asked == [2, 2, 2, 1]


@pytest.mark.parametrize("batch_size", [1, 32], ids=["by row", "together"])
def test_fisher_information_of_a_linear_classifier(batch_size: int) -> None:
    model, modality, rows = softmax()
    x, p, y = inside(model, modality, rows)
    view = view_of(model, modality, {})
    weight, bias = view.fisher(rows, batch_size=batch_size)
    assert torch.allclose(bias, (p * (1 - p)).mean(0), atol=1e-12)
    assert torch.allclose(weight, torch.einsum("nk,nd->kd", p * (1 - p), x.square()) / 5, atol=1e-12)
    weight, bias = view.fisher(rows, draws=None, batch_size=batch_size)
    assert torch.allclose(bias, (p - y).square().mean(0), atol=1e-12)
    assert torch.allclose(weight, torch.einsum("nk,nd->kd", (p - y).square(), x.square()) / 5, atol=1e-12)


def test_drawn_labels_have_the_expectation_of_all() -> None:
    model, modality, rows = softmax()
    view = view_of(model, modality, {})
    exact, drawn = view.fisher(rows), view.fisher(rows, draws=2000)
    assert all(torch.allclose(a, b, rtol=0.1) for a, b in zip(drawn, exact, strict=True))
    assert worlds.far(view.fisher(rows, draws=1), exact) > 1e-3


def test_rows_with_several_labels_are_drawn_once(text: worlds.World) -> None:
    rows = text.sets["retain"].select(range(2))
    view = view_of(text.model(), text.modality, {"retain": rows})
    default, once, given = (view.fisher(rows, draws=n) for n in (0, 1, None))
    assert worlds.same(default, once)
    assert worlds.far(default, given) > 1e-3


def test_every_backward_pass_is_paid_for() -> None:
    model, modality, rows = softmax()
    view = view_of(model, modality, {})
    view.fisher(rows, batch_size=1)
    assert (view._run.cost.forward_tokens, view._run.cost.backward_tokens) == (5, 15)


def test_parameters_that_are_held_have_no_gradient() -> None:
    model, modality, rows = softmax()
    whole = view_of(model, modality, {}).fisher(rows)
    model[1].weight.requires_grad_(False)
    (bias,) = view_of(model, modality, {}).fisher(rows)
    assert torch.allclose(bias, whole[1])


def test_the_model_stays_in_its_mode_and_keeps_its_buffers() -> None:
    world = worlds.digits("resnet-nano")
    model, rows = world.model().train(), world.sets["retain"].select(range(4))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    view_of(model, world.modality, {}).fisher(rows, draws=1)
    assert all(m.training for m in model.modules())
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_a_port_that_goes_around_the_model_is_asked_row_by_row() -> None:
    x, y = squares.random(4, 3), squares.random(4, seed=1)
    model, rows = squares.Linear(torch.tensor([1.0, 2.0, 3.0])), squares.rows("retain", x, y)
    modality = squares.Port()
    modality.forward = lambda m, groups, *_: [squares.Fit(torch.stack(list(g["x"])) @ m.theta - torch.stack(list(g["y"]))) for g in groups]
    (found,) = next(view_of(model, modality, {}).example_grads(rows, loss))
    assert torch.allclose(found, (x @ model.theta.detach() - y)[:, None] * x, atol=1e-12)


@pytest.mark.parametrize("units", [{}, {"mean": (0.5,), "std": (0.25,)}], ids=["plain", "normalised"])
def test_gradient_of_the_input_of_a_linear_classifier(units: dict) -> None:
    model, modality, rows = softmax(**units)
    _, p, y = inside(model, modality, rows)
    view = view_of(model, modality, {})
    found = view.input_grad(modality.inputs(rows).double(), lambda x: modality.moved(rows, x), lambda a: -a.target_logp.values.sum())
    wanted = (p - y) @ model[1].weight.detach() / (0.25 if units else 1)
    assert torch.allclose(found.flatten(1), wanted, atol=1e-12)
    assert all(q.grad is None for q in model.parameters())


@part
class Greedy(Edit):
    """Uses what it does not declare."""

    what: str = "fisher"
    reads = frozenset({"retain"})

    def apply(self, view: RunView) -> None:
        rows = view.retain
        if self.what == "fisher":
            view.fisher(rows)
        elif self.what == "example_grads":
            next(view.example_grads(rows, loss))
        else:
            view.input_grad(torch.zeros(1), lambda x: rows, loss)


@pytest.mark.parametrize("what", ["fisher", "example_grads", "DifferentiableInputs"])
def test_what_is_used_must_be_declared(what: str) -> None:
    model, modality, rows = softmax()
    edit = Greedy(what)
    with pytest.raises(UndeclaredNeed, match=f"used '?{what}'? without declaring it"):
        edit.apply(view_of(model, modality, {"retain": rows}).at("do", edit))
