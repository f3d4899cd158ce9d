"""Models and rows from wherever the user has them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from torch import nn

from expunge import catalog
from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.rows import Rows
from expunge.engine import artifact, committee, guarding
from expunge.engine import device as device_module
from expunge.engine.adapters import unwrapped
from expunge.engine.cache import cache_home as cache_home
from expunge.functional.brief import brief
from expunge.io import data, run_dirs
from expunge.modalities.common import hub
from expunge.modalities.common.records import Records, present

Source = str | Path | Sequence[Mapping[str, Any]]


@brief("source", "model", "modality")
@dataclass(frozen=True, eq=False)
class Opened:
    """A model with its modality, and where it came from."""

    model: nn.Module
    modality: Modality
    source: str
    fresh: bool = False  # whether its weights were just drawn


def load(
    path: str | Path,
    prompt_format: str = "",
    *,
    labels: int | Sequence[str] = (),
    dtype: str = "",
    device: str = "",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> Opened:
    """Load a model and its modality from a folder, a hub id or the folder of a run (its model, its adapter, or its guard).

    Args:
        path: the folder or hub id.
        prompt_format: how a question becomes a prompt; '' is the chat template, or the format of the run.
        labels: names of the classes of a classifier whose files have no names of their own, or how many classes it must have.
        dtype: type of the weights, in memory and when they are saved: float32, bfloat16, float16, or auto, which is that of the files; '':
            float32 in memory, saved in the types that the files have.
        device: cpu, cuda, mps or auto, for this process from now on; '' is what was chosen before, at first auto.
        trust_remote_code: run code that comes with the model.
        allow_pickle: read weights that are stored as pickles, which can run code.

    Returns:
        The model, on the device that trains, with its modality and where it came from.

    Raises:
        UserError: for a model that does not exist, is not safe to load, or has other classes.
    """
    folder = inner = Path(path).expanduser()
    target = device_module.choose(device)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "allow_pickle": allow_pickle}
    options |= {"labels": labels} if labels != () else {}
    options |= {"dtype": device_module.dtype_of(dtype)} if dtype else {}
    if not folder.exists():
        hub.check_model(str(path))
        model, modality = _load_with_modality(str(path), prompt_format, **options)
        return Opened(model.to(target), modality, str(path))
    run_dirs.check_model_folder(folder, path)
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
    return Opened(model.to(target), modality, str(folder.resolve()))


def opened(model: str | Path | Opened, prompt_format: str = "", load_options: Mapping[str, Any] | None = None) -> Opened:
    """A model, loaded where it is not open yet.

    Args:
        model: a folder, hub id, run folder or opened model.
        prompt_format, load_options: of `load`.

    Raises:
        UserError: as `load`, and for an opened model that has another prompt format, or with options that come too late.
    """
    if not isinstance(model, Opened):
        return load(model, prompt_format, **(load_options or {}))
    wanted = prompt_format.replace("\\n", "\n").replace("\\t", "\t")
    if wanted and (own := model.modality.about().get("prompt_format", "no prompts")) != wanted:
        raise UserError(f"the model was opened with another prompt format ({own!r}), so {wanted!r} comes too late: give it to expunge.load")
    if load_options:
        raise UserError(f"the model is open already, so {', '.join(load_options)} would have no effect: give them to expunge.load")
    return model


def classifier(model: nn.Module, labels: int | Sequence[str], mean: Sequence[float] = (), std: Sequence[float] = ()) -> Opened:
    """Any module that returns logits for a batch of images, opened.

    What `unlearn` writes of such a model is the safetensors of its weights, which only the code of the module can load.

    Args:
        model: takes images (rows, channels, height, width) and returns logits (rows, classes).
        labels: names of the classes in the order of the logits, or how many there are.
        mean, std: of each channel, where the model reads values from 0 to 1 after normalization.

    Returns:
        The model with its modality.

    Raises:
        UserError: for labels, mean or std that do not fit.
    """
    from expunge.modalities.image.modality import classifier_modality

    model = unwrapped(model)
    return Opened(model.to(device_module.choose()), classifier_modality(labels, mean, std), type(model).__name__)


def recommender(
    model: nn.Module, users: Sequence[Any], items: Sequence[Any], interactions: Source, loss: Literal["bpr", "bce"] = "bpr"
) -> Opened:
    """Any module that scores items for users, opened.

    What `unlearn` writes of such a model is the safetensors of its weights, which only the code of the module can load.

    Args:
        model: takes numbers of users and of items, each (pairs,), and returns a score for each pair, (pairs,). If it has a graph of the
            training interactions, it has a method `connect(users, items)` that builds it again.
        users, items: ids, in the order of the model's numbers.
        interactions: rows with `user` and `item` that the model was trained on: a file, a hub id or a list.
        loss: what the model was trained by: bpr (a product of comparisons) or bce (cross-entropy with scores as logits).

    Returns:
        The model, inside a module that adds nothing, with its modality.

    Raises:
        UserError: for ids that repeat, and for interactions that do not fit.
    """
    from expunge.modalities.ranking.building import own_model

    wrapped, modality = own_model(unwrapped(model), users, items, records(interactions, "interactions"), loss)
    modality.connect(wrapped)
    return Opened(wrapped.to(device_module.choose()), modality, type(model).__name__)


def _load_with_modality(path: str, prompt_format: str, **options: Any) -> tuple[nn.Module, Modality]:
    """Load with the modality that claims the model's architecture most strongly."""
    if (Path(path).expanduser() / committee.FILE).exists():
        return committee.restored(Path(path).expanduser(), lambda member: _load_with_modality(member, prompt_format, **options))
    loaders = [catalog.load(name, "modalities") for name in catalog.names("modalities")]
    architecture = _architecture(path)
    loader: Any = max(loaders, key=lambda candidate: candidate.claims(architecture))
    model_and_modality: tuple[nn.Module, Modality] = loader.load(path, prompt_format, **options)
    return model_and_modality


