"""Small diffusion models that draw what a caption says: a UNet on pixels with a text encoder of its own, in the layout of Stable Diffusion.

They train from scratch in minutes on a CPU, for tests, demos and small experiments. What is saved loads as a `StableDiffusionPipeline`
without a VAE (`from_pretrained(folder, vae=None)`): `pipe(prompt, output_type="latent")` returns the pixels.

Source: `UNet2DConditionModel` of `diffusers` and `CLIPTextModel` of `transformers`; the process is that of DDPM (Ho et al. 2020, arXiv
  2006.11239) with a cosine schedule and the prediction of velocity (Salimans and Ho 2022, arXiv 2202.00512)
Status: faithful
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expunge.modalities.diffusion.building import start_model
from expunge.modalities.diffusion.modality import Diffusion, Settings
from expunge.modalities.diffusion.network import DiffusionModel

SIZES = {"unet-nano": (16, 32), "unet-micro": (32, 64)}  # channels at each resolution
SETTINGS = Settings(dropped=0.1, steps=20, guidance=3.0)
TRAINING: dict[str, dict[str, Any]] = {
    size: {"epochs": 36, "lr": lr, "batch_size": 32, "optimizer": "adam", "weight_decay": 0.0, "warmup": 1, "max_grad_norm": 1.0}
    for size, lr in (("unet-nano", 4e-3), ("unet-micro", 2e-3))
}


def start(size: str, records: Sequence[Mapping[str, Any]], **options: Any) -> tuple[DiffusionModel, Diffusion]:
    """An untrained model of a built-in size for the data. options: of `start_model`. Raises: UserError."""
    return start_model(SIZES[size], SETTINGS, records, **options)
