"""KL minimization: formulas written on a table of scores, the first gradient, and the outcome."""

import pytest
import torch

import tables
import worlds
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.engine.gradient import evaluate
from expunge.engine.weights import weights_of
from expunge.workflows import build_plan


def kl_by_hand(table: torch.Tensor, reference: torch.Tensor, sets: dict) -> torch.Tensor:
    forget = torch.cat(tables.logps(table, sets["forget"]))
    total, labels = forget.sum() / len(forget), sum(map(len, sets["retain"]["answer"]))
    for p, answer in zip(sets["retain"]["prompt"], sets["retain"]["answer"], strict=True):
        for t in range(len(answer)):
            target = reference[p, t].softmax(0)
            total = total + (target * (target.log() - table[p, t].softmax(0).log())).sum() / labels
    return total


@pytest.mark.parametrize(("name", "hyperparameters"), [("kl", {}), ("graddiff", {"retain_term": "kl"})])
def test_value_and_gradient_of_answers_alone_match_the_formula(name: str, hyperparameters: dict) -> None:
    sets, table, reference = tables.batch(), tables.scores(9).requires_grad_(), tables.scores(9, seed=1)
    expected = kl_by_hand(table, reference, sets)
    plan = build_plan.plan(name, {**hyperparameters, "include_prompt": False})[0]
    value, grad = tables.ask(plan.action, sets, table.detach(), reference)
    assert value == pytest.approx(expected.item(), abs=1e-12)
    assert torch.allclose(grad, tables.slope(expected, table))


@pytest.mark.parametrize(("name", "hyperparameters"), [("kl", {}), ("graddiff", {"retain_term": "kl"})])
@pytest.mark.parametrize("include_prompt", [None, False])
def test_prompt_tokens_count_by_default_and_padding_does_not(
    text: worlds.World, name: str, hyperparameters: dict, include_prompt: bool | None
) -> None:
    """The gradient of one step against transformers and torch alone, row by row without padding."""
    sets = {n: text.sets[n].select(range(4)) for n in ("forget", "retain")}
    settings = {"epochs": 1, "batch_size": 4, "optimizer": "sgd", "lr": 1.0, "warmup": 0, "weight_decay": 0, "pairing": "aligned"}
    options = {} if include_prompt is None else {"include_prompt": include_prompt}
    model, hand = (text.model().double() for _ in range(2))
    reference = text.model().double()
    with torch.no_grad():
        for m in (model, hand):
            m.lm_head.weight.mul_(1.1)  # away from the reference, where the term has no gradient
    plan = build_plan.plan(name, {**settings, **hyperparameters, **options})[0]
    run = loop.new_state(model, text.modality, worlds.accelerator(), models={"reference": weights_of(reference)})
    batch = plan.selectors[0].pick(sets, RunView(run, sets)) if plan.selectors else sets
    _, grads = evaluate(run, plan.action, batch)
    divergences, labels = [], []
    for p, a in zip(sets["retain"]["prompt"], sets["retain"]["answer"], strict=True):
        ids = torch.tensor([[*p, *a]])
        now, old = (m(ids).logits[0, :-1].log_softmax(-1) for m in (hand, reference))
        kl = torch.nn.functional.kl_div(now, old.detach(), log_target=True, reduction="none").sum(-1)
        divergences.append(kl[len(p) - 1 :] if include_prompt is False else kl)
    for p, a in zip(sets["forget"]["prompt"], sets["forget"]["answer"], strict=True):
        logp = hand(torch.tensor([[*p, *a]])).logits[0, len(p) - 1 : -1].log_softmax(-1)
        labels.append(logp[torch.arange(len(a)), torch.tensor(a)])
    expected = torch.autograd.grad(torch.cat(labels).mean() + torch.cat(divergences).mean(), list(hand.parameters()))
    assert worlds.far(grads, list(expected)) < 1e-8


def test_only_the_forget_term_has_a_gradient_at_the_reference() -> None:
    sets, table = tables.batch(), tables.scores(9)
    _, grad = tables.ask(build_plan.plan("kl", {"include_prompt": False})[0].action, sets, table)
    assert float(grad[6:].abs().max()) < 1e-15
    assert float(grad[:3].abs().max()) > 1e-3


@pytest.mark.slow
def test_forgets_and_harms_retain_rows_less_than_ascent(text: worlds.World) -> None:
    losses = {}
    for name in ("kl", "ga"):
        model = text.model()
        loop.run(build_plan.plan(name, {"lr": 1e-3, "epochs": 20}), model, text.modality, text.sets)
        losses[name] = worlds.nll(model, text.modality, text.sets["forget"]), worlds.nll(model, text.modality, text.sets["retain"])
    assert losses["kl"][0] > 3.0
    assert losses["kl"][1] < 0.3 * losses["ga"][1]
