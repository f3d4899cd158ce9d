"""LoRA adapters for any module with linear layers. They are inserted once, before the first stage, so that names never change."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from expunge.core.errors import UserError
from expunge.core.parts import Objective
from expunge.core.plan import Plans


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `DataParallel` and its like, which shares its weights: several devices are the matter of `accelerate launch`."""
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    return model


def insert(model: nn.Module, plans: Plans, seed: int) -> nn.Module:
    """Insert the adapter that the plans ask for.

    Args:
        seed: seed of the adapter's initial weights.

    Returns:
        The adapted model, or the model itself if no plan asks for an adapter or it already has one.

    Raises:
        UserError: if stages ask for different ranks, or if a stage does not train.
    """
    lora_ranks = {p.train.lora for p in plans if isinstance(p.action, Objective)}
    if not lora_ranks - {0} or is_adapted(model):
        return model
    if len(lora_ranks) > 1 or len(plans) > len([p for p in plans if isinstance(p.action, Objective)]):
        raise UserError("LoRA works for methods that train in every stage; this one also edits weights directly, so leave --lora out")
    import peft

    train = plans[0].train
    targets: Any = train.lora_targets
    config = peft.LoraConfig(
        r=train.lora,
        lora_alpha=train.lora_alpha or 2 * train.lora,
        lora_dropout=train.lora_dropout,
        target_modules=targets,
        task_type="CAUSAL_LM" if hasattr(model, "get_output_embeddings") and hasattr(model, "generate") else None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted: nn.Module = peft.get_peft_model(model, config)
    return adapted


def is_adapted(model: nn.Module) -> bool:
    """Whether the model has LoRA adapters."""
    return any("lora_" in n for n, _ in model.named_parameters())


def base_of(model: nn.Module) -> nn.Module:
    """The model without the adapter's wrapper. Hook points and patches are named by paths in it."""
    get_base_model = getattr(model, "get_base_model", None)
    return get_base_model() if get_base_model and is_adapted(model) else model


def choose(model: nn.Module, trainable: str) -> None:
    """Make the parameters trainable whose name matches, and freeze all others. If there are adapters, only theirs can be trainable.

    Args:
        trainable: regex on the names of the bare model.

    Raises:
        UserError: if no parameter matches.
    """
    adapted = is_adapted(model)
    try:
        re.compile(trainable)
    except re.error as error:
        raise UserError(f"--trainable {trainable!r} is no regular expression: {error}") from None
    for name, p in model.named_parameters():
        bare = name.replace("base_model.model.", "", 1) if adapted else name
        p.requires_grad_(p.is_floating_point() and bool(re.search(trainable, bare)) and (not adapted or "lora_" in name))
    if not any(p.requires_grad for p in model.parameters()):
        raise UserError(f"no parameter of this model matches {trainable!r}, so nothing would train: change --trainable")


def recompute(model: nn.Module) -> None:
    """Switch gradient checkpointing on.

    Raises:
        UserError: if the model does not support it.
    """
    enable_activation = getattr(model, "activation_checkpointing_enable", None)
    enable: Any = enable_activation or getattr(model, "gradient_checkpointing_enable", None)
    if enable is None:
        raise UserError(f"{type(model).__name__} has no gradient checkpointing: leave --gradient-checkpointing out")
    enable()
    if is_adapted(model):  # the input of the first block needs a gradient, and no frozen weight gives it one
        base: Any = base_of(model)
        base.enable_input_require_grads()
