"""POP: equal to retraining for convex losses, ascent at its first step, and better retain loss than ascent at the same remnant."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squares
import tables
import toys
import worlds
from expunge.core.errors import UserError
from expunge.core.plan import Plan, Train
from expunge.core.rows import Sets
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.methods.terms import NLL, Ascent
from expunge.methods.updates.pop import Anchor, Remnant, remnant
from expunge.workflows import build_plan
from quadratic import Bowls, spd, vector

WHOLE = {"optimizer": "sgd", "anchor": "retain", "pairing": "aligned", "rma": 1e-9}  # every step sees every row equally often


def test_correction_matches_hand_values() -> None:
    """The retain gradient is 20 at 3 and 10 at 2, and the step uses the difference; the forget gradient is 6 at 3 and 4 at 2."""
    line = Bowls(torch.tensor([3.0]), {"forget": torch.tensor([[2.0]]), "retain": torch.tensor([[10.0]])}, {"retain": torch.tensor([1.0])})
    state = {"0": torch.tensor([2.0])}
    assert float(line.under(Anchor(), state=state)[1]) == pytest.approx(6 + 10)
    assert line.requested_roles == [("forget", "retain"), ("retain",)]
    assert float(line.under(Anchor(target="frozen"), state=state)[1]) == pytest.approx(4 + 10)


def test_correction_on_a_quadratic_is_curvature_times_displacement() -> None:
    bowls = Bowls(vector(0), {"forget": spd(1), "retain": spd(2), "other": spd(3)}, {"retain": vector(5)})
    state = {"0": vector(4)}
    correction = spd(2) @ (vector(0) - vector(4))
    assert torch.allclose(bowls.under(Anchor(), roles=("retain",), state=state)[1], correction, atol=1e-12)
    uncorrected = bowls.gradient("forget") + bowls.gradient("other")
    assert torch.allclose(bowls.under(Anchor(), state=state)[1], correction + uncorrected, atol=1e-12)
    assert torch.equal(bowls.under(Anchor(), roles=("forget", "other"), state=state)[1], uncorrected)
    frozen = bowls.gradient("forget", vector(4)) + bowls.gradient("other")
    assert torch.allclose(bowls.under(Anchor(target="frozen"), state=state)[1], correction + frozen, atol=1e-12)


def regression(forget: int = 3, retain: int = 27, width: int = 4) -> tuple[Sets, Tensor, Tensor]:
    """Least squares: the row sets, the solution on all rows, and the solution on the retain rows."""
    x, y = squares.random(forget + retain, width), squares.random(forget + retain, seed=1)
    sets = {"forget": squares.rows("forget", x[:forget], y[:forget]), "retain": squares.rows("retain", x[forget:], y[forget:])}
    full_solution, retrained = (torch.linalg.lstsq(x[a:], y[a:, None]).solution[:, 0] for a in (0, forget))
    return sets, full_solution, retrained


def fitted(theta: Tensor, sets: Sets, **hyperparameters: Any) -> Tensor:
    model = squares.Linear(theta)
    hyperparameters = {"retain_weight": 9, "lr": 0.13, "epochs": 120, "batch_size": 27, **WHOLE, **hyperparameters}
    loop.run(build_plan.plan("pop", hyperparameters), model, squares.SquaresModality(), sets)
    return model.theta.detach()


@pytest.mark.parametrize("origin", ["batch", "whole"])
def test_pop_equals_retraining_on_least_squares(origin: str) -> None:
    sets, full_solution, retrained = regression()
    unlearned = fitted(full_solution, sets, target="frozen", origin=origin)
    assert float((unlearned - retrained).abs().max()) < 1e-10
    assert float((full_solution - retrained).abs().max()) > 0.01


def test_live_target_ends_at_its_own_fixed_point() -> None:
    """The run ends where the retain gradient balances the growth of the forget gradient."""
    sets, full_solution, retrained = regression()
    a, b = (torch.stack(list(sets[n]["x"]))[:, 0] for n in ("forget", "retain"))
    y = torch.stack(list(sets["retain"]["y"]))[:, 0]
    expected = torch.linalg.solve(b.T @ b - a.T @ a, b.T @ y - a.T @ a @ full_solution)
    unlearned = fitted(full_solution, sets)
    assert float((unlearned - expected).abs().max()) < 1e-10
    assert float((unlearned - retrained).abs().max()) > 1e-3


@pytest.mark.slow
def test_pop_equals_retraining_of_a_convex_classifier() -> None:
    modality = toys.modality(2)
    retain_rows, forget_rows = toys.noise(27, modality), toys.noise(3, modality, seed=1, name="forget")

    def trained(model: nn.Module, *row_sets: Any) -> nn.Module:
        x, y = (
            torch.cat([modality.pixels(r, model[1].weight) for r in row_sets]),
            torch.tensor([y for r in row_sets for (y,) in r["answer"]]),
        )
        newton = torch.optim.LBFGS(model.parameters(), 1.0, 300, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            newton.zero_grad()
            value = nn.functional.cross_entropy(model(x), y)
            value.backward()
            return value

        newton.step(loss)
        return model

    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).double()

    retrained, unlearned = trained(fresh(), retain_rows), trained(fresh(), retain_rows, forget_rows)
    unseen = modality.pixels(toys.noise(50, modality, seed=2), unlearned[1].weight)

    @torch.no_grad()
    def distance() -> float:
        return float((unlearned(unseen).log_softmax(-1) - retrained(unseen).log_softmax(-1)).abs().max())

    before = distance()
    hyperparameters = {"retain_weight": 9, "target": "frozen", "lr": 0.25, "epochs": 200, "batch_size": 27, **WHOLE}
    loop.run(build_plan.plan("pop", hyperparameters), unlearned, modality, {"forget": forget_rows, "retain": retain_rows})
    assert distance() < 1e-6 < 0.05 < before


@pytest.mark.parametrize("weight", [0.3, 4.0])
def test_first_step_equals_ascent(weight: float, digits: worlds.World) -> None:
    final_weights = {}
    for steps in (1, 3):
        for name, objective, updates in (
            ("pop", Ascent() + weight * NLL("retain"), (Anchor(),)),
            ("ascent", Ascent() + 0.0 * NLL("retain"), ()),
            ("none", Ascent() + 0.0 * NLL("retain"), (Anchor(),)),
        ):
            model = digits.model()
            train = Train(epochs=0, steps=steps, batch_size=16, lr=0.05, optimizer="sgd", schedule="constant", fuse=False)
            loop.run((Plan(objective, train=train, updates=updates),), model, digits.modality, digits.sets)
            final_weights[name, steps] = worlds.tensors(model)
    assert worlds.far(final_weights["pop", 1], final_weights["ascent", 1]) < 1e-6
    assert worlds.far(final_weights["pop", 3], final_weights["ascent", 3]) > 1e-4
    assert worlds.same(final_weights["none", 3], final_weights["ascent", 3])


def test_two_steps_match_gradients_written_out() -> None:
    """Two steps written out, on a table of scores."""
    sets, start = tables.batch(), tables.scores(9)
    sets = {"forget": sets["forget"], "retain": tables.rows("retain", range(3), sets["substitute"]["answer"])}  # with the same prompts

    def gradient(table: Tensor, name: str) -> Tensor:
        table = table.clone().requires_grad_()
        return tables.slope(-torch.cat(tables.logps(table, sets[name])).mean(), table)

    first = start + 0.5 * gradient(start, "forget")
    expected = first + 0.5 * (gradient(first, "forget") - 2 * (gradient(first, "retain") - gradient(start, "retain")))
    for micro_batch_size in (0, 1, 2):
        final_scores = tables.under(
            Ascent() + 2.0 * NLL("retain"), Anchor(), sets=sets, scores=start, epochs=2, lr=0.5, micro_batch_size=micro_batch_size
        )
        assert torch.allclose(start - final_scores, expected, atol=1e-12)
    assert not torch.allclose(expected, first + 0.5 * gradient(first, "forget"), atol=1e-3)


def test_weights_of_16_bits_are_refused(text: worlds.World) -> None:
    with pytest.raises(UserError, match="too coarse"):
        loop.run(build_plan.plan("pop", {"epochs": 1}), text.model().bfloat16(), text.modality, text.sets)


def test_run_stops_at_the_remnant_of_unseen_rows(text: worlds.World) -> None:
    model = text.model()
    run = loop.run(build_plan.plan("pop", {"rma": 0, "lr": 1e-3, "epochs": 40}), model, text.modality, text.sets)
    view = RunView(loop.new_state(text.model(), text.modality, worlds.accelerator()), text.sets)
    limit, before = float(remnant(view, "holdout")), float(remnant(view, "forget"))
    after = float(remnant(RunView(loop.new_state(model, text.modality, worlds.accelerator()), text.sets), "forget"))
    assert after <= limit < before - 0.3
    assert f"a remnant memorization accuracy of {after:.3f}" == run.log[-1]["ended"]
    assert Remnant().reads == {"forget"}
    assert Remnant(rma=0).reads == {"forget", "holdout"}


@torch.no_grad()
def test_remnant_of_a_row_matches_probabilities_written_out(text: worlds.World) -> None:
    row = text.sets["forget"].select([0])
    prompt, answer = row["prompt"][0], row["answer"][0]
    p = text.model()(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].softmax(-1)
    expected = torch.stack([p[len(prompt) + t - 1, y] for t, y in enumerate(answer)]).mean()
    view = RunView(loop.new_state(text.model(), text.modality, worlds.accelerator()), {"forget": row})
    assert float(remnant(view, "forget")) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.slow
def test_pop_keeps_retain_rows_better_than_ascent_at_an_equal_remnant(text: worlds.World) -> None:
    retain_loss = {}
    for name in ("pop", "ga"):
        model = text.model()
        hyperparameters = {"lr": 1e-3, "epochs": 100, "batch_size": 9, "schedule": "constant", "warmup": 0}
        (plan,) = build_plan.plan(name, {**hyperparameters, **({"retain_weight": 3, "rma": 0.1} if name == "pop" else {})})
        run = loop.run(
            (Plan(plan.action, train=plan.train, updates=plan.updates, stop_rules=(Remnant(rma=0.1),)),), model, text.modality, text.sets
        )
        assert "remnant" in run.log[-1]["ended"]
        retain_loss[name] = worlds.nll(model, text.modality, text.sets["retain"])
    assert retain_loss["pop"] < retain_loss["ga"] - 0.1
