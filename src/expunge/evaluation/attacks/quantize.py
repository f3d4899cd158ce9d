"""Quantization: store the weights in few bits, and see whether what was forgotten comes back.
Small changes of weights that hide knowledge are rounded away when a model is deployed in 8 or 4 bits; nobody has to mean harm.

Threat model: none is needed: whoever deploys the model rounds its weights. A guard around the weights is taken off, adapters are merged.
Equation: w' = s round(w / s), levels -2^(b-1) ... 2^(b-1)-1, s = max|w| / (2^(b-1) - 1/2) over the weights that share it
Source: Zhang et al. 2024, arXiv 2410.16454 (quantized models remember)
Scores: those of the forget set, for each number of bits
Needs: forget
Range and ideal: those of the scores; the ideal is the retrained model's in as many bits; the original's row tells what rounding alone costs
Differs: simulated: weights are rounded and stored as floats again, so that it runs everywhere and for every kind of model. 8 bits is int8
    dynamic: a scale an output, and the inputs of each layer are rounded as they come, with a scale and zero point a position (of
    convolutions: an image). Fewer bits are of weights alone, with a scale for every `group` inputs of an output. Rounded are the weights of
    linear layers and convolutions, the last layer included; embeddings, norms and biases stay. No calibration, no search for scales
Status: not shown
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from expunge.core.hyperparameters import hp, part
from expunge.evaluation.attack import Attack, Scene
from expunge.functional import quantization

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TURNED = "Conv1D"  # a linear layer of `transformers` whose weight is (inputs, outputs)
INT8 = 8


@part
class Quantize(Attack):
    """Round to nearest."""

    bits: tuple[Annotated[int, Field(ge=2, le=16)], ...] = hp((INT8, 4), "bits of a weight, one after the other", min_length=1)
    group: int = hp(64, "inputs of an output that share a scale, below 8 bits; 0: all of them", ge=0)

    def run(self, scene: Scene) -> None:
        for bits in self.bits:
            rounded = quantized(scene.bare(merged=True), bits, 0 if bits >= INT8 else self.group)
            scene.look(scene.scores(rounded), way=f"{bits} bits", bits=bits)


def quantized(model: nn.Module, bits: int, group: int = 0) -> nn.Module:
    """The model with its weights rounded, in place, and in 8 bits with its layers' inputs too. Tied weights that are not a layer's stay."""
    for layer in list(model.modules()):
        if isinstance(layer, (nn.Linear, *CONVOLUTIONS)) or type(layer).__name__ == TURNED:
            layer.weight = nn.Parameter(_rounded(layer, bits, group), requires_grad=False)
            if bits == INT8:
                layer.register_forward_pre_hook(_dynamic)
    return model


@torch.no_grad()
def _rounded(layer: Any, bits: int, group: int) -> Tensor:
    """The weight of a layer, rounded: one row holds the weights of one output."""
    w: Tensor = layer.weight.T if type(layer).__name__ == TURNED else layer.weight
    rounded = quantization.weights(w.flatten(1), bits, group).view(w.shape).to(w.dtype)
    return (rounded.T if type(layer).__name__ == TURNED else rounded).contiguous()


def _dynamic(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The inputs of a layer in 8 bits; each position, or image, has a scale of its own, so the other rows of a batch change nothing."""
    if not inputs:
        return None
    x = inputs[0]
    dims = tuple(range(1, x.dim())) if isinstance(layer, CONVOLUTIONS) else (-1,)
    return (quantization.activations(x, INT8, dims), *inputs[1:])


def plan() -> Quantize:
    return Quantize()
