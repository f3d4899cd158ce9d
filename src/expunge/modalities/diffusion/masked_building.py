"""An untrained masked autoregressor for the data: its size, and what tells it what to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from expunge.core.errors import UserError
from expunge.modalities.common.labels import checked_names, classes
from expunge.modalities.common.records import absent
from expunge.modalities.diffusion.building import text_encoder, tokenizer_of
from expunge.modalities.diffusion.captions import captions_of
from expunge.modalities.diffusion.columns import CAPTIONS
from expunge.modalities.diffusion.libraries import class_of, silent
from expunge.modalities.diffusion.masked_autoregressive import LinaPlan, MaskedAutoregressor
from expunge.modalities.diffusion.masked_modality import MaskedDiffusion, MaskedSettings
from expunge.modalities.diffusion.process import process_of
from expunge.modalities.image.modality import shape_of

Records = Sequence[Mapping[str, Any]]
GRID = 8  # tokens along a side of a picture, in the built-in sizes


def start_model(
    size: Mapping[str, Any],
    settings: MaskedSettings,
    records: Records,
    *,
    vocabulary: Records = (),
    texts: Sequence[str] = (),
    labels: int | Sequence[str] = (),
    prompt_format: str = "",
    seed: int = 0,
    source: str = "training",
    **unused: Any,
) -> tuple[MaskedAutoregressor, MaskedDiffusion]:
    """Build an untrained model, told captions where the rows have them, and classes otherwise.

    Args:
        size: entries of `LinaPlan`.
        settings: of the modality.
        records: training rows, each with a picture and a caption or a class.
        vocabulary: rows whose captions the tokenizer also knows.
        texts: texts of the tokenizer besides those.
        labels: names of the classes, or their number; default: captions, or the classes of the records.
        source: name of the training rows in messages.

    Raises:
        UserError: for rows without pictures, captions or classes, for pictures that are not square or whose side is no multiple of 8.
    """
    if prompt_format:
        raise UserError("a masked autoregressor reads captions as they are: leave --prompt-format out")
    channels, height, width = shape_of(records, source)
    if height != width or height % GRID:
        raise UserError(
            f"{source}: pictures of {height} x {width} pixels, and a model of this size cuts square pictures into {GRID} x {GRID} tokens: "
            f"give pictures whose sides are equal and a multiple of {GRID}, such as 32 x 32"
        )
    has_captions = any(not absent(record.get(c)) for record in records[:1] for c in CAPTIONS)
    names: tuple[str, ...] = ()
    tokenizer: Any = None
    if labels != () or not has_captions:
        names = tuple(checked_names(labels if labels != () else classes(records, source)))
    else:
        captions = captions_of(records, source)
        tokenizer = tokenizer_of([*captions, *(str(r[c]) for r in vocabulary for c in CAPTIONS if not absent(r.get(c))), *texts])
    entries: dict[str, Any] = {"channels": channels, "side": height, "patch": height // GRID, "classes": len(names), **size}
    if not names:
        entries |= {"states": entries["width"], "context": tokenizer.model_max_length}
    plan = LinaPlan(**entries)
    with torch.random.fork_rng(devices=[]), silent():
        torch.manual_seed(seed)
        encoder = None if names else text_encoder(tokenizer, plan.width)
        model = MaskedAutoregressor(plan, encoder).eval()
    return model, modality_of(model, settings, names, tokenizer)


def network_of(entries: Mapping[str, Any], encoder: nn.Module | None) -> MaskedAutoregressor:
    """An untrained network.

    Args:
        entries: of `LinaPlan`.
        encoder: of texts; None: it is told classes.
    """
    return MaskedAutoregressor(LinaPlan(**entries), encoder)


def settings_of(entries: Mapping[str, Any]) -> MaskedSettings:
    """Settings from plain data."""
    return MaskedSettings(**entries)


def modality_of(model: MaskedAutoregressor, settings: MaskedSettings, names: tuple[str, ...], tokenizer: Any) -> MaskedDiffusion:
    """The modality of a model."""
    plan = model.plan
    scheduler = class_of("FlowMatchEulerDiscreteScheduler")()
    conditioning = "classes" if names else "text"
    sides = (plan.side, plan.side)
    return MaskedDiffusion(
        process_of(scheduler),
        scheduler,
        conditioning,
        plan.channels,
        sides,
        tokenizer,
        names,
        settings=settings,
        patch=plan.patch,
        tokens=plan.tokens,
    )
