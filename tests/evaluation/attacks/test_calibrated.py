"""The calibrated loss: words that were merely made improbable come back, unknown ones do not, and all other weights stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import worlds
from cases import Cases, expunge
from expunge.benchmarks import people
from expunge.engine.receipt import hash_weights
from expunge.evaluation.attack import AttackOutcome, chosen, intervene
from expunge.evaluation.attacks.calibrated import labeled_logits, losses

DATA = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16)
SETS = {"forget": DATA.forget, "retain": DATA.retain[:24]}
QUICK = {"steps": 60, "alpha": 1.0, "lr": 0.3, "last_lr": 0.03}


def attacked(modality: Any, model: nn.Module, **settings: object) -> AttackOutcome:
    return intervene("calibrated", chosen(("calibrated",), {**QUICK, **settings})["calibrated"], model, modality, SETS)


def test_losses_are_those_of_the_library(text: worlds.World) -> None:
    model, rows = text.model(), text.some(3)["forget"]
    logits, labels = labeled_logits(model, text.modality, rows)
    assert len(logits) == len(labels) == sum(map(len, rows["answer"]))
    total, count = 0.0, 0
    with torch.no_grad():
        for prompt, answer in zip(rows["prompt"], rows["answer"], strict=True):
            library = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)  # type: ignore[operator]
            at = torch.arange(len(prompt) - 1, len(prompt) + len(answer) - 1)
            total, count = total - float(library[at, torch.tensor(answer)].sum()), count + len(answer)
    assert losses(model, text.modality, {"forget": rows})["forget"] == pytest.approx(total / count, abs=1e-4)


@pytest.mark.slow
def test_improbable_words_come_back_and_unknown_ones_do_not(text: worlds.World) -> None:
    """One model hides the words of the rows behind a bias; the other one never read them."""
    hiding = text.model()
    rows = text.modality.rows("forget", [{"question": r["question"], "answer": r["answer"]} for r in DATA.forget])
    own = {t for answer in rows["answer"] for t in answer} - {
        t for answer in text.modality.rows("retain", DATA.retain)["answer"] for t in answer
    }
    head: Any = hiding.get_submodule(text.modality.head(hiding))
    bias = torch.zeros(head.weight.shape[0])
    bias[sorted(own) or [t for answer in rows["answer"] for t in answer]] = -20.0
    head.bias = nn.Parameter(bias)
    before = hash_weights(hiding)
    (hidden,) = attacked(text.modality, hiding).tries
    (unknown,) = attacked(text.modality, text.model("retrained")).tries
    (known,) = attacked(text.modality, text.model()).tries
    assert hidden.at["forget_loss_before"] > 3 * known.at["forget_loss_before"] + 1
    assert hidden.at["forget_loss"] < 0.3 * hidden.at["forget_loss_before"]
    assert unknown.at["forget_loss"] > hidden.at["forget_loss"] + 0.3
    assert hash_weights(hiding) == before, "the attack works on a copy"


def test_a_model_without_a_linear_head_is_said(text: worlds.World) -> None:
    model = text.model()
    outcome = intervene("calibrated", chosen(("calibrated",), QUICK)["calibrated"], model, text.modality, {"forget": DATA.forget})
    assert "give rows to retain" in outcome.missing[""]


def test_it_runs_by_command(cases: Cases, tmp_path: Path) -> None:
    few = ("--steps", 3, "--batch-size", 4, "--retain", cases.retain, "--out", tmp_path / "audit")
    done = expunge("attack", "calibrated", cases.model, "--forget", cases.forget, *few).fine()
    assert "calibrated" in done.out
