"""Noisy answers: no noise is no guard, what is said stays, noise sticks to the question, and other wordings average it out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import worlds
from expunge.engine import loop
from expunge.methods.guards.noisy_answers import restore
from expunge.workflows import build_plan


def guarded(text: worlds.World, **settings: Any) -> Any:
    plans = build_plan.plan("noisy_answers", settings)
    return loop.run(plans, text.model(), text.modality, {"forget": text.sets["forget"]}).modality


def mean_logp(text: worlds.World, modality: Any, name: str = "forget") -> torch.Tensor:
    with torch.no_grad():
        return modality.forward(text.model(), [text.sets[name]])[0].target_logp.mean()


def test_without_noise_it_is_the_model(text: worlds.World) -> None:
    assert torch.equal(mean_logp(text, guarded(text, sd=0)), mean_logp(text, text.modality))


def test_what_is_most_probable_stays_and_noise_sticks_to_the_question(text: worlds.World) -> None:
    modality, rows, model = guarded(text, sd=0.5), text.sets["forget"], text.model("retrained")
    (noisy,), (plain,) = modality.forward(model, [rows]), text.modality.forward(model, [rows])
    assert torch.equal(noisy.logits.values.argmax(-1), plain.logits.values.argmax(-1))
    factors = noisy.logits.values / plain.logits.values
    first = plain.logits.row == 0
    assert torch.allclose(factors[first], factors[first][0, 0].expand_as(factors[first]), rtol=1e-4), "one temperature for a row"
    assert torch.equal(noisy.target_logp.values, modality.forward(model, [rows])[0].target_logp.values), "asking again tells no more"
    assert modality.generate(model, rows, 8).ids == text.modality.generate(model, rows, 8).ids  # type: ignore[attr-defined]
    other = guarded(text, sd=0.5).forward(model, [rows])[0]
    assert not torch.equal(other.target_logp.values, noisy.target_logp.values), "another guard has another salt"


def test_the_spread_is_that_of_two_layers(text: worlds.World) -> None:
    """log factor ~ N(0, 2 sd^2): with 600 rows the standard deviation is known to about three percent."""
    modality, rows = guarded(text, sd=0.2), text.sets["retain"]
    prompts = [[*prompt, 20 + k] for k in range(12) for prompt in rows["prompt"][:50]]
    many = rows.select([i for _ in range(12) for i in range(50)]).add(prompt=prompts)
    with torch.no_grad():
        (output,) = text.modality.forward(text.model(), [many])
    factors = modality.factors(many, output)
    first = np.concatenate([[True], np.diff(output.logits.row.numpy()) != 0])
    logs = factors.log().numpy()[first]
    assert len(logs) == len(many)
    assert logs.std() == pytest.approx(0.2 * 2**0.5, rel=0.1)
    assert abs(logs.mean()) < 0.04, "noise of many wordings averages out"


def test_a_saved_guard_makes_the_same_noise(text: worlds.World, tmp_path: Path) -> None:
    modality = guarded(text)
    modality.save_guard(tmp_path)
    assert torch.equal(mean_logp(text, restore(text.modality, tmp_path)), mean_logp(text, modality))
    assert "salt" in modality.holds
    assert "salt" not in modality.describe()
