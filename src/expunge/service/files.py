"""The files of a model, each by name with its SHA-256: what a certificate covers, and by what a model is known again."""

from __future__ import annotations

import hashlib
from pathlib import Path

from expunge.core.errors import UserError
from expunge.engine import artifact

RUN_FILES = frozenset(
    {"receipt.json", "log.jsonl", "audit.json", "evidence.json", "story.json", "report.html"}
)  # beside the model's folder


def model_folder(source: str | Path) -> Path:
    """The folder with the files of a model: of a run its model, adapter or guard; else the folder itself.

    A folder with files that no run has is a model, whatever else lies in it: a receipt that somebody put there, with a copy of another
    model below it, must not lead away from the files that are loaded.

    Raises:
        UserError: where there is no such folder.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} with the files of a model")
    files = {p.name for p in folder.iterdir() if not p.is_dir()}
    if "receipt.json" in files and files <= RUN_FILES:
        inside = [folder / name for name in artifact.LOADED if (folder / name).is_dir()]
        if not inside:
            raise UserError(f"the run in {folder} has a receipt, and the model that belongs to it is gone")
        return inside[0]
    return folder


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 (64 hex digits) of every file below a folder, hidden ones too, by its name with slashes.

    Raises:
        UserError: for links and other things that are no plain files: what they lead to can change without a trace.
    """
    known = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise UserError(
                f"{name} in {folder} is no plain file (a link, perhaps), so no certificate can cover it: put a copy in its place"
            )
        if path.is_file():
            known[name] = sha256(path)
    return known


def sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hex digits."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def digest_of_model(source: str) -> str:
    """One digest over names and contents of all files of a model; '' where it is no folder, such as a hub id."""
    if not Path(source).expanduser().is_dir():
        return ""
    whole = hashlib.sha256()
    for name, digest in digests(model_folder(source)).items():
        whole.update(f"{len(name.encode())}:{name}{digest}".encode())
    return whole.hexdigest()
