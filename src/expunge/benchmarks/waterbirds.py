"""Waterbirds: birds of land and water on backgrounds of land and water, which nearly always agree in training; forget one kind of bird.

A model learns the background first, so a method may forget the background and keep the bird.

Source: Sagawa et al. 2020, arXiv 1911.08731; for unlearning: CUPID, arXiv 2602.21773
Licence: that of its sources, CUB-200-2011 and Places: non-commercial research
Splits: waterbird, landbird: the kind to be forgotten; split 0 holds the training rows, split 2 the unseen rows; the sets `aligned` and
  `conflicting` are the unseen images of that kind on their own background and on the other
Scores: accuracies by set, compared with the retrained model; the gap between `aligned` and `conflicting`
Differs: the published images have many sizes; here all are resized to 64 pixels a side, unless you choose another size
Status: faithful; reads the published layout, tested on a small folder of the same layout; the photographs themselves were not available
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from expunge.benchmarks.common.identities import picture
from expunge.benchmarks.common.shortcuts import Row, suite
from expunge.benchmarks.suite import Suite
from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.io.data import BadRow, read

MODEL = "resnet-micro"  # the built-in size that it is made for

LABELS = ("landbird", "waterbird")
TRAINING, UNSEEN = 0, 2  # values of `split`; 1 is for validation


def rows(folder: str | Path, part: int = TRAINING) -> list[Row]:
    """Read the rows of one part.

    Args:
        folder: with `metadata.csv` (columns img_filename, y, place, split) and the images that it names.
        part: a value of the column `split`.

    Returns:
        Rows with `image` (a path), `label` (1: waterbird) and `attribute` (1: water in the background).

    Raises:
        UserError: for a file that is missing or has wrong values; the message names the line.
    """
    folder = Path(folder).expanduser()
    selected = []
    for line, record in enumerate(read(folder / "metadata.csv"), start=2):
        try:
            label, attribute, row_part = (int(record[c]) for c in ("y", "place", "split"))
            image = folder / record["img_filename"]
        except KeyError as error:
            raise BadRow(f"{folder / 'metadata.csv'}: no column {error}; there are {', '.join(record)}") from None
        except ValueError:
            raise BadRow(f"{folder / 'metadata.csv'}, line {line}: split, y and place are whole numbers, and one of them is not") from None
        if not {label, attribute} <= {0, 1}:
            raise BadRow(f"{folder / 'metadata.csv'}, line {line}: y and place are 0 or 1, and one of them is not")
        if row_part == part:
            selected.append({"image": str(image), "label": label, "attribute": attribute})
    return selected


def thinned(records: Sequence[Row], aligned: float, seed: int = 0) -> list[Row]:
    """Remove conflicting rows of each class at random until a share of the remaining rows is aligned.

    Args:
        records: with `label` and `attribute`.
        aligned: the share, above 0 and at most 1; a class that has it already keeps all its rows.
        seed: of the draw.
    """
    rng, kept = np.random.default_rng(seed), set(range(len(records)))
    for y in sorted({r["label"] for r in records}):
        conflicting = [i for i, r in enumerate(records) if r["label"] == y != r["attribute"]]
        keep = round(sum(r["label"] == y == r["attribute"] for r in records) * (1 - aligned) / aligned)
        kept -= {conflicting[i] for i in rng.permutation(len(conflicting))[keep:]}
    return [records[i] for i in sorted(kept)]


def load(data: str = "", split: str = "waterbird", seed: int = 0, *, aligned: float = 0.0, size: int = 64) -> Suite:
    """Load the suite of a split.

    Args:
        data: the folder of the data set.
        split: the kind of bird to be forgotten.
        seed: of the draw of the rows that `aligned` leaves out.
        aligned: share of each kind's training rows on its own background (CUPID: 0.995), reached by leaving out other rows; 0 keeps all
            rows, 95 % of them aligned.
        size: side of the images in pixels; 0 keeps the files as they are, for a model whose image processor resizes them.

    Raises:
        UserError: for an unknown split, an impossible share or size, and a folder in another layout.
    """
    if not data:
        raise UserError("Waterbirds is not on a hub: give --data the folder that contains its metadata.csv")
    if split not in LABELS:
        raise UserError(f"Waterbirds has no split '{split}'{did_you_mean(split, LABELS)}; it has {', '.join(LABELS)}")
    if not 0 <= aligned <= 1:
        raise UserError(f"a share of aligned rows is from 0 to 1, not {aligned}")
    if size < 0:
        raise UserError(f"the size of images is a number of pixels, or 0 for files as they are, not {size}")
    train, test = rows(data), rows(data, UNSEEN)
    train = thinned(train, aligned, seed) if aligned else train
    train, test = ([{**r, "image": picture(Path(r["image"]), size)} for r in part] for part in (train, test))
    benchmark = suite(f"waterbirds {split}", train, test, LABELS.index(split), LABELS)
    if empty := [name for name, records in benchmark.sets.items() if not records]:
        raise UserError(f"{data}: no row for the set '{empty[0]}'; training rows have split 0, unseen rows have split 2")
    return benchmark
