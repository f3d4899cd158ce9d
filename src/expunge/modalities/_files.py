"""Language models and their tokenizers from folders and hub ids and back: quietly, whole or not at all, and no pickle unless allowed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from expunge.core.adapters import base_of, is_adapted
from expunge.core.errors import UserError

PICKLED = "{} holds no safetensors weights; pickled ones can run code, so they load only with --allow-pickle"

TROUBLE = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)  # what the libraries raise over files
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")  # all there is to know of these stands in tokenizer.json
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


def opened(path: str, dtype: torch.dtype, trust_remote_code: bool, allow_pickle: bool) -> tuple[nn.Module, Any]:
    """Model and tokenizer, in evaluation mode. Errors: UserError, see `text.load`."""
    folder = Path(path).expanduser()
    if folder.exists():
        path = str(folder.resolve())  # an adapter remembers the place of its base, and is opened from anywhere
        _check(folder, allow_pickle)
    elif path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise UserError(f"there is no folder {path}")
    with _quiet():
        adapter = _adapter(path)
        if adapter is None:
            return _whole(path, dtype, trust_remote_code, allow_pickle)
        base = adapter.get("base_model_name_or_path")
        if not base:
            raise UserError(f"{path} is an adapter that does not say which model it belongs to")
        if (kind := adapter.get("peft_type")) != "LORA":
            raise UserError(f"{path} is an adapter of the kind {kind}; only LoRA adapters can be loaded")
        try:
            model, tokenizer = opened(str(base), dtype, trust_remote_code, allow_pickle)
        except UserError as error:
            raise UserError(f"the model that the adapter {path} belongs to does not load: {error}") from None
        return _adapted(model, path), _tokenizer(path, trust_remote_code) if (folder / "tokenizer_config.json").exists() else tokenizer


def _check(folder: Path, allow_pickle: bool) -> None:
    """What can be known of a folder without opening anything."""
    if not any((folder / f).exists() for f in ("config.json", "adapter_config.json")):
        raise UserError(
            f"the folder {folder} holds no model: there is no config.json in it (a run folder keeps its model in {folder}/model)"
        )
    adapter = (folder / "adapter_config.json").exists()
    if any(folder.glob("adapter_model.safetensors" if adapter else "*.safetensors")):
        return
    if not any(f for pattern in ("*.bin", "*.pt", "*.pth") for f in folder.glob(pattern)):
        raise UserError(f"the folder {folder} describes a model and holds no weights of it")
    if not allow_pickle:
        raise UserError(PICKLED.format(folder))


def _adapter(path: str) -> dict[str, Any] | None:
    """The configuration of an adapter, where there is one."""
    from transformers.utils import find_adapter_config_file

    found = find_adapter_config_file(path)
    return dict(json.loads(Path(found).read_text())) if found else None


def _tokenizer(path: str, trust_remote_code: bool) -> Any:
    """Errors: those of the library."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    said = get_tokenizer_config(path)
    if said.get("tokenizer_class") in GENERIC and "auto_map" not in said:  # else rebuilt to suit the model's type, to say other ids
        return PreTrainedTokenizerFast.from_pretrained(path)
    return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)


def _whole(path: str, dtype: torch.dtype, trust_remote_code: bool, allow_pickle: bool) -> tuple[nn.Module, Any]:
    from transformers import AutoModelForCausalLM

    more: dict[str, Any] = {} if allow_pickle else {"use_safetensors": True}
    try:
        tokenizer = _tokenizer(path, trust_remote_code)
        model, info = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, trust_remote_code=trust_remote_code, output_loading_info=True, **more
        )
    except TROUBLE as error:
        if not allow_pickle and ".safetensors" in str(error):
            raise UserError(PICKLED.format(path)) from None
        raise UserError(f"cannot load a causal language model from {path!r}: {_first_line(error)}") from None
    if lacking := sorted(info["missing_keys"]):
        raise UserError(f"{path} lacks {len(lacking)} weights of its model, among them {lacking[0]}: it would answer at random")
    _match(tokenizer, model, path)
    return model.eval(), tokenizer


def _match(tokenizer: Any, model: Any, path: str) -> None:
    """Refuse a tokenizer whose ids the model has no place for. Special tokens that nobody writes are often added and never used, padding
    among them, which is not looked at.
    """
    places, eos = model.get_input_embeddings().weight.shape[0], tokenizer.eos_token_id
    special = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special and i != eos}
    largest = max((i for i in tokenizer.get_vocab().values() if i not in special), default=0)
    if largest >= places:
        raise UserError(f"the tokenizer in {path} says ids up to {largest}, and the model knows {places}: they do not belong together")
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= places:
        tokenizer.pad_token = tokenizer.eos_token


def _adapted(model: nn.Module, path: str) -> nn.Module:
    import peft

    try:
        adapted: nn.Module = peft.PeftModel.from_pretrained(model, path, is_trainable=True)
    except TROUBLE as error:
        raise UserError(f"cannot load the adapter {path}: {_first_line(error)}") from None
    return adapted.eval()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def write(model: nn.Module, tokenizer: Any, folder: Path) -> None:
    """Model, or its adapter alone, and tokenizer, as safetensors beside JSON."""
    whole: Any = model
    settings: Any = getattr(base_of(model), "generation_config", None)
    if settings is not None and not settings.do_sample:  # greedy models that carry these load, and would not save
        for name in SAMPLING:
            setattr(settings, name, None)
    with _quiet():
        whole.save_pretrained(folder, **({"save_embedding_layers": False} if is_adapted(model) else {}))
        tokenizer.save_pretrained(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and advice from the libraries; what matters in them is an error of ours."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
