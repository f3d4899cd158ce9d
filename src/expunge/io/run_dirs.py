"""Run folders: a command replaces a folder only if all files in it come from a run, and if the new run reads none of them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from expunge.core.errors import UserError

# Everything that commands write to a run folder; temporary files have these names with another suffix.
WRITTEN = (
    "receipt log checkpoint model adapter guard store selected audit story report observations bench sweep table entries attacks runs "
    "stores tensorboard"
)
OURS = frozenset(WRITTEN.split())
MODELS = frozenset({"model", "adapter", "guard"})  # alone they do not identify a run folder
TO_RESUME = "go on with --resume, "
EXISTS = "the run folder {} exists: give another one, {}or replace it with --overwrite"


def begun(folder: Path) -> bool:
    """Whether the folder has a run that started and did not finish."""
    return any((folder / n).exists() for n in ("checkpoint", "checkpoint.old", "log.jsonl")) and not (folder / "receipt.json").exists()


def check_free(folder: Path, overwrite: bool, reads: Iterable[object] = (), way_on: str = "") -> None:
    """Refuse a folder that cannot become a run folder.

    Args:
        folder: for the run.
        overwrite: whether the run may replace an existing run folder.
        reads: files and folders that the run reads.
        way_on: another choice of the user, for the message.

    Raises:
        UserError: for a file, a folder that exists, foreign files in it, or files in it that the run reads.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, but a run needs a folder: choose another name")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise UserError(EXISTS.format(folder, way_on))
    names = sorted(p.name for p in folder.iterdir())
    stems = {name.split(".")[0] for name in names}
    if foreign := [name for name in names if name.split(".")[0] not in OURS] or ([] if stems - MODELS else names):
        raise UserError(f"{folder} contains {foreign[0]!r}, which is not part of a run, so nothing in it is replaced: give another folder")
    for path in (Path(str(r).partition("::")[0]).expanduser() for r in reads if isinstance(r, (str, Path))):
        if path.exists() and path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{path} lies in {folder}, which --overwrite would replace: give another folder")


def check_resumable(folder: Path, resume: bool, overwrite: bool) -> None:
    """Raises: UserError where `resume` has nothing to go on with, or contradicts `overwrite`."""
    if resume and overwrite:
        raise UserError("--resume goes on with a run and --overwrite replaces it: give one of them")
    if resume and (folder / "receipt.json").exists():
        raise UserError(f"the run in {folder} has ended, so there is nothing to resume")
    if resume and not begun(folder):
        raise UserError(f"there is no run in {folder} to resume: leave --resume out to start one")


def check_writable(folder: Path) -> None:
    """Raises: UserError for a folder that could not be made: a file stands in its way, or its nearest parent may not be written."""
    parent = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not parent.is_dir():
        raise UserError(f"{parent} is a file, so there can be no folder {folder}: choose another name")
    if not os.access(parent, os.W_OK):
        raise UserError(f"the folder {folder} cannot be written: {parent} is read-only for you")


def audit_folder(out: str | Path | None, overwrite: bool) -> Path | None:
    """The folder for the results of an audit; None for none.

    Raises:
        UserError: for a file, and for a folder that holds an audit already.
    """
    folder = Path(out) if out is not None else None
    if folder and folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, and an audit needs a folder: give another name")
    if folder and (folder / "audit.json").exists() and not overwrite:
        raise UserError(f"the folder {folder} holds an audit already: give another one, or replace it with --overwrite")
    return folder


def check_model_folder(folder: Path, name: object) -> None:
    """Raises: UserError for an existing path that cannot hold a model, because it is a file. name: as the user wrote it."""
    if not folder.is_dir():
        raise UserError(f"{name} is a file, and a model is a folder: give the one that it lies in")


def log_of(run: Path) -> list[dict[str, Any]]:
    """The records of the log of a run; none where there is no log."""
    log = run / "log.jsonl"
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


def empty(folder: Path) -> None:
    """Delete the content of a folder, or create it; the folder itself stays, because it may be a working directory."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        remove(path)


def remove(path: Path) -> None:
    """Delete a file or a folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
