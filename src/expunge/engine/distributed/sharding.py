"""Spread the blocks of a model over the processes of a run with FSDP. Each process holds a part of every weight and gathers blocks for use.

Modules outside the blocks (embeddings, head, last norm) stay whole in every process, because the modality reads the weights of the head
directly. Weights keep their names and gradients their order, so parts work element by element as they do on a whole model.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from expunge.core.errors import UserError
from expunge.core.modality import Modality, Weights
from expunge.functional.brief import brief


@brief()
@dataclass(frozen=True)
class Split:
    """The whole of a sharded tensor, as a checkpoint stores it."""

    whole: Tensor


def requested(accelerator: Accelerator) -> bool:
    """Whether `accelerate launch` or its configuration requests sharding, by FSDP or by a ZeRO stage of DeepSpeed.

    The model is sharded by FSDP in both cases. DeepSpeed's engine keeps gradients and optimizer to itself, and the parts of a plan work on
    gradients.
    """
    enabled = {n: os.environ.get(f"ACCELERATE_USE_{n}", "false").lower() == "true" for n in ("FSDP", "DEEPSPEED")}
    zero = enabled["DEEPSPEED"] and os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3") != "0"
    return accelerator.num_processes > 1 and (enabled["FSDP"] or zero or accelerator.distributed_type == DistributedType.FSDP)


class Sharded:
    """A model that is sharded in place. It can also run with other weights, and be joined to a whole model again."""

    def __init__(self, model: nn.Module, modality: Modality) -> None:
        """Shard the blocks of a model.

        Raises:
            UserError: when the model has no list of blocks.
        """
        memo: dict[int, Any] = {id(p): nn.Parameter(p.to("meta"), p.requires_grad) for p in model.parameters()}
        self.model, self.modality, self.shape = model, modality, copy.deepcopy(model, memo)
        self._spread(model)

    def _spread(self, model: nn.Module) -> None:
        from torch.distributed.fsdp import fully_shard

        for block in self._blocks(model):
            fully_shard(block, reshard_after_forward=True)  # each block is an FSDP root, which by default keeps what it gathered

    def _blocks(self, model: nn.Module) -> list[nn.Module]:
        blocks = [self.modality.module(model, hook_point) for hook_point in self.modality.blocks(model)]
        if not blocks:
            raise UserError("this model has no list of blocks to shard: start it without FSDP")
        return blocks

    @cached_property
    def _twin(self) -> nn.Module:
        device = next(self.model.parameters()).device
        inside = {id(p) for block in self._blocks(self.shape) for p in block.parameters()}
        memo: dict[int, Any] = {
            id(p): nn.Parameter(torch.empty_like(p, device=device)) for p in self.shape.parameters() if id(p) not in inside
        }
        twin = copy.deepcopy(self.shape, memo)
        self._spread(twin)
        for block in self._blocks(twin):
            block.to_empty(device=device)
        return twin.requires_grad_(False).eval()

    @torch.no_grad()
    def under(self, weights: Weights) -> nn.Module:
        """A second model that holds other weights. The sharded model itself always gathers its own weights, whatever a call passes."""
        twin = self._twin
        for (name, own), (_, target) in zip(_tensors(self.model), _tensors(twin), strict=True):
            target.copy_(like(weights.get(name, own), target))
        return twin

    def join(self) -> nn.Module:
        """The whole model, on the CPU, in every process."""
        model, shape, parameters = self.model, self.shape, {}
        for old, new in zip(model.parameters(), shape.parameters(), strict=True):
            parameters[id(new)] = nn.Parameter(whole(old).detach().cpu(), old.requires_grad)
        for module in shape.modules():  # by identity and not by name, so tied weights stay tied
            module._parameters.update({n: parameters[id(p)] for n, p in module._parameters.items() if p is not None})
        for source, buffer in zip(model.buffers(), shape.buffers(), strict=True):
            buffer.copy_(source)
        return shape.to("cpu").train(model.training)


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]  # lists tied weights once


def whole(t: Tensor) -> Tensor:
    """Gather all parts of a tensor. Every process must call it."""
    return t.full_tensor() if isinstance(t, DTensor) else t


def like(value: Tensor, own: Tensor) -> Tensor:
    """Shard a value in the same way as another tensor."""
    if not isinstance(own, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)


def gathered(x: Any) -> Any:
    """Gather the sharded tensors in nested data. Every process must call it."""
    if isinstance(x, DTensor):
        return Split(whole(x))
    if isinstance(x, Mapping):
        return {k: gathered(v) for k, v in x.items()}
    return type(x)(gathered(v) for v in x) if isinstance(x, (list, tuple)) else x


def spread(x: Any, model: nn.Module) -> Any:
    """The inverse of `gathered`: tensors are sharded again if the model is sharded, else they stay whole."""
    mesh = next((p.device_mesh for p in model.parameters() if isinstance(p, DTensor)), None)
    if isinstance(x, Split):
        return x.whole if mesh is None else distribute_tensor(x.whole.to(mesh.device_type), mesh, [Shard(0)])
    if isinstance(x, Mapping):
        return {k: spread(v, model) for k, v in x.items()}
    return type(x)(spread(v, model) for v in x) if isinstance(x, (list, tuple)) else x
