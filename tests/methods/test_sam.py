"""SAM: gradients worked out by hand, roles that it leaves alone, refusals, and whether forgotten rows resist relearning."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import logsigmoid

import tables
import worlds
from cases import Cases, receipt_of
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hyperparameters_of, part
from expunge.core.parts import Stop
from expunge.core.plan import Plan, Train
from expunge.core.view import View
from expunge.engine import loop
from expunge.engine.weights import weights_of
from expunge.methods.gradients import moved
from expunge.methods.terms import NLL, Ascent, BatchNPO
from expunge.methods.updates.sam import SAM
from expunge.workflows import build_plan
from quadratic import Bowls, spd, vector


def test_sam_gradient_matches_hand_values() -> None:
    line = Bowls(torch.tensor([3.0]), {"forget": torch.tensor([[2.0]]), "retain": torch.tensor([[10.0]])})
    value, gradient = line.under(SAM(rho=0.5))  # forget: 6 at 3, which is uphill to the right, so 7 at 3.5; retain: 30 at 3
    assert float(gradient) == pytest.approx(37, abs=1e-6)
    assert float(value) == pytest.approx(3.5**2 + 5 * 3**2, abs=1e-5)
    assert line.requested_roles == [("forget",), ("forget",), ("retain",)]


def test_sam_on_a_quadratic_changes_only_its_role() -> None:
    bowls = Bowls(vector(0), {"forget": spd(1), "retain": spd(2), "other": spd(3)})
    g = bowls.gradient("forget")
    expected = bowls.gradient("forget", bowls.start + 0.3 * g / g.norm())
    assert torch.allclose(bowls.under(SAM(rho=0.3), roles=("forget",))[1], expected, atol=1e-6)
    other_roles = bowls.gradient("retain") + bowls.gradient("other")
    assert torch.allclose(bowls.under(SAM(rho=0.3))[1], expected + other_roles, atol=1e-6)
    assert torch.equal(bowls.under(SAM(rho=0.3), roles=("retain", "other"))[1], other_roles)
    downhill = bowls.gradient("forget", bowls.start - 0.3 * g / g.norm())
    assert not torch.allclose(expected, downhill, atol=1e-2)


def test_flat_loss_stays_unchanged() -> None:
    flat = Bowls(vector(0), {"forget": torch.zeros(5, 5, dtype=torch.float64), "retain": spd(2)})
    assert torch.allclose(flat.under(SAM(rho=0.3))[1], flat.gradient("retain"))


def batch_npo(table: torch.Tensor, sets: dict, beta: float, start: torch.Tensor) -> torch.Tensor:
    gain = torch.cat(tables.logps(table, sets["forget"])).mean() - torch.cat(tables.logps(start, sets["forget"])).mean()
    return -(2 / beta) * logsigmoid(-beta * gain)


@pytest.mark.parametrize("micro_batch_size", [0, 1, 2])
def test_one_step_matches_the_recipe_written_out(micro_batch_size: int) -> None:
    sets, start = tables.batch(), tables.scores(9)
    table = start.clone().requires_grad_()
    uphill = tables.slope(batch_npo(table, sets, 0.5, start), table)
    moved_table = (start + 0.7 * uphill / uphill.norm()).requires_grad_()
    forget = tables.slope(batch_npo(moved_table, sets, 0.5, start), moved_table)
    retain = tables.slope(-torch.cat(tables.logps(table, sets["retain"])).mean(), table)
    step = tables.under(BatchNPO(beta=0.5) + 2.25 * NLL("retain"), SAM(rho=0.7), sets=sets, scores=start, micro_batch_size=micro_batch_size)
    assert torch.allclose(step, forget + 2.25 * retain, atol=1e-7)
    assert not torch.allclose(forget, uphill, atol=1e-3)


@pytest.mark.parametrize("micro_batch_size", [0, 1, 2])
def test_batch_npo_matches_hand_values(micro_batch_size: int) -> None:
    sets, start, table = tables.batch(), tables.scores(9, seed=1), tables.scores(9).requires_grad_()
    expected = batch_npo(table, sets, 0.7, start)
    value, grad = tables.ask(BatchNPO(beta=0.7), sets, table.detach(), reference=start, micro_batch_size=micro_batch_size)
    assert value == pytest.approx(float(expected.detach()), rel=1e-12)
    assert torch.allclose(grad, tables.slope(expected, table), atol=1e-12)


def test_batch_npo_approaches_ascent() -> None:
    sets, table = {"forget": tables.batch()["forget"]}, tables.scores()
    value, grad = tables.ask(BatchNPO(beta=1e-6), sets, table, reference=tables.scores(seed=1))
    assert value == pytest.approx(2e6 * math.log(2), rel=1e-5)
    assert torch.allclose(grad, tables.ask(Ascent(), sets, table)[1], atol=1e-5)


def test_weights_are_restored_bit_for_bit(text: worlds.World) -> None:
    model = text.model()
    loop.run(build_plan.plan("sam", {"rho": 0.5, "lr": 0, "steps": 3}), model, text.modality, text.sets)
    assert worlds.same(worlds.tensors(model), worlds.tensors(text.model()))


def test_weights_are_restored_after_an_error(text: worlds.World) -> None:
    model, weights_during_move = text.model(), []

    def fail() -> None:
        with moved(list(model.parameters()), [0.1 * p.detach() for p in model.parameters()]):
            weights_during_move.append(worlds.tensors(model))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert worlds.same(worlds.tensors(model), worlds.tensors(text.model()))
    assert not worlds.same(worlds.tensors(model), weights_during_move[0])


def test_small_rho_is_almost_the_base_run(text: worlds.World) -> None:
    final_weights = []
    for update in ((), (SAM(rho=1e-7),), (SAM(rho=1.0),)):
        model = text.model()
        train = Train(epochs=3, batch_size=4, lr=1e-3, optimizer="sgd")
        loop.run((Plan(Ascent() + NLL("retain"), train=train, updates=update),), model, text.modality, text.sets)
        final_weights.append(worlds.tensors(model))
    assert worlds.far(final_weights[0], final_weights[1]) < 1e-5
    assert worlds.far(final_weights[0], final_weights[2]) > 1e-4


def test_running_statistics_and_log_are_those_of_the_base_run() -> None:
    """As without the update, the rows of each role update the statistics once, at the original weights."""
    world, results = worlds.digits("resnet-nano"), []
    for update in ((), (SAM(rho=0.5),)):
        model = world.model()
        train = Train(epochs=1, steps=1, batch_size=16, lr=0)
        run = loop.run((Plan(Ascent() + NLL("retain"), train=train, updates=update),), model, world.modality, world.sets)
        results.append(({n: b for n, b in weights_of(model).items() if "running" in n}, run.log[0]["terms"]))
    before = weights_of(world.model())
    assert all(torch.allclose(results[0][0][n], b, atol=1e-6) for n, b in results[1][0].items())
    assert any(not torch.allclose(before[n], b, atol=1e-3) for n, b in results[1][0].items())
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-4)


def test_update_can_be_added_to_another_method(text: worlds.World) -> None:
    (plan,) = build_plan.plan("npo", {"rho": "0.05", "sam.rho": 0.2, "beta": 0.3}, update=("sam",))
    assert [type(u) for u in plan.updates] == [SAM]
    (bare,) = build_plan.plan("npo", {"beta": 0.3})
    assert replace(plan, updates=()) == bare
    assert {k.qualified: k.value for k in hyperparameters_of(plan)}["sam.rho"] == pytest.approx(0.2)
    run = loop.run(build_plan.plan("npo", {"epochs": 1, "batch_size": 9}, update=("sam",)), text.model(), text.modality, text.sets)
    assert run.forwards.count("now") == 3  # forget twice, retain once


def test_added_parts_bring_only_the_selectors_they_read() -> None:
    def added(**names: tuple[str, ...]) -> list[str]:
        (plan,) = build_plan.plan("npo", **names)
        return [type(p).__name__ for p in (*plan.selectors, *plan.updates)]

    assert added(update=("sam", "wagle")) == ["SAM", "WAGLE"]
    assert added(select=("flat",)) == ["Substitute"]
    assert added(select=("flat",), update=("sam",)) == ["Substitute", "SAM"]
    for name in ("flat", "npo"):
        with pytest.raises(UserError, match=f"'{name}' has no update of its own to add"):
            added(update=(name,))
    with pytest.raises(UserError, match="'sam' has no selector of its own to add"):
        added(select=("sam",))


def test_update_can_be_added_on_the_command_line(cases: Cases, tmp_path: Path) -> None:
    cases.unlearn("npo", tmp_path / "run", "--update", "sam", "--rho", 0.05).fine()
    (stage,) = receipt_of(tmp_path / "run")["stages"]
    assert (stage["updates"], stage["hyperparameters"]["sam.rho"]) == (["SAM"], 0.05)
    assert cases.unlearn("ga", tmp_path / "no", "--update", "sam", "--rho", -1).error.startswith("hyperparameter 'rho' = '-1'")


def test_missing_role_and_16_bit_weights_are_refused(text: worlds.World) -> None:
    with pytest.raises(UserError, match="SAM acts on the 'forget' term, and this objective has retain"):
        loop.run(build_plan.plan("finetune", update=("sam",)), text.model(), text.modality, text.sets)
    with pytest.raises(UserError, match="weights of 16 bits are too coarse for small moves: load the model in float32"):
        loop.run(build_plan.plan("sam", {"steps": 1}), text.model().bfloat16(), text.modality, text.sets)


@part
class Forgotten(Stop):
    """Stop once the forget loss is high."""

    reads = frozenset({"forget"})

    def stop(self, view: View) -> str | None:
        return "forgotten" if float(-view.now(view.forget).target_logp.mean().mean()) > 3.0 else None


def relearned(text: worlds.World, seed: int, *updates: SAM) -> float:
    """The forget loss after a model that had forgotten relearns eight of the rows for ten steps."""
    model, relearn_sets = text.model(), {"forget": text.sets["forget"].select(range(8))}
    (plan,) = build_plan.plan("npo", {"lr": 1e-3, "batch_size": 9, "epochs": 60, "warmup": 0, "seed": seed, "schedule": "constant"})
    loop.run((replace(plan, updates=updates, stop_rules=(Forgotten(),)),), model, text.modality, text.sets)
    assert worlds.nll(model, text.modality, text.sets["forget"]) > 3.0
    train = Train(epochs=10, batch_size=8, lr=3e-4, schedule="constant", seed=seed)
    loop.run((Plan(NLL("forget"), train=train),), model, text.modality, relearn_sets)
    return worlds.nll(model, text.modality, text.sets["forget"])


@pytest.mark.slow
def test_sam_makes_relearning_harder(text: worlds.World) -> None:
    for seed in range(3):
        assert relearned(text, seed, SAM(rho=0.2)) > relearned(text, seed) + 0.05
