"""CUPID: sharpness, mask and split against hand values, limit cases, and which rows are sharp among digits with a shortcut."""

import copy
import functools
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tables
import toys
import worlds
from expunge.benchmarks import biased_digits
from expunge.core.needs import Need
from expunge.core.parts import Grads
from expunge.core.plan import Plan, Train
from expunge.core.rows import Packed, Rows, Sets
from expunge.engine import loop
from expunge.engine.context import RunStep, RunView
from expunge.engine.run_state import RunState
from expunge.methods.terms import NLL
from expunge.methods.updates.cupid import CupidStop, Route, Sharp, Weigh
from expunge.workflows import build_plan
from quadratic import Bowls, spd, vector


class Curves(tables.TableModality):
    """Each row holds the curvatures a of its loss 1/2 sum_j a_j w_j^2."""

    def forward(self, model: nn.Module, groups: Sequence[Rows], hook_points: Any = (), patch: Any = None, weights: Any = None) -> list[Any]:
        w = model.scores
        losses = [torch.stack([0.5 * (torch.as_tensor(a, dtype=w.dtype) * w.square()).sum() for a in g["a"]]) for g in groups]
        return [
            SimpleNamespace(loss=Packed(x, torch.arange(len(x)), len(x)), target_logp=Packed(-x, torch.arange(len(x)), len(x)))
            for x in losses
        ]

    def counts(self, rows: Rows) -> dict[str, float]:
        return dict.fromkeys(("rows", "labels", "tokens"), float(len(rows)))


def curves(name: str, *a: Sequence[float]) -> Sets:
    return {name: Rows(name, tuple(map(str, range(len(a)))), {"a": list(a)})}


def view_of(part: Any, sets: Sets, weights: Sequence[float], where: str = "part") -> tuple[RunState, Any]:
    run = loop.new_state(tables.Table(torch.tensor(weights, dtype=torch.float64)), Curves(), worlds.accelerator(), sets=sets)
    return run, RunView(run, sets).at(where, part)


def test_sharpness_matches_hand_values() -> None:
    """The sharpness of 1/2 a w^2 is eta |a w| + a eta^2 / 2; a row without a gradient has sharpness 0."""
    sharp, sets = Sharp(causal=0.5, eta=0.1), curves("forget", [1.0], [4.0], [0.0], [2.0])
    run, view = view_of(sharp, sets, [-3.0])
    picked = sharp.pick(sets, view)
    assert picked["forget"]["sharpness"] == pytest.approx([0.3 * a + 0.005 * a for a in (1, 4, 0, 2)], abs=1e-12)
    assert picked["causal"].ids == ("1", "3")
    assert picked["causal"].name == "causal"
    assert run.model.scores.tolist() == [-3.0]
    tiny_share = Sharp(causal=1e-6)
    assert len(tiny_share.pick(sets, view_of(tiny_share, sets, [-3.0])[1])["causal"]) == 1


@pytest.mark.parametrize(("pathway", "chosen"), [(0.0, []), (0.25, [1]), (0.5, [1, 3]), (0.75, [0, 1, 3]), (1.0, [0, 1, 2, 3])])
def test_pathway_holds_the_most_salient_weights(pathway: float, chosen: list[int]) -> None:
    """Probes recover a diagonal Hessian h exactly: 1/2 h w^2 is 1.5, 8, -9 (clamped to 0) and 2."""
    route, sets = Route(pathway=pathway, curvature="hutchinson", probes=1), curves("causal", [3.0, 1.0, -2.0, 3.0], [3.0, 3.0, -2.0, 5.0])
    _, view = view_of(route, sets, [1.0, 8**0.5, 3.0, 1.0])
    assert route.begin(view)["0"].nonzero().flatten().tolist() == chosen


