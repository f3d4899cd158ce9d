"""Amazon reviews as MMRec lays them out: interactions with vectors of pictures and texts of the items; forget users, items, both or pairs.

Source: MMRec (arXiv 2302.03497), from Ni et al. 2019; protocol of MMRecUn (arXiv 2405.15328)
Licence: that of the reviews; the data are not shipped: get baby, sports or clothing with MMRec and give the folder with --data
Splits: user05, user10, item05, item10 (all training interactions of a share of the users, of the items), both05 (of both), pair05 (a share
  of all training interactions); all drawn with the seed
Scores: recall, NDCG, precision and MAP at 20, of forgotten, retained and unseen interactions; losses; exposure of removed items
Status: faithful; the division is that of the files (x_label 0: training, 2: test; 1, validation, is not used). Test rows of users or items
  to be forgotten are the holdout set; the others, of users and items with training rows, are the set `test`

The folder has one file *.inter (userID, itemID, x_label, between tabs) and image_feat.npy, text_feat.npy or both, with a line for each
item number.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from expunge.benchmarks.common.interactions import described, divided, like
from expunge.benchmarks.common.ratings import checked
from expunge.benchmarks.suite import Record, SetSpec, Suite
from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean

MODEL = "vbpr-micro"  # the built-in size that it is made for

SPLITS = ("user05", "user10", "item05", "item10", "both05", "pair05")
COLUMNS = ("userID", "itemID", "x_label")
FEATURES = {"image_feat.npy": "image", "text_feat.npy": "text"}
TRAINING, TESTING = "0", "2"  # of x_label


def load(data: str = "", split: str = "user05", seed: int = 0, **limits: int) -> Suite:
    """Load the suite of a split.

    Args:
        data: a folder in the layout of MMRec.
        split: one of the card.
        seed: decides what is to be forgotten.
        limits: the most rows of each set to audit, for example `test=1000`.

    Raises:
        UserError: for a folder without the files, for damaged files, and for an unknown split or set.
    """
    if split not in SPLITS:
        raise UserError(f"amazon has no split '{split}'{did_you_mean(split, SPLITS)}; there are {', '.join(SPLITS)}")
    folder = Path(data).expanduser()
    files = sorted(folder.glob("*.inter")) if data and folder.is_dir() else []
    if len(files) != 1:
        raise UserError(
            "Amazon's reviews are not shipped: get a data set of MMRec (https://github.com/enoche/MMRec), and give the folder with its one "
            f"file *.inter as --data FOLDER{f'; this one has {len(files)}' if data else ''}"
        )
    parts = _interactions(files[0])
    full = described(parts[TRAINING], _features(folder, {r["item"] for r in parts[TRAINING]}))
    forget, retain = divided(full, split, seed)
    known = {c: {r[c] for r in full} for c in ("user", "item")}
    unseen = [r for r in parts[TESTING] if all(r[c] in of for c, of in known.items())]
    holdout, test = like(forget, retain, unseen, split)
    sets: dict[str, Sequence[Record]] = {"forget": forget, "retain": retain, "holdout": holdout, "test": test}
    checked("amazon", sets, limits)
    return Suite(
        name=f"amazon {files[0].stem} {split}",
        sets={n: r[: limits.get(n)] for n, r in sets.items() if r},
        train={"full": full, "forget": forget, "retain": retain},
        specs={"test": SetSpec("general")},
    )


def _interactions(file: Path) -> dict[str, list[Record]]:
    """Rows by x_label. Raises: UserError, which names the line."""
    try:
        lines = list(csv.reader(file.read_text(encoding="utf-8-sig").splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    header = [name.partition(":")[0] for name in lines[0]] if lines else []
    if lacks := [c for c in COLUMNS if c not in header]:
        raise UserError(f"{file}, line 1: the header lacks {', '.join(lacks)}; it has {', '.join(header)[:100] or 'nothing'}")
    places = [header.index(c) for c in COLUMNS]
    parts: dict[str, list[Record]] = {TRAINING: [], "1": [], TESTING: []}
    for number, cells in enumerate(lines[1:], 2):
        if len(cells) != len(header):
            raise UserError(f"{file}, line {number}: {len(cells)} cells where the header has {len(header)}")
        user, item, label = (cells[k] for k in places)
        if label not in parts or not item.isdecimal():
            raise UserError(f"{file}, line {number}: itemID is a whole number and x_label is 0, 1 or 2; here stand {item!r} and {label!r}")
        parts[label].append({"user": user, "item": item})
    if not parts[TRAINING]:
        raise UserError(f"{file}: no row has x_label 0, so there are no training interactions")
    return parts


def _features(folder: Path, items: set[str]) -> dict[str, dict[str, Any]]:
    """The vectors of items, by item and by name. Raises: UserError for a damaged file, and for items beyond its end."""
    features: dict[str, dict[str, Any]] = {item: {} for item in items}
    for file, name in FEATURES.items():
        if not (folder / file).is_file():
            continue
        try:
            vectors = np.load(folder / file, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{folder / file} is damaged, or holds something else than an array: {str(error)[:120]}") from None
        if vectors.ndim != 2 or len(vectors) <= max(map(int, items)):
            raise UserError(
                f"{folder / file} has the shape {vectors.shape}, and each item needs a line; the greatest itemID is {max(map(int, items))}"
            )
        for item in items:
            features[item][name] = np.asarray(vectors[int(item)], np.float32)
    return features
