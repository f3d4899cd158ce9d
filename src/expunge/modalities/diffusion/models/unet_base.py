"""A small diffusion model that draws, trained on other scenes than those of the benchmark `scenes`: it learns new captions in a minute.

Unlearning is seen only in a model that draws what it is asked for, and one from random weights needs a thousand steps for that. This one
knows pictures of 16 x 16 pixels, some colors and the grammar of captions; it has never seen the benchmark's objects, styles and stamp. It
has half a million parameters; the weights come with the package, in half precision. `studies/worlds/unet_base.py` makes them.

Source: our own; architecture and process are those of `unet-nano`, sampling takes 8 steps in place of 20
Status: faithful
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from expunge.core.errors import UserError
from expunge.modalities.diffusion import folder
from expunge.modalities.diffusion.modality import Diffusion, Settings

WIDTHS = (24, 48)  # channels at each resolution
SIZES = {"unet-base": WIDTHS}
FRESH = False  # its weights are trained
SETTINGS = Settings(dropped=0.1, steps=8, guidance=3.0)
TRAINING: dict[str, dict[str, Any]] = {
    "unet-base": {
        "epochs": 10,
        "lr": 3e-3,
        "batch_size": 16,
        "optimizer": "adam",
        "weight_decay": 0.0,
        "schedule": "cosine",
        "warmup": 0.05,
        "max_grad_norm": 1.0,
    }
}

FILES = Path(__file__).with_name("unet_base_weights")


def start(
    size: str, records: Sequence[Mapping[str, Any]], *, labels: int | Sequence[str] = (), prompt_format: str = "", **unused: Any
) -> tuple[nn.Module, Diffusion]:
    """The trained model with its tokenizer, in float32. Records, words and seed change nothing: all is there.

    Raises:
        UserError: for labels and prompt formats.
    """
    if prompt_format or labels != ():
        raise UserError("a diffusion model reads captions as they are, and classifies nothing: leave --prompt-format and --labels out")
    return folder.load(str(FILES), dtype="float32")
