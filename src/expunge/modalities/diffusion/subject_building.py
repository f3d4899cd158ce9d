"""An untrained pair of denoisers, of scenes and of subjects, for the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from expunge.core.errors import UserError
from expunge.modalities.diffusion.building import text_encoder, tokenizer_of, unet
from expunge.modalities.diffusion.captions import captions_of
from expunge.modalities.diffusion.libraries import class_of, silent
from expunge.modalities.diffusion.markers import MARKER, unmarked
from expunge.modalities.diffusion.process import process_of
from expunge.modalities.diffusion.subject_modality import SubjectDiffusion, SubjectSettings
from expunge.modalities.diffusion.subject_model import SubjectModel
from expunge.modalities.diffusion.subjects import ReferenceEncoder, SubjectFusion
from expunge.modalities.image.modality import shape_of

Records = Sequence[Mapping[str, Any]]


def start_model(
    widths: Sequence[int],
    settings: SubjectSettings,
    records: Records,
    *,
    texts: Sequence[str] = (),
    labels: Any = (),
    prompt_format: str = "",
    seed: int = 0,
    source: str = "training",
    **unused: Any,
) -> tuple[SubjectModel, SubjectDiffusion]:
    """Build an untrained model.

    Args:
        widths: channels of the denoisers at each resolution, largest resolution first.
        settings: of the modality.
        records: training rows, each with a picture, a caption with a marker behind each word that names a subject, and a mask of each.
        texts: texts of the tokenizer besides the captions.
        source: name of the training rows in messages.

    Raises:
        UserError: for rows without pictures or captions, for captions that mark nothing, for sides that the denoisers cannot halve.
    """
    if prompt_format or labels != ():
        raise UserError("a diffusion model reads captions as they are, and classifies nothing: leave --prompt-format and --labels out")
    captions = captions_of(records, source)
    if not any(MARKER in c for c in captions):
        raise UserError(
            f"{source}: no caption marks a subject; put {MARKER} behind each word that names one, as in 'a woman {MARKER} on a beach', "
            f"and a mask of it into a column 'mask'"
        )
    channels, height, width = shape_of(records, source)
    halvings = 2 ** (len(widths) - 1)
    if height % halvings or width % halvings:
        raise UserError(f"{source}: a UNet of this size halves pictures {len(widths) - 1} times, and these have {height} x {width} pixels")
    tokenizer = tokenizer_of([unmarked(c) for c in [*captions, *texts]])
    entries = {"widths": list(widths), "channels": channels, "sides": [height, width]}
    with torch.random.fork_rng(devices=[]), silent():
        torch.manual_seed(seed)
        model = network_of(entries, text_encoder(tokenizer, widths[0])).eval()
    return model, modality_of(model, settings, (), tokenizer)


def network_of(entries: Mapping[str, Any], encoder: nn.Module) -> SubjectModel:
    """An untrained network.

    Args:
        entries: `widths`, `channels` and `sides`.
        encoder: of texts.
    """
    widths, channels, sides = entries["widths"], entries["channels"], tuple(entries["sides"])
    scene, subject = (unet(widths, channels, sides, widths[0]) for _ in range(2))
    model = SubjectModel(scene, subject, encoder, ReferenceEncoder(channels, widths[0]), SubjectFusion(widths[0]))
    model.entries = dict(entries)
    return model


def settings_of(entries: Mapping[str, Any]) -> SubjectSettings:
    """Settings from plain data."""
    return SubjectSettings(**entries)


def modality_of(model: SubjectModel, settings: SubjectSettings, names: tuple[str, ...], tokenizer: Any) -> SubjectDiffusion:
    """The modality of a model."""
    height, width = model.entries["sides"]
    scheduler = class_of("DDIMScheduler")(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False, timestep_spacing="trailing"
    )
    channels = model.entries["channels"]
    return SubjectDiffusion(process_of(scheduler), scheduler, "text", channels, (height, width), tokenizer, names, settings=settings)