def test_fisher_curvature_uses_mean_squared_gradients() -> None:
    """The mean squared gradients of two rows are (4, 5, 9) and w^2 is (1, 1, 4), so the third weight is most salient, then the second."""
    route, sets = Route(pathway=0.34), curves("causal", [2.0, 1.0, 1.5], [2.0, 3.0, 1.5])
    _, view = view_of(route, sets, [1.0, 1.0, 2.0])
    assert route.needs == {Need.FISHER}
    assert route.begin(view)["0"].tolist() == [False, False, True]
    assert replace(route, pathway=0.67).begin(view)["0"].tolist() == [False, True, True]


def routed(mask: Tensor, *roles: str, all_roles: Sequence[str] = ("causal", "forget", "retain")) -> tuple[Bowls, Tensor]:
    """The routed gradient under a mask, where each role has its own bowl."""
    bowls = Bowls(vector(0), {r: spd(i) for i, r in enumerate(all_roles)}, {r: vector(i + 9) for i, r in enumerate(all_roles)})
    run = loop.new_state(bowls.model, tables.TableModality(), worlds.accelerator(), state={"/update0": {"0": mask}})
    grads = Grads(bowls.grads.call, bowls.grads.hvp, bowls.grads.params, frozenset(all_roles))
    call = Route().wrap(grads, RunStep(run, {}, {}).at("update0", Route()))
    return bowls, call(*(roles or all_roles))[1][0]


ALL, NONE, SOME = (torch.tensor(m) for m in ([True] * 5, [False] * 5, [True, False, False, True, False]))


def test_parts_add_up_and_remainder_is_orthogonal() -> None:
    bowls, causal_part = routed(ALL, "forget")
    _, remainder = routed(NONE, "forget")
    forget, causal = bowls.gradient("forget"), bowls.gradient("causal")
    assert torch.allclose(causal_part + remainder, forget, atol=1e-12)
    assert float(remainder @ causal) == pytest.approx(0, abs=1e-10)
    assert float(remainder.norm()) > 0.1
    assert torch.allclose(causal_part, (forget @ causal) / (causal @ causal) * causal, atol=1e-12)
    _, mixed = routed(SOME, "forget")
    assert torch.equal(mixed, torch.where(SOME, causal_part, remainder))


def test_sharpness_weights_affect_only_the_causal_part() -> None:
    roles = ("causal", "forget", "sharp")
    bowls, causal_part = routed(ALL, all_roles=roles)
    causal = bowls.gradient("causal")
    assert torch.allclose(causal_part, (bowls.gradient("sharp") @ causal) / (causal @ causal) * causal, atol=1e-12)
    assert float(routed(NONE, all_roles=roles)[1] @ causal) == pytest.approx(0, abs=1e-10)
    assert torch.equal(routed(NONE, all_roles=roles)[1], routed(NONE, "forget", all_roles=("causal", "forget"))[1])


def test_other_terms_pass_through_and_helpers_are_not_summed() -> None:
    bowls, alone = routed(SOME, "forget")
    assert torch.allclose(routed(SOME)[1], alone + bowls.gradient("retain"))
    assert torch.equal(routed(SOME, "retain")[1], bowls.gradient("retain"))
    assert not routed(SOME, "causal")[1].any()


def test_zero_causal_gradient_projects_nothing() -> None:
    bowls = Bowls(vector(0), {"forget": spd(1), "causal": spd(2)}, {"causal": vector(0)})
    run = loop.new_state(bowls.model, tables.TableModality(), worlds.accelerator(), state={"/update0": {"0": NONE}})
    call = Route().wrap(bowls.grads, RunStep(run, {}, {}).at("update0", Route()))
    assert torch.equal(call("forget")[1][0], bowls.gradient("forget"))


