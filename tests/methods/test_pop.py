"""POP: exactly retraining where the loss is convex, ascent at its first step, and the retain rows at an equal remnant of the others."""

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


def test_in_numbers() -> None:
    """Retain: 20 at 3 and 10 at 2, of which the step sees the difference; forget: 6 at 3, and 4 at 2."""
    line = Bowls(torch.tensor([3.0]), {"forget": torch.tensor([[2.0]]), "retain": torch.tensor([[10.0]])}, {"retain": torch.tensor([1.0])})
    state = {"0": torch.tensor([2.0])}
    assert float(line.under(Anchor(), state=state)[1]) == pytest.approx(6 + 10)
    assert line.asked == [("forget", "retain"), ("retain",)]
    assert float(line.under(Anchor(target="frozen"), state=state)[1]) == pytest.approx(4 + 10)


def test_on_a_quadratic_the_correction_is_the_curvature_times_the_way() -> None:
    bowls = Bowls(vector(0), {"forget": spd(1), "retain": spd(2), "other": spd(3)}, {"retain": vector(5)})
    state = {"0": vector(4)}
    back = spd(2) @ (vector(0) - vector(4))
    assert torch.allclose(bowls.under(Anchor(), roles=("retain",), state=state)[1], back, atol=1e-12)
    rest = bowls.gradient("forget") + bowls.gradient("other")
    assert torch.allclose(bowls.under(Anchor(), state=state)[1], back + rest, atol=1e-12)
    assert torch.equal(bowls.under(Anchor(), roles=("forget", "other"), state=state)[1], rest)
    frozen = bowls.gradient("forget", vector(4)) + bowls.gradient("other")
    assert torch.allclose(bowls.under(Anchor(target="frozen"), state=state)[1], back + frozen, atol=1e-12)


def regression(forget: int = 3, retain: int = 27, width: int = 4) -> tuple[Sets, Tensor, Tensor]:
    """Least squares: the rows, the solution on all of them and that on the retain rows."""
    x, y = squares.random(forget + retain, width), squares.random(forget + retain, seed=1)
    sets = {"forget": squares.rows("forget", x[:forget], y[:forget]), "retain": squares.rows("retain", x[forget:], y[forget:])}
    both, theirs = (torch.linalg.lstsq(x[a:], y[a:, None]).solution[:, 0] for a in (0, forget))
    return sets, both, theirs


def fitted(theta: Tensor, sets: Sets, **hyperparameters: Any) -> Tensor:
    model = squares.Linear(theta)
    hyperparameters = {"retain_weight": 9, "lr": 0.13, "epochs": 120, "batch_size": 27, **WHOLE, **hyperparameters}
    loop.run(build_plan.plan("pop", hyperparameters), model, squares.Port(), sets)
    return model.theta.detach()


@pytest.mark.parametrize("origin", ["batch_size", "whole"])
def test_equals_retraining_on_least_squares(origin: str) -> None:
    sets, both, theirs = regression()
    found = fitted(both, sets, target="frozen", origin=origin)
    assert float((found - theirs).abs().max()) < 1e-10
    assert float((both - theirs).abs().max()) > 0.01


def test_a_live_target_ends_elsewhere() -> None:
    """Where the retain gradient is what the forget gradient has gained."""
    sets, both, theirs = regression()
    a, b = (torch.stack(list(sets[n]["x"]))[:, 0] for n in ("forget", "retain"))
    y = torch.stack(list(sets["retain"]["y"]))[:, 0]
    wanted = torch.linalg.solve(b.T @ b - a.T @ a, b.T @ y - a.T @ a @ both)
    found = fitted(both, sets)
    assert float((found - wanted).abs().max()) < 1e-10
    assert float((found - theirs).abs().max()) > 1e-3


def test_equals_retraining_of_a_classifier_with_a_convex_loss() -> None:
    modality = toys.modality(2)
    rows, few = toys.noise(27, modality), toys.noise(3, modality, seed=1, name="forget")

    def trained(model: nn.Module, *some: Any) -> nn.Module:
        x, y = torch.cat([modality.pixels(r, model[1].weight) for r in some]), torch.tensor([y for r in some for (y,) in r["answer"]])
        newton = torch.optim.LBFGS(model.parameters(), 1.0, 300, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            newton.zero_grad()
            found = nn.functional.cross_entropy(model(x), y)
            found.backward()
            return found

        newton.step(loss)
        return model

    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).double()

    theirs, mine = trained(fresh(), rows), trained(fresh(), rows, few)
    unseen = modality.pixels(toys.noise(50, modality, seed=2), mine[1].weight)

    @torch.no_grad()
    def apart() -> float:
        return float((mine(unseen).log_softmax(-1) - theirs(unseen).log_softmax(-1)).abs().max())

    before = apart()
    hyperparameters = {"retain_weight": 9, "target": "frozen", "lr": 0.25, "epochs": 200, "batch_size": 27, **WHOLE}
    loop.run(build_plan.plan("pop", hyperparameters), mine, modality, {"forget": few, "retain": rows})
    assert apart() < 1e-6 < 0.05 < before


