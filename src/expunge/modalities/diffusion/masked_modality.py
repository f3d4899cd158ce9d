"""Diffusion models that draw some tokens at a time: a row's loss is that of denoising its masked tokens, given the visible ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from expunge.core.capabilities import Displayable, Redraws
from expunge.core.errors import UserError
from expunge.core.modality import ModelOutput, Patch, Weights
from expunge.core.random import seed_of
from expunge.core.rows import Rows
from expunge.engine.adapters import base_of
from expunge.functional.flow_matching import training_sigma, velocity, velocity_loss
from expunge.functional.masked_order import masked_ratio, visible_tokens
from expunge.modalities.common.packed import call, watching
from expunge.modalities.diffusion.draw_losses import split
from expunge.modalities.diffusion.masked_autoregressive import pictures_of, taken, tokens_of
from expunge.modalities.diffusion.modality import Diffusion, Settings
from expunge.modalities.diffusion.own_saving import MASKED, save

UNIT = 2.0**56  # seeds are below it


@dataclass(frozen=True)
class MaskedSettings(Settings):
    """How rows become losses, and captions pictures. `drawn` and `evaluated` count orders of tokens; `steps` are those of writing tokens.

    Args:
        repeats: draws of noise and noise level of each masked token.
        denoising: steps of Euler's method for a token.
        first_guidance: guidance rises on a line from it to `guidance` over the steps.
    """

    repeats: int = 4
    denoising: int = 10
    first_guidance: float = 1.0


@dataclass(repr=False)  # as of `Diffusion`
class MaskedDiffusion(Diffusion):
    """The modality of masked autoregressors with continuous tokens.

    In a training step all rows have the same number of visible tokens, a function of the step, and each has an order of its own. Elsewhere
    a row has fixed orders, at shares of masked tokens that lie evenly in their distribution. The column `times` holds numbers of visible
    tokens.
    """

    settings: MaskedSettings = MaskedSettings()
    capabilities: frozenset[Any] = frozenset({Displayable, Redraws})
    patch: int = 1
    tokens: int = 64

    def _evaluated(self, rows: Rows) -> Rows:
        count = self.settings.evaluated
        shares = [masked_ratio((k + 0.5) / count) for k in range(count)]
        noise = [[seed_of("masked", key, k) for k in range(count)] for key in rows["key"]]
        return rows.add(times=[self._visible(shares)] * len(rows), noise=noise, dropped=[[False] * count] * len(rows))

    def redraw(self, rows: Rows, seed: int) -> Rows:
        """The same rows with the orders and the noise of a training step, and one number of visible tokens for all."""
        if "key" not in rows.columns:
            return rows
        draws = range(self.settings.drawn)
        visible = self._visible([masked_ratio(seed_of(seed, "masked", k) / UNIT) for k in draws])
        noise = [[seed_of(seed, key, k) for k in draws] for key in rows["key"]]
        dropped = [[seed_of(s, "dropped") / UNIT < self.settings.dropped for s in of_row] for of_row in noise]
        return rows.add(times=[visible] * len(rows), noise=noise, dropped=dropped)

    def _visible(self, shares: Sequence[float]) -> list[int]:
        return [visible_tokens(share, self.tokens) for share in shares]

    def blocks(self, model: nn.Module) -> tuple[str, ...]:
        """Paths of the blocks: of the condition, of visible tokens, and of all tokens."""
        base: Any = base_of(model)
        return tuple(base.blocks())

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]:
        """The loss of every draw, in one forward pass for each number of visible tokens. Arguments: as of `Diffusion`."""
        like = next(p for p in model.parameters() if p.is_floating_point())
        for group in groups:
            if any(x is None for x in group["latent"]):
                raise UserError(f"rows of {group.name!r} are prompts alone, and this learns from pictures: give rows with pictures")
        visible = [v for g in groups for of in g["times"] for v in of]
        seeds = [s for g in groups for of in g["noise"] for s in of]
        captions = ["" if gone else c for g in groups for c, of in zip(g["caption"], g["dropped"], strict=True) for gone in of]
        pictures = [x for g in groups for x, of in zip(g["latent"], g["times"], strict=True) for _ in of]
        losses, hooked = like.new_zeros(len(seeds)), dict[str, list[tuple[list[int], Tensor, Tensor]]]()
        for count in sorted(set(visible)):
            at = [i for i, v in enumerate(visible) if v == count]
            x = torch.stack([self.latents.read(pictures[i]) for i in at]).to(like.device, like.dtype)
            with watching(model, hook_points, patch) as states:
                some = self._losses(model, weights, x, [captions[i] for i in at], [seeds[i] for i in at], count)
            losses = losses.index_put((torch.tensor(at, device=like.device),), some)
            for path, (i, o) in states.items():
                hooked.setdefault(path, []).append((at, _mean(i, len(at)), _mean(o, len(at))))
        return split(losses, {n: _in_order(parts) for n, parts in hooked.items()}, groups)

    def _losses(
        self, model: nn.Module, weights: Weights | None, x: Tensor, captions: Sequence[str], seeds: Sequence[int], visible: int
    ) -> Tensor:
        """The loss of each draw, (draws,). x: clean latents, (draws, channels, height, width)."""
        tokens, repeats = tokens_of(x, self.patch), self.settings.repeats
        drawn = [_draw(seed, self.tokens, tokens.shape[2], repeats) for seed in seeds]
        order = torch.stack([d[0] for d in drawn]).to(x.device)
        noise, sigma = (torch.stack([d[k] for d in drawn], 1).to(x.device, x.dtype) for k in (1, 2))
        null = torch.tensor([c == "" for c in captions], device=x.device)
        predicted = call(
            model, weights, tokens, null=null, order=order, visible=visible, noise=noise, sigma=sigma, **self._condition(captions, x)
        )
        masked = order[:, visible:]
        wanted = velocity(taken(tokens, masked), noise.gather(2, masked[None, :, :, None].expand(repeats, -1, -1, tokens.shape[2])))
        return velocity_loss(predicted.float(), wanted.float()).mean((0, 2)).to(x.dtype)

    def _condition(self, captions: Sequence[str], like: Tensor) -> dict[str, Tensor]:
        conditions = self._conditions(nn.Identity(), captions, like.device)
        if self.classes:
            return {"condition": conditions["tokens"][conditions["which"]]}
        return {"condition": conditions["tokens"], "which": conditions["which"]}

    def sample(
        self, model: nn.Module, captions: Sequence[str], seeds: Sequence[int], steps: int = 0, guidance: float = -1, until: int = -1
    ) -> tuple[Tensor, Tensor]:
        """Draw pictures, one for each caption and its seed. Arguments: as of `Diffusion`; `until` must be -1, since tokens are final.

        Raises:
            UserError: for a sampling that is to stop midway.
        """
        if until >= 0:
            raise UserError("a masked autoregressor writes final tokens, and its sampling has no noisy pictures in between")
        base: Any = base_of(model)
        like = next(p for p in model.parameters() if p.is_floating_point())
        last = self.settings.guidance if guidance < 0 else guidance
        of_captions = self._condition(captions, like)
        with torch.no_grad():
            states = base.states(of_captions["condition"])
            condition = states if "which" not in of_captions else states[of_captions["which"]]
            drawn = base.sample(
                condition,
                [Generator().manual_seed(seed) for seed in seeds],
                steps or self.settings.steps,
                self.settings.denoising,
                (1.0, 1.0) if last == 1 else (self.settings.first_guidance, last),
            )
        return pictures_of(drawn, self.patch), torch.full((len(captions),), -1)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write weights, configuration and tokenizer, or the adapter alone."""
        base: Any = base_of(model)
        save(model, self, MASKED, asdict(base.plan), folder)


