"""Run folders: replaced only where all that they hold is ours, and never with what the run itself was to read in them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from expunge.core.errors import UserError

# Everything that commands leave in a run folder; temporary names are these with a further suffix.
OURS = frozenset(
    "receipt log checkpoint model adapter guard selected audit story report observations bench sweep table entries attacks runs".split()  # noqa: SIM905
)
MODELS = frozenset({"model", "adapter", "guard"})  # by themselves they could be anybody's
EXISTS = "the run folder {} exists: give another one, {}or replace it with --overwrite"


def begun(folder: Path) -> bool:
    """Whether a run was started here, and has not ended."""
    return any((folder / n).exists() for n in ("checkpoint", "checkpoint.old", "log.jsonl")) and not (folder / "receipt.json").exists()


def check_free(folder: Path, overwrite: bool, reads: Iterable[object] = (), way_on: str = "") -> None:
    """Refuse a folder that cannot become a run folder. reads: files and folders that the run reads; way_on: what else could be done.

    Errors: UserError.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, and a run needs a folder: give another name")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise UserError(EXISTS.format(folder, way_on))
    found = sorted(p.name for p in folder.iterdir())
    known = {name.split(".")[0] for name in found}
    if strange := [name for name in found if name.split(".")[0] not in OURS] or ([] if known - MODELS else found):
        raise UserError(f"{folder} holds {strange[0]!r}, which is not part of a run, so nothing in it is replaced: give another folder")
    for path in (Path(r).expanduser() for r in reads if isinstance(r, (str, Path))):
        if path.exists() and path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{path} lies in {folder}, which --overwrite would replace: give another folder")


def empty(folder: Path) -> None:
    """Take everything out of a folder, which is made if absent; the folder itself stays, for somebody may be standing in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        remove(path)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
