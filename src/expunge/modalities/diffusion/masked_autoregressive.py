"""Pictures by masked autoregression over continuous tokens: an encoder of the condition, an encoder of visible and masked tokens, and a
head that denoises the masked ones.

Source: LINA (arXiv 2601.22630), which follows MAR and NOVA.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from expunge.functional.flow_matching import euler, noised
from expunge.functional.masked_order import guidance_at, masked_counts
from expunge.modalities.diffusion.flow_head import FlowHead
from expunge.modalities.diffusion.token_attention import Attention, TokenBlock


@dataclass(frozen=True)
class LinaPlan:
    """What builds a model, as plain data.

    Args:
        channels, side: of the pictures (or latents), which are square.
        patch: pixels along a side of a token; the tokens along a side of the picture are even in number.
        classes: conditions by number; 0: the condition is a sequence of states.
        states: width of the states of a text.
        context: length of the sequence of states.
        width, heads: of the tokens.
        condition_blocks: blocks of the encoder of the condition.
        encoder_blocks: blocks over condition and visible tokens.
        decoder_blocks: blocks over condition and all tokens.
        head_blocks, head_width: of the head that denoises.
        attention: division, subtraction or softmax.
        gates: whether blocks over all tokens have gates of keys and values.
        locality: whether they have a convolution.
    """

    channels: int
    side: int
    patch: int
    classes: int = 0
    states: int = 0
    context: int = 0
    width: int = 128
    heads: int = 4
    condition_blocks: int = 4
    encoder_blocks: int = 4
    decoder_blocks: int = 4
    head_blocks: int = 3
    head_width: int = 128
    attention: Attention = "division"
    gates: bool = True
    locality: bool = True

    @property
    def grid(self) -> int:
        """Tokens along a side of the picture."""
        return self.side // self.patch

    @property
    def tokens(self) -> int:
        """Tokens of the picture."""
        return self.grid**2

    @property
    def conditions(self) -> int:
        """Tokens of the condition: a quarter of those of the picture."""
        return (self.grid // 2) ** 2

    @property
    def values(self) -> int:
        """Numbers of a token."""
        return self.channels * self.patch**2


class LearnedTokens(nn.Module):
    """Tokens that are weights: the start of the condition, the mask, and the empty text.

    Args:
        count: how many.
        width: of each.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)

    def forward(self) -> Tensor:
        """(count, width)"""
        return self.weight


