"""An untrained model for the data: the tokens of its captions, a text encoder and a denoiser, in the layout of Stable Diffusion."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from expunge.core.errors import UserError
from expunge.modalities.common.records import absent
from expunge.modalities.diffusion.captions import captions_of
from expunge.modalities.diffusion.columns import CAPTIONS, PICTURES
from expunge.modalities.diffusion.libraries import class_of, silent
from expunge.modalities.diffusion.modality import Diffusion, Settings
from expunge.modalities.diffusion.network import DiffusionModel
from expunge.modalities.diffusion.process import process_of
from expunge.modalities.image.decode import decoded

Records = Sequence[Mapping[str, Any]]
TOKENS = 4096  # of a vocabulary at most
MOST = 77  # tokens of a caption at most, as in CLIP


def start_model(
    widths: Sequence[int],
    settings: Settings,
    records: Records,
    *,
    vocabulary: Records = (),
    texts: Sequence[str] = (),
    labels: Any = (),
    prompt_format: str = "",
    seed: int = 0,
    source: str = "training",
    **unused: Any,
) -> tuple[DiffusionModel, Diffusion]:
    """Build an untrained UNet in pixel space that reads captions, with a text encoder of its own.

    Args:
        widths: channels of the UNet at each resolution, largest resolution first.
        settings: of the modality.
        records: training rows, each with a picture and a caption.
        vocabulary: rows whose captions the tokenizer also knows.
        texts: texts of the tokenizer besides those.
        source: name of the training rows in messages.

    Raises:
        UserError: for rows without pictures or captions, for sides that the UNet cannot halve, for labels and prompt formats.
    """
    if prompt_format or labels != ():
        raise UserError("a diffusion model reads captions as they are, and classifies nothing: leave --prompt-format and --labels out")
    captions = captions_of(records, source)
    channels, height, width = _shape(records, source)
    halvings = 2 ** (len(widths) - 1)
    if height % halvings or width % halvings:
        raise UserError(f"{source}: a UNet of this size halves pictures {len(widths) - 1} times, and these have {height} x {width} pixels")
    known = [*captions, *(str(r[c]) for r in vocabulary for c in CAPTIONS if not absent(r.get(c))), *texts]
    tokenizer = tokenizer_of(known)
    with torch.random.fork_rng(devices=[]), silent():
        torch.manual_seed(seed)
        encoder = text_encoder(tokenizer, widths[0])
        denoiser = unet(widths, channels, (height, width), widths[0])
    scheduler = class_of("DDIMScheduler")(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False, timestep_spacing="trailing", steps_offset=1
    )
    model = DiffusionModel("unet", denoiser, encoder).eval()
    return model, Diffusion(process_of(scheduler), scheduler, "text", channels, (height, width), tokenizer, settings=settings)


def tokenizer_of(captions: Sequence[str]) -> Any:
    """A CLIP tokenizer that knows each word of the captions as one token, and other words by their letters."""
    with silent():
        tokenizer = renumbered(class_of("CLIPTokenizer")().train_new_from_iterator(sorted(set(captions)), TOKENS, show_progress=False))
    longest = max((len(ids) for ids in tokenizer(sorted(set(captions))).input_ids), default=0)
    tokenizer.model_max_length = min(MOST, -(-(longest + 4) // 8) * 8)
    return tokenizer


def renumbered(tokenizer: Any) -> Any:
    """The same tokenizer with tokens numbered in their order, special ones first: its library numbers letters anew each time."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    special = [t["content"] for t in state["added_tokens"]]  # which have the first numbers already
    ordered = [*special, *sorted(t for t in state["model"]["vocab"] if t not in special)]
    merges = [tuple(m.split(" ") if isinstance(m, str) else m) for m in state["model"]["merges"]]
    return type(tokenizer)(vocab={token: i for i, token in enumerate(ordered)}, merges=merges)


def text_encoder(tokenizer: Any, width: int) -> nn.Module:
    """A text encoder of CLIP with one layer."""
    from transformers import CLIPTextConfig

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_factor=1.0,
    )
    encoder: nn.Module = class_of("CLIPTextModel")(config)
    return encoder


def unet(widths: Sequence[int], channels: int, sides: tuple[int, int], states: int) -> nn.Module:
    """A UNet that reads captions at all resolutions but the largest. states: width of the text encoder's states."""
    few = len(widths) - 1
    network: nn.Module = class_of("UNet2DConditionModel")(
        sample_size=sides[0] if sides[0] == sides[1] else list(sides),
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=tuple(widths),
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * few),
        up_block_types=(*["CrossAttnUpBlock2D"] * few, "UpBlock2D"),
        cross_attention_dim=states,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    return network


def _shape(records: Records, source: str) -> tuple[int, int, int]:
    """(channels, height, width) of the first picture. Raises: UserError where no row has one."""
    for i, record in enumerate(records, 1):
        value = next((record[c] for c in PICTURES if not absent(record.get(c))), None)
        if value is not None:
            shape = decoded(value, f"{source}, row {i}").shape
            return (3 if shape[0] > 1 else 1), shape[1], shape[2]
    raise UserError(f"{source}: no row has a picture, so there is nothing to learn to draw; it stands in a column {', '.join(PICTURES)}")
