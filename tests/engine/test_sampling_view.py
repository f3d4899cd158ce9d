"""Samples that parts ask a run for: by the model or by its reference, counted, and only where they are declared."""

from __future__ import annotations

import pytest
import torch

import denoisers
import worlds
from expunge.core.errors import UndeclaredNeed
from expunge.core.parts import Part
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.engine.weights import swapped, weights_of
from expunge.methods.denoising import PartialSamples


class Silent(Part):
    """A part that declares nothing."""


def test_samples_are_of_the_model_or_of_the_reference_and_are_counted() -> None:
    model, modality = denoisers.built()
    run = loop.new_state(model, modality, worlds.accelerator())
    run.models["reference"] = weights_of(model)
    plain = modality.sample(model, ["a red bar"], [1], steps=3, guidance=2.0)[0]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05)
    moved = weights_of(model)
    view = RunView(run, {})
    assert torch.equal(view.sample(["a red bar"], [1], reference=True, steps=3, guidance=2.0)[0], plain)
    assert all(torch.equal(w, moved[n]) for n, w in weights_of(model).items())
    assert not torch.equal(view.sample(["a red bar"], [1], steps=3, guidance=2.0)[0], plain)
    assert run.cost.forward_tokens == 2 * 3 * 2, "two samplings of three steps for the caption and for the empty prompt"


def test_samples_that_are_not_declared_are_refused() -> None:
    model, modality = denoisers.built()
    view = RunView(loop.new_state(model, modality, worlds.accelerator()), {})
    with pytest.raises(UndeclaredNeed, match="used Denoises without declaring it in `requires`"):
        view.at("part", Silent()).sample(["a"], [1])
    with pytest.raises(UndeclaredNeed, match="used 'reference' without declaring it in `needs`"):
        view.at("part", PartialSamples()).sample(["a"], [1], reference=True)


def test_weights_come_back_after_an_error() -> None:
    model, _ = denoisers.built()
    before = weights_of(model)
    with pytest.raises(ValueError, match="stop"), swapped(model, {n: torch.zeros_like(w) for n, w in before.items()}):
        raise ValueError("stop")
    assert all(torch.equal(w, before[n]) for n, w in weights_of(model).items())
