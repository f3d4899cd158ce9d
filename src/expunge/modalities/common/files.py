"""Load models and their preprocessors from folders and hub ids: silently, completely or not at all, and without pickles unless allowed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from expunge.core.errors import UserError
from expunge.engine import stored
from expunge.engine.adapters import base_of, is_adapted
from expunge.functional.brief import brief
from expunge.modalities.common import adapter_files, weight_files

TROUBLE = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)  # the errors that the libraries raise over files
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")  # classes that tokenizer.json describes completely
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


@brief("preprocessor")
@dataclass(frozen=True)
class Kind:
    """A kind of model that `transformers` loads, with its preprocessor (a tokenizer, an image processor)."""

    name: str  # for messages
    auto: Callable[[Any], str]  # the class that loads the model, by its configuration
    preprocessor: Callable[[str, bool], Any]  # loads it: (path, trust_remote_code); raises the errors of the library
    file: str  # the file that shows that a folder has a preprocessor
    match: Callable[[Any, Any, str], None]  # raises UserError when preprocessor and model do not fit: (preprocessor, model, path)


def opened(path: str, kind: Kind, dtype: torch.dtype | str | None, trust_remote_code: bool, allow_pickle: bool) -> tuple[nn.Module, Any]:
    """Load a model and its preprocessor, the model in evaluation mode.

    Args:
        path: a folder or hub id.
        kind: the kind of model.
        dtype: dtype of the weights, in memory and when they are saved; 'auto': that of the files; None: float32 in memory, saved in the
            types that the files have.
        trust_remote_code: allow code that comes with the model.
        allow_pickle: allow weights that are stored as pickles.

    Raises:
        UserError: when the model is missing, incomplete, of another kind, or stored as a pickle that is not allowed.
    """
    folder = Path(path).expanduser()
    if folder.exists():
        path = str(folder.resolve())  # an adapter stores the path of its base, which must not depend on the working folder
        weight_files.check(folder, allow_pickle)
    elif path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise UserError(f"there is no folder {path}")
    with quiet():
        config = adapter_files.config_of(path)
        if config is None:
            return _whole(path, kind, dtype, trust_remote_code, allow_pickle)
        adapter_files.check(path, config)
        try:
            model, preprocessor = opened(str(config["base_model_name_or_path"]), kind, dtype, trust_remote_code, allow_pickle)
        except UserError as error:
            raise UserError(f"the model that the adapter {path} belongs to does not load: {error}") from None
        adapted = adapter_files.adapted(model, path, config)
        if isinstance(dtype, torch.dtype):
            stored.remember(adapted, stored.Stored({"": dtype}))  # peft keeps adapters in float32
        return adapted, kind.preprocessor(path, trust_remote_code) if (folder / kind.file).exists() else preprocessor


def _tokenizer(path: str, trust_remote_code: bool) -> Any:
    """Load a tokenizer; raises the errors of the library."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    config = get_tokenizer_config(path)
    if config.get("tokenizer_class") in GENERIC and "auto_map" not in config:  # AutoTokenizer would rebuild it for the model's type
        return PreTrainedTokenizerFast.from_pretrained(path)
    return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)


def _whole(path: str, kind: Kind, dtype: torch.dtype | str | None, trust_remote_code: bool, allow_pickle: bool) -> tuple[nn.Module, Any]:
    import transformers

    weight_files.check_not_quantized(path)
    options: dict[str, Any] = {} if allow_pickle else {"use_safetensors": True}
    try:
        preprocessor = kind.preprocessor(path, trust_remote_code)
        config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        model, info = getattr(transformers, kind.auto(config)).from_pretrained(
            path, config=config, dtype=dtype or torch.float32, trust_remote_code=trust_remote_code, output_loading_info=True, **options
        )
    except TROUBLE as error:
        if not allow_pickle and "model.safetensors" in str(error) and not Path(path).exists():  # `check` has seen a folder
            raise UserError(weight_files.PICKLED.format(path)) from None
        raise UserError(f"cannot load {kind.name} from {path!r}: {_first_line(error)}") from None
    if missing := sorted(info["missing_keys"]):
        raise UserError(f"{path} lacks {len(missing)} weights of its model, among them {missing[0]}: it would answer at random")
    kind.match(preprocessor, model, path)
    if dtype is None and (in_files := weight_files.stored_in(path)):
        if torch.float64 in in_files.dtypes.values():
            stored.note(
                model, f"the weights in the files are {in_files.words}; they are computed in float32, which rounds those of float64"
            )
        stored.remember(model, in_files)
    return model.eval(), preprocessor


def _match(tokenizer: Any, model: Any, path: str) -> None:
    """Refuse a tokenizer with ids beyond the embeddings of the model.

    Special tokens do not count: many tokenizers add some, padding among them, that no text uses.
    """
    embeddings, eos = model.get_input_embeddings().weight.shape[0], tokenizer.eos_token_id
    special = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special and i != eos}
    largest = max((i for i in tokenizer.get_vocab().values() if i not in special), default=0)
    if largest >= embeddings:
        raise UserError(f"the tokenizer in {path} has ids up to {largest}, and the model knows {embeddings}: they do not belong together")
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= embeddings:
        tokenizer.pad_token = tokenizer.eos_token


def _language_class(config: Any) -> str:
    """The class that loads a language model. Some encoder-decoders are also stored as their decoder alone, which is a causal model."""
    alone = any("ForCausalLM" in str(name) for name in config.architectures or ())
    return "AutoModelForSeq2SeqLM" if config.is_encoder_decoder and not alone else "AutoModelForCausalLM"


LANGUAGE = Kind("a language model", _language_class, _tokenizer, "tokenizer_config.json", _match)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return (" ".join(" ".join(lines).split()) if lines[0].endswith(":") else lines[0])[:300]


def write(model: nn.Module, preprocessor: Any, folder: Path) -> None:
    """Save a model, or its adapter alone, and its preprocessor (None: there is none) as safetensors and JSON."""
    saved: Any = model
    generation: Any = getattr(base_of(model), "generation_config", None)
    if generation is not None and not generation.do_sample:  # `transformers` refuses to save a greedy model with sampling settings
        for name in SAMPLING:
            setattr(generation, name, None)
    with quiet(), without_card(saved):
        saved.save_pretrained(folder, **({"save_embedding_layers": getattr(base_of(model), "widened", False)} if is_adapted(model) else {}))
        (folder / "README.md").unlink(missing_ok=True)  # of another model that lay here
        stored.write_as_stored(folder, stored.of(model))
        if preprocessor is not None:
            preprocessor.save_pretrained(folder)


@contextmanager
def without_card(model: Any) -> Iterator[None]:
    """Keep peft from writing an empty card, which takes as long as the rest of a small adapter; the run writes its own."""
    if adapted := is_adapted(model):
        model.create_or_update_model_card = lambda folder: None
    try:
        yield
    finally:
        if adapted:
            del model.create_or_update_model_card


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and warnings of the libraries. This package raises its own errors for what matters."""
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
