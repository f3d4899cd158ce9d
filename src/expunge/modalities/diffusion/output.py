"""What a diffusion model answers about rows: the loss of each draw, and what was predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from expunge.core.errors import UndeclaredNeed, UserError
from expunge.core.rows import Packed
from expunge.functional.brief import brief
from expunge.modalities.common.packed import exact


@brief("rows", "predicted")
@dataclass
class Denoised:
    """The output of a denoiser for some rows. A row has a position for each of its draws of noise and time."""

    predicted: Tensor  # (draws, channels, height, width)
    wanted: Tensor | None  # of the same shape; None where no picture is known
    row: Tensor  # (draws,)
    rows: int
    hooked: Mapping[str, tuple[Tensor, Tensor]]  # module -> (input, output), each (draws, width)

    @property
    def prediction(self) -> Packed:
        """Noise, velocity or picture, as the model was trained to predict, (draws, channels, height, width)."""
        return Packed(self.predicted, self.row, self.rows)

    @property
    def target(self) -> Packed:
        """What a perfect denoiser would predict, (draws, channels, height, width)."""
        if self.wanted is None:
            raise UserError("these rows are prompts alone, and this method learns from pictures: give rows with pictures to it")
        return Packed(self.wanted, self.row, self.rows)

    @cached_property
    def loss(self) -> Packed:
        """The squared error of each draw, a mean over the elements of its latent, (draws,)."""
        error = exact(self.predicted) - exact(self.target.values)
        return Packed(error.square().flatten(1).mean(1), self.row, self.rows)

    def hidden(self, hook_point: str, answers: bool = False) -> Packed:
        return self._hooked(hook_point, 1)

    def input(self, hook_point: str, answers: bool = False) -> Packed:
        return self._hooked(hook_point, 0)

    def _hooked(self, hook_point: str, side: int) -> Packed:
        if hook_point not in self.hooked:
            raise UndeclaredNeed(f"the module {hook_point!r} was not declared in `hook_points`")
        return Packed(self.hooked[hook_point][side], self.row, self.rows, "tokens")
