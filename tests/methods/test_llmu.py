"""LLMU: the three terms by hand, the answers that the mismatch draws, the stop rule, and the outcome."""

import pytest
import torch

import tables
import worlds
from expunge.engine import context, loop
from expunge.methods.objectives.llmu import Gone, MatchReference, Mismatch
from expunge.methods.terms import RowAscent, RowNLL
from expunge.workflows import build_plan


@pytest.mark.parametrize("micro_batch_size", [0, 1, 2])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_rows_of_any_length_count_equally(sign: float, micro_batch_size: int) -> None:
    sets, table = {"forget": tables.batch()["forget"]}, tables.scores(9).requires_grad_()
    expected = -sign * torch.stack([x.mean() for x in tables.logps(table, sets["forget"])]).mean()
    term = RowNLL("forget") if sign > 0 else RowAscent()
    value, grad = tables.ask(term, sets, table.detach(), micro_batch_size=micro_batch_size)
    assert value == pytest.approx(float(expected.detach()), rel=1e-12)
    assert torch.allclose(grad, tables.slope(expected, table), atol=1e-12)


def test_normal_term_is_a_cross_entropy_with_the_gradient_of_kl() -> None:
    rows = tables.rows("normal", [0, 1], [[1, 2], [3]])
    reference, scores = tables.scores(2, 2, seed=1), tables.scores(2, 2, seed=2)
    value, grad = tables.ask(MatchReference(), {"normal": rows}, scores, reference=reference)
    positions = [(0, 0), (0, 1), (1, 0)]
    p, q = ({s: t[s].softmax(-1) for s in positions} for t in (reference, scores))
    assert value == pytest.approx(-sum(float((p[s] * q[s].log()).sum()) for s in positions) / 3, rel=1e-12)
    assert torch.allclose(grad[1, 0], (q[1, 0] - p[1, 0]) / 3, atol=1e-12)
    assert torch.allclose(tables.ask(MatchReference(), {"normal": rows}, reference)[1], torch.zeros_like(reference), atol=1e-12)


def test_mismatched_answers_are_shared_in_the_batch_and_drawn_from_all_retain_rows(text: worlds.World) -> None:
    mismatch, sets = Mismatch(draws=5), text.sets
    run = loop.new_state(text.model(), text.modality, worlds.accelerator(), sets=sets)
    drawn_answers = set()
    for run.step in range(60):
        batch = {n: sets[n].select([0, 1]) for n in ("forget", "retain")}
        pairs = mismatch.pick(batch, context.RunView(run, batch).at("select1", mismatch))["mismatch"]
        assert pairs["answer_text"][:5] == pairs["answer_text"][5:]
        assert pairs["prompt"] == [batch["forget"]["prompt"][i] for i in (0,) * 5 + (1,) * 5]
        drawn_answers |= set(pairs["answer_text"])
    assert drawn_answers <= set(text.sets["retain"]["answer_text"])
    assert len(drawn_answers) > 80


def test_terms_have_the_published_weights() -> None:
    terms = {t.objective.role: t.weight for t in build_plan.plan("llmu")[0].terms()}
    assert terms == {"forget": 0.5, "mismatch": 1.0, "retain": 1.0}


def test_stops_once_the_forget_loss_exceeds_the_limit(text: worlds.World) -> None:
    immediate = loop.run(build_plan.plan("llmu", {"most": 0.001}), text.model(), text.modality, text.sets)
    assert immediate.cost.steps == 0
    assert "beyond 0.001" in immediate.log[-1]["ended"]
    run = loop.run(build_plan.plan("llmu", {"most": 0.3, "lr": 2e-3, "steps": 40, "batch_size": 9}), text.model(), text.modality, text.sets)
    assert 0 < run.cost.steps < 40
    assert Gone().most == 100


@pytest.mark.slow
def test_forgets_and_preserves_retain_rows(text: worlds.World) -> None:
    model = text.model()
    loop.run(build_plan.plan("llmu", {"lr": 2e-3, "steps": 12, "batch_size": 9}), model, text.modality, text.sets)
    assert worlds.nll(model, text.modality, text.sets["forget"]) > 1.5
    assert worlds.nll(model, text.modality, text.sets["retain"]) < 0.4
