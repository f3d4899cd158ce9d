"""Load adapters of `peft`: LoRA stays an adapter, other kinds that can be merged become part of the weights, and the rest is refused."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from expunge.core.errors import UserError
from expunge.engine import stored
from expunge.engine.adapters import merged
from expunge.modalities.common.weight_files import stored_in
from expunge.modalities.text.wider import widen

FILE = "adapter_model.safetensors"
TROUBLE = (OSError, ValueError, KeyError, RuntimeError, ImportError, TypeError, AttributeError, NotImplementedError, SafetensorError)


def config_of(path: str) -> dict[str, Any] | None:
    """The configuration of an adapter; None for a model that is no adapter. Raises: UserError for a file that is no JSON."""
    from transformers.utils import find_adapter_config_file

    config = find_adapter_config_file(path)
    try:
        return dict(json.loads(Path(config).read_text(encoding="utf-8"))) if config else None
    except ValueError as error:
        raise UserError(f"{config} is damaged: {error}") from None


def check(path: str, config: dict[str, Any]) -> None:
    """Check the configuration of an adapter before its base is loaded.

    Raises:
        UserError: for an adapter without a base, and for a kind that is not supported; the message names the kind.
    """
    import peft
    from peft.tuners.tuners_utils import BaseTuner

    if not config.get("base_model_name_or_path"):
        raise UserError(
            f"{path} is an adapter that does not say which model it belongs to: set base_model_name_or_path in its adapter_config.json"
        )
    kind = str(config.get("peft_type"))
    tuner = peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING.get(kind)
    if tuner is None or not issubclass(tuner, BaseTuner):
        raise UserError(
            f"{path} is an adapter of the kind {kind}, which adds no change of weights that could be trained or merged here; LoRA adapters "
            "and kinds that peft can merge are supported"
        )
    if config.get("alora_invocation_tokens"):
        raise UserError(f"{path} is an activated LoRA, which works on a part of each text only; plain LoRA adapters are supported")


def adapted(model: nn.Module, path: str, config: dict[str, Any]) -> nn.Module:
    """The model with an adapter: with LoRA as an adapter that can be trained, with another kind merged into its weights.

    Raises:
        UserError: when the adapter does not fit the model, lacks weights, or can be neither trained nor merged.
    """
    import peft

    kind = str(config["peft_type"])
    try:
        if rows := _tokens_of(Path(path)):
            widen(model, rows)
        loaded: Any = peft.PeftModel.from_pretrained(model, path, is_trainable=kind == "LORA")
    except TROUBLE as error:
        raise UserError(f"cannot load the adapter {path}: {_first_line(error)}") from None
    _check_complete(loaded, path)
    unknown = sorted(k for k, v in config.items() if v and k not in {f.name for f in fields(type(loaded.active_peft_config))})
    if kind == "LORA":
        stored.remember(loaded, stored_in(path, FILE))
        whole: nn.Module = loaded
    else:
        try:
            whole = merged(loaded)
        except TROUBLE as error:
            raise UserError(
                f"{path} is an adapter of the kind {kind}, which peft cannot merge into its base here: {_first_line(error)}"
            ) from None
        stored.note(whole, f"the adapter is of the kind {kind}, so it was merged into its base, and what is written is a whole model")
    if unknown:
        stored.note(whole, f"the adapter sets {', '.join(unknown)}, which peft {peft.__version__} does not know and ignores")
    return whole.eval()


def _check_complete(loaded: Any, path: str) -> None:
    """Refuse an adapter whose file has other weights than its configuration describes: peft would draw the missing ones."""
    import peft

    file = Path(path) / FILE
    if not file.exists():
        return
    with safe_open(file, "pt") as weights:
        names = set(weights.keys())
    expected = set(peft.get_peft_model_state_dict(loaded, save_embedding_layers=False))
    if missing := sorted(expected - names):
        raise UserError(f"cannot load the adapter {path}: its file lacks {len(missing)} of its weights, among them {missing[0]}")
    modules = dict(loaded.state_dict())
    if extra := sorted(n for n in names - expected if n not in modules and "embed" not in n and "lm_head" not in n):
        raise UserError(
            f"cannot load the adapter {path}: {len(extra)} weights in its file have no place in its base, among them {extra[0]}; is the "
            "base another model, or is the configuration not its own?"
        )


def _tokens_of(adapter: Path) -> int:
    """Number of tokens that an adapter has embeddings for; 0 when it uses those of its base."""
    file = adapter / FILE
    if not file.exists():
        return 0
    with safe_open(file, "pt") as weights:
        tables = [n for n in weights.keys() if ("embed" in n or "wte" in n) and n.endswith(".weight") and "lora_" not in n]  # noqa: SIM118
        return max((weights.get_slice(n).get_shape()[0] for n in tables), default=0)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
