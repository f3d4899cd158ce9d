"""Rounding: values by hand, the bound of half a step, and the library's own int8."""

from __future__ import annotations

import pytest
import torch

from expunge.functional import quantization


def test_four_bit_weights_match_hand_values() -> None:
    """Levels -8 ... 7 with step max|w| / 7.5: 0.2 in the first group, 0.4 in the second, shorter group."""
    w = torch.tensor([[1.5, -0.5, 0.31, 0.0, -3.0, 0.5]])
    assert quantization.step(torch.tensor(1.5), 4) == pytest.approx(0.2)
    grouped = quantization.weights(w, 4, group=4)
    # 7.5 rounds to 8, which is clamped to the highest level 7; -2.5 to -2; 1.55 to 2; then -7.5 to -8, 1.25 to 1
    assert grouped.tolist()[0] == pytest.approx([1.4, -0.4, 0.4, 0.0, -3.2, 0.4])
    ungrouped = quantization.weights(w, 4)  # one step for all: 0.4
    assert ungrouped.tolist()[0] == pytest.approx([1.6, -0.4, 0.4, 0.0, -3.2, 0.4])


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 12])
@pytest.mark.parametrize("group", [0, 1, 5, 16, 99])
def test_no_weight_moves_by_more_than_half_a_step(bits: int, group: int) -> None:
    w = torch.randn(7, 33, generator=torch.Generator().manual_seed(bits))
    rounded, size = quantization.weights(w, bits, group), min(group or 33, 33)
    for start in range(0, 33, size):
        original, quantized = w[:, start : start + size], rounded[:, start : start + size]
        half = original.abs().amax(1, keepdim=True) / (2**bits - 1)
        assert ((original - quantized).abs() <= half + 1e-6).all()
        assert all(len(row.unique()) <= 2**bits for row in quantized)


def test_more_bits_change_weights_less_and_zeros_stay_zero() -> None:
    w = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    errors = [float((quantization.weights(w, b) - w).norm()) for b in (2, 4, 8, 16)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3
    assert quantization.weights(torch.zeros(2, 3), 4).tolist() == [[0] * 3] * 2
    quantized = quantization.weights(w, 8)
    assert torch.equal(quantization.weights(w * 4, 8), quantized * 4)


def test_int8_weights_equal_the_library_s() -> None:
    w = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    scales, zeros = w.abs().amax(1) / 127.5, torch.zeros(6, dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(w, scales, zeros, 0, -128, 127)
    unambiguous = w.abs() < w.abs().amax(1, keepdim=True)  # the largest weight is 127.5 steps, so its rounding depends on the last bit
    assert torch.allclose(quantization.weights(w, 8)[unambiguous], expected[unambiguous], atol=1e-6)
    assert ((quantization.weights(w, 8) - expected).abs() <= scales[:, None] * 1.001).all()


def test_int8_activations_equal_the_library_s() -> None:
    """One row, whose range includes 0 or is widened to include it."""
    for shift in (0.0, 5.0, -5.0):
        x = torch.randn(1, 50, generator=torch.Generator().manual_seed(2)) + shift
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        scale = (high - low) / 255
        expected = torch.fake_quantize_per_tensor_affine(x, scale, round(-low / scale), 0, 255)
        assert torch.allclose(quantization.activations(x, 8), expected, atol=1e-5)
    x = torch.cat([x, 100 * x])
    assert torch.equal(quantization.activations(x, 8)[:1], quantization.activations(x[:1], 8)), "a row has a scale of its own"
    assert quantization.activations(torch.zeros(2, 4), 8).abs().sum() == 0
