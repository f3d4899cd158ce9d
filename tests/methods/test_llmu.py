"""LLMU: its three terms by hand, whose answers the mismatch draws, when it stops, and the outcome."""

import pytest
import torch

import tables
import worlds
from expunge.engine import context, loop
from expunge.methods.objectives.llmu import Gone, MatchReference, Mismatch, SignedNLL
from expunge.workflows import build_plan


@pytest.mark.parametrize("micro_batch_size", [0, 1, 2])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_rows_count_equally_whatever_their_length(sign: float, micro_batch_size: int) -> None:
    sets, table = {"forget": tables.batch()["forget"]}, tables.scores(9).requires_grad_()
    wanted = -sign * torch.stack([x.mean() for x in tables.logps(table, sets["forget"])]).mean()
    value, grad = tables.ask(SignedNLL("forget", sign), sets, table.detach(), micro_batch_size=micro_batch_size)
    assert value == pytest.approx(float(wanted.detach()), rel=1e-12)
    assert torch.allclose(grad, tables.slope(wanted, table), atol=1e-12)


def test_normal_term_is_a_cross_entropy_with_the_gradient_of_a_divergence() -> None:
    rows = tables.rows("normal", [0, 1], [[1, 2], [3]])
    old, new = tables.scores(2, 2, seed=1), tables.scores(2, 2, seed=2)
    value, grad = tables.ask(MatchReference(), {"normal": rows}, new, reference=old)
    spots = [(0, 0), (0, 1), (1, 0)]
    p, q = ({s: t[s].softmax(-1) for s in spots} for t in (old, new))
    assert value == pytest.approx(-sum(float((p[s] * q[s].log()).sum()) for s in spots) / 3, rel=1e-12)
    assert torch.allclose(grad[1, 0], (q[1, 0] - p[1, 0]) / 3, atol=1e-12)
    assert torch.allclose(tables.ask(MatchReference(), {"normal": rows}, old)[1], torch.zeros_like(old), atol=1e-12)


def test_mismatched_answers_are_the_same_for_the_batch_and_drawn_from_all_retain_rows(text: worlds.World) -> None:
    mismatch, sets = Mismatch(draws=5), text.sets
    run = loop.new_state(text.model(), text.modality, worlds.accelerator(), sets=sets)
    drawn = set()
    for run.step in range(60):
        batch = {n: sets[n].select([0, 1]) for n in ("forget", "retain")}
        made = mismatch.pick(batch, context.RunView(run, batch).at("select1", mismatch))["mismatch"]
        assert made["answer_text"][:5] == made["answer_text"][5:]
        assert made["prompt"] == [batch["forget"]["prompt"][i] for i in (0,) * 5 + (1,) * 5]
        drawn |= set(made["answer_text"])
    assert drawn <= set(text.sets["retain"]["answer_text"])
    assert len(drawn) > 80


def test_weights_of_the_three_terms() -> None:
    terms = {t.objective.role: t.weight for t in build_plan.plan("llmu")[0].terms()}
    assert terms == {"forget": 0.5, "mismatch": 1.0, "retain": 1.0}


def test_stops_once_the_forget_loss_is_beyond_the_limit(text: worlds.World) -> None:
    started = loop.run(build_plan.plan("llmu", {"most": 0.001}), text.model(), text.modality, text.sets)
    assert started.cost.steps == 0
    assert "beyond 0.001" in started.log[-1]["ended"]
    run = loop.run(build_plan.plan("llmu", {"most": 0.3, "lr": 2e-3, "steps": 40, "batch_size": 9}), text.model(), text.modality, text.sets)
    assert 0 < run.cost.steps < 40
    assert Gone().most == 100


def test_forgets_and_keeps(text: worlds.World) -> None:
    model = text.model()
    loop.run(build_plan.plan("llmu", {"lr": 2e-3, "steps": 12, "batch_size": 9}), model, text.modality, text.sets)
    assert worlds.nll(model, text.modality, text.sets["forget"]) > 1.5
    assert worlds.nll(model, text.modality, text.sets["retain"]) < 0.4
