"""The rows that a selector chose for a whole run, saved as indices and as files for the next command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.core.rows import Rows, Sets
from expunge.io.data import no_progress_bars, where, write_jsonl
from expunge.io.models import Source, records

FOLDER = "selected"  # in the run folder


def places(picked: Sets, sets: Sets) -> dict[str, dict[str, str]]:
    """Locate picked rows in the sets of the user.

    Args:
        picked: sets of the selector; a set with a row that is in no set of `sets` is left out.
        sets: sets of the user.

    Returns:
        For each picked set and each set of the user the indices of its rows, such as `0-3,8`.
    """
    known = {row_id: (name, index) for name, rows in sets.items() for index, row_id in enumerate(rows.ids)}
    located: dict[str, dict[str, str]] = {}
    for picked_name, rows in picked.items():
        if known.keys() >= set(rows.ids):
            origins = [known[i] for i in rows.ids]
            located[picked_name] = {name: ranges(indices) for name in sets if (indices := [k for origin, k in origins if origin == name])}
    return located


def write(folder: Path, chosen: Mapping[str, Mapping[str, str]], sources: Mapping[str, Source | Rows | None]) -> None:
    """Write the picked rows to files that work as sources of records.

    Args:
        folder: of the files, one for each picked set.
        chosen: from `places`.
        sources: sources by set; a picked set with rows from an unknown source or from `Rows` gets no file.
    """
    for picked_name, indices in chosen.items():
        origins = {name: sources[name] for name in indices}
        if all(source is not None and not isinstance(source, Rows) for source in origins.values()):
            picked = [row for name, source in origins.items() for row in where(records(source, name), f"rows={indices[name]}")]
            save(folder / picked_name, picked)


def save(stem: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows for `read` and return the path.

    Returns:
        `stem.jsonl` if JSON can represent the rows, `stem.npz` if their columns are numbers, texts and arrays of one shape, else the folder
        `stem`, a data set of `datasets`.
    """
    try:
        write_jsonl(path := stem.with_name(f"{stem.name}.jsonl"), rows)
    except TypeError:
        return path if _save_npz(path := stem.with_name(f"{stem.name}.npz"), rows) else _save_folder(stem, rows)
    return path


def _save_npz(path: Path, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Write rows as arrays if their columns allow it."""
    import numpy as np

    try:
        columns = {n: np.stack([np.asarray(r[n]) for r in rows]) for n in rows[0]}
    except (KeyError, ValueError):  # a column that some rows lack, or that has several shapes
        return False
    if any(a.dtype == object for a in columns.values()) or any(rows[0].keys() != r.keys() for r in rows):
        return False
    np.savez_compressed(path, **columns)
    return True


def _save_folder(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    import datasets

    with no_progress_bars():
        datasets.Dataset.from_list([dict(r) for r in rows]).save_to_disk(folder)
    return folder


def ranges(indices: Iterable[int]) -> str:
    """Indices as a condition writes them: `0-3,8`."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(f"{a}-{b}" if b > a else str(a) for a, b in runs)
