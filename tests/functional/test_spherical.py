"""Interpolation on a sphere: end points, norms, the middle, and parallel vectors."""

from __future__ import annotations

import torch

from expunge.functional.spherical import slerp


def test_the_ends_are_the_tensors_themselves() -> None:
    a, b = torch.randn(3, 4, 4), torch.randn(3, 4, 4)
    assert torch.equal(slerp(a, b, 0), a)
    assert torch.equal(slerp(a, b, 1), b)


def test_the_middle_of_orthogonal_vectors_and_the_norm_in_between() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert torch.allclose(slerp(a, b, 0.5), torch.full((2,), 0.5**0.5))
    x, y = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    y = y * x.norm() / y.norm()
    norms = torch.stack([slerp(x, y, k / 10).norm() for k in range(11)])
    assert torch.allclose(norms, x.norm().expand(11))


def test_the_weights_are_of_directions_and_work_on_lengths() -> None:
    a, b = torch.tensor([4.0, 0.0]), torch.tensor([0.0, 1.0])
    assert torch.allclose(slerp(a, b, 0.5), torch.tensor([4.0, 1.0]) * 0.5**0.5)


def test_parallel_and_opposite_vectors_go_straight() -> None:
    a = torch.tensor([1.0, 2.0])
    assert torch.allclose(slerp(a, 3 * a, 0.5), 2 * a)
    assert torch.allclose(slerp(a, -a, 0.25), 0.5 * a)
    assert slerp(a, torch.zeros(2), 0.5).isfinite().all()
