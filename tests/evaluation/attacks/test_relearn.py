"""Relearning: the model that is attacked stays as it is, the curve is where it says, and it tells hiding from forgetting."""

import pytest
import torch
from torch import nn

import worlds
from expunge.benchmarks import people
from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.engine import loop
from expunge.evaluation import attack
from expunge.evaluation.attack import AttackOutcome, chosen, intervene
from expunge.workflows import build_plan

QUICK = {"k": 5, "steps": 6, "lr": 1e-3, "batch_size": 5, "every": 2}
RECORDS = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16)


def attacked(text: worlds.World, model: nn.Module, modality: Modality | None = None, **hyperparameters: object) -> AttackOutcome:
    attack = chosen(("relearn",), {**QUICK, **hyperparameters})["relearn"]
    return intervene("relearn", attack, model, modality or text.modality, {"forget": RECORDS.forget}, accelerator=worlds.accelerator())


def curve(outcome: AttackOutcome, score: str = "forget_probability") -> dict[float, float]:
    return {t.at["steps"]: t.scores[score]["value"] for t in outcome.tries}


def test_the_model_stays_as_it_is(text: worlds.World) -> None:
    model = text.model("retrained").train()
    before = worlds.tensors(model)
    outcome = attacked(text, model)
    assert worlds.same(before, worlds.tensors(model))
    assert model.training
    assert curve(outcome)[6] > 2 * outcome.before["forget_probability"]["value"]


@pytest.mark.slow
def test_points_are_at_the_start_every_so_many_steps_and_at_the_end(text: worlds.World) -> None:
    model = text.model("retrained")
    assert list(curve(attacked(text, model, every=4))) == [0, 4, 6]
    assert list(curve(attacked(text, model, every=3))) == [0, 3, 6]
    still = attacked(text, model, steps=0)
    assert [t.scores for t in still.tries] == [still.before], "an attack of no steps changes nothing"


@pytest.mark.slow
def test_looking_does_not_disturb(text: worlds.World) -> None:
    model = text.model("retrained")
    often, once = attacked(text, model, every=1), attacked(text, model, every=6)
    assert often.tries[-1] == once.tries[-1]
    assert curve(often) != curve(attacked(text, model, every=1, seed=1))


def test_trains_as_plain_fine_tuning_on_the_rows_drawn(text: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all rows, one step of SGD is the gradient of the forget rows' loss, taken here by the library's own means."""
    model, attacked_weights = text.model("retrained"), []
    look = attack.observe
    monkeypatch.setattr(attack, "observe", lambda m, *a, **k: (attacked_weights.append(worlds.tensors(m)), look(m, *a, **k))[1])
    attacked(text, model, k=9, steps=1, batch_size=9, optimizer="sgd", lr=0.1)
    loss = -text.modality.forward(model, [text.sets["forget"]])[0].target_logp.values.mean()
    grads = torch.autograd.grad(loss, list(model.parameters()))
    by_hand = [p.detach() - 0.1 * g for p, g in zip(model.parameters(), grads, strict=True)]
    assert worlds.far(attacked_weights[-1], by_hand) < 1e-5


def test_takes_off_a_guard(text: worlds.World) -> None:
    guarded = loop.run(build_plan.plan("input_filter"), text.model(), text.modality, {"forget": text.sets["forget"]})
    outcome = attacked(text, guarded.model, guarded.modality, steps=1)
    assert outcome.before["forget_probability"]["value"] < 0.1
    assert curve(outcome)[0] > 0.9
    assert outcome.tries == attacked(text, text.model(), steps=1).tries, "the guard plays no part"


@pytest.mark.slow
def test_what_is_hidden_comes_back_sooner_than_what_was_never_learned(text: worlds.World) -> None:
    hidden = text.model()
    loop.run(build_plan.plan("pdu", {"lr": 1e-3, "epochs": 15}), hidden, text.modality, text.sets)
    ends = {n: attacked(text, m, every=6) for n, m in (("hidden", hidden), ("retrained", text.model("retrained")))}
    assert all(outcome.before["forget_probability"]["value"] < 0.1 for outcome in ends.values())
    assert curve(ends["hidden"])[6] > 2 * curve(ends["retrained"])[6]
    (hit,) = ends["hidden"].hits(ends["retrained"])
    assert hit.record["retrained"] == curve(ends["retrained"], hit.score)[6]
    assert hit.attack == "relearn, 6 steps"


def test_unknown_hyperparameters_are_named(text: worlds.World) -> None:
    with pytest.raises(UserError, match="no hyperparameter 'rows'"):
        attacked(text, text.model(), rows=3)
