"""Folders of the models that are no pipelines: `config.json`, `model.safetensors`, and the tokenizer where captions are texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_model
from torch import nn

from expunge.engine import stored
from expunge.engine.adapters import base_of, is_adapted

if TYPE_CHECKING:
    from expunge.modalities.diffusion.modality import Diffusion

CONFIG, WEIGHTS, TOKENIZER, ADAPTER = "config.json", "model.safetensors", "tokenizer", "adapter_config.json"
MASKED, SUBJECTS = "LinaForMaskedGeneration", "FaceDiffuserForSubjects"  # architectures


def save(model: nn.Module, modality: Diffusion, architecture: str, entries: Mapping[str, Any], folder: Path) -> None:
    """Write a model, or its adapter alone.

    Args:
        entries: what builds the model, as plain data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if is_adapted(model):
        whole: Any = model
        whole.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # the empty card of peft; the run writes its own
        return
    base: Any = base_of(model)
    save_model(base, str(folder / WEIGHTS))
    config = {
        "architectures": [architecture],
        "model": dict(entries),
        "settings": asdict(modality.settings),
        "classes": list(modality.classes),
    }
    if base.text_encoder is not None:
        config["text_encoder"] = json.loads(base.text_encoder.config.to_json_string())
        modality.tokenizer.save_pretrained(folder / TOKENIZER)
    (folder / CONFIG).write_text(json.dumps(config, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    stored.write_as_stored(folder, stored.of(model))


def own_architecture(path: str) -> str:
    """The architecture of a model in a folder that is no pipeline, for an adapter that of its base; '' for any other."""
    for name in (ADAPTER, CONFIG):
        file = Path(path).expanduser() / name
        try:
            config = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        except (OSError, ValueError):
            continue
        if base := config.get("base_model_name_or_path"):
            return own_architecture(str(base))
        if (architectures := config.get("architectures")) and architectures[0] in (MASKED, SUBJECTS):
            return str(architectures[0])
    return ""
