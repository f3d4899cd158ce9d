"""Plain supervised training, for the original and the retrained model of a benchmark; kept on disk by content, so it is done once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from filelock import FileLock

from expunge.catalog import load as load_module
from expunge.catalog import names
from expunge.core.capabilities import HoldsRows, offers, require
from expunge.core.errors import UserError
from expunge.core.plan import Train
from expunge.core.request import digest
from expunge.core.suggest import did_you_mean
from expunge.engine import device, identity, receipt, stored
from expunge.engine.distributed.process_group import ProcessGroup
from expunge.engine.hooks import Hooks
from expunge.io import run_dirs
from expunge.io.models import Opened, Source, cache_home, load, records
from expunge.io.models import rows as rows_of
from expunge.io.requested import ColumnMap, parsed_columns, with_columns
from expunge.workflows import build_plan, resuming
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
    vocabulary: Records = (),
    **options: Any,
) -> Opened:
    """An untrained model of a built-in size, made for the data, or the model of a folder or hub id.

    Raises:
        UserError: for texts of a tokenizer where the model has one already, and as `load`.
    """
    module = built_in(model)
    if module is None:
        if texts or vocabulary:
            raise UserError(f"{model} has a vocabulary of its own, so another one (`texts`, --vocabulary) is for built-in sizes alone")
        return _loaded(model, prompt_format, **options, **({"labels": labels} if labels != () else {}))
    device.choose(options.get("device", ""))
    given: dict[str, Any] = {"labels": labels, "prompt_format": prompt_format, "seed": seed, "source": source}
    network, modality = module.start(model, rows, texts=texts or texts_of(vocabulary), vocabulary=vocabulary, **given)
    dtype = device.dtype_of(options.get("dtype") or "float32")
    fresh = getattr(module, "FRESH", True)  # a size may come with trained weights
    return Opened(network.to(dtype) if isinstance(dtype, torch.dtype) else network, modality, model, fresh)


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
    forget: Source | None = None,
    out: str | Path | None = None,
    texts: Sequence[str] = (),
    vocabulary: Source | None = None,
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
        forget: more rows to train on, for a method that must know at training time which rows it may have to forget.
        model: a folder or hub id, or a built-in size (`nano`, `micro`, `tiny` for text, `resnet-nano`, `vit-nano` ... for images), which
            has default settings for the missing `hyperparameters`.
        out: where to copy the result.
        texts: training texts for the tokenizer of a built-in language model; default: those of `vocabulary`, else the data.
        vocabulary: rows whose words (or users, items ...) a model of a built-in size knows besides those of the data; give the same rows to
            models that are compared.
        labels: classes of a built-in classifier, by name, or how many; default: those of the data. Of a folder or hub id: the names of
            the classes, where the model has none, or how many it must have.
        map: columns by the names that the modality reads, such as `prompt=subject,answer=body` or a mapping.
        method: `finetune`, or a by-design method, whose result holds a store to forget from.
        prompt_format: how a question becomes a prompt; '' is the model's chat template.
        seed: of everything that is random.
        overwrite: replace the run in `out`.
        cache: where finished work is kept by content; None: see `io.models.cache_home`. A by-design store moves to `out`: it holds rows.
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
        process_group.agree(lambda: run_dirs.check_free(out_folder, overwrite, (data, forget, model)))
    training_records = with_columns(records(data, "training"), parsed_columns(map))
    forget_records = with_columns(records(forget, "forget"), parsed_columns(map)) if forget is not None else None
    module = built_in(model)
    trained = {h.name for h in build_plan.hyperparameters(method) if h.path[-2:-1] == ("train",)}  # others only share the name
    trained |= build_plan.choices(method).keys() - Train.__dataclass_fields__.keys()
    usual = {n: v for n, v in module.TRAINING[model].items() if n in trained} if module else {}
    hyperparameters = {**usual, **hyperparameters}
    settings = {**hyperparameters, "seed": seed}
    plans = build_plan.plan(method, settings)
    if forget_records is not None and not any("forget" in p.sets_read() for p in plans):
        raise UserError(f"the training by {method!r} treats all rows alike: put those of --forget into the data, and leave --forget out")
    try:
        opened = start(
            model,
            [*training_records, *forget_records] if forget_records is not None else training_records,
            texts,
            labels,
            prompt_format,
            seed,
            training_records.source,
            with_columns(records(vocabulary, "vocabulary"), parsed_columns(map), lenient=True) if vocabulary is not None else (),
            **(load_options or {}),
        )
    except UserError as error:
        raise UserError(training_records.located(str(error))) from None
    rows = rows_of(opened.modality, "retain", training_records)
    assert rows is not None
    if offers(opened.modality, HoldsRows) and not opened.fresh:
        require(opened.modality, HoldsRows).add_rows(opened.model, rows)
    forget_rows = rows_of(opened.modality, "forget", forget_records)
    key = digest(
        [
            identity.of_model(opened.model),
            identity.of_setting(opened.model),
            stored.words(opened.model),
            opened.modality.about(),
            identity.of_rows(rows),
            *([identity.of_rows(forget_rows)] if forget_rows is not None else []),
            receipt.describe(plans),
            identity.of_inputs(plans),
        ]
    )
    home = cache or cache_home()
    cached = home / "models" / key
    with _alone(home / "locks" / key) if process_group.first else nullcontext():
        known = process_group.agree((cached / "receipt.json").exists)
        listeners = listening(callbacks, track, known and process_group.first)  # `unlearn` tells of a training
        if not known:
            options: dict[str, Any] = {"retain": rows, "forget": forget_rows, "out": cached, "callbacks": callbacks, "track": track}
            begun, existed = (process_group.agree(folder.exists) for folder in (cached / "checkpoint", cached))
            try:
                unlearn(method, opened, resume=begun, overwrite=existed and not begun, hooks=hooks, **options, **settings)
            except resuming.AnotherRun:  # begun by another version
                unlearn(method, opened, overwrite=True, hooks=hooks, **options, **settings)
    training_receipt = json.loads((cached / "receipt.json").read_text(encoding="utf-8"))
    training_receipt["request"]["findings"] = list(
        dict.fromkeys(
            [*training_records.notes, *(forget_records.notes if forget_records else ()), *training_receipt["request"]["findings"]]
        )
    )
    if out:
        process_group.agree(lambda: _copy(cached, out_folder, training_receipt))
        if training_receipt["result"].get("store"):  # which holds rows, and must not be left where nobody looks for it
            process_group.agree(lambda: run_dirs.remove(cached))
    result_folder = out_folder if out else cached
    sizes = {"retain": len(rows), **({"forget": len(forget_rows)} if forget_rows is not None else {})}
    about = {"name": method, "stages": receipt.describe(plans), "rows": sizes, "log": [], "folder": str(result_folder)}
    with listeners.during(about) as ended:
        loaded = load(result_folder, prompt_format, **(load_options or {}))
        ended |= {**result_of(training_receipt), "cached": True}
    return Result(loaded.model, loaded.modality, training_receipt, result_folder)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock, so that of several processes that want the same model one makes it, and the others wait and find it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        yield


def _copy(cached: Path, target: Path, training_receipt: Mapping[str, Any]) -> None:
    """Copy a cached run. training_receipt: of this training, whose rows may have come by another door than those of the cached one."""
    temporary = target.with_name(target.name + ".tmp")
    run_dirs.remove(temporary)
    shutil.copytree(cached, temporary)
    receipt.write(temporary / "receipt.json", training_receipt)
    run_dirs.remove(target)
    temporary.rename(target)
