"""Saliency-adaptive noise fusion: hand values, equal models, one model that is salient everywhere, and the loss of misplaced attention."""

from __future__ import annotations

import pytest
import torch

from expunge.functional.noise_fusion import (
    GuidedNoise,
    fused_noise,
    fusion_mask,
    guided,
    localization,
    saliency,
    smoothed,
    stage_of,
)


def drawn(seed: int = 0, side: int = 8) -> torch.Tensor:
    return torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def prediction(seed: int) -> GuidedNoise:
    return guided(drawn(seed), drawn(seed + 10), 5.0)


def test_guidance_by_hand() -> None:
    """eps_base 1, eps_condition 3, g 5: R = 10, E = 11; g = 1 gives the condition."""
    one = torch.ones(1, 1, 2, 2)
    assert guided(one, 3 * one, 5.0) == (pytest.approx(11 * one), pytest.approx(10 * one))
    assert torch.equal(guided(one, 3 * one, 1.0).noise, 3 * one)


def test_saliency_by_hand() -> None:
    """Without smoothing, two channels: means of |R| are ln 1, ln 2, ln 3, ln 4, so the map is 0.1, 0.2, 0.3, 0.4."""
    means = torch.tensor([1.0, 2, 3, 4]).log().view(1, 1, 2, 2)
    response = torch.cat([means * 0.5, -means * 1.5], 1)
    torch.testing.assert_close(saliency(response, window=1).flatten(), torch.tensor([0.1, 0.2, 0.3, 0.4]))


def test_smoothing_counts_the_zeros_around_the_picture() -> None:
    """A window of 4 with padding 1 makes 64 to 63: 3/4 on its edges, 9/16 at its corners, and 1 inside after resizing."""
    ones = torch.ones(1, 1, 64, 64)
    pooled = torch.nn.functional.avg_pool2d(ones, 4, stride=1, padding=1)
    assert pooled.shape[-1] == 63
    assert [float(pooled[0, 0, i, j]) for i, j in ((0, 0), (0, 30), (30, 30))] == [9 / 16, 3 / 4, 1.0]
    assert torch.equal(smoothed(ones)[0, 0, 2:-2, 2:-2], torch.ones(60, 60))
    assert smoothed(ones).shape == ones.shape
    assert float(smoothed(ones)[0, 0, 0, 0]) == pytest.approx(9 / 16)


def test_the_mask_by_hand() -> None:
    """Maps (0.7, 0.1, 0.1, 0.1) and (0.25, 0.25, 0.25, 0.25): the second wins where the first is not salient."""
    scene = torch.tensor([7.0, 1, 1, 1]).log().view(1, 1, 2, 2)
    subject = torch.full((1, 1, 2, 2), 123.0)  # its level does not matter
    assert fusion_mask(scene, subject, window=1).flatten().tolist() == [0, 1, 1, 1]
    e_scene, e_subject = torch.full((1, 1, 2, 2), -1.0), torch.full((1, 1, 2, 2), 9.0)
    noise, mask = fused_noise(GuidedNoise(e_scene, scene), GuidedNoise(e_subject, subject), window=1)
    assert noise.flatten().tolist() == [-1, 9, 9, 9]
    assert mask.shape == (1, 1, 2, 2)


@pytest.mark.parametrize("window", [1, 3, 4])
def test_equal_models_give_what_each_gives(window: int) -> None:
    """The model of scenes takes the ties."""
    one = prediction(0)
    noise, mask = fused_noise(one, one, window=window)
    assert torch.equal(noise, one.noise)
    assert float(mask.sum()) == 0


def test_where_all_saliency_is_on_one_model_that_model_denoises() -> None:
    """On the left the one responds, on the right the other: each half is what its model says."""
    left = torch.zeros(2, 4, 8, 8, dtype=torch.float64)
    left[..., :4] = 50.0
    a, b = drawn(1), drawn(2)
    noise, mask = fused_noise(GuidedNoise(a, left), GuidedNoise(b, left.flip(-1)), window=1)
    assert torch.equal(noise[..., :4], a[..., :4])
    assert torch.equal(noise[..., 4:], b[..., 4:])
    assert float(mask.mean()) == 0.5


@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
def test_neither_model_wins_everywhere(scale: float) -> None:
    """Both maps sum to 1, whatever the guidance."""
    a, b = prediction(0), prediction(1)
    maps = [saliency(scale * x.response) for x in (a, b)]
    for m in maps:
        torch.testing.assert_close(m.sum((1, 2, 3)), torch.ones(2, dtype=torch.float64))
    share = fusion_mask(scale * a.response, scale * b.response).mean((1, 2, 3))
    assert bool(((share > 0) & (share < 1)).all())


def test_a_subject_without_response_wins_where_the_scene_is_below_the_mean_place() -> None:
    scene = prediction(0).response
    mask = fusion_mask(scene, torch.zeros_like(scene))
    assert torch.equal(mask, (saliency(scene) < 1 / 64).double())


def test_stages_by_hand() -> None:
    assert [stage_of(i, 1, 3) for i in range(6)] == ["scene", "scene", "both", "both", "subject", "subject"]
    assert {stage_of(i, 9, 9) for i in range(10)} == {"scene"}
    assert {stage_of(i, -1, -1) for i in range(10)} == {"subject"}


def test_attention_on_the_subject_alone_is_minus_one() -> None:
    masks = torch.zeros(1, 1, 8, 8)
    masks[..., :4] = 1
    here = torch.ones(1, 1, dtype=torch.bool)
    on = masks[:, :, None].expand(1, 1, 3, 8, 8)
    assert float(localization(on, masks, here)) == pytest.approx(-1, abs=1e-4)
    assert float(localization(1 - on, masks, here)) == pytest.approx(1, abs=1e-4)
    assert float(localization(torch.full_like(on, 0.3), masks, here)) == pytest.approx(0, abs=1e-5)


def test_misplaced_attention_by_hand() -> None:
    """Two subjects of a row: -0.6 and +0.2 at attention 0.8/0.2 and 0.1/0.3, mean -0.2; a row without subjects counts as 0."""
    masks = torch.zeros(2, 2, 2, 2)
    masks[:, :, 0] = 1
    attention = torch.zeros(2, 2, 1, 2, 2)
    attention[:, 0, :, 0], attention[:, 0, :, 1] = 0.8, 0.2
    attention[:, 1, :, 0], attention[:, 1, :, 1] = 0.1, 0.3
    present = torch.tensor([[True, True], [False, False]])
    assert localization(attention, masks, present).tolist() == pytest.approx([-0.2, 0.0], abs=1e-4)
    one = torch.tensor([[False, True], [True, False]])
    assert localization(attention, masks, one).tolist() == pytest.approx([0.2, -0.6], abs=1e-4)
