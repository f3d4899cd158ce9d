"""Draw new, untrained weights for a model."""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.errors import UserError
from expunge.core.modality import Weights
from expunge.engine.adapters import base_of, is_adapted, magnitude
from expunge.engine.weights import tensors_of


def fresh(model: nn.Module, seed: int) -> Weights:
    """Draw the weights of an untrained model of the same architecture, under the names of this model.

    A model with a configuration is built again. In any other model, every module with a method `reset_parameters` draws its weights again.
    An adapter starts anew and adds nothing to the output.

    Raises:
        UserError: when some weights belong to no module with `reset_parameters`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untrained = tensors_of(_untrained(base_of(model)))
        own, adapted = tensors_of(model), is_adapted(model)
        weights = {n: untrained.get(_bare(n) if adapted else n, t) for n, t in own.items()}
        return {n: (_restarted(n, t, weights) if t is own[n] else t).detach().to(own[n].dtype) for n, t in weights.items()}


def _untrained(base: Any) -> nn.Module:
    if hasattr(base, "untrained"):
        own: nn.Module = base.untrained()
        return own
    if hasattr(base, "from_pretrained") and hasattr(base, "config"):
        built: nn.Module = type(base)(copy.deepcopy(base.config))
        return built
    random_init: nn.Module = copy.deepcopy(base).cpu()
    drawn: set[int] = set()
    for module in random_init.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
            drawn |= {id(p) for p in module.parameters()}
    if undrawn := [n for n, p in random_init.named_parameters() if id(p) not in drawn]:
        raise UserError(f"{type(base).__name__} does not say how {undrawn[0]!r} begins: give its module a method reset_parameters()")
    return random_init


def _bare(name: str) -> str:
    """The name of a weight in the model without its adapter."""
    return re.sub(r"\.(base_layer|original_module|modules_to_save\.\w+)(?=\.)", "", name.removeprefix("base_model.model."))


def _restarted(name: str, own: Tensor, weights: Weights) -> Tensor:
    """The initial value of a tensor that only an adapter has. One of the two LoRA factors is drawn, the other is 0."""
    if match := re.fullmatch(r"(.*)\.lora_magnitude_vector\..*", name):
        return magnitude(weights[f"{match[1]}.base_layer.weight"].detach().cpu(), own)
    if re.search(r"lora_(B|embedding_A)\b", name):
        return torch.zeros_like(own, device="cpu")
    if "lora_" in name:
        return torch.nn.init.kaiming_uniform_(torch.empty_like(own, device="cpu"), a=5**0.5)
    return own.cpu()