def _architecture(path: str) -> str:
    """The class name of the model in a folder or on the hub, for an adapter that of its base; '' where it is unknown."""
    from transformers.utils import cached_file

    missing: dict[str, Any] = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    for name in ("adapter_config.json", "config.json", "model_index.json"):
        try:
            file = cached_file(path, name, **missing)
            config = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
        except (OSError, ValueError):
            continue
        if base := config.get("base_model_name_or_path"):
            return _architecture(str(base))
        if architectures := config.get("architectures") or [n for n in [config.get("_class_name")] if name == "model_index.json" and n]:
            return str(architectures[0])
    return ""


def receipt_of(path: object) -> dict[str, Any]:
    """The receipt of the run in a folder; empty where there is none."""
    file = Path(path).expanduser() / "receipt.json" if isinstance(path, (str, Path)) else None
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file and file.exists() else {}
    except ValueError as error:
        raise UserError(f"{file} is damaged, so this is no finished run: {error}") from None


def format_of(path: object) -> str:
    """The prompt format of the run in a folder; '' where there is no run, or where it used the model's own format."""
    receipt = receipt_of(path)
    modality = receipt.get("modality") or receipt.get("port") or {}  # version 0.1 called it port
    return str(modality.get("prompt_format", "")) if modality.get("format_given") else ""


def _guarded(folder: Path, prompt_format: str, **options: Any) -> Opened:
    receipt = receipt_of(folder)
    try:
        base = load(receipt["model"]["source"], prompt_format, **options)
    except UserError as error:
        raise UserError(f"the model that the guard in {folder} stands around does not load: {error}") from None
    try:
        settings, _ = guarding.load(folder / "guard")
        modality = catalog.load(str(settings["guard"])).restore(base.modality, folder / "guard")
    except (OSError, ValueError, LookupError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {error}" if isinstance(error, LookupError) else str(error)
        raise UserError(f"the guard in {folder} is incomplete or damaged, so the model must not be opened without it ({reason})") from None
    return Opened(base.model, modality, str(folder.resolve()))


def records(source: Source, set_name: str) -> Records:
    """Records of a file, a hub id or a list, without the fields that are absent: null and NaN say that a row has no such field.

    Raises:
        UserError: where it is empty or cannot be read.
    """
    if isinstance(source, (str, Path)):
        rows_read: Sequence[Any] = _with_file_paths(data.read(str(source)), str(source))
    else:
        rows_read = data.listed_rows(source)
    if not len(rows_read):
        raise UserError(f"the {set_name} set is empty")
    for i, record in enumerate(rows_read):
        if not isinstance(record, Mapping):
            raise UserError(f"{set_name}, row {i + 1}: a row is a mapping of columns to values, and this is a {type(record).__name__}")
    known = rows_read if isinstance(rows_read, Records) else Records(rows_read, set_name)
    return known.replaced(map(present, known))


def _with_file_paths(rows_read: Records, source: str) -> Records:
    """The records of a source; relative paths to files beside it become full paths. Others are left to the working directory."""
    path = Path(source.partition("::")[0]).expanduser()
    folder = path if path.is_dir() else path.parent

    def place(value: Any) -> Any:
        if isinstance(value, Mapping) and not value.get("bytes") and isinstance(value.get("path"), str):
            return {**value, "path": place(value["path"])}
        if isinstance(value, list):
            return [place(v) for v in value]
        if not isinstance(value, str) or "\0" in value or len(value) >= 1000:
            return value
        beside = folder / value
        try:
            return str(beside) if beside.is_file() else value
        except OSError:  # too long for a name of a file
            return value

    columns = dict.fromkeys(c for name in catalog.names("modalities") for c in catalog.load(name, "modalities").FILE_COLUMNS)

    def names_files(value: Any) -> bool:
        return isinstance(value, (str, Mapping)) or (isinstance(value, list) and all(isinstance(v, (str, Mapping)) for v in value))

    placed = [{**r, **{c: place(r[c]) for c in columns if names_files(r.get(c))}} for r in rows_read]
    return rows_read.replaced(placed)


def rows(modality: Modality, name: str, source: Source | Rows | None) -> Rows | None:
    """Records as rows of a modality, with messages that name the file and the row in it."""
    if source is None or isinstance(source, Rows):
        return source
    loaded = records(source, name)
    try:
        return modality.rows(name, loaded, loaded.source)
    except UserError as error:
        raise UserError(loaded.located(str(error))) from None
