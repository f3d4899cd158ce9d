"""The classes of `diffusers` and `transformers` that make up a pipeline, imported only when a pipeline is opened or built."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from expunge.core.errors import UserError
from expunge.modalities.common.files import quiet

EXTRA = "diffusion models need diffusers: pip install 'expunge[diffusion]'"
CLASSES = {  # where each class is, so that no others are imported
    "UNet2DConditionModel": "diffusers.models.unets.unet_2d_condition",
    "UNet2DModel": "diffusers.models.unets.unet_2d",
    "DiTTransformer2DModel": "diffusers.models.transformers.dit_transformer_2d",
    "Transformer2DModel": "diffusers.models.transformers.transformer_2d",
    "AutoencoderKL": "diffusers.models.autoencoders.autoencoder_kl",
    "CLIPTextModel": "transformers",
    "CLIPTokenizer": "transformers",
    "CLIPTokenizerFast": "transformers",
    "PreTrainedTokenizerFast": "transformers",
}
SCHEDULERS = "diffusers.schedulers"


def class_of(name: str) -> Any:
    """A class by its name in `model_index.json`. Raises: UserError where `diffusers` is not installed, and for another class."""
    place = CLASSES.get(name, SCHEDULERS if name.endswith("Scheduler") else "")
    if not place:
        raise UserError(f"{name} is no part of a pipeline that is supported here; there are {', '.join(CLASSES)} and schedulers")
    try:
        with silent():
            return getattr(importlib.import_module(place), name)
    except ImportError:
        raise UserError(EXTRA) from None
    except AttributeError:
        raise UserError(f"the installed {place.partition('.')[0]} has no {name}: a newer version may have it") from None


@contextmanager
def silent() -> Iterator[None]:
    """Without the progress bars and warnings of both libraries. Raises: UserError where `diffusers` is not installed."""
    try:
        from diffusers.utils import logging
    except ImportError:
        raise UserError(EXTRA) from None
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with quiet():
            yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()
