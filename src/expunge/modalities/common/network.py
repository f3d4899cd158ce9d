"""What the modalities of this package know of any `torch` network: its blocks, its modules, its last layer."""

from __future__ import annotations

from torch import nn

from expunge.core.modality import Weights
from expunge.engine.blocks import block_hook_points
from expunge.modalities.common.fresh import fresh
from expunge.modalities.common.packed import independent, last_linear, module_at


class Network:
    """The part of a modality that is the same for every network."""

    def independent(self, model: nn.Module) -> bool:
        """Whether the rows of one forward pass do not affect each other."""
        return independent(model)

    def blocks(self, model: nn.Module) -> tuple[str, ...]:
        """Hook points of all blocks, first to last."""
        return block_hook_points(model)

    def module(self, model: nn.Module, hook_point: str) -> nn.Module:
        """The module at a hook point."""
        return module_at(model, hook_point)

    def head(self, model: nn.Module) -> str:
        """The path of the last linear layer."""
        return last_linear(model)

    def fresh(self, model: nn.Module, seed: int) -> Weights:
        """Weights of an untrained model of the same architecture."""
        return fresh(model, seed)
