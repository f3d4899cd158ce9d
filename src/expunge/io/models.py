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


def cache_home() -> Path:
    """Where trained models and observations are kept by content: $EXPUNGE_CACHE, else ~/.cache/expunge."""
    return Path(os.environ.get("EXPUNGE_CACHE") or Path.home() / ".cache" / "expunge")


def load(
    path: str | Path, prompt_format: str = "", *, dtype: str = "float32", trust_remote_code: bool = False, allow_pickle: bool = False
) -> Opened:
    """Load a model and its modality from a folder, a hub id or the folder of a run (its model, its adapter, or its guard).

    prompt_format: how a question becomes a prompt; '' is the chat template, or the format that the run was made with.
    Errors: UserError for what is not there or not safe to load.
    """
    folder = inner = Path(path).expanduser()
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "allow_pickle": allow_pickle}
    if not folder.exists():
        _look_for(str(path))
        model, modality = _of_its_kind(str(path), prompt_format, dtype=getattr(torch, dtype), **options)
        return Opened(model.to(_device()), modality, str(path))
    if not folder.is_dir():
        raise UserError(f"{path} is a file, and a model is a folder: give the one that it lies in")
    if (folder / "receipt.json").exists():
        prompt_format = prompt_format or format_of(folder)
        found = [n for n in artifact.LOADED if (folder / n).is_dir()]
        if not found:
            raise UserError(f"the run in {path} has a receipt, and the model that belongs to it is gone")
        inner = folder / found[0]
        if found[0] == "guard":
            return _guarded(folder, prompt_format, dtype=dtype, **options)
    elif run_dirs.begun(folder):
        raise UserError(f"the run in {path} has not ended, so it holds no model yet: go on with --resume")
    elif (folder / "audit.json").exists():
        raise UserError(f"{path} is an audit, which holds no model; what it saw can be audited again: {folder}/observations/NAME")
    model, modality = _of_its_kind(str(inner), prompt_format, dtype=getattr(torch, dtype), **options)
    return Opened(model.to(_device()), modality, str(folder.resolve()))


def classifier(model: nn.Module, labels: int | Sequence[str], mean: Sequence[float] = (), std: Sequence[float] = ()) -> Opened:
    """Any module that returns logits for a batch of images, opened. labels: names of the classes, or how many there are.

    mean, std: by channel, where the model wants values from 0 to 1 normalised. What `unlearn` writes of such a model is the safetensors
    of its weights, which only the code of the module can load.
    """
    from expunge.modalities.image.modality import classifier_modality

    return Opened(model.to(_device()), classifier_modality(labels, mean, std), type(model).__name__)


def _of_its_kind(path: str, prompt_format: str, **options: Any) -> tuple[nn.Module, Modality]:
    """Load with the modality that is surest of the model's architecture."""
    loaders = [catalog.load(name, "modalities") for name in catalog.names("modalities")]
    architecture = _architecture(path)
    loader: Any = max(loaders, key=lambda one: one.claims(architecture))
    found: tuple[nn.Module, Modality] = loader.load(path, prompt_format, **options)
    return found


def _architecture(path: str) -> str:
    """The class of the model in a folder or on the hub; of an adapter that of its base. '' where nothing says."""
    from transformers.utils import cached_file

    missing: dict[str, Any] = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    for name in ("adapter_config.json", "config.json"):
        try:
            file = cached_file(path, name, **missing)
            said = json.loads(Path(file).read_text()) if file else {}
        except (OSError, ValueError):
            continue
        if base := said.get("base_model_name_or_path"):
            return _architecture(str(base))
        if found := said.get("architectures"):
            return str(found[0])
    return ""


def _device() -> torch.device:
    """Where the loop will train, too; no accelerator is needed."""
    from accelerate import PartialState

    return torch.device(PartialState().device)


def receipt_of(path: object) -> dict[str, Any]:
    """The receipt of the run in a folder; empty where there is none."""
    file = Path(path).expanduser() / "receipt.json" if isinstance(path, (str, Path)) else None
    return dict(json.loads(file.read_text())) if file and file.exists() else {}


def format_of(path: object) -> str:
    """The prompt format that the run in a folder was given; '' where there is no run, or where it went by the model's own."""
    receipt = receipt_of(path)
    modality = receipt.get("modality") or receipt.get("port") or {}  # version 0.1 called it port
    return str(modality.get("prompt_format", "")) if modality.get("format_given") else ""


def _look_for(name: str) -> None:
    """One quick question before the libraries ask many times. Errors: UserError for what is neither a folder nor on the hub."""
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    folder = Path(name).expanduser()
    near = did_you_mean(folder.name, sorted(p.name for p in folder.parent.iterdir() if p.is_dir())) if folder.parent.is_dir() else ""
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise UserError(f"there is no folder {name}{near}")
    if any(isinstance(huggingface_hub.try_to_load_from_cache(name, file), str) for file in ("config.json", "adapter_config.json")):
        return
    try:
        huggingface_hub.HfApi().model_info(name, timeout=10)
    except RepositoryNotFoundError:
        raise UserError(f"there is no folder {name} here, and no model of that name that you may read on the hub{near}") from None
    except Exception:  # each of its many kinds means: no answer
        raise UserError(f"there is no folder {name} here, and the hub cannot be reached to look for it there{near}") from None


def _guarded(folder: Path, prompt_format: str, **options: Any) -> Opened:
    receipt = receipt_of(folder)
    try:
        base = load(receipt["model"]["source"], prompt_format, **options)
    except UserError as error:
        raise UserError(f"the model that the guard in {folder} stands around does not load: {error}") from None
    modality = catalog.load(receipt["method"]).restore(base.modality, folder / "guard")
    return Opened(base.model, modality, str(folder.resolve()))


def records(source: Source, what: str) -> list[Mapping[str, Any]]:
    """Records of a file, a hub id or a list. Errors: UserError where it is empty or cannot be read."""
    found = _beside(data.read(str(source)), str(source)) if isinstance(source, (str, Path)) else list(source)
    if not found:
        raise UserError(f"the {what} set is empty")
    for i, record in enumerate(found):
        if not isinstance(record, Mapping):
            raise UserError(f"{what}, row {i + 1}: a row is a mapping of columns to values, and this is a {type(record).__name__}")
    return list(found)


def _beside(found: list[data.Row], source: str) -> list[data.Row]:
    """The records of a source, with images that are named from where its file lies, and are not here, by their whole path."""
    folder = Path(source.partition("::")[0]).expanduser().parent

    def place(value: Any) -> Any:
        there = isinstance(value, str) and len(value) < 1000 and not Path(value).exists() and (folder / value).is_file()
        return str(folder / value) if there else value

    columns = [c for name in catalog.names("modalities") for c in catalog.load(name, "modalities").FILE_COLUMNS]
    named = [c for c in dict.fromkeys(columns) if found and isinstance(found[0].get(c), str)]
    return [{**r, **{c: place(r[c]) for c in named if c in r}} for r in found] if named else found


def rows(modality: Modality, name: str, source: Source | Rows | None) -> Rows | None:
    """Records as rows of a modality, with messages that name the file."""
    if source is None or isinstance(source, Rows):
        return source
    return modality.rows(name, records(source, name), str(source) if isinstance(source, (str, Path)) else name)
