"""Write diffusion models as pipelines that `diffusers` loads, or their adapters alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from expunge.engine import stored
from expunge.engine.adapters import base_of, is_adapted
from expunge.engine.stored import Stored
from expunge.modalities.diffusion.libraries import silent

INDEX = "model_index.json"
OWN = "_expunge"  # the entry of the index that holds our settings, which diffusers skips
LORA = "pytorch_lora_weights.safetensors"  # the name by which `load_lora_weights` of a pipeline finds an adapter
PREFIX = "base_model.model."


def save(model: nn.Module, modality: Any, folder: Path) -> None:
    """Write a pipeline, or an adapter in the forms of `peft` and of `diffusers`.

    Args:
        modality: a `Diffusion`, which has all parts that are not in the model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole: Any = model
    if is_adapted(model):
        with silent():
            whole.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # the empty card of peft; the run writes its own
        _write_lora(folder, whole)
        return
    base: Any = base_of(model)
    parts: dict[str, Any] = {base.place: base.denoiser, "scheduler": modality.scheduler}
    parts |= {n: p for n, p in (("text_encoder", getattr(base, "text_encoder", None)), ("tokenizer", modality.tokenizer)) if p is not None}
    parts |= {"vae": modality.latents.vae} if modality.latents.vae is not None else {}
    with silent():
        for name, part in parts.items():
            part.save_pretrained(folder / name)
    types = stored.of(model)
    for name in (base.place, "text_encoder"):
        if types and name in parts:
            own = {n.removeprefix(f"{name}."): d for n, d in types.dtypes.items() if n.startswith(f"{name}.")}
            stored.write_as_stored(folder / name, Stored(own))
    _copy_others(modality, folder)
    (folder / INDEX).write_text(json.dumps(_index(parts, base, modality), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _index(parts: dict[str, Any], base: Any, modality: Any) -> dict[str, Any]:
    entries = {n: [type(p).__module__.partition(".")[0], type(p).__name__] for n, p in parts.items()}
    index = {n: v for n, v in modality.index.items() if n != OWN}
    is_text = "text_encoder" in parts
    index.setdefault(
        "_class_name", "StableDiffusionPipeline" if is_text else "DiTPipeline" if base.place == "transformer" else "DDPMPipeline"
    )
    index.setdefault("_diffusers_version", _version())
    if is_text and index["_class_name"] == "StableDiffusionPipeline":
        for name in ("vae", "safety_checker", "feature_extractor", "image_encoder"):
            index.setdefault(name, [None, None])
        index.setdefault("requires_safety_checker", index["safety_checker"][-1] is not None)
    if modality.classes:
        index["id2label"] = {str(i): name for i, name in enumerate(modality.classes)}
    own = {**vars(modality.settings), "text_encoder_trains": not base.resting}
    return {**index, **entries, OWN: own}


def _copy_others(modality: Any, folder: Path) -> None:
    """Keep the parts of the pipeline that were not opened, such as a safety checker."""
    source = Path(modality.source)
    for name, entry in modality.index.items():
        if isinstance(entry, list) and entry[-1:] != [None] and modality.source and (source / name).is_dir() and source != folder:
            shutil.copytree(source / name, folder / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.bin", "*.ckpt", "*.pt"))


def _write_lora(folder: Path, adapted: Any) -> None:
    """The adapter once more, under the names that pipelines of `diffusers` give its weights."""
    file = folder / "adapter_model.safetensors"
    if not file.exists():
        return
    with safe_open(file, "pt") as weights:
        tensors = {n.removeprefix(PREFIX): weights.get_tensor(n) for n in weights.keys()}  # noqa: SIM118
    config = adapted.active_peft_config
    scale = (config.lora_alpha / config.r) ** 0.5 if getattr(config, "r", 0) else 1.0  # spread over both factors: the format has none
    save_file({n: (t * scale).contiguous() for n, t in tensors.items()}, folder / LORA, {"format": "pt"})


def _version() -> str:
    import importlib.metadata

    return importlib.metadata.version("diffusers")
