"""What can be wrong with the words of a command, found before torch is imported: names, settings, files, folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from expunge import catalog
from expunge.cli import declared
from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.io import data, run_dirs
from expunge.modalities.common import hub

ALWAYS_MADE = ("relearn", "bare_question")  # attacks that a benchmark adds by itself


def names(kind: str, *candidates: str) -> None:
    """Raises: UserError for a name that no method, attack, benchmark ... has."""
    for name in filter(None, candidates):
        catalog.check(name, kind)


def sources(*records: str) -> None:
    """Raises: UserError for records that are missing, empty or of an unknown type. records: as typed."""
    for source in filter(None, records):
        data.check_source(source)
        name = source.partition("::")[0]
        if not Path(name).expanduser().exists():
            hub.check_data(name)


def suite(name: str, place: str) -> None:
    """Raises: UserError for an unknown benchmark, and for data of one that are not at hand. place: where the user has them."""
    names("benchmarks", name)
    source = declared.hub_data(name) if name and not place else ""
    if source:
        hub.check_data(source, f": give a copy of the data of {name} with --data")
    elif place and not Path(place).expanduser().exists() and place.count("/") != 1:
        raise UserError(f"{place} does not exist{hub.near(Path(place).expanduser())}")


def models(*references: str, sizes: bool = False) -> None:
    """Raises: UserError for a model that is neither a folder nor on the hub. sizes: the name of a built-in size will do, too."""
    for model in filter(None, references):
        folder = Path(model).expanduser()
        if sizes and model in declared.built_in_sizes():
            continue
        if folder.exists():
            run_dirs.check_model_folder(folder, model)
            continue
        try:
            hub.check_model(model)
        except UserError as error:
            near = did_you_mean(model, declared.built_in_sizes()) if sizes and "did you mean" not in str(error) else ""
            raise UserError(f"{error}{near}") from None


def new_run(folder: Path, overwrite: bool, reads: Iterable[object] = (), way_on: str = "") -> None:
    """Raises: UserError for a run folder that exists or cannot be made. Processes that share a run decide together, later."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        run_dirs.check_free(folder, overwrite, reads, way_on)
        run_dirs.check_writable(folder)


def audit_folder(folder: Path, overwrite: bool) -> None:
    """Raises: UserError for a folder that cannot take an audit."""
    run_dirs.audit_folder(folder, overwrite)
    run_dirs.check_writable(folder)


def bench_hyperparameters(
    values: Mapping[str, str], methods: tuple[str, ...], attacks: tuple[str, ...], training: Mapping[str, str]
) -> None:
    """Raises: UserError for settings that neither a method nor an attack of a benchmark run has, and for methods and attacks not there."""
    names("methods", *methods)
    names("attacks", *attacks)
    own = {*methods, *attacks, *ALWAYS_MADE}
    for key in values:
        owner = key.rpartition(":")[0]
        if owner and owner not in own:
            near = did_you_mean(owner, (*methods, *attacks))
            raise UserError(f"the hyperparameter --{key} is for {owner!r}, which is neither a method nor an attack of this run{near}")
    by_attack = {k: v for k, v in values.items() if k.rpartition(":")[0] in {*attacks, *ALWAYS_MADE}}
    declared.check(by_attack, dict.fromkeys((*attacks, *ALWAYS_MADE), "attacks"))
    declared.check({k: v for k, v in values.items() if k not in by_attack}, dict.fromkeys(methods, "methods"))
    declared.check(training, {"finetune": "methods"})
