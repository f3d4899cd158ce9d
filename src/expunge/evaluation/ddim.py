"""Deterministic sampling between any two levels of noise, and its inversion: from a picture to the latent that it comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Denoises, require
from expunge.core.modality import Modality
from expunge.core.rows import Rows
from expunge.engine.run_state import evaluating
from expunge.functional.brief import brief

AT_ONCE = 32  # latents in one forward pass


class HasProcess(Denoises, Protocol):
    """A modality that denoises, with the way from pictures to noise: its number of times, `noisy` and `parts`."""

    process: Any


@brief("guidance")
@dataclass(frozen=True)
class Ddim:
    """DDIM without noise of its own, with guidance by the empty prompt: a latent is split into picture and noise, and mixed anew.

    Levels are indices of times of the modality's process; index 0 is cleanest.

    Args:
        model: predicts; it stays as it is.
        modality: of the model.
        guidance: weight of the caption against the empty prompt; 1: no guidance.
    """

    model: nn.Module
    modality: Modality
    guidance: float = 1.0

    @property
    def artist(self) -> HasProcess:
        """The modality, with its process. Raises: UserError for one that makes no pictures."""
        return cast(HasProcess, require(self.modality, Denoises))

    def grid(self, steps: int) -> list[int]:
        """Levels, cleanest first, evenly spaced from 1 on, as many as steps."""
        times = len(self.artist.process)
        return [min(1 + k * times // steps, times - 1) for k in range(min(steps, times - 1))]

    def split(self, latents: Tensor, captions: Sequence[str], level: int) -> tuple[Tensor, Tensor]:
        """The picture and the noise in latents, as the model sees them at a level, each (rows, channels, height, width)."""
        artist = self.artist
        rows = artist.rows("prompts", [{"caption": c} for c in captions])
        pieces = [self._predicted(rows, latents, first, level) for first in range(0, len(captions), AT_ONCE)]
        parts: tuple[Tensor, Tensor] = artist.process.parts(latents, torch.cat(pieces), self._index(level, latents))
        return parts

    def inverted(self, latents: Tensor, captions: Sequence[str], grid: Sequence[int]) -> list[Tensor]:
        """Latents at each level of a grid, which sampling leads back to the clean ones.

        The noise is predicted for the latent of one level at the time of the next one, as in the authors' code.

        Args:
            latents: without noise; they count as those of the first level, (rows, channels, height, width).
            captions: (rows,).
            grid: levels, cleanest first.
        """
        reached = [latents]
        with evaluating(self.model), torch.no_grad():
            for below, level in pairwise(grid):
                _, noise = self.split(reached[-1], captions, level)
                reached.append(self._moved(reached[-1], noise, below, level))
        return reached

    def sampled(
        self, latents: Tensor, captions: Sequence[str], grid: Sequence[int], known: Callable[[Tensor, int], Tensor] = lambda x, level: x
    ) -> Tensor:
        """Latents of the first level of a grid, from those of its last one.

        Args:
            latents: (rows, channels, height, width).
            captions: (rows,).
            grid: levels, cleanest first.
            known: puts what is known into the latents of a level, after each step.
        """
        with evaluating(self.model), torch.no_grad():
            for level, below in zip(grid[:0:-1], grid[-2::-1], strict=True):
                _, noise = self.split(latents, captions, level)
                latents = known(self._moved(latents, noise, level, below), below)
        return latents

    def _moved(self, latents: Tensor, noise: Tensor, start: int, end: int) -> Tensor:
        """Latents at another level, for noise that is known: the picture in them is what the noise leaves."""
        process, zero = self.artist.process, torch.zeros_like(latents[:1])
        signal, share = process.noisy(zero + 1, zero, self._index(start, zero)), process.noisy(zero, zero + 1, self._index(start, zero))
        moved: Tensor = process.noisy((latents - share * noise) / signal, noise, self._index(end, latents))
        return moved

    def _index(self, level: int, like: Tensor) -> Tensor:
        return torch.full((len(like),), level)

    def _predicted(self, rows: Rows, latents: Tensor, first: int, level: int) -> Tensor:
        """The prediction for some of the rows, with guidance."""
        artist = self.artist
        x = latents[first : first + AT_ONCE]
        some = artist.placed(rows.select(range(first, first + len(x))), x, self._index(level, x))
        if self.guidance == 1 or not any(some["caption"]):
            return artist.forward(self.model, [some])[0].prediction.values
        empty = artist.recaption(some, [""])
        without, within = (o.prediction.values for o in artist.forward(self.model, [empty, some]))
        return without + self.guidance * (within - without)
