"""Models and rows from wherever the user has them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from expunge import catalog
from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.rows import Rows
from expunge.core.suggest import did_you_mean
from expunge.engine import artifact
from expunge.io import data, run_dirs

Source = str | Path | Sequence[Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Opened:
    """A model with its modality, and where it came from."""

    model: nn.Module
    modality: Modality
    source: str
    fresh: bool = False  # whether its weights were just drawn


def cache_home() -> Path:
    """Where trained models and observations are kept by content: $EXPUNGE_CACHE, else ~/.cache/expunge."""
    return Path(os.environ.get("EXPUNGE_CACHE") or Path.home() / ".cache" / "expunge")


def load(
    path: str | Path, prompt_format: str = "", *, dtype: str = "", trust_remote_code: bool = False, allow_pickle: bool = False
) -> Opened:
    """Load a model and its modality from a folder, a hub id or the folder of a run (its model, its adapter, or its guard).

    Args:
        prompt_format: how a question becomes a prompt; '' is the chat template, or the format of the run.
        dtype: type of the weights, in memory and when they are saved (float32, bfloat16, float16); '': float32 in memory, saved in the
            types that the files of the model have.

    Raises:
        UserError: for a model that does not exist or is not safe to load.
    """
    folder = inner = Path(path).expanduser()
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "allow_pickle": allow_pickle}
    if dtype:
        options["dtype"] = _dtype(dtype)
    if not folder.exists():
        _check_exists(str(path))
        model, modality = _load_with_modality(str(path), prompt_format, **options)
        return Opened(model.to(_device()), modality, str(path))
    if not folder.is_dir():
        raise UserError(f"{path} is a file, and a model is a folder: give the one that it lies in")
    if (folder / "receipt.json").exists():
        prompt_format = prompt_format or format_of(folder)
        artifacts = [n for n in artifact.LOADED if (folder / n).is_dir()]
        if not artifacts:
            raise UserError(f"the run in {path} has a receipt, and the model that belongs to it is gone")
        inner = folder / artifacts[0]
        if artifacts[0] == "guard":
            return _guarded(folder, prompt_format, **{**options, "dtype": dtype})
    elif run_dirs.begun(folder):
        raise UserError(f"the run in {path} has not ended, so it holds no model yet: go on with --resume")
    elif (folder / "audit.json").exists():
        raise UserError(f"{path} is an audit, which holds no model; what it saw can be audited again: {folder}/observations/NAME")
    model, modality = _load_with_modality(str(inner), prompt_format, **options)
    return Opened(model.to(_device()), modality, str(folder.resolve()))


def classifier(model: nn.Module, labels: int | Sequence[str], mean: Sequence[float] = (), std: Sequence[float] = ()) -> Opened:
    """Any module that returns logits for a batch of images, opened. labels: names of the classes, or how many there are.

    mean, std: by channel, where the model reads values from 0 to 1 after normalization. What `unlearn` writes of such a model is the
    safetensors of its weights, which only the code of the module can load.
    """
    from expunge.modalities.image.modality import classifier_modality

    return Opened(model.to(_device()), classifier_modality(labels, mean, std), type(model).__name__)


def _load_with_modality(path: str, prompt_format: str, **options: Any) -> tuple[nn.Module, Modality]:
    """Load with the modality that claims the model's architecture most strongly."""
    loaders = [catalog.load(name, "modalities") for name in catalog.names("modalities")]
    architecture = _architecture(path)
    loader: Any = max(loaders, key=lambda candidate: candidate.claims(architecture))
    model_and_modality: tuple[nn.Module, Modality] = loader.load(path, prompt_format, **options)
    return model_and_modality


def _architecture(path: str) -> str:
    """The class name of the model in a folder or on the hub, for an adapter that of its base; '' where it is unknown."""
    from transformers.utils import cached_file

    missing: dict[str, Any] = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    for name in ("adapter_config.json", "config.json"):
        try:
            file = cached_file(path, name, **missing)
            config = json.loads(Path(file).read_text()) if file else {}
        except (OSError, ValueError):
            continue
        if base := config.get("base_model_name_or_path"):
            return _architecture(str(base))
        if architectures := config.get("architectures"):
            return str(architectures[0])
    return ""


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}.get(name, name), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point or dtype.itemsize < 2:
        raise UserError(f"weights cannot have the type {name!r}: give float32, bfloat16 or float16")
    return dtype


