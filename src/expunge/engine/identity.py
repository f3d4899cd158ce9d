"""What numbers depend on, as plain data and digests: models, rows and the setting. Caches and runs that go on compare it."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from expunge.core.hyperparameters import hyperparameters_of
from expunge.core.plan import Plans
from expunge.core.request import digest
from expunge.core.rows import Rows
from expunge.engine.receipt import bytes_of, hash_weights, versions

COMPUTING = ("expunge", "torch", "transformers", "peft", "accelerate", "tokenizers", "numpy", "diffusers")  # packages that change numbers
NOT_NUMBERS = frozenset(  # entries of configurations that change no number: where a model lies, and what its weights say themselves
    {
        "_name_or_path",
        "base_model_name_or_path",
        "revision",
        "transformers_version",
        "peft_version",
        "architectures",
        "dtype",
        "torch_dtype",
    }
)
SWITCHES = ("_disable_adapters", "_active_adapter")  # private attributes of modules that change outputs
MODES = frozenset({"training", "gradient_checkpointing", "name_or_path", "warnings_issued", "inference_mode"})
SCALARS = frozenset({bool, int, float, str, type(None)})
READ = 1 << 24  # bytes of a file that are hashed at a time


def of_model(model: nn.Module) -> dict[str, str]:
    """Digests of everything in a model that its outputs depend on.

    Returns:
        `weights` (see `hash_weights`), `configuration` (of the model, its generation and its adapters), `modules` (classes, settings such
        as a LoRA scale or a rate of dropout, and buffers that are not saved) and `code` (of classes that belong to no versioned package).
    """
    return {
        "weights": hash_weights(model),
        "configuration": digest(list(_configurations(model))),
        "modules": digest([repr(model), list(_settings(model)), list(_unsaved(model))]),
        "code": digest(sorted(_code(model).items())),
    }


def of_rows(rows: Rows) -> str:
    """A digest of all that rows hold: ids, columns and weights. Rows do not change, so the digest of rows that several runs share stays."""
    if rows not in _of_rows:
        _of_rows[rows] = digest([rows.name, rows.ids, _plain(dict(rows.columns)), _plain(rows.weight)])
    return _of_rows[rows]


_of_rows: WeakKeyDictionary[Rows, str] = WeakKeyDictionary()


def of_setting(model: nn.Module) -> dict[str, str]:
    """The versions of the packages that compute, and the device."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return {**packages(), "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type}


def packages() -> dict[str, str]:
    """The versions of the installed packages that compute."""
    return {name: version for name, version in versions().items() if name in COMPUTING}


def of_weights(weights: Mapping[str, Tensor]) -> str:
    """A digest of tensors by name."""
    return digest(_plain(weights))


def of_inputs(plans: Plans) -> dict[str, str]:
    """Digests of the files and folders that hyperparameters name, such as a base model, by the hyperparameter's name."""
    values = {h.qualified: h.value for plan in plans for h in hyperparameters_of(plan) if isinstance(h.value, str)}
    return {name: of_files(value) for name, value in sorted(values.items()) if of_files(value)}


def of_files(path: str | Path) -> str:
    """A digest of a file, or of the names and contents of all files of a folder; '' where there is neither."""
    root = Path(path).expanduser()
    if not str(path) or not root.exists():
        return ""
    h = hashlib.sha256()
    for file in [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file()):
        h.update(f"{file.relative_to(root)}|{file.stat().st_size}|".encode())
        with file.open("rb") as opened:
            while block := opened.read(READ):
                h.update(block)
    return h.hexdigest()[:16]


def _configurations(model: nn.Module) -> Iterator[Any]:
    """The configurations of a model and of the model inside an adapter."""
    get_base_model: Any = getattr(model, "get_base_model", None)
    for holder in [model, *([get_base_model()] if get_base_model else [])]:
        for name in ("config", "generation_config"):
            entry: Any = getattr(holder, name, None)
            if hasattr(entry, "to_dict"):
                yield name, _numbers(entry.to_dict()), str(getattr(entry, "_attn_implementation", ""))
        adapters: Any = getattr(holder, "peft_config", None)
        if isinstance(adapters, Mapping):
            for name, entry in sorted(adapters.items()):
                yield name, _numbers(entry.to_dict())


def _numbers(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a configuration that can change a number."""
    return {
        str(k): _numbers(v) if isinstance(v, Mapping) else sorted(map(str, v)) if isinstance(v, (set, frozenset)) else v
        for k, v in configuration.items()
        if k not in NOT_NUMBERS | MODES and not (str(k).startswith("_") and k != "_attn_implementation")
    }


def _settings(model: nn.Module) -> Iterator[Any]:
    """The plain attributes of all modules, such as factors, windows and rates; parameters and buffers are not among them."""
    own = vars(nn.Module()).keys()
    for path, module in model.named_modules():
        for name, value in sorted(vars(module).items()):
            if name in SWITCHES or not (name.startswith("_") or name in MODES or name in own):
                is_plain, plain = _setting(value)
                if is_plain:
                    yield path, name, plain


def _setting(value: Any) -> tuple[bool, Any]:
    """Whether a value is plain data, and the value for a digest."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return True, value
    if isinstance(value, torch.dtype):
        return True, str(value)
    if isinstance(value, Mapping):
        value = sorted((str(k), v) for k, v in value.items())
    elif isinstance(value, (set, frozenset)):
        value = sorted(map(str, value))
    if isinstance(value, (list, tuple)):
        entries = [_setting(v) for v in value]
        return all(is_plain for is_plain, _ in entries), [v for _, v in entries]
    return (True, value.__qualname__) if inspect.isfunction(value) else (False, None)


def _unsaved(model: nn.Module) -> Iterator[Any]:
    """Hashes of the buffers that are not saved with the weights."""
    saved = model.state_dict(keep_vars=True).keys()
    for name, buffer in model.named_buffers():
        if name not in saved:
            yield name, _plain(buffer)


def _code(model: nn.Module) -> dict[str, str]:
    """Hashes of the source of the classes whose package has no version in `COMPUTING`, such as code that comes with a model."""
    hashes = {}
    for kind in {c for module in model.modules() for c in type(module).__mro__} - {object}:
        if kind.__module__.partition(".")[0] not in (*COMPUTING, "typing", "abc"):
            try:
                source = inspect.getsource(kind)
            except (OSError, TypeError):  # defined where no file is, as in a session
                source = ""
            hashes[f"{kind.__module__}.{kind.__qualname__}"] = digest(source)
    return hashes


def _plain(value: Any) -> Any:
    """Nested data with hashes in place of tensors and arrays."""
    if isinstance(value, Tensor):
        return [str(value.dtype), list(value.shape), hashlib.sha256(bytes_of(value)).hexdigest()]
    if hasattr(value, "tobytes") and hasattr(value, "shape"):
        return [str(value.dtype), list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if not isinstance(value, (list, tuple)):
        return value
    return list(value) if SCALARS.issuperset(map(type, value)) else [_plain(v) for v in value]
