"""Folders of LINA: `config.json`, `model.safetensors`, and the tokenizer where captions are texts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_model
from torch import nn

from expunge.engine import stored
from expunge.engine.adapters import base_of, is_adapted

if TYPE_CHECKING:
    from expunge.modalities.diffusion.masked_modality import MaskedDiffusion

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer"
ARCHITECTURE = "LinaForMaskedGeneration"


def save(model: nn.Module, modality: MaskedDiffusion, folder: Path) -> None:
    """Write a model, or its adapter alone."""
    folder.mkdir(parents=True, exist_ok=True)
    if is_adapted(model):
        whole: Any = model
        whole.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # the empty card of peft; the run writes its own
        return
    base: Any = base_of(model)
    save_model(base, str(folder / WEIGHTS))
    entries = {
        "architectures": [ARCHITECTURE],
        "model": asdict(base.plan),
        "settings": asdict(modality.settings),
        "classes": list(modality.classes),
    }
    if base.text_encoder is not None:
        entries["text_encoder"] = json.loads(base.text_encoder.config.to_json_string())
        modality.tokenizer.save_pretrained(folder / TOKENIZER)
    (folder / CONFIG).write_text(json.dumps(entries, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    stored.write_as_stored(folder, stored.of(model))


def is_masked(path: str) -> bool:
    """Whether a folder holds a masked autoregressor, or an adapter of one."""
    for name in ("adapter_config.json", CONFIG):
        file = Path(path).expanduser() / name
        try:
            config = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        except (OSError, ValueError):
            continue
        if base := config.get("base_model_name_or_path"):
            return is_masked(str(base))
        if config.get("architectures") == [ARCHITECTURE]:
            return True
    return False
