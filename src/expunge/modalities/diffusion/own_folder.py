"""Load models that are no pipelines from the folders that `own_saving` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import nn

from expunge.core.errors import UserError
from expunge.engine import stored
from expunge.modalities.common import adapter_files, weight_files
from expunge.modalities.diffusion import masked_building, subject_building
from expunge.modalities.diffusion.libraries import class_of, silent
from expunge.modalities.diffusion.modality import Diffusion
from expunge.modalities.diffusion.own_saving import ADAPTER, CONFIG, MASKED, TOKENIZER, WEIGHTS


def load(
    path: str, *, dtype: torch.dtype | str | None = None, trust_remote_code: bool = False, allow_pickle: bool = False
) -> tuple[nn.Module, Diffusion]:
    """Load a model in evaluation mode and its modality.

    Args:
        path: a folder of a model, or of a LoRA adapter of one.
        dtype: of the weights; None: float32 in memory, saved in the types of the files; auto: those of the files.
        trust_remote_code: has no effect, since no code comes with such a model.
        allow_pickle: has no effect, since such a model is never pickled.

    Raises:
        UserError: when something is missing, damaged or does not fit.
    """
    folder = Path(path).expanduser()
    if (folder / ADAPTER).exists():
        config = adapter_files.config_of(str(folder)) or {}
        adapter_files.check(path, config)
        model, modality = load(str(config["base_model_name_or_path"]), dtype=dtype)
        return adapter_files.adapted(model, str(folder), config), modality
    weight_files.check(folder, allow_pickle=False)
    entries = _entries(folder / CONFIG)
    network, modality = _built(folder, entries)
    try:
        load_model(network, str(folder / WEIGHTS))
    except (SafetensorError, RuntimeError, OSError) as error:
        line = " ".join(str(error).split())[:200]
        raise UserError(f"the weights in {folder / WEIGHTS} do not fit the model that {CONFIG} describes: {line}") from None
    in_files = stored.read([folder / WEIGHTS])
    if dtype is None:
        stored.remember(network, in_files)
    network = network.to(in_files.default if dtype == "auto" else dtype if isinstance(dtype, torch.dtype) else torch.float32)
    network.__dict__["name_or_path"] = str(folder.resolve())  # which an adapter notes as its base
    return network.eval(), modality


def _entries(file: Path) -> dict[str, Any]:
    """The configuration of a model. Raises: UserError for one that lacks entries or has some of another kind."""
    try:
        entries: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged: {error}") from None
    kinds: dict[str, type] = {"model": dict, "settings": dict, "classes": list}
    if wrong := [n for n, kind in kinds.items() if not isinstance(entries.get(n), kind)]:
        raise UserError(f"{file} is damaged: it lacks {', '.join(map(repr, wrong))}, or holds something else there")
    return entries


def _built(folder: Path, entries: dict[str, Any]) -> tuple[nn.Module, Diffusion]:
    """An untrained model and its modality, as the configuration says. Raises: UserError for entries that describe none."""
    from transformers import CLIPTextConfig

    building: Any = masked_building if entries["architectures"] == [MASKED] else subject_building
    try:
        encoder = tokenizer = None
        with silent():
            if (of_text := entries.get("text_encoder")) is not None:
                encoder = class_of("CLIPTextModel")(CLIPTextConfig(**of_text))
                tokenizer = class_of("CLIPTokenizer").from_pretrained(str(folder / TOKENIZER))
            network: nn.Module = building.network_of(entries["model"], encoder)
        modality: Diffusion = building.modality_of(network, building.settings_of(entries["settings"]), tuple(entries["classes"]), tokenizer)
        return network, modality
    except (TypeError, ValueError, KeyError, OSError, RuntimeError) as error:
        raise UserError(f"{folder / CONFIG} describes no model: {' '.join(str(error).split())[:200]}") from None
