"""MUCAC: a model that recognizes attributes in faces of celebrities (gender, smiling, young) is to forget persons with all their pictures.
Without a folder of data, a mini version of drawn faces is generated from a seed.

No attribute depends on any particular person, so accuracy on forgotten pictures says little. The question is whether an attack can tell
them from pictures of people whom the model never saw. The holdout set contains such people; the test set for accuracy contains others, also
unseen.

Source: Choi and Na 2023, arXiv 2311.02240; code at ndb796/MachineUnlearning; pictures, identities and attributes of CelebA-HQ
Licence: code Apache-2.0; the photographs have the terms of CelebA (research, not commercial); drawn faces as the rest of the package
Splits: gender, smiling, young (two classes each; 1 is male, smiling, young), joint (all three as one of eight classes); each with test,
  forget, retain and holdout (called unseen), cut at identities 190, 1250 and 4855, about 2,053, 10,135, 15,711 and 2,001 pictures
Scores: accuracy on test; accuracy of a membership attack on forget against holdout, its distance from 0.5, and NoMUS, which combines both
Differs: joint has one output of eight classes, while the paper's multi-label model has three outputs with a binary loss each; rows are in
  the order of the list of identities, while the authors' code takes files in the order of the disk
Status: faithful; tests check layout and splits on substitute data; the published numbers need the photographs and were not rerun

The published recipe is the recipe of MUFAC. Pictures in the list that are not on the disk are left out, as in the authors' code; for that
reason the counts of the code differ from the counts in the paper.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import NamedTuple

from expunge.benchmarks.common.identities import chosen, folder_of, named, picture, suite
from expunge.benchmarks.suite import Suite
from expunge.benchmarks.synthetic.faces import faces
from expunge.io.data import BadRow, NoSuchData, Row

MODEL = "resnet-nano"  # the built-in size that it is made for

ATTRIBUTES = {"gender": 21, "smiling": 32, "young": 40}  # columns of the attribute list; column 0 is the name of the file
SPLITS = (*ATTRIBUTES, "joint")
CLASSES = {"gender": ("female", "male"), "smiling": ("not smiling", "smiling"), "young": ("old", "young")}
IDENTITIES = ("CelebA-HQ-identity.txt",)
LISTS = ("CelebA-HQ-attribute.txt", "CelebAMask-HQ-attribute-anno.txt")  # from the authors, from CelebAMask-HQ
IMAGES = ("CelebA-HQ-img",)
# The first identity of the training data, the first retained one and the first unseen one; all before them are for the test set.
FULL = {"trained": 190, "retained": 1250, "unseen": 4855, "size": 0}
MINI = {"trained": 40, "retained": 80, "unseen": 180, "people": 220, "images": 12, "size": 32}
YOUNG = 40  # years; drawn people are young below this age


class MucacFigures(NamedTuple):
    """Scores of one model, as the read-me of the authors' code lists them."""

    accuracy: float  # on test; for multi-label the mean over the three attributes
    forgetting: float  # distance of the attack's accuracy from 0.5; lower is better
    nomus: float


PUBLISHED = {
    "multi-label": {
        "original": MucacFigures(0.8852, 0.0568, 0.8858),
        "retrained": MucacFigures(0.8135, 0.0436, 0.8631),
        "finetune": MucacFigures(0.9147, 0.0708, 0.8865),
        "cf3": MucacFigures(0.9197, 0.0685, 0.8913),
        "neggrad": MucacFigures(0.4193, 0.0356, 0.6740),
        "unsir stage 1": MucacFigures(0.7087, 0.0324, 0.8219),
        "unsir stage 2": MucacFigures(0.9220, 0.0705, 0.8905),
        "scrub": MucacFigures(0.9073, 0.0478, 0.9058),
        "advanced neggrad": MucacFigures(0.7607, 0.0152, 0.8651),
    },
    "gender": {
        "original": MucacFigures(0.9835, 0.0306, 0.9611),
        "retrained": MucacFigures(0.9515, 0.0154, 0.9603),
        "finetune": MucacFigures(0.9849, 0.0281, 0.9643),
        "scrub": MucacFigures(0.1762, 0.1329, 0.4552),
        "advanced neggrad": MucacFigures(0.9147, 0.0129, 0.9444),
    },
    "smiling": {
        "original": MucacFigures(0.9467, 0.0346, 0.9387),
        "retrained": MucacFigures(0.6518, 0.0182, 0.8077),
        "finetune": MucacFigures(0.9476, 0.0279, 0.9459),
        "scrub": MucacFigures(0.5549, 0.4680, 0.3094),
        "advanced neggrad": MucacFigures(0.9423, 0.0354, 0.9357),
    },
    "young": {
        "original": MucacFigures(0.9089, 0.0456, 0.9088),
        "retrained": MucacFigures(0.8271, 0.0234, 0.8901),
        "finetune": MucacFigures(0.9147, 0.0426, 0.9147),
        "scrub": MucacFigures(0.8929, 0.0428, 0.9036),
        "advanced neggrad": MucacFigures(0.5573, 0.0139, 0.7647),
    },
}