def _draw(seed: int, tokens: int, values: int, repeats: int) -> tuple[Tensor, Tensor, Tensor]:
    """An order of the tokens (tokens,), noise (repeats, tokens, values) and noise levels (repeats, tokens)."""
    generator = Generator().manual_seed(seed)
    order = torch.randperm(tokens, generator=generator)
    noise = torch.randn(repeats, tokens, values, generator=generator)
    return order, noise, training_sigma(torch.randn(repeats, tokens, generator=generator))


def _mean(states: Any, draws: int) -> Tensor:
    """States of a module averaged over tokens, (draws, width). Raises: UserError for a module that does not run once for each draw."""
    if not isinstance(states, Tensor) or draws not in states.shape[:2]:
        raise UserError("a module of the hook points does not run once for each row: name a block")
    if states.shape[0] != draws:  # the head, which runs on all repeats
        states = states.mean(0)
    pooled: Tensor = states if states.dim() == 2 else states.flatten(1, -2).mean(1)
    return pooled


def _in_order(parts: Sequence[tuple[list[int], Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """States of several forward passes in the order of the draws."""
    back = torch.tensor([i for at, _, _ in parts for i in at]).argsort()
    before, after = torch.cat([p[1] for p in parts]), torch.cat([p[2] for p in parts])
    return before[back.to(before.device)], after[back.to(after.device)]
