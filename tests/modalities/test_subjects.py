"""Subjects in pictures: fusion of reference and word, and sampling by two models."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from expunge.functional.noise_fusion import GuidedNoise, guided, saliency
from expunge.modalities.diffusion.collaboration import Stages, collaborate
from expunge.modalities.diffusion.subjects import ReferenceEncoder, SubjectFusion, cropped

STEPS = 6


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_fusion_by_hand_and_other_words_stay() -> None:
    torch.manual_seed(0)
    fusion = SubjectFusion(4)
    states, references = normal(2, 5, 4), normal(2, 2, 4, seed=1)
    out = fusion(states, references, torch.tensor([[3, -1], [1, 4]]))
    joined = fusion.join(torch.cat([states[0, 3], references[0, 0]])) + states[0, 3]
    torch.testing.assert_close(out[0, 3], fusion.norm(fusion.refine(joined) + joined))
    assert torch.equal(out[0, [0, 1, 2, 4]], states[0, [0, 1, 2, 4]])
    assert torch.equal(out[1, [0, 2, 3]], states[1, [0, 2, 3]])
    assert not torch.allclose(out[1, [1, 4]], states[1, [1, 4]])


def test_an_absent_subject_overwrites_no_word() -> None:
    """Also where the word at place 0 is fused with another subject."""
    fusion = SubjectFusion(4)
    states, references = normal(1, 3, 4), normal(1, 2, 4, seed=1)
    both, alone = (fusion(states, references[:, :n], places) for n, places in ((2, torch.tensor([[0, -1]])), (1, torch.tensor([[0]]))))
    torch.testing.assert_close(both, alone)


def test_a_reference_is_the_box_around_the_subject_with_noise_elsewhere() -> None:
    picture, noise = torch.arange(36.0).view(1, 6, 6), torch.full((1, 6, 6), -1.0)
    mask = torch.zeros(6, 6)
    mask[2:4, 1:3] = 1
    mask[2, 1] = 0
    assert cropped(picture, mask, noise, 2)[0].tolist() == [[-1, 14], [19, 20]]
    assert cropped(picture, torch.zeros(6, 6), noise, 2).tolist() == [[[-1, -1], [-1, -1]]]


def test_features_have_the_width_of_states_whatever_the_size() -> None:
    encoder = ReferenceEncoder(3, 8)
    assert encoder(normal(2, 3, 16, 16)).shape == encoder(normal(2, 3, 32, 32)).shape == (2, 8)


@pytest.fixture(scope="module")
def networks() -> list[Any]:
    """Two untrained networks of `diffusers`, conditioned on states."""
    diffusers = pytest.importorskip("diffusers")
    made_of = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 8), "norm_num_groups": 4}
    made_of |= {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
    made_of |= {"cross_attention_dim": 8, "attention_head_dim": 4, "layers_per_block": 1}
    result = []
    for seed in range(2):
        torch.manual_seed(seed)
        result.append(diffusers.UNet2DConditionModel(**made_of).eval())
    return result


def denoiser(network: Any, base: torch.Tensor, condition: torch.Tensor, guidance: float = 5.0) -> Any:
    def predict(x: torch.Tensor, time: Any) -> GuidedNoise:
        of_base, of_condition = network(torch.cat([x, x]), time, encoder_hidden_states=torch.cat([base, condition])).sample.chunk(2)
        return guided(of_base, of_condition, guidance)

    return predict


def scheduler(name: str = "DDIMScheduler") -> Any:
    import diffusers

    return getattr(diffusers, name)(num_train_timesteps=100)


@torch.no_grad()
def alone(predict: Any, of: Any, latents: torch.Tensor) -> torch.Tensor:
    """The ordinary loop of sampling with guidance."""
    of.set_timesteps(STEPS)
    x = latents * of.init_noise_sigma
    for time in of.timesteps:
        x = of.step(predict(x, time).noise, time, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("name", ["DDIMScheduler", "PNDMScheduler"])
def test_one_stage_alone_is_the_ordinary_sampling_of_its_model(networks: list[Any], name: str) -> None:
    """Bitwise; stages count the calls of the scheduler, of which PNDM makes more than steps."""
    empty, text, fused = (normal(2, 3, 8, seed=s) for s in range(3))
    scene, subject = denoiser(networks[0], empty, text), denoiser(networks[1], text, fused)
    latents, of = normal(2, 1, 8, 8, seed=9), scheduler(name)
    of.set_timesteps(STEPS)
    calls = len(of.timesteps)
    of_scene = collaborate(of, latents, STEPS, scene, subject, Stages(calls - 1, calls - 1))
    assert torch.equal(of_scene.latents, alone(scene, scheduler(name), latents))
    of_subject = collaborate(scheduler(name), latents, STEPS, scene, subject, Stages(-1, -1))
    assert torch.equal(of_subject.latents, alone(subject, scheduler(name), latents))
    assert of_scene.masks == of_subject.masks == {}
    assert not torch.allclose(of_scene.latents, of_subject.latents)


def test_equal_models_draw_what_each_draws(networks: list[Any]) -> None:
    empty, text = normal(2, 3, 8), normal(2, 3, 8, seed=1)
    one, latents = denoiser(networks[0], empty, text), normal(2, 1, 8, 8, seed=9)
    both = collaborate(scheduler(), latents, STEPS, one, one, Stages(-1, STEPS))
    assert torch.equal(both.latents, alone(one, scheduler(), latents))
    assert sorted(both.masks) == list(range(STEPS))
    assert all(float(m.sum()) == 0 for m in both.masks.values())


def test_a_step_of_fusion_by_the_equations(networks: list[Any]) -> None:
    empty, text, fused = (normal(2, 3, 8, seed=s) for s in range(3))
    scene, subject = denoiser(networks[0], empty, text), denoiser(networks[1], text, fused)
    latents, of = normal(2, 1, 8, 8, seed=9), scheduler()
    both = collaborate(of, latents, STEPS, scene, subject, Stages(-1, 0, window=3))
    of.set_timesteps(STEPS)
    with torch.no_grad():
        e_scene, e_subject = scene(latents, of.timesteps[0]), subject(latents, of.timesteps[0])
    assert list(both.masks) == [0]
    wins = saliency(e_subject.response, 3) > saliency(e_scene.response, 3)
    assert torch.equal(both.masks[0].bool(), wins)
    assert 0 < float(both.masks[0].mean()) < 1
