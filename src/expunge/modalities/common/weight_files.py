"""Check the files of a model before a library opens them: all there, readable, not quantized, and without pickles unless allowed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from expunge.core.errors import UserError
from expunge.engine import stored
from expunge.engine.stored import Stored

PICKLED = "{} holds no safetensors weights; pickled ones can run code, so they load only with --allow-pickle"
INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")


def check(folder: Path, allow_pickle: bool) -> None:
    """Check a model or an adapter in a folder.

    Raises:
        UserError: names the file that is missing, broken, or of a kind that does not load.
    """
    if not any((folder / f).exists() for f in ("config.json", "adapter_config.json")):
        raise UserError(
            f"the folder {folder} holds no model: there is no config.json in it (a run folder keeps its model in {folder}/model)"
        )
    adapter = (folder / "adapter_config.json").exists()
    if any(folder.glob("adapter_model.safetensors" if adapter else "*.safetensors")):
        for file in [folder / "adapter_model.safetensors"] if adapter else files_in(folder):
            _check_header(file)
        return
    if not adapter and (folder / INDEX).exists():
        files_in(folder)
    pickles = [f.name for pattern in ("*.bin", "*.pt", "*.pth") for f in sorted(folder.glob(pattern))]
    if not pickles:
        raise UserError(f"the folder {folder} describes a model and holds no weights of it: add its safetensors files")
    if not allow_pickle:
        raise UserError(PICKLED.format(folder))
    if (folder / "pytorch_model.bin.index.json").exists():
        _shards(folder / "pytorch_model.bin.index.json")


def files_in(folder: Path) -> list[Path]:
    """The safetensors files of the model in a folder.

    Raises:
        UserError: for a shard that is missing, or an index that is missing or cannot be read.
    """
    if (folder / "model.safetensors").exists():  # a library takes this file, with or without an index beside it
        return [folder / "model.safetensors"]
    if (folder / INDEX).exists():
        return _shards(folder / INDEX)
    names = sorted(f.name for f in folder.glob("*.safetensors"))
    shards = [match for name in names if (match := SHARD.fullmatch(name))]
    if shards:
        raise UserError(
            f"{folder} holds {len(shards)} of the {int(shards[0][3])} shards of a model and no {INDEX}, which says what is in them"
        )
    raise UserError(f"{folder} holds {names[0]}, and the weights of a model are in model.safetensors, or in shards with {INDEX}")


def _shards(index: Path) -> list[Path]:
    """The files that an index names."""
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is damaged: it should map the weights of the model to files, and it does not ({error!r})") from None
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise UserError(f"{index} is damaged: it should name files beside it, and it names {names[:1] or 'none'}")
    if missing := [name for name in names if not (index.parent / name).exists()]:
        raise UserError(
            f"{index.parent} lacks {', '.join(missing)}: {len(missing)} of the {len(names)} files with the weights of the model"
        )
    if index.name == INDEX:
        for name in names:
            _check_content(index.parent / name, [n for n, file in weight_map.items() if file == name])
    return [index.parent / name for name in names]


def _check_header(file: Path) -> set[str]:
    """The names in a safetensors file. Raises: UserError for a file that is cut or damaged."""
    try:
        with safe_open(file, "pt") as weights:
            return set(weights.keys())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is damaged or was copied in part ({str(error).strip().splitlines()[0][:120]}): copy it again") from None


def _check_content(file: Path, expected: Sequence[str]) -> None:
    if absent := sorted(set(expected) - _check_header(file)):
        raise UserError(f"{file} lacks {len(absent)} weights that {INDEX} promises in it, among them {absent[0]}")


def check_not_quantized(path: str) -> None:
    """Refuse a model whose weights are quantized. path: a folder or hub id. Raises: UserError."""
    from transformers.utils import cached_file

    try:
        file = cached_file(path, "config.json", _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False)
        config: Any = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
    except (OSError, ValueError):
        return  # the library says what is wrong
    quantization = config.get("quantization_config") or (config.get("text_config") or {}).get("quantization_config")
    if quantization:
        kind = quantization.get("quant_method") or "unknown"
        raise UserError(
            f"the weights of {path} are quantized ({kind}), and unlearning and audits need the full ones: give the model that it was made "
            "from, and quantize the result again"
        )


def stored_in(path: str, name: str = "model.safetensors") -> Stored | None:
    """The types of the weights of a folder or hub id, after they were loaded; None where there are no safetensors.

    Args:
        name: the file of an unsharded model or of an adapter.
    """
    from transformers.utils import cached_file

    def local(file: str) -> Path | None:
        place = cached_file(path, file, _raise_exceptions_for_missing_entries=False, local_files_only=True)
        return Path(place) if place else None

    try:
        if (file := local(name)) is not None:
            return stored.read([file])
        if (index := local(INDEX)) is None:
            return None
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        return stored.read([place for n in names if (place := local(n))])
    except (OSError, ValueError, SafetensorError):
        return None
