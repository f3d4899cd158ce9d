"""Units and attention heads of a transformer that are reserved for some of its training rows: their weights, and passes without them.

The last units of each perceptron and the last heads of each attention are reserved. Where several query heads share a key and a value, a
head is such a group with all its query heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from expunge.core.errors import UserError
from expunge.engine.adapters import base_of, is_adapted
from expunge.engine.blocks import block_paths

ATTENTION = (("q_proj", "k_proj", "v_proj"), ("c_attn",))
PERCEPTRON = ("gate_proj", "up_proj", "fc1", "c_fc", "fc_in", "dense_h_to_4h")
OUT = ("o_proj", "out_proj", "c_proj", "dense", "down_proj", "fc2", "fc_out", "dense_4h_to_h")
FORGET, RETAIN = 1, 2  # codes of weights: of reserved units, of all others; 0: shared by both
NOTE = "expunge_reserved"  # name in a model's configuration: how many units of each perceptron and heads of each attention are reserved
How = Literal["off", "only", "detached"]
Kind = Literal["mlp", "attention"]


@dataclass(frozen=True, eq=False)
class ReservedLayer:
    """An attention or a perceptron: matrices into its units, with a mask of the reserved outputs each, and the matrix out of them."""

    kind: Kind
    inputs: tuple[tuple[Any, Tensor], ...]
    output: Any
    reserved: Tensor  # (inputs of the output matrix,)


def layers(model: nn.Module, units: int, heads: int) -> list[ReservedLayer]:
    """The attention and the perceptron of every block.

    Args:
        model: a transformer.
        units: reserved units of each perceptron.
        heads: reserved heads of each attention.

    Raises:
        UserError: for an adapter, for a model of another build, and for more reserved units or heads than there are.
    """
    if is_adapted(model):
        raise UserError("an adapter has no units of its own to reserve: leave --lora out, or merge the adapter into the model first")
    base: Any = base_of(model)
    result = []
    for number, path in enumerate(block_paths(model)):
        parents = [dict(m.named_children()) for m in base.get_submodule(path).modules()]
        attention = next((c for c in parents if any(c.keys() >= set(names) for names in ATTENTION)), None)
        perceptron = next((c for c in parents if c is not attention and c.keys() & set(PERCEPTRON)), None)
        if attention is None or perceptron is None:
            raise UserError(
                f"block {number} of a {type(base).__name__} has no attention with matrices q_proj, k_proj and v_proj (or c_attn) beside a "
                f"perceptron that begins in one of {', '.join(PERCEPTRON)}, so no units of it can be reserved"
            )
        result += [_attention(attention, base.config, heads, number), _perceptron(perceptron, units, number)]
    if not result:
        raise UserError(f"a {type(base).__name__} has no list of blocks, so no units of it can be reserved")
    return result


def _out(children: dict[str, nn.Module]) -> Any:
    return next(children[n] for n in OUT if n in children)


def _width(module: Any, outputs: bool) -> int:
    return int(module.weight.shape[int(outputs == _turned(module))])


def _turned(module: nn.Module) -> bool:
    """Whether a weight is (inputs, outputs), as in GPT-2."""
    return not isinstance(module, nn.Linear)


def _last(count: int, width: int, device: torch.device) -> Tensor:
    return torch.arange(width, device=device) >= width - count


def _perceptron(children: dict[str, nn.Module], units: int, number: int) -> ReservedLayer:
    out = _out({n: m for n, m in children.items() if n not in ("o_proj", "out_proj", "dense")})
    width = _width(out, outputs=False)
    if units > width:
        raise UserError(f"block {number} has {width} units, so {units} cannot be reserved: give a smaller --units")
    mask = _last(units, width, out.weight.device)
    return ReservedLayer("mlp", tuple((children[n], mask) for n in PERCEPTRON if n in children), out, mask)


def _attention(children: dict[str, nn.Module], config: Any, heads: int, number: int) -> ReservedLayer:
    out = _out(children)
    queries = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or queries)
    if heads > groups:
        raise UserError(
            f"block {number} has {groups} heads with a key and a value of their own, so {heads} cannot be reserved: give a smaller --heads"
        )
    width = _width(out, outputs=False)
    size = width // queries
    mask = _last(heads * (queries // groups) * size, width, out.weight.device)
    if "c_attn" in children:
        return ReservedLayer("attention", ((children["c_attn"], mask.repeat(3)),), out, mask)
    shared = _last(heads * size, groups * size, out.weight.device)
    return ReservedLayer("attention", ((children["q_proj"], mask), (children["k_proj"], shared), (children["v_proj"], shared)), out, mask)


def codes(model: nn.Module, units: int, heads: int, outputs: frozenset[str] = frozenset({"mlp", "attention"})) -> dict[int, Tensor]:
    """To whom each weight of the blocks' matrices and biases belongs.

    Args:
        model: a transformer.
        units: reserved units of each perceptron.
        heads: reserved heads of each attention.
        outputs: kinds of layers whose output matrix and output bias are divided, too; that of the others is shared.

    Returns:
        By `id` of a parameter, `FORGET` or `RETAIN` for each of its weights, (*shape), int8. Parameters that are missing are shared.
    """
    by_parameter: dict[int, Tensor] = {}
    for layer in layers(model, units, heads):
        for module, mask in layer.inputs:
            code = torch.where(mask, FORGET, RETAIN).to(torch.int8)
            _put(by_parameter, module.weight, code[None] if _turned(module) else code[:, None])
            _put(by_parameter, module.bias, code)
        if layer.kind in outputs:
            code = torch.where(layer.reserved, FORGET, RETAIN).to(torch.int8)
            _put(by_parameter, layer.output.weight, code[:, None] if _turned(layer.output) else code[None])
            _put(by_parameter, layer.output.bias, torch.full((1,), RETAIN, dtype=torch.int8, device=code.device))
    return by_parameter


def check_reserved(model: nn.Module, units: int, heads: int) -> bool:
    """Whether a model says that these units and heads of it are reserved; false where it says nothing.

    Raises:
        UserError: where others are.
    """
    known = getattr(getattr(base_of(model), "config", None), NOTE, None)
    if known is not None and list(known) != [units, heads]:
        raise UserError(
            f"the model was trained with {known[0]} reserved units and {known[1]} reserved heads, and not with {units} and {heads}: "
            f"give --units {known[0]} --heads {known[1]}"
        )
    return known is not None


def note_reserved(model: nn.Module, units: int, heads: int) -> None:
    """Write into the configuration of a model, which is saved with it, what is reserved."""
    setattr(base_of(model).config, NOTE, [units, heads])


def _put(by_parameter: dict[int, Tensor], parameter: Tensor | None, code: Tensor) -> None:
    if parameter is not None:
        by_parameter[id(parameter)] = code.expand(parameter.shape)


@dataclass(frozen=True)
class Reserved:
    """A patch of the forward pass. off: reserved units and heads give 0; only: all others do; detached: no gradient flows into others."""

    units: int
    heads: int
    how: How

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        if torch.is_grad_enabled() and any(getattr(m, "gradient_checkpointing", False) for m in model.modules()):
            raise UserError("the backward pass would compute activations again with all units on: leave --gradient-checkpointing out")
        with ExitStack() as stack:
            for layer in layers(model, self.units, self.heads):
                stack.callback(layer.output.register_forward_pre_hook(self._hook(layer.reserved)).remove)
            yield

    def _hook(self, reserved: Tensor) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            x = inputs[0]
            other = x.detach() if self.how == "detached" else torch.zeros_like(x)
            return (torch.where(reserved, other, x) if self.how == "off" else torch.where(reserved, x, other), *inputs[1:])

        return hook