def load(data: str = "", split: str = "gender", seed: int = 0, **sizes: int) -> Suite:
    """Load the suite of an attribute, or of all three jointly; rows have all three attributes (0 or 1) in every split.

    Args:
        data: the folder with the lists and the pictures of CelebA-HQ; empty means drawn faces.
        split: one of SPLITS.
        seed: decides which people are drawn.
        sizes: `trained`, `retained`, `unseen`: the first identity of each kind; `size`, the side of the pictures in pixels (0: files as
            they are). For drawn faces also `people` in total, and `images` of each.

    Raises:
        UserError: for an unknown split or size, for files that are missing or in another layout, and for cuts that leave a set empty.
    """
    size = chosen("mucac", split, SPLITS, sizes, FULL if data else MINI)
    rows = _read(folder_of(data), size["size"]) if data else _drawn(seed, size)
    attributes = tuple(ATTRIBUTES) if split == "joint" else (split,)
    rows = [row | {"label": int("".join(str(row[name]) for name in attributes), 2)} for row in rows]

    def between(first: int, end: float) -> list[Row]:
        return [row for row in rows if first <= row["identity"] < end]

    a, b, c = size["trained"], size["retained"], size["unseen"]
    labels = [", ".join(classes) for classes in product(*(CLASSES[name] for name in attributes))]
    return suite(named("mucac", split, **sizes), labels, between(a, b), between(b, c), between(0, a), between(c, float("inf")))


def _drawn(seed: int, size: dict[str, int]) -> list[Row]:
    rows = faces(size["people"], size["images"], seed, size=size["size"], ages=(18, 70), years=8)
    return [row | {"gender": int(row["man"]), "smiling": int(row["smiling"]), "young": int(row["age"] < YOUNG)} for row in rows]


def _read(folder: Path, size: int) -> list[Row]:
    images = _locate(folder, IMAGES)
    unlisted = {path.name for path in images.iterdir()}
    attributes = _attributes(_locate(folder, LISTS))
    rows = []
    for place, (name, *identity) in _cells(_locate(folder, IDENTITIES)):
        if len(identity) != 1 or not identity[0].isdecimal():
            raise BadRow(f"{place}: a line must be the name of a file and the number of a person")
        if name not in unlisted:
            continue
        if name not in attributes:
            raise BadRow(f"{place}: '{name}' is not in the list of attributes")
        unlisted.remove(name)
        rows.append({"image": picture(images / name, size), "identity": int(identity[0]), **attributes[name]})
    if unlisted:
        raise BadRow(f"{len(unlisted)} pictures of {images}, such as {min(unlisted)}, are not in the list of identities")
    return rows


def _attributes(path: Path) -> dict[str, dict[str, int]]:
    """The three attributes, 0 or 1, by the name of the file."""
    by_name = {}
    for place, (name, *values) in _cells(path, skip=2):
        if len(values) < max(ATTRIBUTES.values()) or set(values) - {"1", "-1"}:
            raise BadRow(f"{place}: a line must be the name of a file and {max(ATTRIBUTES.values())} values of 1 or -1")
        by_name[name] = {attribute: int(values[column - 1] == "1") for attribute, column in ATTRIBUTES.items()}
    return by_name


def _cells(path: Path, skip: int = 0) -> list[tuple[str, list[str]]]:
    """File and number, and the words, of each line that is not blank."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(f"{path}, line {i}", line.split()) for i, line in enumerate(lines, 1) if i > skip and line.strip()]


def _locate(folder: Path, names: tuple[str, ...]) -> Path:
    for place in (folder, folder / "CelebAMask-HQ"):
        for name in names:
            if (place / name).exists():
                return place / name
    raise NoSuchData(f"{folder} contains no {' or '.join(names)}, and neither does a folder CelebAMask-HQ in it")
