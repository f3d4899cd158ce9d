"""Which weights of a model train."""

from __future__ import annotations

import re

from torch import nn

from expunge.core.errors import UserError
from expunge.engine.adapters import base_of, is_adapted, resting_in
from expunge.engine.blocks import MARK, block_paths
from expunge.engine.sides import SIDES, reads_pictures, side_of

EVERYTHING = ".*"  # the pattern of a plan that names no parameters


def choose(model: nn.Module, trainable: str) -> None:
    """Make the parameters trainable whose name matches, and freeze all others. If there are adapters, only theirs can be trainable.

    Parts of a model that rest, such as the text encoder of a pipeline, train only where the pattern names parameters of them.
    A model that no gradient can change stays as it is: what needs gradients of it says so.

    Args:
        trainable: regex on the names of the bare model; `block:7` in it stands for the path of that block. Of a model that reads pictures
            and texts also `vision`, `projector` or `language`, or several of them as in `projector|language`.

    Raises:
        UserError: if no parameter matches.
    """
    adapted, pattern = is_adapted(model), _spelled(model, trainable)
    resting = resting_in(model) if trainable == EVERYTHING else ()
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(f"--trainable {trainable!r} is no regular expression: {error}") from None
    for name, p in model.named_parameters():
        bare = name.replace("base_model.model.", "", 1) if adapted else name
        moves = bool(re.search(pattern, bare)) and not bare.startswith(resting)
        p.requires_grad_(p.is_floating_point() and moves and (not adapted or "lora_" in name))
    if learns(model) and not any(p.requires_grad for p in model.parameters()):
        raise UserError(f"no parameter of this model matches {trainable!r}, so nothing would train: change --trainable")


def learns(model: nn.Module) -> bool:
    """Whether a model has weights that a gradient can change: the trees of a forest are none."""
    return any(p.is_floating_point() for p in model.parameters())


def _spelled(model: nn.Module, pattern: str) -> str:
    """A regex with the paths of blocks in place of their hook points, and with names in place of the sides of a model."""
    if reads_pictures(model) and set(pattern.split("|")) <= set(SIDES):
        wanted = [n for n, _ in base_of(model).named_parameters() if side_of(model, n) in pattern.split("|")]
        return f"^({'|'.join(map(re.escape, wanted))})$"
    paths = block_paths(model) if MARK in pattern else []
    at = rf"{MARK}(\d+)"
    return re.sub(at, lambda m: re.escape(paths[int(m[1])]) if int(m[1]) < len(paths) else m[0], pattern)
