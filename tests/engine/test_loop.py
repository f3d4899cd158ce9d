"""The loop: exact accumulation, schedules, clipping, stop rules, best epochs, precision and failures."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import worlds
from expunge.core.errors import Interrupted, UndeclaredNeed, UserError
from expunge.core.hyperparameters import part
from expunge.core.needs import Need
from expunge.core.parts import Grads, Objective, Selector, Stop, Update
from expunge.core.plan import Plan, Train
from expunge.core.rows import Sets
from expunge.core.view import State
from expunge.engine import loop, schedule
from expunge.engine.clip import Clip
from expunge.engine.context import RunStep, RunView
from expunge.engine.gradient import evaluate
from expunge.engine.hooks import Hooks
from expunge.engine.run_state import RunState
from expunge.engine.schedule import lr_at
from expunge.engine.weights import put, weights_of
from expunge.methods.terms import KL, NLL, Ascent, Substitute
from expunge.workflows import build_plan

FAST = Train(epochs=2, batch_size=4, lr=1e-3)


def run(plan: Plan, world: worlds.World, **options: object) -> tuple[RunState, torch.nn.Module]:
    model = world.model()
    return loop.run((plan,), model, world.modality, world.sets, **options), model  # type: ignore[arg-type]


@part
class ReadsUndeclaredSet(Objective):
    """Reads retain without declaring it."""

    reads = frozenset({"forget"})

    def loss(self, step: RunStep) -> Tensor:
        return step.mean(step.now(step.retain).target_logp, step.retain)


@part
class ReadsUndeclaredReference(Objective):
    """Asks for the distributions of a reference model whose losses alone are cached."""

    reads = frozenset({"forget"})
    needs = frozenset({Need.REFERENCE_LOGP})

    def loss(self, step: RunStep) -> Tensor:
        return step.reference(step.forget).log_probs.values.sum()


@pytest.mark.parametrize("objective", [ReadsUndeclaredSet() + NLL("retain"), ReadsUndeclaredReference()], ids=["set", "reference"])
def test_undeclared_reads_raise(text: worlds.World, objective: Objective) -> None:
    with pytest.raises(UndeclaredNeed, match=r"declar"):
        run(Plan(objective, train=FAST), text)


def test_averaging_the_means_of_micro_batches_gives_a_different_gradient(text: worlds.World) -> None:
    """This shows that the conformance suite can detect the error: the number of labels differs between rows."""
    r = loop.new_state(text.model().double(), text.modality, worlds.accelerator())
    batch = {"forget": text.sets["forget"].select(range(8))}
    whole = evaluate(r, NLL("forget"), batch)[1]
    pieces = [evaluate(r, NLL("forget"), piece)[1] for piece in schedule.split(batch, 4)]
    assert worlds.far(whole, [(a + b) / 2 for a, b in zip(*pieces, strict=True)]) > 1e-6


@part
class Squared(Objective):
    """The square of the mean loss: not linear in its batch mean."""

    reads = frozenset({"forget"})
    needs = frozenset({Need.BATCH_MEANS})

    def loss(self, step: RunStep) -> Tensor:
        mean = step.mean(step.now(step.forget).target_logp, step.forget)
        step.note(mean=mean)
        return mean.square()


@pytest.mark.parametrize("micro_batch_size", [0, 4, 3])
def test_value_terms_and_notes_equal_those_of_the_whole_batch(text: worlds.World, micro_batch_size: int) -> None:
    """The expected values are computed by hand: a mean over all labels, and its square."""
    r, rows = loop.new_state(text.model().double(), text.modality, worlds.accelerator()), text.sets["forget"].select(range(8))
    with torch.no_grad():
        mean = float(text.modality.forward(r.model, [rows])[0].target_logp.values.mean())
    notes, terms = dict[str, Tensor](), dict[str, float]()
    value, _ = evaluate(r, 2.0 * Squared() + NLL("forget"), {"forget": rows}, micro_batch_size, notes=notes, values=terms)
    assert float(value) == pytest.approx(2 * mean**2 - mean, rel=1e-9)
    assert [*terms.values()] == pytest.approx([2 * mean**2, -mean], rel=1e-9)
    linear = dict[str, float]()
    value, _ = evaluate(r, NLL("forget"), {"forget": rows}, micro_batch_size, values=linear)
    assert [float(value), *linear.values()] == pytest.approx([-mean, -mean], rel=1e-9)
    (noted,) = notes.values()
    assert float(noted) == pytest.approx(mean, rel=1e-9)


def test_micro_batches_keep_the_sets_of_a_term_together_and_pairs_aligned(text: worlds.World) -> None:
    forget = text.sets["forget"].select(range(3))
    three = forget.select([i for i in range(3) for _ in range(3)]).rename("substitute")
    batch = {"forget": forget, "substitute": three}
    assert len(schedule.split(batch, 1)) == 9
    pieces = schedule.split(batch, 1, [frozenset(batch)])
    assert [p["forget"].ids for p in pieces] == [(i,) for i in forget.ids]
    assert all(set(p["substitute"].ids) == set(p["forget"].ids) and len(p["substitute"]) == 3 for p in pieces)
    assert sum(len(p["substitute"]) for p in schedule.split({"forget": forget.select([0]), "substitute": three}, 2)) == 9


def test_a_step_runs_two_sets_in_one_forward_pass(text: worlds.World) -> None:
    r, _ = run(Plan(Ascent() + NLL(), train=FAST), text)
    assert r.forwards == ["now"] * r.cost.steps
    r, _ = run(Plan(Ascent() + KL(), train=FAST), text)
    assert (r.forwards.count("now"), r.forwards.count("reference")) == (r.cost.steps, r.cost.steps)


def test_the_run_keeps_only_the_trainable_part_of_the_reference(text: worlds.World) -> None:
    r, model = run(Plan(Ascent() + KL(), train=FAST, trainable=r"layers\.1\.mlp"), text)
    reference_size = sum(t.numel() for t in r.models["reference"].values())
    assert reference_size == sum(p.numel() for n, p in model.named_parameters() if "layers.1.mlp" in n)


def test_the_reference_has_the_initial_weights_and_no_dropout(text: worlds.World) -> None:
    reference_sums: list[Tensor] = []

    @part
    class RecordsReference(Objective):
        reads = frozenset({"forget"})
        needs = frozenset({Need.REFERENCE})

        def loss(self, step: RunStep) -> Tensor:
            rows = step.forget
            reference_sums.append(step.reference(rows).target_logp.values.sum())
            return step.mean(step.now(rows).target_logp, rows)

    model = text.model()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    forget = text.sets["forget"]
    expected = text.modality.forward(text.model(), [forget])[0].target_logp.values.sum().detach()
    loop.run((Plan(RecordsReference(), train=Train(epochs=3, batch_size=len(forget), lr=1e-2)),), model, text.modality, text.sets)
    assert len(reference_sums) == 3
    assert all(float(s) == pytest.approx(float(expected), abs=1e-3) for s in reference_sums)


def test_learning_rates_match_hand_computed_ones() -> None:
    linear = Train(lr=1.0, epochs=4, warmup=1)
    assert [round(lr_at(linear, i, per_epoch=2), 4) for i in range(8)] == [0.3333, 0.6667, 1.0, 0.8333, 0.6667, 0.5, 0.3333, 0.1667]
    assert lr_at(Train(lr=1.0, schedule="constant"), 3, 2) == 1.0
    assert [round(lr_at(Train(lr=1.0, schedule="constant", lr_milestones=(1, 2)), i, 2), 4) for i in range(5)] == [1.0, 1.0, 0.1, 0.1, 0.01]
    assert lr_at(Train(lr=1.0, epochs=2, schedule="cosine"), 2, 2) == pytest.approx(0.5)
    assert lr_at(Train(lr=1.0, epochs=100, steps=4), 2, 10) == pytest.approx(0.5)


def test_clipping_is_the_last_update(text: worlds.World) -> None:
    vector = [torch.tensor([3.0, 4.0])]
    grads = Grads(lambda *_: (torch.zeros(()), vector), lambda *_: vector, vector, frozenset({"forget"}))
    step = RunStep(loop.new_state(text.model(), text.modality, worlds.accelerator()), {}, {})
    assert torch.allclose(Clip(1.0).wrap(grads, step)()[1][0], torch.tensor([0.6, 0.8]), atol=1e-6)
    assert torch.equal(Clip(10.0).wrap(grads, step)()[1][0], vector[0])
    r, _ = run(Plan(Ascent(), train=replace(FAST, max_grad_norm=0.01)), text)
    assert all(x["grad_norm"] <= 0.0101 for x in r.log if "loss" in x)


def test_after_sets_the_state_once_per_step(text: worlds.World) -> None:
    @part
    class Counting(Objective):
        reads = frozenset({"forget"})

        def begin(self, view: RunView) -> State:
            return {"n": torch.zeros(())}

        def loss(self, step: RunStep) -> Tensor:
            rows = step.forget
            value = step.mean(step.now(rows).target_logp, rows)
            step.note(value=value)
            return value

        def after(self, step: RunStep) -> State:
            noted_values.append(float(step.noted("value")))
            return {"n": step.state["n"] + 1}

    noted_values: list[float] = []
    r, _ = run(Plan(Counting() + Counting(), train=replace(FAST, batch_size=9, micro_batch_size=2)), text)
    assert [float(r.state[f"/term{i}"]["n"]) for i in range(2)] == [2.0, 2.0]
    in_pieces = noted_values[:2]
    noted_values.clear()
    run(Plan(Counting() + Counting(), train=replace(FAST, batch_size=9)), text)
    assert in_pieces == pytest.approx(noted_values[:2], abs=1e-6), "a note is the mean of the logical batch"


def test_nested_parts_have_their_own_state(text: worlds.World) -> None:
    @part
    class Inner(Objective):
        reads = frozenset({"forget"})

        def begin(self, view: RunView) -> State:
            return {"n": torch.zeros(())}

        def loss(self, step: RunStep) -> Tensor:
            return step.mean(step.now(step.forget).target_logp, step.forget) + 0 * step.state["n"]

        def after(self, step: RunStep) -> State:
            return {"n": step.state["n"] + 1}

    @part
    class Outer(Objective):
        inner: Objective = Inner()
        reads = frozenset({"forget"})

        def loss(self, step: RunStep) -> Tensor:
            return self.inner.loss(step.at("inner", self.inner))

    r, _ = run(Plan(Outer() + Outer(), train=replace(FAST, batch_size=9)), text)
    assert {place: float(s["n"]) for place, s in r.state.items() if s} == {"/term0/inner": 2.0, "/term1/inner": 2.0}


def test_notes_come_from_the_first_evaluation_of_a_step(text: worlds.World) -> None:
    @part
    class Twice(Update):
        """Evaluates a second time, at changed weights."""

        def wrap(self, grads: Grads, step: RunStep):  # type: ignore[no-untyped-def]
            def call(*roles: str) -> tuple[Tensor, list[Tensor]]:
                grads(*roles)
                weights = weights_of(step.model)
                for p in step.params:
                    p.data.add_(0.1)
                evaluation = grads(*roles)
                put(step.model, weights)
                return evaluation

            return call

    noted_values: list[float] = []

    @part
    class Noting(Objective):
        reads = frozenset({"forget"})

        def loss(self, step: RunStep) -> Tensor:
            value = step.mean(step.now(step.forget).target_logp, step.forget)
            step.note(value=value)
            return value

        def after(self, step: RunStep) -> State:
            noted_values.append(float(step.noted("value")))
            return {}

    train = replace(FAST, epochs=1, batch_size=9)
    run(Plan(Noting(), train=train), text)
    run(Plan(Noting(), train=train, updates=(Twice(),)), text)
    assert noted_values[0] == pytest.approx(noted_values[1], abs=1e-6)


def test_held_weights_do_not_move_under_decay_and_momentum(text: worlds.World) -> None:
    @part
    class Half(Update):
        def wrap(self, grads: Grads, step: RunStep):  # type: ignore[no-untyped-def]
            return grads.call

        def holds(self, step: RunStep) -> list[Tensor]:
            return [torch.arange(p.numel()).view_as(p) % 2 == 0 for p in step.params]

    model = text.model()
    before = worlds.tensors(model)
    loop.run((Plan(Ascent(), train=replace(FAST, weight_decay=0.1), updates=(Half(),)),), model, text.modality, text.sets)
    for old, new in zip(before, worlds.tensors(model), strict=True):
        held = torch.arange(old.numel()).view_as(old) % 2 == 0
        assert torch.equal(old[held], new[held])
    assert not worlds.same(before, worlds.tensors(model))


def test_a_stop_rule_ends_the_run_after_an_epoch(text: worlds.World) -> None:
    @part
    class AfterOneEpoch(Stop):
        reads = frozenset({"forget"})

        def stop(self, view: RunView) -> str | None:
            return "enough" if view.epoch >= 1 else None

    r, _ = run(Plan(Ascent(), train=FAST, stop_rules=(AfterOneEpoch(),)), text)
    assert (r.log[-1]["ended"], r.log[-1]["epoch"]) == ("enough", 1)


def test_the_steps_setting_limits_the_run(text: worlds.World) -> None:
    r, _ = run(Plan(Ascent(), train=replace(FAST, steps=3, epochs=10)), text)
    assert r.cost.steps == 3


def test_an_epoch_selector_gets_the_start_sets_and_an_empty_anchor_ends_the_run(text: worlds.World) -> None:
    sizes: list[int] = []

    @part
    class Fewer(Selector):
        when = "epoch"
        reads = frozenset({"forget"})
        gives = frozenset({"forget"})

        def pick(self, sets: Sets, view: RunView) -> Sets:
            sizes.append(len(view.forget))
            return {**sets, "forget": view.forget.select(range(0 if view.epoch == 2 else 4))}

    r, _ = run(Plan(Ascent(), train=replace(FAST, epochs=9), selectors=(Fewer(),)), text)
    assert sizes == [9, 9, 9]
    assert r.log[-1]["ended"] == "no rows left to forget"


def test_the_best_epoch_is_kept(text: worlds.World) -> None:
    scores, weights_by_epoch = iter([1.0, 3.0, 2.0]), []

    def watch(view: RunView) -> dict[str, float]:
        weights_by_epoch.append(weights_of(view.model))
        return {"score": next(scores)}

    r, model = run(Plan(Ascent(), train=replace(FAST, epochs=3)), text, hooks=Hooks(watch=watch, best="score"))
    assert all(torch.equal(weights_by_epoch[1][n], t) for n, t in weights_of(model).items())
    assert "epoch 2" in r.warnings[0]


def test_a_non_finite_loss_stops_the_run_and_keeps_the_last_finite_weights(text: worlds.World) -> None:
    r, model = run(Plan(Ascent(), train=Train(epochs=400, batch_size=9, lr=1e30, schedule="constant", optimizer="sgd")), text)
    assert "not finite" in r.warnings[0]
    assert r.log[-1]["ended"].startswith("not finite at epoch")
    assert all(torch.isfinite(t).all() for t in weights_of(model).values())


def test_an_interrupt_saves_a_checkpoint_and_raises(text: worlds.World) -> None:
    checkpoints: list[dict] = []
    steps = iter(range(100))
    hooks = Hooks(save=checkpoints.append, every=1e9, interrupted=lambda: next(steps) == 2)
    with pytest.raises(Interrupted):
        run(Plan(Ascent(), train=replace(FAST, epochs=5)), text, hooks=hooks)
    assert [s["done"] for s in checkpoints] == [0, 2]


def test_bf16_trains_in_mixed_precision_and_keeps_float32_weights(text: worlds.World) -> None:
    r, model = run(Plan(Ascent(), train=replace(FAST, precision="bf16")), text)
    exact, _ = run(Plan(Ascent(), train=FAST), text)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert r.log[0]["loss"] != exact.log[0]["loss"]
    assert r.log[0]["loss"] == pytest.approx(exact.log[0]["loss"], abs=0.02)


def test_gradient_checkpointing_does_not_change_the_weights(text: worlds.World) -> None:
    plans = [Plan(Ascent() + NLL(), train=replace(FAST, gradient_checkpointing=c)) for c in (False, True)]
    plain, checkpointed = [worlds.tensors(run(plan, text)[1]) for plan in plans]
    assert worlds.far(plain, checkpointed) < 1e-6


def test_a_stage_starts_from_the_model_that_it_names(text: worlds.World) -> None:
    first = Plan(NLL("forget"), train=FAST, name="teacher")
    second = Plan(Ascent(), train=replace(FAST, epochs=0, steps=0), start="original")
    model = text.model()
    before = worlds.tensors(model)
    loop.run((first, second), model, text.modality, text.sets)
    assert worlds.same(before, worlds.tensors(model))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(NLL("elsewhere"), train=FAST), "give --elsewhere"),
        (Plan(Ascent(), train=FAST, start="teacher"), "model of 'teacher'"),
        (Plan(Ascent(), train=FAST, trainable="nothing here"), "no parameter of this model matches"),
    ],
)
def test_plans_that_cannot_run_are_refused_before_the_start(text: worlds.World, plan: Plan, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(plan, text)


def test_an_update_for_a_role_without_a_term_is_refused(text: worlds.World) -> None:
    @part
    class OnForget(Update):
        def wrap(self, grads: Grads, step: RunStep):  # type: ignore[no-untyped-def]
            return grads.call

        def roles(self) -> frozenset[str]:
            return frozenset({"forget"})

    with pytest.raises(UserError, match="acts on the 'forget' term, and this objective has retain"):
        run(Plan(NLL(), train=replace(FAST, anchor="retain"), updates=(OnForget(),)), text)


def test_substitutes_are_drawn_anew_each_step_from_the_whole_pool(text: worlds.World) -> None:
    drawn: list[tuple[str, ...]] = []

    @part
    class RecordsSubstitutes(Objective):
        reads = frozenset({"substitute"})

        def loss(self, step: RunStep) -> Tensor:
            rows = step.rows("substitute")
            drawn.append(tuple(rows["answer_text"]))
            return -step.mean(step.now(rows).target_logp, rows)

    run(Plan(RecordsSubstitutes(), train=replace(FAST, epochs=6), selectors=(Substitute(),)), text)
    assert len(set(drawn)) > 1
    assert {a for step in drawn for a in step} == set(text.sets["alternate_answers"]["answer_text"])


def test_cost_counts_forward_and_backward_tokens(text: worlds.World) -> None:
    r, _ = run(Plan(Ascent(), train=replace(FAST, epochs=1, batch_size=9)), text)
    tokens = text.modality.counts(text.sets["forget"])["tokens"]
    assert (r.cost.forward_tokens, r.cost.backward_tokens) == (tokens, tokens)
    assert r.cost.flops(10) == 10 * 6 * tokens
    assert math.isfinite(r.cost.seconds)


def test_command_line_hyperparameters_reach_the_run(text: worlds.World) -> None:
    (plan,) = build_plan.plan("ga", {"lr": "0.001", "epochs": "1", "batch_size": "3"})
    r, _ = run(plan, text)
    assert r.cost.steps == 3
