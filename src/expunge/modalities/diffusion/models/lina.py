"""LINA: pictures by masked autoregression over continuous tokens, with linear attention, whose cost grows in proportion to the tokens.

A picture is written some tokens at a time, in any order. Each step reads the condition and the tokens that are written, by linear attention
with division, and a small head denoises the next ones. The built-in sizes draw pixels of 64 tokens, for classes or captions.

Equation: phi(u) = max(u, 0) + 1e-6; o_i = phi(q_i) (1/N sum_j phi(k_j)^T v_j) / (phi(q_i) . mean_j phi(k_j) + 1e-6); blocks over all tokens
  also multiply keys and values by a gate of each head and token, and add a depth-wise 5 x 5 convolution of their input before the last
  projection. Loss: mean over masked tokens of |head(sigma e + (1 - sigma) x, sigma, z) - (e - x)|^2, 4 draws of e and sigma for each token
Source: LINA: Linear Autoregressive Image Generative Models with Continuous Tokens, 2026 (arXiv 2601.22630)
Differs: pixels and small encoders in place of a VAE and Phi-2; no exponential moving average of the weights, which `expunge train` does not
  keep, and AdamW with its usual second beta; no patch embedding in the encoder of the condition, which nothing reads for a single picture;
  3-D rotary positions are left out. The share of masked tokens is drawn once for a step, also where a step has several sets of rows. Which
  of the released variants is the one of the paper is reconstructed from names of configurations: a gate of keys and values for each head
Status: shown
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expunge.modalities.diffusion.masked_autoregressive import MaskedAutoregressor
from expunge.modalities.diffusion.masked_building import start_model
from expunge.modalities.diffusion.masked_modality import MaskedDiffusion, MaskedSettings

SIZES: dict[str, dict[str, int]] = {
    "lina-nano": {
        "width": 64,
        "heads": 2,
        "condition_blocks": 2,
        "encoder_blocks": 2,
        "decoder_blocks": 2,
        "head_blocks": 2,
        "head_width": 64,
    },
    "lina-micro": {
        "width": 128,
        "heads": 4,
        "condition_blocks": 4,
        "encoder_blocks": 4,
        "decoder_blocks": 4,
        "head_blocks": 3,
        "head_width": 128,
    },
}
SETTINGS = MaskedSettings(evaluated=4, dropped=0.1, steps=8, guidance=2.4)
OPTIMIZER: dict[str, Any] = {"batch_size": 64, "warmup": 1, "weight_decay": 0.02, "max_grad_norm": 1.0}
TRAINING: dict[str, dict[str, Any]] = {
    "lina-nano": {"epochs": 60, "lr": 2e-3, **OPTIMIZER},
    "lina-micro": {"epochs": 60, "lr": 1e-3, **OPTIMIZER},
}


def start(size: str, records: Sequence[Mapping[str, Any]], **options: Any) -> tuple[MaskedAutoregressor, MaskedDiffusion]:
    """An untrained model of a built-in size for the data. options: of `start_model`. Raises: UserError."""
    return start_model(SIZES[size], SETTINGS, records, **options)