def _device() -> torch.device:
    """The device that the loop will train on; this needs no `Accelerator`."""
    from accelerate import PartialState

    return torch.device(PartialState().device)


def receipt_of(path: object) -> dict[str, Any]:
    """The receipt of the run in a folder; empty where there is none."""
    file = Path(path).expanduser() / "receipt.json" if isinstance(path, (str, Path)) else None
    return dict(json.loads(file.read_text())) if file and file.exists() else {}


def format_of(path: object) -> str:
    """The prompt format of the run in a folder; '' where there is no run, or where it used the model's own format."""
    receipt = receipt_of(path)
    modality = receipt.get("modality") or receipt.get("port") or {}  # version 0.1 called it port
    return str(modality.get("prompt_format", "")) if modality.get("format_given") else ""


def _check_exists(name: str) -> None:
    """Ask the hub once, before the libraries ask many times.

    Raises:
        UserError: for a name that is neither a folder nor on the hub.
    """
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    folder = Path(name).expanduser()
    suggestion = did_you_mean(folder.name, sorted(p.name for p in folder.parent.iterdir() if p.is_dir())) if folder.parent.is_dir() else ""
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise UserError(f"there is no folder {name}{suggestion}")
    if any(isinstance(huggingface_hub.try_to_load_from_cache(name, file), str) for file in ("config.json", "adapter_config.json")):
        return
    try:
        huggingface_hub.HfApi().model_info(name, timeout=10)
    except RepositoryNotFoundError:
        raise UserError(f"there is no folder {name} here, and no model of that name that you may read on the hub{suggestion}") from None
    except Exception:  # any other error means: no answer
        raise UserError(f"there is no folder {name} here, and the hub cannot be reached to look for it there{suggestion}") from None


def _guarded(folder: Path, prompt_format: str, **options: Any) -> Opened:
    receipt = receipt_of(folder)
    try:
        base = load(receipt["model"]["source"], prompt_format, **options)
    except UserError as error:
        raise UserError(f"the model that the guard in {folder} stands around does not load: {error}") from None
    modality = catalog.load(receipt["method"]).restore(base.modality, folder / "guard")
    return Opened(base.model, modality, str(folder.resolve()))


def records(source: Source, set_name: str) -> list[Mapping[str, Any]]:
    """Records of a file, a hub id or a list. Raises: UserError where it is empty or cannot be read."""
    rows_read = _with_image_paths(data.read(str(source)), str(source)) if isinstance(source, (str, Path)) else list(source)
    if not rows_read:
        raise UserError(f"the {set_name} set is empty")
    for i, record in enumerate(rows_read):
        if not isinstance(record, Mapping):
            raise UserError(f"{set_name}, row {i + 1}: a row is a mapping of columns to values, and this is a {type(record).__name__}")
    return list(rows_read)


def _with_image_paths(rows_read: list[data.Row], source: str) -> list[data.Row]:
    """The records of a source; image paths relative to its file become full paths where the working directory lacks them."""
    folder = Path(source.partition("::")[0]).expanduser().parent

    def place(value: Any) -> Any:
        is_beside = isinstance(value, str) and len(value) < 1000 and not Path(value).exists() and (folder / value).is_file()
        return str(folder / value) if is_beside else value

    columns = [c for name in catalog.names("modalities") for c in catalog.load(name, "modalities").FILE_COLUMNS]
    named = [c for c in dict.fromkeys(columns) if rows_read and isinstance(rows_read[0].get(c), str)]
    return [{**r, **{c: place(r[c]) for c in named if c in r}} for r in rows_read] if named else rows_read


def rows(modality: Modality, name: str, source: Source | Rows | None) -> Rows | None:
    """Records as rows of a modality, with messages that name the file."""
    if source is None or isinstance(source, Rows):
        return source
    return modality.rows(name, records(source, name), str(source) if isinstance(source, (str, Path)) else name)
