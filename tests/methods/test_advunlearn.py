"""AdvUnlearn: words before a prompt, the attack, the loss with and without it, and what trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import denoisers
import erasing
from expunge.core.plan import as_plans
from expunge.engine import loop
from expunge.methods.denoising import squared_error
from expunge.methods.objectives.advunlearn import DefendedGuidance, read_with
from expunge.methods.objectives.esd import NegativeGuidance
from expunge.workflows import build_plan

FEW: dict[str, Any] = {"sampling_steps": 3, "batch_size": 2, "retain_prompts": 3, "attack_warmup": 0}


def first(**options: Any) -> erasing.First:
    return erasing.First(as_plans(build_plan.plan("advunlearn", {**FEW, **options}))[0], prompts=True)


def test_embeddings_before_a_prompt_are_read_as_words() -> None:
    model, modality = denoisers.built()
    (token,) = modality.content_tokens(["red"])[0].values()
    embedding: Any = model.text_encoder.get_input_embeddings()
    prefix = embedding.weight[[token]].detach()[None]
    behind = modality.encode(model, ["a bar"], prefix)
    assert torch.allclose(behind, modality.encode(model, ["red a bar"]), atol=1e-6)
    two = modality.encode(model, ["a bar", ""], prefix.expand(2, -1, -1).repeat(1, 2, 1))
    assert torch.allclose(two, modality.encode(model, ["red red a bar", "red red"]), atol=1e-6)


def test_without_an_attack_it_is_esd_on_the_text_encoder_and_retain_prompts() -> None:
    start = first(attack_steps=0)
    assert start.loss(DefendedGuidance(eta=0.7))[0] == pytest.approx(start.loss(NegativeGuidance(eta=0.7))[0], rel=1e-9)
    guidance = erasing.mean_square(start.predicted("partial", list(start.batch["partial"]["caption"])), start.predicted("partial", [""]))
    assert start.loss()[0] == pytest.approx(4 * guidance, rel=1e-9), "before the first step retain prompts have no loss"
    assert len(start.batch["kept"]) == 3
    assert set(start.batch["kept"]["caption"]) <= {"a green square", "a green bar", "a blue square", "a blue bar"}


def test_warm_up_steps_have_no_prefix() -> None:
    assert "prefix" not in first(attack_warmup=1).batch["partial"].columns
    assert "prefix" in first(attack_warmup=0, attack_steps=1).batch["partial"].columns


@pytest.mark.parametrize("attack", ["steps", "fast"])
def test_the_attack_lowers_what_it_minimizes(attack: str) -> None:
    start = first(attack=attack, attack_steps=12, attack_lr=0.05)
    begin = first(attack=attack, attack_steps=1, attack_lr=0.0)
    rows = start.batch["partial"]
    assert torch.equal(torch.stack(list(rows["given"])), torch.stack(list(begin.batch["partial"]["given"])))
    target = start.predicted("partial", list(rows["caption"]))

    def missed(prefix: Any) -> float:
        read = read_with(start.run_view(), start.modality, rows, torch.stack(list(prefix)))
        output: Any = start.modality.forward(start.model, [read])[0]
        return float(squared_error(output.prediction, target).values.sum().detach())

    assert missed(rows["prefix"]) < 0.9 * missed(begin.batch["partial"]["prefix"])


def test_layers_of_the_text_encoder_train_and_the_words_stay() -> None:
    start = first()
    training = {n for n, p in start.model.named_parameters() if p.requires_grad}
    assert training
    assert all(n.startswith("text_encoder.") for n in training)
    assert not any("embedding" in n for n in training)
    assert any("final_layer_norm" in n for n in training)
    names = [n for n, p in start.model.named_parameters() if p.requires_grad]
    gradient = dict(zip(names, start.loss()[1], strict=True))
    assert all(bool(g.any()) for n, g in gradient.items() if "k_proj.bias" not in n)


def test_a_run_lowers_the_loss_of_erasing() -> None:
    model, modality = denoisers.built()
    records = denoisers.records(1)
    sets = {"forget": modality.rows("forget", records[:2]), "retain": modality.rows("retain", records[2:])}
    options = {**FEW, "concept": "red", "attack_steps": 2, "steps": 40, "lr": 1e-2, "retain_weight": 0.0}
    run = loop.run(build_plan.plan("advunlearn", options), model, modality, sets)
    losses = [r["terms"] for r in run.log if "terms" in r]
    values = [next(v for n, v in terms.items() if "defended" in n) for terms in losses]
    assert sum(values[-10:]) < 0.7 * sum(values[:10])
