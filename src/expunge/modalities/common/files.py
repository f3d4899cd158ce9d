"""Models and what turns rows into their inputs, from folders and hub ids: quietly, whole or not at all, and no pickle unless allowed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from expunge.core.errors import UserError
from expunge.engine.adapters import base_of, is_adapted
from expunge.modalities.text.wider import widen

PICKLED = "{} holds no safetensors weights; pickled ones can run code, so they load only with --allow-pickle"

TROUBLE = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)  # what the libraries raise over files
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")  # all there is to know of these stands in tokenizer.json
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


@dataclass(frozen=True)
class Kind:
    """A kind of model that `transformers` loads, and what comes beside it (a tokenizer, an image processor)."""

    name: str  # as people say it
    auto: str  # the class that loads it
    beside: Callable[[str, bool], Any]  # (path, trust_remote_code); errors: those of the library
    file: str  # which says that there is something beside
    match: Callable[[Any, Any, str], None]  # refuses what does not belong together


def opened(path: str, kind: Kind, dtype: torch.dtype, trust_remote_code: bool, allow_pickle: bool) -> tuple[nn.Module, Any]:
    """Model and what comes beside it, in evaluation mode. Errors: UserError, see `load` of the modality."""
    folder = Path(path).expanduser()
    if folder.exists():
        path = str(folder.resolve())  # an adapter remembers the place of its base, and is opened from anywhere
        _check(folder, allow_pickle)
    elif path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise UserError(f"there is no folder {path}")
    with quiet():
        adapter = _adapter(path)
        if adapter is None:
            return _whole(path, kind, dtype, trust_remote_code, allow_pickle)
        base = adapter.get("base_model_name_or_path")
        if not base:
            raise UserError(f"{path} is an adapter that does not say which model it belongs to")
        if (sort := adapter.get("peft_type")) != "LORA":
            raise UserError(f"{path} is an adapter of the kind {sort}; only LoRA adapters can be loaded")
        try:
            model, beside = opened(str(base), kind, dtype, trust_remote_code, allow_pickle)
        except UserError as error:
            raise UserError(f"the model that the adapter {path} belongs to does not load: {error}") from None
        return _adapted(model, path), kind.beside(path, trust_remote_code) if (folder / kind.file).exists() else beside


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


def _whole(path: str, kind: Kind, dtype: torch.dtype, trust_remote_code: bool, allow_pickle: bool) -> tuple[nn.Module, Any]:
    import transformers

    more: dict[str, Any] = {} if allow_pickle else {"use_safetensors": True}
    try:
        beside = kind.beside(path, trust_remote_code)
        model, info = getattr(transformers, kind.auto).from_pretrained(
            path, dtype=dtype, trust_remote_code=trust_remote_code, output_loading_info=True, **more
        )
    except TROUBLE as error:
        if not allow_pickle and ".safetensors" in str(error):
            raise UserError(PICKLED.format(path)) from None
        raise UserError(f"cannot load {kind.name} from {path!r}: {_first_line(error)}") from None
    if lacking := sorted(info["missing_keys"]):
        raise UserError(f"{path} lacks {len(lacking)} weights of its model, among them {lacking[0]}: it would answer at random")
    kind.match(beside, model, path)
    return model.eval(), beside


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


LANGUAGE = Kind("a causal language model", "AutoModelForCausalLM", _tokenizer, "tokenizer_config.json", _match)


def _adapted(model: nn.Module, path: str) -> nn.Module:
    import peft

    try:
        if rows := _tokens_of(Path(path)):
            widen(model, rows)
        adapted: nn.Module = peft.PeftModel.from_pretrained(model, path, is_trainable=True)
    except TROUBLE as error:
        raise UserError(f"cannot load the adapter {path}: {_first_line(error)}") from None
    return adapted.eval()


def _tokens_of(adapter: Path) -> int:
    """How many tokens an adapter brings vectors for; 0 where those of its base are meant."""
    file = adapter / "adapter_model.safetensors"
    if not file.exists():
        return 0
    with safe_open(file, "pt") as held:
        return max((held.get_slice(n).get_shape()[0] for n in held.keys() if "embed" in n and "lora_" not in n), default=0)  # noqa: SIM118


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def write(model: nn.Module, beside: Any, folder: Path) -> None:
    """Model, or its adapter alone, and what comes beside it (None: nothing), as safetensors beside JSON."""
    whole: Any = model
    settings: Any = getattr(base_of(model), "generation_config", None)
    if settings is not None and not settings.do_sample:  # greedy models that carry these load, and would not save
        for name in SAMPLING:
            setattr(settings, name, None)
    with quiet():
        whole.save_pretrained(folder, **({"save_embedding_layers": getattr(base_of(model), "widened", False)} if is_adapted(model) else {}))
        if beside is not None:
            beside.save_pretrained(folder)


@contextmanager
def quiet() -> Iterator[None]:
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
