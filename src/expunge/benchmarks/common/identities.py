"""Shared code of benchmarks that forget persons: suites whose sets share no person, and pictures from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from expunge.benchmarks.suite import Suite
from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.io.data import NoSuchData, Row


def chosen(benchmark: str, split: str, splits: Sequence[str], sizes: Mapping[str, int], known: Mapping[str, int]) -> dict[str, int]:
    """Check a split and merge sizes with their defaults.

    Args:
        benchmark: name for messages.
        split: the split to check against `splits`.
        splits: known splits.
        sizes: sizes by the user.
        known: defaults of all sizes.

    Returns:
        Every size.

    Raises:
        UserError: for an unknown split or size, or a negative size.
    """
    if split not in splits:
        raise UserError(f"{benchmark} has no split '{split}'{did_you_mean(split, splits)}; it has {', '.join(splits)}")
    if unknown := sorted(set(sizes) - set(known)):
        raise UserError(f"{benchmark} has no size '{unknown[0]}' here{did_you_mean(unknown[0], known)}; it has {', '.join(known)}")
    if negative := [name for name, value in sizes.items() if value < 0]:
        raise UserError(f"{benchmark}: a size cannot be negative: {negative[0]}={sizes[negative[0]]}")
    return {**known, **sizes}


def named(*parts: str, **sizes: int) -> str:
    """The name of a suite, with the sizes that the user chose."""
    return " ".join([*parts, *(f"{size}={value}" for size, value in sizes.items())])


def suite(name: str, labels: Sequence[str], forget: list[Row], retain: list[Row], test: list[Row], unseen: list[Row]) -> Suite:
    """Build a suite from rows with `identity`.

    Args:
        name: of the suite.
        labels: names of the classes.
        forget, retain: training rows.
        test: rows to measure accuracy on.
        unseen: rows of other persons, the holdout set of membership attacks.

    Raises:
        UserError: for a set without rows, and for a person in two of train, test and unseen.
    """
    sets = {"forget": forget, "retain": retain, "holdout": unseen, "test": test}
    if empty := [key for key, rows in sets.items() if not rows]:
        raise UserError(f"{name}: no rows are left for {empty[0]}; choose other sizes")
    people = {key: {row["identity"] for row in rows} for key, rows in (("train", forget + retain), ("test", test), ("unseen", unseen))}
    for a, b in (("train", "test"), ("train", "unseen"), ("test", "unseen")):
        if shared := people[a] & people[b]:
            raise UserError(f"{name}: {len(shared)} persons are both in {a} and in {b}; each person must be in one of them only")
    return Suite(name=name, sets=sets, train={"full": forget + retain, "forget": forget, "retain": retain}, labels=tuple(labels))


def folder_of(data: str) -> Path:
    """The folder of a data set. Raises: NoSuchData if there is no such folder."""
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise NoSuchData(f"there is no folder {data}; give the folder of the unpacked data set, or no folder for drawn faces")
    return folder


def picture(path: Path, size: int) -> Any:
    """Read a picture.

    Args:
        path: of the file.
        size: side in pixels; 0 returns the path as a string, unread.

    Returns:
        (3, size, size), uint8; or the path.

    Raises:
        UserError: if the file is not a readable image.
    """
    if not size:
        return str(path)
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1).copy()
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"{path} is not a readable image ({error})") from None
