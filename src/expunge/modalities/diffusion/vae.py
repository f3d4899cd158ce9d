"""Between pictures and what a denoiser reads: latents of a VAE, or the pixels themselves, from -1 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expunge.engine.receipt import hash_weights
from expunge.functional.brief import brief

AT_ONCE = 16  # pictures that a VAE reads or writes at a time


@brief("vae", "scale")
@dataclass
class Latents:
    """The space that noise is put on.

    A VAE never trains. Pictures become the means of its latents, where training codes often draw them, so that rows have one latent.

    Args:
        vae: an autoencoder of `diffusers`; None: pixels.
        scale, shift: a latent is (mean - shift) scale.
    """

    vae: Any = None
    scale: float = 1.0
    shift: float = 0.0

    @torch.no_grad()
    def of(self, pictures: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The latents of pictures, uint8 (channels, height, width); pixels stay bytes, which take less memory. None where no picture is."""
        if self.vae is None:
            return list(pictures)
        places = [i for i, p in enumerate(pictures) if p is not None]
        latents: list[Tensor | None] = [None] * len(pictures)
        like = next(self.vae.parameters())
        for first in range(0, len(places), AT_ONCE):
            some = places[first : first + AT_ONCE]
            x = torch.stack([_units(pictures[i]) for i in some])  # type: ignore[arg-type]
            means = self.vae.encode(x.to(like)).latent_dist.mode()
            for i, latent in zip(some, ((means - self.shift) * self.scale).float().cpu(), strict=True):
                latents[i] = latent
        return latents

    def read(self, latent: Tensor) -> Tensor:
        """A latent as the denoiser reads it, float32 (channels, height, width)."""
        return _units(latent) if latent.dtype == torch.uint8 else latent

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> Tensor:
        """The pictures of clean latents, uint8 (rows, channels, height, width), on the CPU."""
        if self.vae is not None:
            like = next(self.vae.parameters())
            pieces = torch.split((latents / self.scale + self.shift).to(like), AT_ONCE)
            latents = torch.cat([self.vae.decode(piece, return_dict=False)[0].cpu() for piece in pieces])
        return ((latents.float().cpu() / 2 + 0.5) * 255).nan_to_num().round().clamp(0, 255).to(torch.uint8)

    def about(self) -> dict[str, Any]:
        """What the latents depend on."""
        if self.vae is None:
            return {"space": "pixels"}
        return {"space": "latents", "vae": hash_weights(self.vae), "scale": self.scale}


def _units(picture: Tensor) -> Tensor:
    """Bytes as values from -1 to 1."""
    return picture.float() / 127.5 - 1
