"""What a selector chose for a whole run, left where the user can give it to the next command: by place, and as files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.core.rows import Rows, Sets
from expunge.io.data import no_progress_bars, where, write_jsonl
from expunge.io.models import Source, records

FOLDER = "selected"  # of the run folder


def places(picked: Sets, given: Sets) -> dict[str, dict[str, str]]:
    """Where rows that were picked stand in the sets given, as in `::rows=0-3,8`; of sets alone whose rows are all of those."""
    known = {i: (n, k) for n, r in given.items() for k, i in enumerate(r.ids)}
    out: dict[str, dict[str, str]] = {}
    for name, some in picked.items():
        if known.keys() >= set(some.ids):
            at = [known[i] for i in some.ids]
            out[name] = {n: ranges(mine) for n in given if (mine := [k for of, k in at if of == n])}
    return out


def write(folder: Path, chosen: Mapping[str, Mapping[str, str]], given: Mapping[str, Source | Rows | None]) -> None:
    """Files of the rows that were picked, which can be given wherever those could that they were picked from."""
    for name, at in chosen.items():
        found = {n: given[n] for n in at}
        if all(s is not None and not isinstance(s, Rows) for s in found.values()):
            picked = [r for n, s in found.items() for r in where(records(s, n), f"rows={at[n]}")]
            save(folder / name, picked)


def save(stem: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows so that `read` finds them, and return where: `stem.jsonl` if JSON can say them, `stem.npz` if their columns are numbers,
    texts and arrays of one shape, else the folder `stem`, as `datasets` saves it."""
    try:
        write_jsonl(path := stem.with_name(f"{stem.name}.jsonl"), rows)
    except TypeError:
        return path if _save_npz(path := stem.with_name(f"{stem.name}.npz"), rows) else _save_folder(stem, rows)
    return path


def _save_npz(path: Path, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Write rows as arrays, if their columns are some."""
    import numpy as np

    try:
        columns = {n: np.stack([np.asarray(r[n]) for r in rows]) for n in rows[0]}
    except (KeyError, ValueError):  # a column that not all have, or of several shapes
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


def ranges(places: Iterable[int]) -> str:
    """Places as a condition says them: `0-3,8`."""
    runs: list[list[int]] = []
    for place in sorted(places):
        if runs and place == runs[-1][1] + 1:
            runs[-1][1] = place
        else:
            runs.append([place, place])
    return ",".join(f"{a}-{b}" if b > a else str(a) for a, b in runs)
