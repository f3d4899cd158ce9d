"""What benchmarks of forgetting persons share: a suite in which nobody stands on both sides of a line, and pictures from files."""

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
    """All sizes, those that were given and those that are known. Errors: UserError for an unknown split or size, or a negative one."""
    if split not in splits:
        raise UserError(f"{benchmark} has no split '{split}'{did_you_mean(split, splits)}; it has {', '.join(splits)}")
    if unknown := sorted(set(sizes) - set(known)):
        raise UserError(f"{benchmark} has no size '{unknown[0]}' here{did_you_mean(unknown[0], known)}; it has {', '.join(known)}")
    if negative := [name for name, value in sizes.items() if value < 0]:
        raise UserError(f"{benchmark}: a size cannot be negative: {negative[0]}={sizes[negative[0]]}")
    return {**known, **sizes}


def named(*parts: str, **sizes: int) -> str:
    """What a suite is called: with the sizes that were given."""
    return " ".join([*parts, *(f"{size}={value}" for size, value in sizes.items())])


def suite(name: str, labels: Sequence[str], forget: list[Row], retain: list[Row], test: list[Row], unseen: list[Row]) -> Suite:
    """Train on forget and retain; measure accuracy on test; tell forget from unseen, which is the holdout set.

    Errors: UserError for a set without rows, and for somebody in two of train, test and unseen.
    """
    sets = {"forget": forget, "retain": retain, "holdout": unseen, "test": test}
    if empty := [key for key, rows in sets.items() if not rows]:
        raise UserError(f"{name}: nothing is left for {empty[0]}; choose other sizes")
    people = {key: {row["identity"] for row in rows} for key, rows in (("train", forget + retain), ("test", test), ("unseen", unseen))}
    for a, b in (("train", "test"), ("train", "unseen"), ("test", "unseen")):
        if shared := people[a] & people[b]:
            raise UserError(f"{name}: {len(shared)} persons, such as {min(shared)}, stand in {a} and in {b}; they must be apart")
    return Suite(name=name, sets=sets, train={"full": forget + retain, "forget": forget, "retain": retain}, labels=tuple(labels))


def folder_of(data: str) -> Path:
    """The folder that a data set lies in. Errors: NoSuchData."""
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise NoSuchData(f"there is no folder {data}; give the one that the data set was unpacked into, or none for drawn faces")
    return folder


def picture(path: Path, size: int) -> Any:
    """The path as it is, or with a size the picture at that size, (3, size, size), uint8. Errors: UserError."""
    if not size:
        return str(path)
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1).copy()
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"{path} is not an image that can be read ({error})") from None
