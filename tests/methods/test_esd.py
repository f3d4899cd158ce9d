"""ESD: the loss at the reference, both conventions, which layers train, when sampling stops, and the outcome on tiny pictures."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import erasing
from expunge.core.plan import as_plans
from expunge.methods.denoising import within
from expunge.methods.objectives.esd import NegativeGuidance
from expunge.modalities.diffusion.modality import Diffusion
from expunge.workflows import build_plan

FEW = {"sampling_steps": 4, "batch_size": 2}


def first(**options: object) -> erasing.First:
    return erasing.First(as_plans(build_plan.plan("esd", {**FEW, **options}))[0], prompts=True)


@pytest.mark.parametrize("eta", [0.0, 1.0, 2.5])
def test_at_the_reference_it_is_the_guidance_squared(eta: float) -> None:
    start = first(eta=eta)
    rows = start.batch["partial"]
    guidance = erasing.mean_square(start.predicted("partial", list(rows["caption"])), start.predicted("partial", [""]))
    assert guidance > 0
    assert start.loss()[0] == pytest.approx((1 + eta) ** 2 * guidance, rel=1e-9)


def test_the_conventions_differ_by_one_in_eta() -> None:
    start = first()
    original = start.loss(NegativeGuidance(eta=0.7))
    current = start.loss(NegativeGuidance(eta=1.7, convention="current"))
    assert current[0] == pytest.approx(original[0], rel=1e-9)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(original[1], current[1], strict=True))


@pytest.mark.parametrize(("convention", "eta"), [("original", -1.0), ("current", 0.0)])
def test_without_guidance_the_reference_is_a_fixed_point(convention: str, eta: float) -> None:
    value, gradient = first(convention=convention, eta=eta).loss()
    assert value == pytest.approx(0, abs=1e-20)
    assert max(float(g.abs().max()) for g in gradient) < 1e-9


def test_a_concept_is_erased_from_another_prompt() -> None:
    start = first(convention="current", concept="red", erase_from="a blue bar", eta=1.5)
    rows = start.batch["partial"]
    assert set(rows["caption"]) == {"a blue bar"}
    concept, empty = start.predicted("partial", ["red"]), start.predicted("partial", [""])
    assert start.loss()[0] == pytest.approx(1.5**2 * erasing.mean_square(concept, empty), rel=1e-9)


@pytest.mark.parametrize("convention", ["original", "current"])
def test_latents_are_those_of_a_sampling_with_guidance_that_stops(convention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[list[str], dict[str, Any], Any]] = []
    sample = Diffusion.sample

    def spy(self: Diffusion, model: Any, captions: list[str], seeds: list[int], **how: Any) -> Any:
        calls.append((list(captions), how, sample(self, model, captions, seeds, **how)))
        return calls[-1][2]

    monkeypatch.setattr(Diffusion, "sample", spy)
    start = first(convention=convention)
    rows = start.batch["partial"]
    ((captions, how, (latents, at)),) = calls
    assert captions == list(rows["caption"])
    assert (how["steps"], how["guidance"]) == (4, 3.0)
    assert torch.equal(torch.stack(list(rows["given"])), latents)
    assert at.tolist() == [999 - 250 * how["until"]] * 2
    within = [t - a for (t,), a in zip(rows["times"], at.tolist(), strict=True)]
    assert within == [0, 0] if convention == "current" else all(-250 < w <= 0 for w in within)


def test_the_model_being_trained_samples_or_the_one_before() -> None:
    def latents(sampled_by: str, move: float) -> torch.Tensor:
        plan = as_plans(build_plan.plan("esd", {**FEW, "sampled_by": sampled_by, "layers": "full"}))[0]
        return torch.stack(list(erasing.First(plan, prompts=True, move=move).batch["partial"]["given"]))

    still = latents("reference", 0.0)
    assert torch.equal(latents("reference", 0.1), still)
    assert torch.equal(latents("model", 0.0), still)
    assert not torch.equal(latents("model", 0.1), still), "unless no step was taken, and this test shows nothing"


def test_times_are_drawn_in_the_cell_of_the_grid() -> None:
    assert [within(981, 20.0, u) for u in (0.0, 0.999)] == [980, 999]
    assert [within(999, 20.0, u) for u in (0.0, 0.999)] == [980, 999]
    assert [within(1, 20.0, u) for u in (0.0, 0.999)] == [0, 19]
    assert {within(20, 1000 / 30, u / 100) for u in range(100)} == set(range(34))


@pytest.mark.parametrize(
    ("layers", "inside", "outside"),
    [
        ("x", ("attn2.to_q", "attn2.to_out"), ("attn1", "conv_in", "text_encoder")),
        ("strict", ("attn2.to_k", "attn2.to_v"), ("attn2.to_q", "attn1", "text_encoder")),
        ("self", ("attn1.to_k",), ("attn2", "text_encoder")),
        ("u", ("attn1", "conv_in", "norm"), ("attn2", "conv_out", "time_embedding", "text_encoder")),
        ("full", ("attn1", "attn2", "conv_out", "time_embedding"), ("text_encoder",)),
    ],
)
def test_layers_train_as_named(layers: str, inside: tuple[str, ...], outside: tuple[str, ...]) -> None:
    start = first(layers=layers)
    training = [n for n, p in start.model.named_parameters() if p.requires_grad]
    assert all(any(part in n for n in training) for part in inside)
    assert not [n for n in training if any(part in n for part in outside)]


def test_the_present_code_trains_no_normalization_and_the_output() -> None:
    start = first(layers="u", convention="current")
    training = [n for n, p in start.model.named_parameters() if p.requires_grad]
    assert any("conv_out" in n for n in training)
    assert not [n for n in training if "norm" in n or "attn2" in n or "text_encoder" in n]


@pytest.mark.slow
def test_the_color_is_erased_and_the_others_are_drawn() -> None:
    options = {**FEW, "concept": "red", "layers": "x", "steps": 150, "lr": 3e-3, "batch_size": 4, "sampling_steps": 5}
    shares = erasing.shares(*erasing.unlearned("esd", options, taught=True))
    assert shares["red"] <= 0.25
    assert min(shares["green"], shares["blue"]) >= 0.75
