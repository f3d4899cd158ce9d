"""The network of LINA: gates, locality, what each half reads, the order of sampling, and cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from expunge.functional.flow_matching import velocity, velocity_loss
from expunge.functional.linear_attention import positive
from expunge.modalities.diffusion.masked_autoregressive import (
    LinaPlan,
    MaskedAutoregressor,
    pictures_of,
    sine_places,
    taken,
    tokens_of,
)
from expunge.modalities.diffusion.token_attention import KERNEL, TokenAttention, TokenBlock

SMALL = LinaPlan(
    channels=1,
    side=8,
    patch=2,
    classes=3,
    width=16,
    heads=2,
    condition_blocks=1,
    encoder_blocks=1,
    decoder_blocks=2,
    head_blocks=1,
    head_width=16,
)


def network(config: LinaPlan = SMALL, seed: int = 0) -> MaskedAutoregressor:
    torch.manual_seed(seed)
    return MaskedAutoregressor(config).eval()


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(batch: int = 2, repeats: int = 2, config: LinaPlan = SMALL) -> dict[str, Any]:
    return {
        "x": normal(batch, config.tokens, config.values),
        "condition": torch.arange(batch) % config.classes,
        "null": torch.zeros(batch, dtype=torch.bool),
        "order": torch.stack([torch.randperm(config.tokens, generator=torch.Generator().manual_seed(i)) for i in range(batch)]),
        "visible": 4,
        "noise": normal(repeats, batch, config.tokens, config.values, seed=1),
        "sigma": normal(repeats, batch, config.tokens, seed=2).sigmoid(),
    }


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


def test_gates_of_one_change_nothing() -> None:
    torch.manual_seed(0)
    plain = TokenAttention(8, 2)
    gated = TokenAttention(8, 2, gated=5)
    gated.load_state_dict(plain.state_dict(), strict=False)
    x = normal(2, 5, 8)
    assert torch.equal(plain(x), gated(x))


def test_gates_act_on_features_and_enter_the_normalizer() -> None:
    """A gate of the value takes the value away and keeps the key's weight; one of the key takes the token away."""
    torch.manual_seed(0)
    attention = TokenAttention(4, 1, gated=3).double()
    attention.out = torch.nn.Identity()  # type: ignore[assignment]
    x = normal(1, 3, 4).double()
    q, k, v = attention.qkv(x)[0].chunk(3, -1)
    weights = positive(q) @ positive(k).T
    with torch.no_grad():
        attention.gate.value[0, 0, 1, 0] = 0.0  # type: ignore[union-attr]
    kept = torch.tensor([0, 2])
    expected = weights[:, kept] @ v[kept] / weights.sum(1, keepdim=True)
    torch.testing.assert_close(attention(x)[0], expected, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        attention.gate.key[0, 0, 1, 0] = 0.0  # type: ignore[union-attr]
    expected = weights[:, kept] @ v[kept] / weights[:, kept].sum(1, keepdim=True)
    torch.testing.assert_close(attention(x)[0], expected, atol=1e-4, rtol=1e-4)


def test_locality_reads_the_block_input_at_picture_places_alone() -> None:
    torch.manual_seed(0)
    local = TokenAttention(4, 1, grid=3).locality
    assert local is not None
    x = normal(1, 2 + 9, 4)
    out = local(x)
    assert torch.equal(out[:, :2], torch.zeros(1, 2, 4))
    middle = (local.convolution.weight[:, 0, 1:4, 1:4].flatten(1) * x[0, 2:].T).sum(1) + local.convolution.bias
    torch.testing.assert_close(out[0, 2 + 4], middle)


def test_a_block_normalizes_what_it_adds() -> None:
    torch.manual_seed(0)
    block = TokenBlock(8, 2)
    x = 100 * normal(2, 5, 8)
    between = x + block.after_attention(block.attention(x))
    torch.testing.assert_close(block(x), between + block.after_mlp(block.mlp(between)))
    assert float((block(x) - x).detach().abs().max()) < 8, "each branch adds a vector of unit variance, however large the input is"


def test_gates_and_locality_cost_as_many_weights_as_published() -> None:
    """2 h N + (5^2 + 1) D of each block over all tokens."""
    with_both, without = (sum(p.numel() for p in network(c).parameters()) for c in (SMALL, replace(SMALL, gates=False, locality=False)))
    tokens = SMALL.tokens + SMALL.conditions
    assert tokens == SMALL.tokens * 5 // 4
    assert with_both - without == SMALL.decoder_blocks * (2 * SMALL.heads * tokens + (KERNEL**2 + 1) * SMALL.width)


def test_what_a_place_knows_comes_from_the_condition_and_visible_tokens() -> None:
    model, given = network(), inputs()
    visible = given["order"][:, :4]
    c = model.conditioned(given["condition"], given["null"])
    states = model.encode(given["x"], c, visible)
    hidden = given["x"].scatter(1, given["order"][:, 4:, None].expand(-1, -1, SMALL.values), 9.0)
    assert torch.equal(model.encode(hidden, c, visible), states)
    shown = given["x"].scatter(1, visible[..., None].expand(-1, -1, SMALL.values), 9.0)
    assert not torch.allclose(model.encode(shown, c, visible), states)
    other = model.conditioned((given["condition"] + 1) % 3, given["null"])
    assert not torch.allclose(model.encode(given["x"], other, visible), states)


def test_order_among_visible_tokens_does_not_matter() -> None:
    model, given = network(), inputs()
    visible = given["order"][:, :4]
    c = model.conditioned(given["condition"], given["null"])
    torch.testing.assert_close(model.encode(given["x"], c, visible.flip(1)), model.encode(given["x"], c, visible))


def test_velocities_are_those_of_the_masked_tokens() -> None:
    """And the loss of the head at visible places is in no gradient."""
    model, given = network(), inputs()
    predicted = model(**given)
    masked = given["order"][:, 4:]
    assert predicted.shape == (2, 2, SMALL.tokens - 4, SMALL.values)
    states = model.encode(given["x"], model.conditioned(given["condition"], given["null"]), given["order"][:, :4])
    k, place = 5, int(masked[1, 5])
    sigma = given["sigma"][0, 1, place]
    noisy = sigma * given["noise"][0, 1, place] + (1 - sigma) * given["x"][1, place]
    torch.testing.assert_close(predicted[0, 1, k], model.head(noisy, sigma, states[1, place]))
    target = velocity(taken(given["x"], masked), given["noise"].gather(2, masked[None, :, :, None].expand(2, -1, -1, SMALL.values)))
    loss = velocity_loss(predicted, target)
    assert loss.shape == (2, 2, SMALL.tokens - 4)
    assert float(loss[0, 1, k].detach()) == pytest.approx(
        float((predicted[0, 1, k] - given["noise"][0, 1, place] + given["x"][1, place]).detach().square().mean()), rel=1e-5
    )


def test_no_class_hides_the_class() -> None:
    model, given = network(), inputs()
    null = torch.ones(2, dtype=torch.bool)
    both = model.conditioned(given["condition"], null)
    assert torch.equal(both[0], both[1])
    assert not torch.allclose(model.conditioned(given["condition"], ~null)[0], both[0])


def test_a_text_is_states_or_learned_tokens() -> None:
    model = network(replace(SMALL, classes=0, states=6, context=4))
    states = normal(2, 4, 6)
    null = torch.tensor([False, True])
    c = model.conditioned(states, null)
    assert torch.equal(c[1], model.conditioned(torch.zeros(2, 4, 6), null)[1])
    assert not torch.allclose(c[0], model.conditioned(torch.zeros(2, 4, 6), null)[0])


def test_sampling_is_a_function_of_the_seed_of_each_picture() -> None:
    model, labels = network(), torch.tensor([0, 1])
    first = model.sample(labels, generators(5, 6), steps=4, denoising=3)
    assert torch.equal(model.sample(labels, generators(5, 6), steps=4, denoising=3), first)
    torch.testing.assert_close(model.sample(labels[1:], generators(6), steps=4, denoising=3), first[1:], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(model.sample(labels, generators(7, 6), steps=4, denoising=3)[0], first[0])


def test_every_token_is_written_once() -> None:
    """A head that always says noise - 1 writes ones; a second writing of a place would start from other noise and be counted."""
    model = network()
    written = []

    def one(x: torch.Tensor, sigma: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        written.append(x.shape[1])
        return (x - 1) / sigma[..., None]  # points to 1 from everywhere on the line

    model.head.forward = one  # type: ignore[method-assign]
    out = model.sample(torch.tensor([0, 2]), generators(1, 2), steps=4, denoising=3)
    torch.testing.assert_close(out, torch.ones_like(out))
    assert sum(written) == 3 * SMALL.tokens


def test_guidance_of_one_is_no_guidance_and_more_goes_further() -> None:
    model, labels = network(), torch.tensor([0, 1])
    plain = model.sample(labels, generators(1, 2), steps=2, denoising=2)
    nearly = model.sample(labels, generators(1, 2), steps=2, denoising=2, guidance=(1.0, 1.0 + 1e-6))
    torch.testing.assert_close(nearly, plain, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(model.sample(labels, generators(1, 2), steps=2, denoising=2, guidance=(1.0, 3.0)), plain, atol=1e-4)


def test_tokens_are_cut_row_by_row_and_laid_back() -> None:
    pictures = torch.arange(2 * 3 * 8 * 8).view(2, 3, 8, 8).float()
    tokens = tokens_of(pictures, 2)
    assert tokens.shape == (2, 16, 12)
    assert tokens[0, 1].tolist() == pictures[0, :, :2, 2:4].flatten().tolist()
    assert torch.equal(pictures_of(tokens, 2), pictures)


def test_places_by_hand() -> None:
    """Width 4 has one frequency, 1; the second place of the first row is at x = 1, y = 0."""
    one = torch.tensor(1.0)
    torch.testing.assert_close(sine_places(2, 4)[1], torch.stack([one.sin(), one.cos(), 0 * one, one]))


@pytest.mark.parametrize("kind", ["division", "subtraction", "softmax"])
def test_linear_attention_multiplies_in_proportion_to_tokens_and_softmax_to_their_square(kind: Any) -> None:
    """Counted by torch: products of matrices in the mixing of values, for N and 2N tokens."""
    from torch.utils.flop_counter import FlopCounterMode

    attention, counts = TokenAttention(64, 2, kind), []
    for tokens in (64, 128):
        q, k, v = normal(3, 1, 2, tokens, 32).abs()
        with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            attention._mixed(q, k, v)
        counts.append(counter.get_total_flops())
    assert counts[1] == (4 if kind == "softmax" else 2) * counts[0]


@pytest.mark.parametrize("kind", ["subtraction", "softmax"])
def test_other_attention_is_a_setting(kind: Any) -> None:
    model = network(replace(SMALL, attention=kind))
    assert model(**inputs()).isfinite().all()
