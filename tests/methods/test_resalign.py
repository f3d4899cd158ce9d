"""ResAlign: the hypergradient on a quadratic, its limits and safeguards, schedules, and a run on tiny pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import erasing
import worlds
from expunge.core.plan import as_plans
from expunge.engine import loop
from expunge.methods.denoising import AsBefore
from expunge.methods.terms import Ascent
from expunge.methods.updates.resalign import Resilience, ramp, richardson
from expunge.workflows import build_plan

FEW: dict[str, Any] = {"lora": 0, "steps": 2, "batch_size": 2, "scenarios": 2, "tuning_steps": (2,), "tuning_lrs": (1e-3,), "lr": 1e-3}


def spectrum(largest: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A symmetric matrix with eigenvalues from 0 to `largest`, and a vector."""
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator))
    matrix = basis @ torch.diag(torch.linspace(0, largest, 6, dtype=torch.float64)) @ basis.T
    return matrix, torch.randn(6, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("size", [1.0, 0.5, 0.125])
def test_the_iteration_solves_the_proximal_problem_for_any_step_size(size: float) -> None:
    h, g = spectrum(0.8)
    solved = richardson(lambda v: [h @ v[0]], [g], 500, size)
    assert torch.allclose(solved.value[0], torch.linalg.solve(torch.eye(6).double() + h, g), atol=1e-8)
    assert solved.contracts


def test_five_steps_are_five_terms_of_the_series() -> None:
    h, g = spectrum(0.8)
    terms = sum((torch.linalg.matrix_power(-h, j) @ g for j in range(5)), torch.zeros(6).double())
    assert torch.allclose(richardson(lambda v: [h @ v[0]], [g], 5, 1.0).value[0], terms, atol=1e-12)


def test_a_curvature_above_one_needs_smaller_steps() -> None:
    h, g = spectrum(6.0)
    assert not richardson(lambda v: [h @ v[0]], [g], 30, 1.0).contracts
    halved = richardson(lambda v: [h @ v[0]], [g], 500, 0.25)
    assert halved.contracts
    assert torch.allclose(halved.value[0], torch.linalg.solve(torch.eye(6).double() + h, g), atol=1e-8)


def test_it_is_the_gradient_through_a_fine_tuning_by_finite_differences() -> None:
    h, b = spectrum(0.5)

    def harm(theta: torch.Tensor) -> torch.Tensor:
        tuned = torch.linalg.solve(torch.eye(6).double() + h, theta + b)  # argmin of u H u / 2 - b u + |u - theta|^2 / 2
        return torch.sin(tuned).sum()

    theta = torch.linspace(-1, 1, 6, dtype=torch.float64)
    tuned = torch.linalg.solve(torch.eye(6).double() + h, theta + b)
    gradient = richardson(lambda v: [h @ v[0]], [torch.cos(tuned)], 200, 1.0).value[0]
    step = 1e-5
    axes = torch.eye(6).double() * step
    expected = torch.stack([(harm(theta + e) - harm(theta - e)) / (2 * step) for e in axes])
    assert torch.allclose(gradient, expected, rtol=1e-4)


def test_weights_stay_and_then_follow_a_sigmoid() -> None:
    values = [ramp(1.6, 2.0, n, 160) for n in (1, 79, 80, 120, 160)]
    assert values == pytest.approx([1.6, 1.6, 1.6027, 1.8, 1.9973], abs=1e-4)


def test_without_the_harm_of_fine_tuning_scenarios_do_not_matter() -> None:
    options = {**FEW, "lam": 0.0, "lam_start": 0.0, "w": 1.6, "w_start": 1.6, "meta_rate": 1.0, "optimizer": "sgd"}
    resilient, _ = erasing.unlearned("resalign", options)
    few = {k: v for k, v in {**FEW, "optimizer": "sgd"}.items() if k in ("steps", "batch_size", "lr", "lora", "optimizer")}
    plan = as_plans(build_plan.plan("resalign", few))[0]
    plain = worlds.pictures().model()
    world = worlds.pictures()
    loop.run((replace(plan, action=Ascent() + 1.6 * AsBefore("retain"), updates=()),), plain, world.modality, world.sets)
    assert worlds.far(worlds.tensors(resilient), worlds.tensors(plain)) < 1e-6


def test_scenarios_change_the_gradient_unless_it_is_too_long() -> None:
    def gradient(**options: Any) -> list[torch.Tensor]:
        plan = as_plans(build_plan.plan("resalign", {**FEW, **options}))[0]
        start = erasing.First(plan)
        return start.updated()[1]

    simulated, again, refused = (gradient(tuning_steps=(1,), scenarios=1, largest=length) for length in (1e9, 1e9, 1e-9))
    start = erasing.First(as_plans(build_plan.plan("resalign", FEW))[0])
    direct = [0.3 * 0.2 * g for g in start.loss(Ascent())[1]]  # before the first step the retain term has no gradient
    assert worlds.far(refused, direct) < 1e-9
    assert worlds.far(simulated, refused) > 1e-3 * max(float(g.abs().max()) for g in refused)
    assert worlds.same(again, simulated)


def test_a_long_fine_tuning_is_what_the_gradient_goes_through() -> None:
    """With fine-tunings that do not move and one step of the iteration, the harm after them is the harm before."""
    plan = as_plans(build_plan.plan("resalign", {**FEW, "tuning_lrs": (0.0,), "iterations": 1, "largest": 1e9, "meta_rate": 1.0}))[0]
    start = erasing.First(plan)
    harm, keep = start.loss(Ascent())[1], start.loss(AsBefore("retain"))[1]
    expected = [h + 1.6 * k for h, k in zip(harm, keep, strict=True)]
    assert worlds.far(start.updated()[1], expected) < 1e-9


def test_a_run_erases_with_an_adapter() -> None:
    model, _ = erasing.unlearned("resalign", {**FEW, "lora": 2, "steps": 2})
    assert any("lora_" in n for n, _ in model.named_parameters())
    assert Resilience().roles() == {"forget", "retain"}
