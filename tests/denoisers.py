"""Small worlds of pictures with captions, and the smallest models that draw them."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from expunge.core.plan import Plan, Train
from expunge.engine import loop
from expunge.methods.terms import NLL, Ascent
from expunge.modalities.diffusion.building import start_model
from expunge.modalities.diffusion.libraries import class_of
from expunge.modalities.diffusion.modality import Diffusion, Settings
from expunge.modalities.diffusion.network import DiffusionModel

COLORS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (40, 60, 220)}
SIDE = 8
OWN = {"PNDMScheduler": {"skip_prk_steps": True}, "DDIMScheduler": {"clip_sample": False}}
ATTACKED = {"steps": 20, "lr": 3e-3, "looks": (5, 10, 20), "pictures": 4, "between": 3}  # a quick attack on the taught models
SETTINGS = Settings(evaluated=2, dropped=0.1, steps=3, guidance=2.0)


def records(each: int = 3, seed: int = 0) -> list[dict[str, Any]]:
    """Squares and bars in three colors, each some times at another place."""
    rng = np.random.default_rng(seed)
    drawn = []
    for name, color in COLORS.items():
        for shape, size in (("square", (4, 4)), ("bar", (2, 6))):
            for _ in range(each):
                picture = np.full((SIDE, SIDE, 3), 230, np.uint8)
                top, left = rng.integers(0, SIDE - size[0] + 1), rng.integers(0, SIDE - size[1] + 1)
                picture[top : top + size[0], left : left + size[1]] = color
                drawn.append({"image": picture, "caption": f"a {name} {shape}"})
    return drawn


def built(seed: int = 0, **changes: Any) -> tuple[DiffusionModel, Diffusion]:
    """An untrained model for the records."""
    model, modality = start_model((8, 16), SETTINGS, records(), seed=seed)
    for name, value in changes.items():
        setattr(modality, name, value)
    return model, modality


def stable_diffusion(folder: Path, channels: int = 4, prediction: str = "epsilon", scheduler: str = "PNDMScheduler") -> Path:
    """A tiny pipeline of random weights in the layout of Stable Diffusion 1.x, with a VAE, as `diffusers` writes it."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    model, modality = built()
    torch.manual_seed(0)
    vae = class_of("AutoencoderKL")(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=2 * SIDE,
    )
    unet = class_of("UNet2DConditionModel").from_config({**model.denoiser.config, "in_channels": channels, "out_channels": channels})
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=modality.tokenizer,
        unet=unet,
        scheduler=class_of(scheduler)(prediction_type=prediction, steps_offset=1, **OWN.get(scheduler, {})),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def diffusion_transformer(folder: Path) -> Path:
    """A tiny class-conditional pipeline of random weights in the layout of DiT, as `diffusers` writes it."""
    from diffusers.pipelines.dit.pipeline_dit import DiTPipeline

    torch.manual_seed(0)
    transformer = class_of("DiTTransformer2DModel")(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=SIDE,
        patch_size=2,
        num_embeds_ada_norm=3,
    )
    vae = class_of("AutoencoderKL")(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=2 * SIDE,
    )
    DiTPipeline(transformer, vae, class_of("DDIMScheduler")()).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    (folder / "model_index.json").write_text(json.dumps({**index, "id2label": {"0": "red", "1": "green", "2": "blue"}}))
    return folder


@dataclass(frozen=True)
class Taught:
    """Models that know red squares and bars, hide them, and never learned them."""

    original: DiffusionModel
    hidden: DiffusionModel
    retrained: DiffusionModel
    modality: Diffusion
    forget: list[dict[str, Any]]
    retain: list[dict[str, Any]]

    @torch.no_grad()
    def fit(self, model: DiffusionModel) -> float:
        """How well a model fits the rows to forget, as the score `forget_fit`."""
        losses = self.modality.forward(model, [self.modality.rows("forget", self.forget)])[0].loss.mean()
        return float(torch.exp(-losses).mean())


@cache
def taught(steps: int = 250) -> Taught:
    """The models, each trained for so many steps."""
    every = records(5)
    forget, retain = ([r for r in every if ("red" in r["caption"]) == gone] for gone in (True, False))
    rate = {"lr": 3e-3, "batch_size": 10}
    models = []
    for rows in (every, retain):
        model, modality = built()
        plan = Plan(NLL("retain"), train=Train(epochs=0, steps=steps, anchor="retain", **rate))
        loop.run((plan,), model, modality, {"retain": modality.rows("retain", rows)})
        models.append(model)
    hidden, modality = copy.deepcopy(models[0]), built()[1]
    sets = {"forget": modality.rows("forget", forget), "retain": modality.rows("retain", retain)}
    loop.run((Plan(Ascent() + 3.0 * NLL("retain"), train=Train(epochs=0, steps=25, lr=1e-3, batch_size=10)),), hidden, modality, sets)
    return Taught(models[0], hidden, models[1], modality, forget, retain)


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A file of rows with their pictures beside it."""
    from PIL import Image

    folder.mkdir(parents=True)
    lines = []
    for k, row in enumerate(rows):
        Image.fromarray(row["image"]).save(folder / f"{k}.png")
        lines.append(json.dumps({"image": str(folder / f"{k}.png"), "caption": row["caption"]}))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "rows.jsonl"


def colors(model: Any, modality: Any, captions: list[str], draws: int = 4, steps: int = 10) -> list[str]:
    """The color of pictures that a model draws for captions, `draws` for each: that of the brightest channel."""
    texts = [c for c in captions for _ in range(draws)]
    latents, _ = modality.sample(model, texts, list(range(len(texts))), steps)
    brightest = modality.drawn(latents).float().mean((2, 3)).argmax(1)
    return [list(COLORS)[i] for i in brightest.tolist()]


def share(model: Any, modality: Any, color: str, as_color: str = "") -> float:
    """The share of pictures for captions of a color that show it, or that show another color."""
    drawn = colors(model, modality, [f"a {color} square", f"a {color} bar"])
    return drawn.count(as_color or color) / len(drawn)
