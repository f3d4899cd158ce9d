"""Load pipelines of `diffusers` from folders and the hub: safetensors and JSON alone, and no code that comes with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from expunge.core.errors import UserError
from expunge.engine import stored
from expunge.modalities.common import adapter_files
from expunge.modalities.diffusion.libraries import class_of, silent
from expunge.modalities.diffusion.modality import Diffusion, Settings
from expunge.modalities.diffusion.network import DiffusionModel, frozen
from expunge.modalities.diffusion.process import process_of
from expunge.modalities.diffusion.saving import INDEX, OWN
from expunge.modalities.diffusion.vae import Latents

TROUBLE = (OSError, ValueError, KeyError, RuntimeError, ImportError, TypeError, SafetensorError)  # what the libraries raise over files
PLACES = ("unet", "transformer")  # of the denoiser
READ = (*PLACES, "text_encoder", "tokenizer", "vae", "scheduler")  # parts that are opened
IDLE = ("safety_checker", "feature_extractor", "image_encoder")  # parts that are kept with the pipeline and not used
ADAPTER = "adapter_config.json"


def load(
    path: str, *, dtype: torch.dtype | str | None = None, trust_remote_code: bool = False, allow_pickle: bool = False
) -> tuple[nn.Module, Diffusion]:
    """Load a pipeline in evaluation mode and its modality.

    Args:
        path: a folder or hub id of a pipeline, or of a LoRA adapter of one.
        dtype: of the weights; None: float32 in memory, saved in the types of the files; auto: those of the files.
        trust_remote_code: has no effect, since only classes of the libraries are opened.
        allow_pickle: has no effect, since pipelines load from safetensors alone.

    Raises:
        UserError: when something is missing or damaged, or the pipeline is of a kind that is not supported.
    """
    folder = Path(path).expanduser()
    if (folder / ADAPTER).exists():
        config = adapter_files.config_of(str(folder)) or {}
        adapter_files.check(path, config)
        try:
            model, modality = load(str(config["base_model_name_or_path"]), dtype=dtype)
        except UserError as error:
            raise UserError(f"the model that the adapter {path} belongs to does not load: {error}") from None
        return adapter_files.adapted(model, str(folder), config), modality
    folder = folder if folder.is_dir() else _downloaded(path)
    index = _index(folder / INDEX)
    return _opened(folder, index, dtype)


def _downloaded(name: str) -> Path:
    """The folder of a pipeline of the hub, without its pickles. Raises: UserError."""
    import huggingface_hub

    patterns = [INDEX, *(f"{part}/{kind}" for part in READ for kind in ("*.json", "*.txt", "*.safetensors"))]
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*.fp16.*", "*.non_ema.*"]))
    except Exception as error:  # the library raises dozens of types, and each means that the pipeline cannot be had
        raise UserError(f"cannot load the pipeline {name!r}: {_first_line(error)}") from None


def _index(file: Path) -> dict[str, Any]:
    """The content of a pipeline. Raises: UserError for one that is damaged, or is of a kind that is not supported."""
    try:
        index: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged: {error}") from None
    parts = {n for n, v in index.items() if not n.startswith("_") and isinstance(v, list) and v[-1:] not in ([], [None])}
    if more := sorted(parts - {*READ, *IDLE}):
        raise UserError(
            f"{file.parent} is a {index.get('_class_name')} with {', '.join(more)}, which are not supported: pipelines with one denoiser "
            f"(unet or transformer), one CLIP text encoder or classes, and a VAE or none are"
        )
    if not any(p in parts for p in PLACES) or "scheduler" not in parts:
        raise UserError(f"{file.parent} holds no denoiser (unet or transformer) with a scheduler, so nothing that draws pictures")
    return index


def _opened(folder: Path, index: Mapping[str, Any], dtype: torch.dtype | str | None) -> tuple[nn.Module, Diffusion]:
    place = next(p for p in PLACES if index.get(p, [None])[-1])
    with silent():
        opened = {n: _part(folder, n, index[n][-1]) for n in READ if index.get(n, [None])[-1]}
    denoiser, encoder = opened[place], opened.get("text_encoder")
    if denoiser.config.get("cross_attention_dim") and place == "unet" and (encoder is None or "tokenizer" not in opened):
        lacks = "text encoder" if encoder is None else "tokenizer"
        raise UserError(f"the denoiser of {folder} reads captions, and the pipeline has no {lacks}: add it, with its entry in {INDEX}")
    own = dict(index.get(OWN, {}))
    model = DiffusionModel(place, denoiser, encoder, () if own.pop("text_encoder_trains", False) else ("text_encoder",))
    in_files = _stored(folder, [n for n in (place, "text_encoder") if n in opened])
    if dtype is None:
        stored.remember(model, in_files)
    model = model.to(in_files.default if dtype == "auto" else dtype if isinstance(dtype, torch.dtype) else torch.float32)
    model.__dict__["name_or_path"] = str(folder.resolve())  # which an adapter notes as its base
    vae = opened.get("vae")
    latents = Latents() if vae is None else Latents(frozen(vae), vae.config.scaling_factor, vae.config.get("shift_factor") or 0.0)
    factor = 1 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)
    names = _classes(index, model.classes) if model.conditioning == "classes" else ()
    sides = (model.sides[0] * factor, model.sides[1] * factor)
    channels = model.channels if vae is None else vae.config.in_channels
    scheduler = opened["scheduler"]
    settings = Settings(**own) if own else Settings(guidance=4.0 if names else 7.5)
    kept = {n: v for n, v in index.items() if n not in READ}
    modality = Diffusion(
        process_of(scheduler),
        scheduler,
        model.conditioning,
        channels,
        sides,
        opened.get("tokenizer"),
        names,
        latents,
        settings,
        kept,
        str(folder),
    )
    return model.eval(), modality


def _part(folder: Path, name: str, class_name: str) -> Any:
    """A part of a pipeline. Raises: UserError for one that is missing or damaged, or only stored as a pickle."""
    kind = class_of(class_name)
    if not (folder / name).is_dir():
        raise UserError(f"{folder} lacks {name}, which its {INDEX} names")
    is_network = hasattr(kind, "parameters")
    if is_network and not any((folder / name).glob("*.safetensors")):
        pickles = any((folder / name).glob("*.bin"))
        more = "; pickled ones can run code, so convert them first" if pickles else ""
        raise UserError(f"{folder / name} holds no safetensors weights{more}")
    options: dict[str, Any] = {"use_safetensors": True} if is_network else {}
    try:
        if is_network and class_name.startswith("CLIP"):
            return kind.from_pretrained(str(folder / name), dtype=torch.float32, **options)
        return kind.from_pretrained(str(folder), subfolder=name, **options, **({"torch_dtype": torch.float32} if is_network else {}))
    except TROUBLE as error:
        raise UserError(f"cannot load the {name} of {folder}: {_first_line(error)}") from None


def _stored(folder: Path, parts: list[str]) -> stored.Stored:
    """The types of the weights in the files, by the name that the weights have in the model. Raises: UserError."""
    dtypes: dict[str, torch.dtype] = {}
    for part in parts:
        try:
            of_part = stored.read([f for f in sorted((folder / part).glob("*.safetensors")) if ".fp16." not in f.name])
        except (SafetensorError, OSError) as error:
            raise UserError(f"the {part} of {folder} is damaged or was copied in part ({_first_line(error)}): copy it again") from None
        dtypes |= {f"{part}.{name}": dtype for name, dtype in of_part.dtypes.items()}
    return stored.Stored(dtypes)


def _classes(index: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Names of the classes: those of the pipeline (`id2label`), else their numbers."""
    names = index.get("id2label") or {str(i): str(i) for i in range(count)}
    return tuple(str(names[k]) for k in sorted(names, key=int))


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
