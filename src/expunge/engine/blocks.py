"""The blocks of a model by number. An encoder-decoder has those of its encoder, and then those of its decoder; a model that reads pictures
has those of its language model.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from expunge.engine.adapters import base_of, is_encoder_decoder
from expunge.engine.sides import language_path

MARK = "block:"  # `block:7` stands for the block of that number, whatever its name in the model


def blocks_path(model: nn.Module) -> str:
    """The path of a model's blocks: its longest list of modules that is in no other list, `model.layers` for most language models."""
    return stacks(model)[-1]


def stacks(model: nn.Module) -> list[str]:
    """The paths of all lists of blocks, in the order of the forward pass: one, or those of encoder and decoder; '' where there is none."""
    base: Any = base_of(model)
    lists = {n: len(m) for n, m in base.named_modules() if isinstance(m, nn.ModuleList)}
    outer = [(size, n) for n, size in lists.items() if not any(n.startswith(f"{parent}.") for parent in lists)]
    if language := language_path(model):  # a vision tower may have more blocks
        outer = [(size, n) for size, n in outer if n.startswith(f"{language}.")]
    if is_encoder_decoder(model):
        sides = [_path(base, side) for side in (base.get_encoder(), base.get_decoder())]
        longest = [max(((size, n) for size, n in outer if n.startswith(f"{side}.")), default=(0, ""))[1] for side in sides]
        if all(longest) and longest[0] != longest[1]:
            return longest
    return [max(outer)[1] if outer else ""]


def in_encoder(model: nn.Module, module: nn.Module) -> bool:
    """Whether a module works on the encoder's side of a model alone."""
    base: Any = base_of(model)
    if not is_encoder_decoder(model):
        return False
    return any(m is module for m in base.get_encoder().modules()) and not any(m is module for m in base.get_decoder().modules())


def block_paths(model: nn.Module) -> list[str]:
    """The paths of all blocks, first to last; empty when the model has no list of blocks."""
    base = base_of(model)
    return [f"{path}.{i}" for path in stacks(model) if path for i in range(len(base.get_submodule(path)))]  # type: ignore[arg-type]


def block_hook_points(model: nn.Module) -> tuple[str, ...]:
    """Hook points of all blocks, first to last; empty when the model has no list of blocks."""
    return tuple(f"{MARK}{i}" for i in range(len(block_paths(model))))


def last_block(model: nn.Module) -> str:
    """The path of the last block of a model; empty when it has no list of blocks."""
    return (block_paths(model) or [""])[-1]


def spelled_path(model: nn.Module, path: str) -> str:
    """The path of a module in the model, where `block:7.mlp` begins with a block. A block beyond the last gets the path it would have."""
    if not path.startswith(MARK):
        return path
    number, dot, inner = path.removeprefix(MARK).partition(".")
    paths = block_paths(model)
    if number.isdecimal() and int(number) < len(paths):
        return f"{paths[int(number)]}{dot}{inner}"
    before = sum(not p.startswith(f"{blocks_path(model)}.") for p in paths)
    return f"{blocks_path(model)}.{int(number) - before if number.isdecimal() else number}{dot}{inner}"


def _path(base: nn.Module, module: nn.Module) -> str:
    return next((n for n, m in base.named_modules() if m is module), "")
