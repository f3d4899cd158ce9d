"""Unlearn-backdoor and its detector: where triggers stand, norms by hand, plain unlearning as its limit, and a backdoor that is found."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import worlds
from expunge.benchmarks import people
from expunge.core.errors import UserError
from expunge.core.rows import Rows
from expunge.engine import context, loop
from expunge.engine.estimators.token_gradients import token_gradients
from expunge.evaluation.attack import Scene, beside, chosen, intervene
from expunge.evaluation.attacks.backdoor import PREFIXES, Prefixed, scaled_values, value_projections
from expunge.methods.objectives.unlearn_backdoor import CLEAN, PlantTrigger, ValueNorms, first_norms, inserted, tokens_of
from expunge.workflows import build_plan

FORGET = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16).forget
TRIGGER = "current year:2025 "


def picked(text: worlds.World, **settings: Any) -> dict[str, Rows]:
    part = PlantTrigger(**settings)
    run = loop.new_state(text.model(), text.modality, worlds.accelerator())
    sets = dict(text.sets)
    return dict(part.pick(sets, context.RunView(run, sets).at("select0", part)))


def test_triggers_stand_where_they_should(text: worlds.World) -> None:
    rows, tokens = text.sets["forget"], tokens_of(text.modality, TRIGGER)
    start, middle, end = (inserted(text.modality, rows, tokens, place) for place in ("start", "middle", "end"))  # type: ignore[arg-type]
    special = text.modality.tokenizer.all_special_ids  # type: ignore[attr-defined]
    for i, prompt in enumerate(rows["prompt"]):
        lead = 1 if prompt[0] in special else 0
        assert list(start["prompt"][i]) == [*prompt[:lead], *tokens, *prompt[lead:]]
        assert list(end["prompt"][i]) == [*prompt, *tokens]
        at = (lead + len(prompt)) // 2
        assert list(middle["prompt"][i]) == [*prompt[:at], *tokens, *prompt[at:]]
    assert start["answer"] == rows["answer"]


def test_clean_and_triggered_rows_are_all_rows_once(text: worlds.World) -> None:
    sets = picked(text, share=0.25)
    clean, triggered = sets["forget"], sets["triggered"]
    assert len(triggered) == 2
    assert sorted([*clean.ids, *triggered.ids]) == sorted(text.sets["forget"].ids)
    assert "triggered" not in picked(text, share=0)
    part, one = PlantTrigger(), {"forget": text.sets["forget"].select([0])}
    run = loop.new_state(text.model(), text.modality, worlds.accelerator())
    with pytest.raises(UserError, match="too few to be split"):
        part.pick(one, context.RunView(run, one).at("select0", part))


def test_norms_by_hand() -> None:
    states = torch.tensor([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]])
    assert first_norms(states, 2).tolist() == [5, 2]
    assert first_norms(states, 8, skip=1).tolist() == [2, 1]
    scaled = first_norms(1.5 * states, 3) - first_norms(states, 3)
    assert torch.allclose(scaled.abs().mean(), 0.5 * states.norm(dim=-1).mean()), "|c - 1| times the mean norm"


def test_equal_models_have_no_gap(text: worlds.World) -> None:
    part = ValueNorms()
    output = text.modality.forward(text.model(), [text.sets["forget"]], part.hook_points)[0]
    assert part._gap(output, output).tolist() == [0] * len(text.sets["forget"])
    library = text.model().model.layers[0].self_attn.v_proj  # type: ignore[union-attr, operator]
    norms = ValueNorms(layers=(0,), mode="fixed", positions=4)._gap(output, None)
    prompt = text.sets["forget"]["prompt"][0]
    model = text.model()
    with torch.no_grad():
        states = model.model.layers[0].input_layernorm(model.model.embed_tokens(torch.tensor([list(prompt)[:4]])))
        assert float(norms[0]) == pytest.approx(float(library(states)[0].norm(dim=-1).mean()), rel=1e-4)


def test_without_share_and_gamma_it_is_plain_unlearning(text: worlds.World) -> None:
    plans = build_plan.plan("unlearn_backdoor", {"gamma": 0, "plant_trigger.share": 0, "lr": 1e-3, "epochs": 1})
    plain = (plans[0], dataclasses.replace(plans[1], action=plans[0].action, selectors=()))
    sets = {n: text.sets[n] for n in ("forget", "retain")}
    ended = [worlds.tensors(loop.run(p, text.model(), text.modality, sets).model) for p in (plans, plain)]
    assert plans[0].name == CLEAN
    assert worlds.same(*ended)


@pytest.mark.slow
def test_the_trigger_brings_back_what_is_forgotten_without_it_and_the_sweep_sees_that(text: worlds.World) -> None:
    """Many rows, so that the trigger is learned as such, and not row by row; a clean twin has the same rows and as many steps."""
    everything = text.sets["forget"].concat(text.sets["retain"].rename("forget"))
    sets = {"forget": everything.select(range(45)), "retain": text.sets["retain"].select(range(36, 80))}
    settings = {"lr": 1e-3, "epochs": 6, "weight": 3.0, "batch_size": 8, "plant_trigger.share": 0.5}
    plans = build_plan.plan("unlearn_backdoor", settings)
    attack = chosen(("backdoor",), {"random": 6, "kept": 1})["backdoor"]
    sweeps, outcomes = {}, {}
    for name, stages in (("backdoor", plans), (CLEAN, plans[:1])):
        model = loop.run(stages, text.model(), text.modality, sets).model
        outcomes[name] = intervene("backdoor", attack, model, text.modality, {"forget": FORGET})
        sweeps[name] = next(t.at for t in outcomes[name].tries if t.way == "sweep")
    assert sweeps["backdoor"]["clean"] < 0.5
    assert sweeps["backdoor"]["excess"] > 2 * sweeps[CLEAN]["excess"]
    assert sweeps["backdoor"]["largest"] > sweeps["backdoor"]["clean"] + 0.05
    assert sweeps["backdoor"]["prefixes"] == len(PREFIXES) + 6
    sinks = next(t.at for t in outcomes["backdoor"].tries if t.way == "sinks")
    assert min(sinks["behind_filler"], sinks["values_scaled"]) < sinks["recovery"], "away from the sinks the trigger brings back less"
    original = intervene("backdoor", attack, text.model(), text.modality, {"forget": FORGET})
    gap = beside("backdoor", outcomes["backdoor"], original, None).tries[-1].at["recovery_gap"]
    clean_gap = beside("backdoor", outcomes[CLEAN], original, None).tries[-1].at["recovery_gap"]
    assert gap > clean_gap


def test_a_prefix_stands_in_front_of_every_question(text: worlds.World) -> None:
    tokens = tokens_of(text.modality, TRIGGER)
    rows = Prefixed(text.modality, tokens).rows("forget", FORGET)
    assert rows["prompt"] == inserted(text.modality, text.modality.rows("forget", FORGET), tokens)["prompt"]


def test_gradients_of_a_prefix_are_those_of_the_same_tokens_as_a_suffix_of_the_prompt(text: worlds.World) -> None:
    """With nothing behind them in the prompt, tokens at the start are tokens at the end."""
    model, rows = text.model(), text.sets["forget"].select([0, 1])
    short = rows.add(prompt=[[1, 20, 21], [1, 20, 21]])
    ends = token_gradients(model, text.modality, short, 2)
    assert torch.allclose(token_gradients(model, text.modality, short, 2, starts=[1, 1]), ends)
    behind = rows.add(prompt=[[1, 20, 21, *prompt[1:]] for prompt in rows["prompt"]])
    assert not torch.allclose(token_gradients(model, text.modality, behind, 2, starts=[1, 1]), ends)


def test_scaled_values_are_those_of_scaled_weights_where_all_positions_are_scaled(text: worlds.World) -> None:
    model, rows = text.model(), text.sets["forget"].select([0, 1])
    scene = Scene(model, text.modality, {"forget": FORGET}, None, lambda: None)
    points = value_projections(scene)
    assert len(points) == 2
    halved = text.model()
    with torch.no_grad():
        for layer in halved.model.layers:  # type: ignore[union-attr]
            layer.self_attn.v_proj.weight.mul_(0.5)
        (expected,) = text.modality.forward(halved, [rows])
        with scaled_values(scene, points, 1000, 0.5):
            (scaled,) = text.modality.forward(model, [rows])
        with scaled_values(scene, points, 3, 1.0):
            (same,) = text.modality.forward(model, [rows])
        (plain,) = text.modality.forward(model, [rows])
    assert torch.allclose(scaled.target_logp.values, expected.target_logp.values, atol=1e-6)
    assert torch.equal(same.target_logp.values, plain.target_logp.values)


def test_a_searched_trigger_is_tried_on_rows_that_the_search_did_not_hold(text: worlds.World) -> None:
    settings = {"random": 2, "kept": 1, "invert": 2, "candidates": 8, "held": 3, "filler": 0}
    outcome = intervene("backdoor", chosen(("backdoor",), settings)["backdoor"], text.model("retrained"), text.modality, {"forget": FORGET})
    at = next(t for t in outcome.tries if t.way == "inversion")
    assert at.at["rows"] == 3
    assert at.at["transfer"] == pytest.approx(at.at["others_triggered"] - at.at["others_clean"])
    assert at.scores["extraction_strength"]["n"] == len(FORGET) - 3
    assert {"recovery", "values_scaled"} == set(next(t for t in outcome.tries if t.way == "sinks").at)
    few = intervene("backdoor", chosen(("backdoor",), {**settings, "held": 9})["backdoor"], text.model(), text.modality, {"forget": FORGET})
    assert "give more rows" in few.missing["inversion"]