@pytest.mark.parametrize("weight", [0.3, 4.0])
def test_the_first_step_is_ascent(weight: float, digits: worlds.World) -> None:
    ends = {}
    for steps in (1, 3):
        for name, objective, updates in (
            ("pop", Ascent() + weight * NLL("retain"), (Anchor(),)),
            ("ascent", Ascent() + 0.0 * NLL("retain"), ()),
            ("none", Ascent() + 0.0 * NLL("retain"), (Anchor(),)),
        ):
            model = digits.model()
            train = Train(epochs=0, steps=steps, batch_size=16, lr=0.05, optimizer="sgd", schedule="constant", fuse=False)
            loop.run((Plan(objective, train=train, updates=updates),), model, digits.modality, digits.sets)
            ends[name, steps] = worlds.tensors(model)
    assert worlds.far(ends["pop", 1], ends["ascent", 1]) < 1e-6
    assert worlds.far(ends["pop", 3], ends["ascent", 3]) > 1e-4
    assert worlds.same(ends["none", 3], ends["ascent", 3])


def test_the_weights_come_back_from_the_start() -> None:
    """Two steps written out, on a table of scores."""
    sets, start = tables.batch(), tables.scores(9)
    sets = {"forget": sets["forget"], "retain": tables.rows("retain", range(3), sets["substitute"]["answer"])}  # of the same prompts

    def gradient(table: Tensor, name: str) -> Tensor:
        table = table.clone().requires_grad_()
        return tables.slope(-torch.cat(tables.logps(table, sets[name])).mean(), table)

    first = start + 0.5 * gradient(start, "forget")
    wanted = first + 0.5 * (gradient(first, "forget") - 2 * (gradient(first, "retain") - gradient(start, "retain")))
    for micro in (0, 1, 2):
        found = tables.under(Ascent() + 2.0 * NLL("retain"), Anchor(), sets=sets, scores=start, epochs=2, lr=0.5, micro_batch_size=micro)
        assert torch.allclose(start - found, wanted, atol=1e-12)
    assert not torch.allclose(wanted, first + 0.5 * gradient(first, "forget"), atol=1e-3)


def test_weights_of_16_bits_are_refused(text: worlds.World) -> None:
    with pytest.raises(UserError, match="too coarse"):
        loop.run(build_plan.plan("pop", {"epochs": 1}), text.model().bfloat16(), text.modality, text.sets)


def test_the_end_is_where_unseen_rows_are(text: worlds.World) -> None:
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
def test_the_remnant_of_a_row_written_out(text: worlds.World) -> None:
    row = text.sets["forget"].select([0])
    prompt, answer = row["prompt"][0], row["answer"][0]
    p = text.model()(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].softmax(-1)
    wanted = torch.stack([p[len(prompt) + t - 1, y] for t, y in enumerate(answer)]).mean()
    view = RunView(loop.new_state(text.model(), text.modality, worlds.accelerator()), {"forget": row})
    assert float(remnant(view, "forget")) == pytest.approx(float(wanted), rel=1e-5)


def test_keeps_the_retain_rows_at_an_equal_remnant(text: worlds.World) -> None:
    kept = {}
    for name in ("pop", "ga"):
        model = text.model()
        hyperparameters = {"lr": 1e-3, "epochs": 100, "batch_size": 9, "schedule": "constant", "warmup": 0}
        (plan,) = build_plan.plan(name, {**hyperparameters, **({"retain_weight": 3, "rma": 0.1} if name == "pop" else {})})
        run = loop.run(
            (Plan(plan.action, train=plan.train, updates=plan.updates, stop_rules=(Remnant(rma=0.1),)),), model, text.modality, text.sets
        )
        assert "remnant" in run.log[-1]["ended"]
        kept[name] = worlds.nll(model, text.modality, text.sets["retain"])
    assert kept["pop"] < kept["ga"] - 0.1
