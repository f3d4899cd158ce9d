"""Relearning: the model that is attacked stays as it is, the curve is where it says, and it tells hiding from forgetting."""

import pytest
import torch
from torch import nn

import worlds
from expunge import resolve
from expunge.audit.attacks import relearn
from expunge.core import loop
from expunge.core.errors import UserError

QUICK = {"k": 5, "steps": 6, "lr": 1e-3, "batch": 5}


def curve(text: worlds.World, model: nn.Module, every: int = 2, **knobs: object) -> list[dict]:
    def score(attacked: nn.Module) -> dict[str, float]:
        assert not attacked.training
        return {"nll": worlds.nll(attacked, text.port, text.sets["forget"])}

    return relearn.curve(model, text.port, {"forget": text.sets["forget"]}, score, every, worlds.accelerator(), **{**QUICK, **knobs})


def test_the_model_stays_as_it_is(text: worlds.World) -> None:
    model = text.model("retrained").train()
    before = worlds.tensors(model)
    found = curve(text, model)
    assert worlds.same(before, worlds.tensors(model))
    assert model.training
    assert found[-1]["scores"]["nll"] < found[0]["scores"]["nll"] - 0.5


def test_points_are_at_the_start_every_so_many_steps_and_at_the_end(text: worlds.World) -> None:
    model = text.model("retrained")
    assert [p["step"] for p in curve(text, model, every=4)] == [0, 4, 6]
    assert [p["step"] for p in curve(text, model, every=3)] == [0, 3, 6]
    assert curve(text, model, steps=0)[0]["scores"]["nll"] == worlds.nll(model, text.port, text.sets["forget"])


def test_looking_does_not_disturb(text: worlds.World) -> None:
    model = text.model("retrained")
    often, once = curve(text, model, every=1), curve(text, model, every=6)
    assert often[-1] == once[-1]
    assert often != curve(text, model, every=1, seed=1)


def test_trains_as_plain_fine_tuning_on_the_rows_drawn(text: worlds.World) -> None:
    """With all rows, one step of SGD is the gradient of the forget rows' loss, taken here by the library's own means."""
    model, after = text.model("retrained"), []
    relearn.curve(
        model,
        text.port,
        {"forget": text.sets["forget"]},
        lambda m: (after.append(worlds.tensors(m)), {})[1],
        accelerator=worlds.accelerator(),
        k=9,
        steps=1,
        batch=9,
        optimizer="sgd",
        lr=0.1,
    )
    loss = -text.port.forward(model, [text.sets["forget"]])[0].logp.values.mean()
    grads = torch.autograd.grad(loss, list(model.parameters()))
    by_hand = [p.detach() - 0.1 * g for p, g in zip(model.parameters(), grads, strict=True)]
    assert worlds.far(after[-1], by_hand) < 1e-5


def test_takes_off_a_guard(text: worlds.World) -> None:
    guarded = loop.run(resolve.plan("input_filter"), text.model(), text.port, {"forget": text.sets["forget"]}).model
    assert worlds.nll(guarded, text.port, text.sets["forget"]) > 6
    assert curve(text, guarded, steps=1)[0]["scores"]["nll"] < 0.1


def test_what_is_hidden_comes_back_sooner_than_what_was_never_learned(text: worlds.World) -> None:
    hidden = text.model()
    loop.run(resolve.plan("pdu", {"lr": 1e-3, "epochs": 15}), hidden, text.port, text.sets)
    ends = {n: curve(text, m, every=6) for n, m in (("hidden", hidden), ("retrained", text.model("retrained")))}
    start, end = ({n: c[i]["scores"]["nll"] for n, c in ends.items()} for i in (0, -1))
    assert min(start.values()) > 3
    assert end["hidden"] < 0.3 * end["retrained"]


def test_unknown_knobs_are_named(text: worlds.World) -> None:
    with pytest.raises(UserError, match="no knob 'rows'"):
        curve(text, text.model(), rows=3)
