"""LoRA adapters, for any module with linear layers: put in once, before the first stage, so that names never change."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from expunge.core.errors import UserError
from expunge.core.parts import Objective
from expunge.core.plan import Plans


def insert(model: nn.Module, plans: Plans, seed: int) -> nn.Module:
    """The model with the adapter that the plans ask for, or the model itself. Errors: UserError where stages disagree or nothing trains."""
    process_group = {p.train.lora for p in plans if isinstance(p.action, Objective)}
    if not process_group - {0} or is_adapted(model):
        return model
    if len(process_group) > 1 or len(plans) > len([p for p in plans if isinstance(p.action, Objective)]):
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
    return any("lora_" in n for n, _ in model.named_parameters())


def base_of(model: nn.Module) -> nn.Module:
    """The module whose paths are those of the bare model: hook points and patches are named in it."""
    inner = getattr(model, "get_base_model", None)
    return inner() if inner and is_adapted(model) else model


def choose(model: nn.Module, trains: str) -> None:
    """Let move what a stage trains: the parameters whose name matches, or, where there are adapters, theirs."""
    adapted = is_adapted(model)
    for name, p in model.named_parameters():
        bare = name.replace("base_model.model.", "", 1) if adapted else name
        p.requires_grad_(p.is_floating_point() and bool(re.search(trains, bare)) and (not adapted or "lora_" in name))
    if not any(p.requires_grad for p in model.parameters()):
        raise UserError(f"no parameter of this model matches {trains!r}, so nothing would train")


def recompute(model: nn.Module) -> None:
    """Gradient checkpointing, where the model knows it. Errors: UserError where it does not."""
    newer = getattr(model, "activation_checkpointing_enable", None)
    enable: Any = newer or getattr(model, "gradient_checkpointing_enable", None)
    if enable is None:
        raise UserError(f"{type(model).__name__} has no gradient checkpointing: leave --gradient-checkpointing out")
    enable()
    if is_adapted(model):  # the first block's input has no gradient of its own
        base: Any = base_of(model)
        base.enable_input_require_grads()
