"""Files that only recommenders have: RecBole's atomic files, and vectors of items in safetensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from expunge.core.errors import UserError
from expunge.modalities.ranking.columns import ITEM, RATING, TIME, USER

NAMES = {"user_id": USER, "item_id": ITEM, "rating": RATING, "timestamp": TIME}  # RecBole's names of the fields that are read
TYPES: dict[str, Callable[[str], Any]] = {
    "token": str,
    "token_seq": str.split,
    "float": float,
    "float_seq": lambda cell: [float(number) for number in cell.split()],
}
FEATURES = "features"  # the column of the vectors of a safetensors file


def read_atomic(path: Path) -> list[dict[str, Any]]:
    """Rows of a RecBole atomic file: cells between tabs, below a header of `name:type`.

    Its fields user_id, item_id, rating and timestamp become the columns user, item, rating and time; others keep their names.

    Raises:
        UserError: for a file without such a header, and for a line that does not fit it; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason})") from None
    fields = [name.rpartition(":") for name in lines[0].rstrip("\r").split("\t")]
    if wrong := [f"{name}{colon}{kind}" for name, colon, kind in fields if not name or kind not in TYPES]:
        raise UserError(
            f"{path}, line 1: the header of an atomic file names each field with its type, between tabs, such as user_id:token, "
            f"item_id:token, rating:float, timestamp:float, and here stands {', '.join(map(repr, wrong[:4]))[:200]}"
        )
    names = [NAMES.get(name, name) for name, _, _ in fields]
    if len(set(names)) < len(names):
        raise UserError(f"{path}, line 1: the header names a field twice")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        cells = line.rstrip("\r").split("\t")
        if cells == [""]:
            continue
        if len(cells) != len(fields):
            raise UserError(f"{path}, line {number}: {len(cells)} cells where the header has {len(fields)}")
        typed = zip(names, fields, cells, strict=True)
        rows.append({name: _value(cell, field, kind, f"{path}, line {number}") for name, (field, _, kind), cell in typed if cell})
    return rows


def _value(cell: str, field: str, kind: str, place: str) -> Any:
    """A cell as its field's type. Raises: UserError."""
    try:
        return TYPES[kind](cell)
    except ValueError:
        raise UserError(f"{place}: the field {field!r} is of type {kind}, and here stands a text that is no number") from None


def read_vectors(path: Path) -> list[dict[str, Any]]:
    """Rows of a safetensors file with one vector for each item, under the item's id.

    Raises:
        UserError: for a damaged file, and for a tensor that is no vector.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        vectors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or was copied in part ({str(error).strip().splitlines()[0][:120]}): copy it again") from None
    if odd := next((name for name, vector in vectors.items() if vector.ndim != 1), None):
        raise UserError(
            f"{path}: a file of items holds a vector under each item's id, and the tensor {odd!r} has shape {vectors[odd].shape}; is it "
            f"the file of a model?"
        )
    return [{ITEM: name, FEATURES: vector} for name, vector in vectors.items()]
