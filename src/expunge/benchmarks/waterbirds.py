"""Waterbirds: birds of land and water on backgrounds of land and water, which nearly always agree in training; forget one kind of bird.

A model knows the background first, so that a method may forget the background and keep the bird.

Source: Sagawa et al. 2020, arXiv 1911.08731; for unlearning: CUPID, arXiv 2602.21773
Licence: that of its sources, CUB-200-2011 and Places: non-commercial research
Splits: waterbird, landbird: the kind to be forgotten; training rows are those of split 0, unseen ones those of split 2; the sets `aligned`
  and `conflicting` are the unseen images of that kind on their own background and on the other
Scores: accuracies by set, as the retrained model's; the gap between `aligned` and `conflicting`
Differs: the published images are of many sizes; here all are brought to 64 pixels a side, unless another size is asked for
Status: faithful; reads the published layout, tested on a small folder made like it; the photographs themselves were not at hand
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

LABELS = ("landbird", "waterbird")
TRAINING, UNSEEN = 0, 2  # values of `split`; 1 is for validation


def rows(folder: str | Path, part: int = TRAINING) -> list[Row]:
    """Rows of a part, each with `image` (a path), `label` (1: waterbird) and `attribute` (1: water in the background).

    folder: with `metadata.csv` (columns img_filename, y, place, split) and the images that it names. Errors: UserError, with the line.
    """
    folder = Path(folder).expanduser()
    out = []
    for line, record in enumerate(read(folder / "metadata.csv"), start=2):
        try:
            label, attribute, where = (int(record[c]) for c in ("y", "place", "split"))
            image = folder / record["img_filename"]
        except KeyError as error:
            raise BadRow(f"{folder / 'metadata.csv'}: no column {error}; there are {', '.join(record)}") from None
        except ValueError as error:
            raise BadRow(f"{folder / 'metadata.csv'}, line {line}: {error}") from None
        if not {label, attribute} <= {0, 1}:
            raise BadRow(f"{folder / 'metadata.csv'}, line {line}: y and place are 0 or 1, these are {label} and {attribute}")
        if where == part:
            out.append({"image": str(image), "label": label, "attribute": attribute})
    return out


def thinned(found: Sequence[Row], aligned: float, seed: int = 0) -> list[Row]:
    """Rows without so many conflicting ones, drawn by class, that this share of what is left is aligned; where it is already, all rows."""
    rng, out = np.random.default_rng(seed), set(range(len(found)))
    for y in sorted({r["label"] for r in found}):
        against = [i for i, r in enumerate(found) if r["label"] == y != r["attribute"]]
        keep = round(sum(r["label"] == y == r["attribute"] for r in found) * (1 - aligned) / aligned)
        out -= {against[i] for i in rng.permutation(len(against))[keep:]}
    return [found[i] for i in sorted(out)]


def load(data: str = "", split: str = "waterbird", seed: int = 0, *, aligned: float = 0.0, size: int = 64) -> Suite:
    """The suite of a split.

    data: the folder. aligned: share of each kind's training rows that is on its own background, by leaving out others, drawn with the
    seed (CUPID: 0.995); 0: all rows, of which 95 % are. size: pixels of the images' sides; 0: files as they are, for a model whose image
    processor resizes them.
    Errors: UserError for an unknown split or share, and for a folder that is not laid out like Waterbirds.
    """
    if not data:
        raise UserError("Waterbirds is not on a hub: give --data the folder that holds its metadata.csv")
    if split not in LABELS:
        raise UserError(f"Waterbirds has no split '{split}'{did_you_mean(split, LABELS)}; it has {', '.join(LABELS)}")
    if not 0 <= aligned <= 1:
        raise UserError(f"a share of aligned rows is from 0 to 1, not {aligned}")
    if size < 0:
        raise UserError(f"the size of images is a number of pixels, or 0 for files as they are, not {size}")
    train, test = rows(data), rows(data, UNSEEN)
    train = thinned(train, aligned, seed) if aligned else train
    train, test = ([{**r, "image": picture(Path(r["image"]), size)} for r in some] for some in (train, test))
    made = suite(f"waterbirds {split}", train, test, LABELS.index(split), LABELS)
    if empty := [n for n, some in made.sets.items() if not some]:
        raise UserError(f"{data}: no row for the set '{empty[0]}'; rows to train on have split 0, unseen ones split 2")
    return made