def test_batch_rows_are_weighted_by_sharpness_over_its_mean() -> None:
    sets = {"forget": curves("forget", [1.0], [2.0], [3.0])["forget"].add(sharpness=[0.3, -0.1, 0.6])}
    assert Weigh().pick(sets, view_of(Weigh(), sets, [1.0])[1])["sharp"].weight == pytest.approx((1.0, 0.0, 2.0))
    without_sharpness = {"forget": sets["forget"].add(sharpness=[0.0, 0.0, 0.0])}
    assert Weigh().pick(without_sharpness, view_of(Weigh(), without_sharpness, [1.0])[1])["sharp"].weight == (1.0, 1.0, 1.0)
    weighted = {"forget": replace(sets["forget"], weight=(1.0, 1.0, 0.5))}
    assert Weigh().pick(weighted, view_of(Weigh(), weighted, [1.0])[1])["sharp"].weight == pytest.approx((1.0, 0.0, 1.0))


def test_cupid_with_all_rows_causal_on_all_weights_is_ascent(digits: worlds.World) -> None:
    train = Train(epochs=3, batch_size=64, lr=3e-3, optimizer="sgd", schedule="constant", pairing="aligned")
    plan = build_plan.plan("cupid", {"weighting": "equal", "causal": 1, "pathway": 1})[0]
    final_weights = []
    for variant in (replace(plan, train=train, stop_rules=()), Plan(-1.0 * NLL("forget"), train=train)):
        model = digits.model()
        loop.run((variant,), model, digits.modality, digits.sets)
        final_weights.append(worlds.tensors(model))
    assert worlds.far(final_weights[0], worlds.tensors(digits.model())) > 1e-2
    assert worlds.far(*final_weights) < 1e-5


def test_run_stops_once_accuracy_is_low(digits: worlds.World) -> None:
    for accuracy, steps in ((1.0, 0), (0.5, None)):
        run = loop.run(
            build_plan.plan("cupid", {"accuracy": accuracy, "lr": 0.05, "epochs": 30}), digits.model(), digits.modality, digits.some(12)
        )
        assert "first choice" in run.log[-1]["ended"]
        assert run.cost.steps == steps or steps is None
        assert run.cost.steps < 30
    assert CupidStop().accuracy == 0


@functools.cache
def shortcut() -> tuple[nn.Module, Any, dict[str, Rows]]:
    """A small perceptron trained on digits, nearly all of which carry the mark of their class."""
    suite = biased_digits.load(split="class1", aligned=0.97, mark="place", classes=3)
    modality = toys.modality(3)
    sets = {n: modality.rows(n, r) for n, r in suite.sets.items()}
    model = toys.mlp(3, hidden=32, width=64)
    full = {"retain": modality.rows("retain", suite.train["full"])}
    loop.run((Plan(NLL("retain"), train=Train(epochs=5, lr=3e-3, batch_size=32, anchor="retain")),), model, modality, full)
    return model, modality, sets


def test_rows_without_the_shortcut_are_sharp() -> None:
    model, modality, sets = shortcut()
    forget_only = {"forget": sets["forget"]}
    view = RunView(loop.new_state(model, modality, worlds.accelerator(), sets=forget_only), forget_only)
    rows = Sharp().pick(forget_only, view.at("select0", Sharp()))["forget"]
    against = torch.tensor([a != 1 for a in rows["attribute"]])
    sharpness = torch.tensor(rows["sharpness"])
    auc = (sharpness[against][:, None] > sharpness[~against]).float().mean()
    assert 3 <= int(against.sum()) <= 10
    assert float(auc) > 0.7


def test_forgets_a_class_with_and_without_its_shortcut() -> None:
    start, modality, sets = shortcut()
    model = copy.deepcopy(start)
    loop.run(build_plan.plan("cupid", {"lr": 2e-2, "batch_size": 32, "epochs": 60}), model, modality, {"forget": sets["forget"]})

    def accuracy(model: nn.Module, name: str) -> float:
        with torch.no_grad():
            output = modality.forward(model, [sets[name]])[0]
        return float((output.logits.values.argmax(-1) == output.labels).float().mean())

    assert accuracy(start, "aligned") - accuracy(start, "conflicting") > 0.1
    assert accuracy(model, "aligned") < 0.1
    assert accuracy(model, "conflicting") < 0.1
    assert accuracy(model, "retain") > 0.9
