"""The tables of `docs/vision-language.md` on drawn faces, generated from `results/faces/`. This module measures nothing."""

from __future__ import annotations

from pathlib import Path

from studies.seed_pages import counted, records_of, renewed, score_table

RESULTS = "results/faces"
PAGE = "vision-language.md"
DOORS = {  # score -> head
    "door_picture": "picture",
    "door_name": "name",
    "door_both": "both",
    "door_other_picture": "another picture",
    "door_caption": "caption",
    "door_other_words": "other words",
    "retain_keywords": "kept people",
}
RELEARNED = {
    "relearned by picture, door_picture": "by picture: picture",
    "relearned by picture, door_name": "by picture: name",
    "relearned by name, door_picture": "by name: picture",
    "relearned by name, door_name": "by name: name",
}


def pages(root: Path) -> dict[str, str]:
    """The page with its tables renewed; nothing where it has no place for them. root: the checkout."""
    return renewed(root, PAGE, RESULTS, section)


def section(folder: Path) -> list[str]:
    """The tables and what was measured. folder: with a file for each seed."""
    records = records_of(folder)
    if not records:
        return ["Not measured yet: `python -m studies.faces`."]
    about, seeds = records[0], counted(records)
    return [
        f"Drawn faces, `{about['split']}`, {about['model']}, {seeds}: shares of keywords that a model says; means, and the smallest and "
        "largest value.",
        "",
        *score_table(records, DOORS),
        "",
        "After relearning a few of the facts through one door, the shares at two:",
        "",
        *score_table(records, RELEARNED),
        "",
        f"`{about['command']}` measures this again and writes [results/faces](../{RESULTS}/seed0.json). The settings are the same for all "
        "methods and were not tuned.",
    ]