class LabelContext(nn.Module):
    """A token for each class, and one for no class, which is the last. Its normalization has no weights.

    Args:
        classes: how many.
        width: of the token.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(classes + 1, width), nn.LayerNorm(width, elementwise_affine=False)

    def forward(self, condition: Tensor, null: Tensor) -> Tensor:
        """condition: numbers of classes, (batch,). null: whether to leave it out, (batch,). Returns: (batch, 1, width)."""
        context: Tensor = self.norm(self.table(condition.masked_fill(null, self.table.num_embeddings - 1)))
        return context[:, None]


class TextContext(nn.Module):
    """States of a text encoder, projected; learned tokens stand for no text.

    Args:
        states: width of the states.
        length: of the sequence.
        width: of the tokens.
    """

    def __init__(self, states: int, length: int, width: int) -> None:
        super().__init__()
        self.projection, self.norm = nn.Linear(states, width), nn.LayerNorm(width)
        self.empty = LearnedTokens(length, states)

    def forward(self, condition: Tensor, null: Tensor) -> Tensor:
        """condition: (batch, length, states). null: whether to leave it out, (batch,). Returns: (batch, length, width)."""
        chosen = torch.where(null[:, None, None], self.empty().to(condition.dtype), condition)
        context: Tensor = self.norm(self.projection(chosen))
        return context


class MaskedAutoregressor(nn.Module):
    """The network of LINA.

    Args:
        plan: what builds it.
        text_encoder: makes states of tokens; None: conditions are classes, or states.
    """

    resting: tuple[str, ...] = ()  # names of children that train only where a plan names their parameters

    places: Tensor
    condition_places: Tensor

    def __init__(self, plan: LinaPlan, text_encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.plan = c = plan
        self.text_encoder = text_encoder
        of_text = TextContext(c.states, c.context, c.width) if not c.classes else None
        self.context = of_text if of_text is not None else LabelContext(c.classes, c.width)
        self.start, self.mask = LearnedTokens(1, c.width), LearnedTokens(1, c.width)
        self.embedding = nn.Linear(c.values, c.width)
        plain: dict[str, Any] = {"width": c.width, "heads": c.heads, "kind": c.attention}
        gated = c.conditions + c.tokens if c.gates else 0
        self.condition_blocks = nn.ModuleList(TokenBlock(**plain) for _ in range(c.condition_blocks))
        self.condition_norm = nn.LayerNorm(c.width)
        self.encoder_blocks = nn.ModuleList(TokenBlock(**plain) for _ in range(c.encoder_blocks))
        local: dict[str, Any] = {"gated": gated, "grid": c.grid if c.locality else 0}
        self.decoder_blocks = nn.ModuleList(TokenBlock(**plain, **local) for _ in range(c.decoder_blocks))
        self.norm = nn.LayerNorm(c.width)
        self.head = FlowHead(c.values, c.width, c.head_width, c.head_blocks)
        self.register_buffer("places", sine_places(c.grid, c.width), persistent=False)
        self.register_buffer("condition_places", sine_places(c.grid // 2, c.width), persistent=False)

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        null: Tensor,
        order: Tensor,
        visible: int,
        noise: Tensor,
        sigma: Tensor,
        which: Tensor | None = None,
    ) -> Tensor:
        """Predict the velocity of the masked tokens of noised pictures.

        Args:
            x: tokens of the pictures, (batch, tokens, values).
            condition: classes (batch,), states (batch, length, states), or tokens of a text (batch, length).
            null: whether to leave the condition out, (batch,).
            order: a permutation of the tokens for each picture, (batch, tokens); the first ones are visible.
            visible: how many.
            noise: (repeats, batch, tokens, values), by place in the picture.
            sigma: noise levels, (repeats, batch, tokens).
            which: the condition of each picture, (batch,); None: one for each.

        Returns:
            (repeats, batch, masked tokens, values), in the order of `order`.
        """
        states = self.encode(x, self.conditioned(condition, null, which), order[:, :visible])
        masked = order[:, visible:]
        clean, known = taken(x, masked), taken(states, masked)
        level = sigma.gather(2, masked.expand(len(sigma), -1, -1))
        noise = noise.gather(2, masked[None, :, :, None].expand(len(noise), -1, -1, noise.shape[-1]))
        predicted: Tensor = self.head(noised(clean, noise, level[..., None]), level, known.expand(len(noise), -1, -1, -1))
        return predicted

    def conditioned(self, condition: Tensor, null: Tensor, which: Tensor | None = None) -> Tensor:
        """Tokens of the condition, (batch, conditions, width). Arguments: as of `forward`."""
        condition = self.states(condition)
        context = self.context(condition if which is None else condition[which], null)
        start = (self.start() + self.condition_places).expand(len(context), -1, -1)
        h = torch.cat([context, start], 1)
        for block in self.condition_blocks:
            h = block(h)
        tokens: Tensor = self.condition_norm(h[:, context.shape[1] :])
        return tokens

    def states(self, condition: Tensor) -> Tensor:
        """States of a text encoder where the condition is tokens (batch, length); classes and states as they are."""
        if self.text_encoder is None or condition.is_floating_point():
            return condition
        states: Tensor = self.text_encoder(condition)[0]
        return states

    def encode(self, x: Tensor, condition: Tensor, visible: Tensor) -> Tensor:
        """What the network knows of each place, from the condition and the visible tokens alone.

        Args:
            x: tokens of the pictures, (batch, tokens, values); those that are not visible are not read.
            condition: from `conditioned`.
            visible: places of the visible tokens, (batch, visible).

        Returns:
            (batch, tokens, width)
        """
        first = condition.shape[1]
        shown = self.embedding(taken(x, visible)) + self.places[visible]
        h = torch.cat([condition, shown], 1)
        for block in self.encoder_blocks:
            h = block(h)
        masked = (self.mask() + self.places).expand(len(x), -1, -1)
        every = masked.scatter(1, visible[..., None].expand(-1, -1, h.shape[-1]), h[:, first:].to(masked.dtype))
        h = torch.cat([h[:, :first], every], 1)
        for block in self.decoder_blocks:
            h = block(h)
        states: Tensor = self.norm(h[:, first:])
        return states

    def untrained(self) -> MaskedAutoregressor:
        """The same network with new weights."""
        encoder: Any = self.text_encoder
        encoder = None if encoder is None else type(encoder)(copy.deepcopy(encoder.config))
        return MaskedAutoregressor(self.plan, encoder).to(self.mask.weight.dtype)

    def blocks(self) -> tuple[str, ...]:
        """Paths of the blocks, in the order of the forward pass."""
        lists = ("condition_blocks", "encoder_blocks", "decoder_blocks")
        return tuple(f"{name}.{i}" for name in lists for i in range(len(getattr(self, name))))

    @torch.no_grad()
    def sample(
        self,
        condition: Tensor,
        generators: Sequence[Generator],
        steps: int = 8,
        denoising: int = 10,
        guidance: tuple[float, float] = (1.0, 1.0),
    ) -> Tensor:
        """Draw pictures, some tokens at a time, in a random order for each.

        Args:
            condition: classes (batch,), states (batch, length, states), or tokens of a text (batch, length).
            generators: one for each picture, so that it depends on its own seed alone.
            steps: in which tokens are written; those that would write none are left out.
            denoising: steps of Euler's method for a token.
            guidance: v = v_null + g (v_condition - v_null); g rises on a line from the first number to the second; (1, 1): no guidance.

        Returns:
            (batch, tokens, values)
        """
        c, device, batch = self.plan, self.mask.weight.device, len(generators)
        null = torch.zeros(batch, dtype=torch.bool, device=device)
        guided = guidance != (1.0, 1.0)
        contexts = [self.conditioned(condition, null), *([self.conditioned(condition, ~null)] if guided else [])]
        order = torch.stack([torch.randperm(c.tokens, generator=g) for g in generators]).to(device)
        x = torch.zeros(batch, c.tokens, c.values, device=device, dtype=self.mask.weight.dtype)
        counts = masked_counts(c.tokens, steps)
        written = 0
        for i, masked in enumerate(counts, 1):
            next_ones = order[:, written : c.tokens - masked]
            known = [taken(self.encode(x, context, order[:, :written]), next_ones) for context in contexts]
            noise = torch.stack([torch.randn(next_ones.shape[1], c.values, generator=g) for g in generators]).to(x)
            drawn = euler(noise, denoising, self._velocity(known, guidance_at(i, len(counts), *guidance)))
            x = x.scatter(1, next_ones[..., None].expand(-1, -1, c.values), drawn)
            written = c.tokens - masked
        return x

    def _velocity(self, known: Sequence[Tensor], guidance: float) -> Any:
        def predict(x: Tensor, sigma: float) -> Tensor:
            level = torch.full(x.shape[:-1], sigma, dtype=x.dtype, device=x.device)
            of_condition, *of_null = [self.head(x, level, states) for states in known]
            velocity: Tensor = of_null[0] + guidance * (of_condition - of_null[0]) if of_null else of_condition
            return velocity

        return predict


def sine_places(grid: int, width: int) -> Tensor:
    """Fixed vectors of places on a grid: [sin x, cos x, sin y, cos y] at width/4 frequencies 10000^(-k / (width/4)).

    Args:
        grid: places along a side.
        width: of a vector, a multiple of 4.

    Returns:
        (grid^2, width), row by row.
    """
    rates = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    y, x = torch.meshgrid(torch.arange(grid).double(), torch.arange(grid).double(), indexing="ij")
    angles = [axis.flatten()[:, None] * rates for axis in (x, y)]
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], 1).float()


def taken(x: Tensor, places: Tensor) -> Tensor:
    """Tokens at places of their own for each picture. x: (batch, tokens, width). places: (batch, some). Returns: (batch, some, width)."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))


def tokens_of(pictures: Tensor, patch: int) -> Tensor:
    """Cut pictures into tokens, row by row. pictures: (batch, channels, side, side). Returns: (batch, tokens, channels * patch^2)."""
    batch, channels, rows, columns = pictures.shape
    cut = pictures.view(batch, channels, rows // patch, patch, columns // patch, patch)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * patch**2)


def pictures_of(tokens: Tensor, patch: int) -> Tensor:
    """The pictures of tokens: what `tokens_of` undoes. tokens: (batch, grid^2, channels * patch^2)."""
    batch, count, values = tokens.shape
    grid, channels = round(count**0.5), values // patch**2
    laid = tokens.view(batch, grid, grid, channels, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return laid.reshape(batch, channels, grid * patch, grid * patch)
