"""Write the models of tables: safetensors, and JSON for what builds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_model
from torch import nn

from expunge.engine import stored
from expunge.engine.adapters import base_of
from expunge.modalities.table.columns import Columns

CONFIG, WEIGHTS, KIND = "config.json", "model.safetensors", "ForTable"


def save(model: nn.Module, folder: Path, columns: Columns, **entries: Any) -> None:
    """Write a model, or the adapter of one.

    Args:
        columns: that the model reads.
        entries: further entries of the configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(model, "peft_config"):
        model.save_pretrained(folder)  # type: ignore[operator]
        return
    base: Any = base_of(model)
    save_model(base, str(folder / WEIGHTS))
    schema = [{"name": c.name, "categories": list(c.categories)} for c in columns]
    config = {"architectures": [type(base).__name__ + KIND], "settings": base.settings, "columns": schema, **entries}
    (folder / CONFIG).write_text(json.dumps(config, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    stored.write_as_stored(folder, stored.of(model))
