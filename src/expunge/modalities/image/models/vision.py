"""Small image classifiers of two families, for tests, demos and CPU-size experiments: residual networks and vision transformers.

The residual networks use batch norm and the transformers do not, so both cases are covered.

Source: the architectures are `ResNetForImageClassification` and `ViTForImageClassification` of `transformers`
Status: faithful
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn

from expunge.core.errors import UserError
from expunge.modalities.common.labels import classes
from expunge.modalities.image.modality import Image, classifier_modality, shape_of


class VisionSize(NamedTuple):
    """The settings that differ between the built-in configurations."""

    family: str  # resnet, vit
    widths: tuple[int, ...]  # of the stages of a residual network; of the hidden states of a transformer (one number)
    depth: int  # blocks in each stage of a residual network; blocks of a transformer


SIZES = {
    "resnet-nano": VisionSize("resnet", (16, 32), 1),
    "resnet-micro": VisionSize("resnet", (32, 64, 128), 1),
    "vit-nano": VisionSize("vit", (32,), 2),
    "vit-micro": VisionSize("vit", (64,), 4),
}

# Training settings of each size, from scratch on about a thousand small images.
TRAINING: dict[str, dict[str, Any]] = {
    "resnet-nano": {"epochs": 12, "lr": 2e-3, "batch_size": 32, "warmup": 0, "weight_decay": 0.0},
    "resnet-micro": {"epochs": 12, "lr": 2e-3, "batch_size": 32, "warmup": 0, "weight_decay": 0.0},
    "vit-nano": {"epochs": 40, "lr": 4e-3, "batch_size": 32, "warmup": 1, "weight_decay": 0.0},
    "vit-micro": {"epochs": 30, "lr": 2e-3, "batch_size": 32, "warmup": 1, "weight_decay": 0.0},
}


def build(size: str, shape: Sequence[int], labels: Sequence[str], seed: int = 0) -> nn.Module:
    """Build an untrained model of a built-in size.

    Args:
        shape: (channels, height, width) of the images.
        labels: names of the classes.

    Raises:
        UserError: when a vision transformer cannot take images of this shape.
    """
    names = {i: str(n) for i, n in enumerate(labels)}
    channels, height, width = shape
    common = {"num_channels": channels, "id2label": names, "label2id": {n: i for i, n in names.items()}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = _resnet(SIZES[size], common) if SIZES[size].family == "resnet" else _vit(SIZES[size], (height, width), common)
    return model.eval()


def _resnet(size: VisionSize, common: Mapping[str, Any]) -> Any:
    from transformers import ResNetConfig, ResNetForImageClassification

    depths = [size.depth] * len(size.widths)
    widths = list(size.widths)
    return ResNetForImageClassification(
        ResNetConfig(embedding_size=widths[0], hidden_sizes=widths, depths=depths, layer_type="basic", **common)
    )


def _vit(size: VisionSize, shape: tuple[int, int], common: Mapping[str, Any]) -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    if shape[0] != shape[1] or shape[0] % 4:
        raise UserError(
            f"a vision transformer of a built-in size takes square images whose side is a multiple of 4, and these are {shape}: resize "
            "them, or use a resnet size"
        )
    (width,) = size.widths
    return ViTForImageClassification(
        ViTConfig(
            image_size=shape[0],
            patch_size=shape[0] // 4,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=size.depth,
            num_attention_heads=4,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            **common,
        )
    )


def start(
    size: str,
    records: Sequence[Mapping[str, Any]],
    *,
    labels: int | Sequence[str] = (),
    prompt_format: str = "",
    seed: int = 0,
    source: str = "training",
    **unused: Any,
) -> tuple[nn.Module, Image]:
    """Build an untrained model of a built-in size for the data.

    Args:
        records: training rows of the model.
        labels: names of the classes, or their number; default: the classes of the records.
        source: name of the data in messages.

    Raises:
        UserError: when there is a prompt format, because classifiers have no prompts.
    """
    if prompt_format:
        raise UserError(f"{size} is an image classifier, which has no prompts: leave --prompt-format out")
    modality = classifier_modality(classes(records, source) if labels == () else labels)
    shape = shape_of(records, source)
    return build(size, shape, modality.labels, seed), replace(modality, channels=shape[0])
