"""Plain supervised training, for the original and the retrained model of a benchmark; kept on disk by content, so it is done once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from expunge.catalog import load as load_module
from expunge.catalog import names
from expunge.core.errors import UserError
from expunge.core.request import digest
from expunge.core.suggest import did_you_mean
from expunge.engine import device, identity, receipt, stored
from expunge.engine.distributed.process_group import ProcessGroup
from expunge.engine.hooks import Hooks
from expunge.io import run_dirs
from expunge.io.models import Opened, Source, cache_home, load, records
from expunge.io.models import rows as rows_of
from expunge.io.requested import ColumnMap, parsed_columns, with_columns
from expunge.workflows import build_plan
from expunge.workflows.callbacks import Callbacks, result_of
from expunge.workflows.trackers import Track, listening
from expunge.workflows.unlearn import Result, unlearn

Records = Sequence[Mapping[str, Any]]


def texts_of(rows: Records) -> list[str]:
    """All texts of the records, to train a tokenizer on."""
    return [" ".join(str(v) for v in r.values() if isinstance(v, str)) for r in rows]


def built_in(model: str) -> ModuleType | None:
    """The module of `models` that has a size of this name, if there is one."""
    modules = (load_module(name, "models") for name in names("models"))
    return next((m for m in modules if model in getattr(m, "SIZES", ())), None)


def start(
    model: str,
    rows: Records,
    texts: Sequence[str] = (),
    labels: int | Sequence[str] = (),
    prompt_format: str = "",
    seed: int = 0,
    source: str = "training",
    **options: Any,
) -> Opened:
    """An untrained model of a built-in size, made for the data, or the model of a folder or hub id.

    Raises:
        UserError: for texts of a tokenizer where the model has one already, and as `load`.
    """
    module = built_in(model)
    if module is None:
        if texts:
            raise UserError(f"{model} has a tokenizer of its own, so a vocabulary (`texts`, --vocabulary) is for built-in sizes alone")
        return _loaded(model, prompt_format, **options, **({"labels": labels} if labels != () else {}))
    device.choose(options.get("device", ""))
    network, modality = module.start(model, rows, texts=texts, labels=labels, prompt_format=prompt_format, seed=seed, source=source)
    dtype = device.dtype_of(options.get("dtype") or "float32")
    return Opened(network.to(dtype) if isinstance(dtype, torch.dtype) else network, modality, model, fresh=True)


def _loaded(model: str, prompt_format: str, **options: Any) -> Opened:
    """Load a model.

    Raises:
        UserError: as `load`, with built-in sizes as suggestions where `load` has none.
    """
    try:
        return load(model, prompt_format, **options)
    except UserError as error:
        sizes = [size for name in names("models") for size in getattr(load_module(name, "models"), "SIZES", ())]
        near = "" if "did you mean" in str(error) else did_you_mean(model, sizes)
        raise UserError(f"{error}{near}") from None


def train(
    data: Source,
    model: str,
    *,
    out: str | Path | None = None,
    texts: Sequence[str] = (),
    labels: int | Sequence[str] = (),
    map: ColumnMap = (),
    prompt_format: str = "",
    seed: int = 0,
    method: str = "finetune",
    overwrite: bool = False,
    cache: Path | None = None,
    callbacks: Callbacks = (),
    track: Track = (),
    hooks: Hooks | None = None,
    load_options: Mapping[str, Any] | None = None,
    **hyperparameters: Any,
) -> Result:
    """Train a model on all rows of the data; finished work is read from the cache.

    Args:
        data: a file, hub id or list of records; all of them are trained on.
        model: a folder or hub id, or a built-in size (`nano`, `micro`, `tiny` for text, `resnet-nano`, `vit-nano` ... for images), which
            has default settings for the missing `hyperparameters`.
        out: where to copy the result.
        texts: training texts for the tokenizer of a built-in language model; default: the data.
        labels: classes of a built-in classifier, by name, or how many; default: those of the data. Of a folder or hub id: the names of
            the classes, where the model has none, or how many it must have.
        map: columns by the names that the modality reads, such as `prompt=subject,answer=body` or a mapping.
        method: `finetune`, or a by-design method, whose result holds a store to forget from.
        prompt_format: how a question becomes a prompt; '' is the model's chat template.
        seed: of everything that is random.
        overwrite: replace the run in `out`.
        cache: where finished work is kept by content; None: see `io.models.cache_home`.
        callbacks: objects that are told of steps and epochs (see `Callback`).
        track: tensorboard, mlflow, wandb, trackio, or a `Tracker`, which get the numbers of the log; several in a list.
        hooks: of the training loop, for programs that show progress, stop the run or say how often it is saved.
        load_options: of `load`.
        hyperparameters: of the method, by name.

    Returns:
        The trained model with its modality, the receipt, and its folder: `out`, or the one in the cache.

    Raises:
        UserError: for every mistake that the user can correct.
        Interrupted: after a checkpoint, from which the same call goes on.
    """
    process_group = ProcessGroup()
    if out:
        out_folder = Path(out)
        process_group.agree(lambda: run_dirs.check_free(out_folder, overwrite, (data, model)))
    training_records = with_columns(records(data, "training"), parsed_columns(map))
    module = built_in(model)
    hyperparameters = {**(module.TRAINING[model] if module else {}), **hyperparameters}
    try:
        opened = start(model, training_records, texts, labels, prompt_format, seed, training_records.source, **(load_options or {}))
    except UserError as error:
        raise UserError(training_records.located(str(error))) from None
    rows = rows_of(opened.modality, "retain", training_records)
    assert rows is not None
    settings = {**hyperparameters, "seed": seed}
    plans = build_plan.plan(method, settings)
    key = digest(
        [
            identity.of_model(opened.model),
            identity.of_setting(opened.model),
            stored.words(opened.model),
            opened.modality.about(),
            identity.of_rows(rows),
            receipt.describe(plans),
            identity.of_inputs(plans),
        ]
    )
    cached = (cache or cache_home()) / "models" / key
    known = process_group.agree((cached / "receipt.json").exists)
    listeners = listening(callbacks, track, known and process_group.first)  # `unlearn` tells of a training
    if not known:
        begun = process_group.agree((cached / "checkpoint").exists)
        unlearn(
            method,
            opened,
            retain=rows,
            out=cached,
            resume=begun,
            overwrite=process_group.agree(cached.exists) and not begun,
            callbacks=callbacks,
            track=track,
            hooks=hooks,
            **settings,
        )
    training_receipt = json.loads((cached / "receipt.json").read_text(encoding="utf-8"))
    training_receipt["request"]["findings"] = list(dict.fromkeys([*training_records.notes, *training_receipt["request"]["findings"]]))
    if out:
        process_group.agree(lambda: _copy(cached, out_folder, training_receipt))
    result_folder = out_folder if out else cached
    about = {"name": method, "stages": receipt.describe(plans), "rows": {"retain": len(rows)}, "log": [], "folder": str(result_folder)}
    with listeners.during(about) as ended:
        loaded = load(result_folder, prompt_format, **(load_options or {}))
        ended |= {**result_of(training_receipt), "cached": True}
    return Result(loaded.model, loaded.modality, training_receipt, result_folder)


def _copy(cached: Path, target: Path, training_receipt: Mapping[str, Any]) -> None:
    """Copy a cached run. training_receipt: of this training, whose rows may have come by another door than those of the cached one."""
    temporary = target.with_name(target.name + ".tmp")
    run_dirs.remove(temporary)
    shutil.copytree(cached, temporary)
    receipt.write(temporary / "receipt.json", training_receipt)
    run_dirs.remove(target)
    temporary.rename(target)
