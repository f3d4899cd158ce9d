"""A model whose blocks are spread over the processes of a run: FSDP, each holds a part of every weight and gathers a block when it is used.

What is not in a block (embeddings, head, last norm) stays whole in every process: the modality reads the head's weights by itself. Weights keep
their names and gradients their order, so that parts work as they do on a whole model, element by element.
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


@dataclass(frozen=True)
class Split:
    """A tensor that was sharded, whole: what a checkpoint holds of it."""

    whole: Tensor


def asked(accelerator: Accelerator) -> bool:
    """Whether the launcher was told to shard: FSDP, or a ZeRO stage of DeepSpeed, in `accelerate launch` or its configuration.

    It is FSDP in both cases: DeepSpeed's engine keeps gradients and optimizer to itself, and the parts of a plan work on gradients.
    """
    told = {n: os.environ.get(f"ACCELERATE_USE_{n}", "false").lower() == "true" for n in ("FSDP", "DEEPSPEED")}
    zero = told["DEEPSPEED"] and os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3") != "0"
    return accelerator.num_processes > 1 and (told["FSDP"] or zero or accelerator.distributed_type == DistributedType.FSDP)


class Sharded:
    """A model that is sharded in place, and what it takes to answer with other weights and to put it together again."""

    def __init__(self, model: nn.Module, modality: Modality) -> None:
        """Errors: UserError where the model has no list of blocks."""
        memo: dict[int, Any] = {id(p): nn.Parameter(p.to("meta"), p.requires_grad) for p in model.parameters()}
        self.model, self.modality, self.shape = model, modality, copy.deepcopy(model, memo)
        self._spread(model)

    def _spread(self, model: nn.Module) -> None:
        from torch.distributed.fsdp import fully_shard

        for block in self._blocks(model):
            fully_shard(block, reshard_after_forward=True)  # each is a root, which would keep what it gathered

    def _blocks(self, model: nn.Module) -> list[nn.Module]:
        found = [self.modality.module(model, hook_point) for hook_point in self.modality.blocks(model)]
        if not found:
            raise UserError("this model has no list of blocks to shard: start it without FSDP")
        return found

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
        """The model with other weights: a second one, as a sharded model gathers its own, whatever a call is given instead."""
        twin = self._twin
        for (name, own), (_, kept) in zip(_tensors(self.model), _tensors(twin), strict=True):
            kept.copy_(like(weights.get(name, own), kept))
        return twin

    def join(self) -> nn.Module:
        """The whole model, on the CPU, in every process."""
        model, shape, made = self.model, self.shape, {}
        for old, new in zip(model.parameters(), shape.parameters(), strict=True):
            made[id(new)] = nn.Parameter(whole(old).detach().cpu(), old.requires_grad)
        for module in shape.modules():  # not by name: tied weights stay tied
            module._parameters.update({n: made[id(p)] for n, p in module._parameters.items() if p is not None})
        for held, buffer in zip(model.buffers(), shape.buffers(), strict=True):
            buffer.copy_(held)
        return shape.to("cpu").train(model.training)


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]  # tied ones once


def whole(t: Tensor) -> Tensor:
    """A tensor with all its parts; every process must ask."""
    return t.full_tensor() if isinstance(t, DTensor) else t


def like(value: Tensor, own: Tensor) -> Tensor:
    """A value spread as another tensor is."""
    if not isinstance(own, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)


def gathered(x: Any) -> Any:
    """Nested data with its sharded tensors whole; every process must ask."""
    if isinstance(x, DTensor):
        return Split(whole(x))
    if isinstance(x, Mapping):
        return {k: gathered(v) for k, v in x.items()}
    return type(x)(gathered(v) for v in x) if isinstance(x, (list, tuple)) else x


def spread(x: Any, model: nn.Module) -> Any:
    """The inverse of `gathered`: sharded again where the model is, whole where it is."""
    mesh = next((p.device_mesh for p in model.parameters() if isinstance(p, DTensor)), None)
    if isinstance(x, Split):
        return x.whole if mesh is None else distribute_tensor(x.whole.to(mesh.device_type), mesh, [Shard(0)])
    if isinstance(x, Mapping):
        return {k: spread(v, model) for k, v in x.items()}
    return type(x)(spread(v, model) for v in x) if isinstance(x, (list, tuple)) else x
