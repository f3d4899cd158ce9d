"""Scenes: small drawn pictures with captions, of objects in styles and colors, some with a stamp; forget an object, a style or the stamp.

A diffusion model learns to draw what a caption says. Whether it has forgotten a concept is judged by what it draws for captions that name
it, and by what it draws for all others; the pictures are named by classifiers that were trained on other pictures of the same generator.

Source: our own; scores and the cross of objects and styles as in UnlearnCanvas (Zhang et al. 2024, arXiv 2402.11846)
Licence: Apache-2.0, as the rest of the package.
Splits: stamp (the stamp in a corner, whatever it is on), circle, square, triangle, cross (an object), flat, night, outline (a style)
Scores: UA, IRA, CRA and the Fréchet distance, see the metric `erasure`; losses
Status: faithful; pictures have 16 x 16 pixels. Rows to forget are all whose caption names the concept; the holdout set has unseen pictures
  of the concept, and the set `prompts` all captions without it, and no pictures
"""

from __future__ import annotations

import numpy as np

from expunge.benchmarks.common.judges import Judge
from expunge.benchmarks.common.ratings import checked
from expunge.benchmarks.suite import Record, SetSpec, Suite
from expunge.benchmarks.synthetic import scenes
from expunge.core.errors import UserError

MODEL = "unet-base"  # the built-in size that it is made for

EACH, STAMPED = 12, 4  # pictures of each scene without and with a stamp
UNSEEN = 2  # pictures of each scene that no model is trained on
SPLITS = ("stamp", *scenes.OBJECTS, *scenes.STYLES)
NAME = "scenes"


def load(data: str = "", split: str = "stamp", seed: int = 0, **limits: int) -> Suite:
    """Load the suite of a split.

    Args:
        data: must stay empty, because the pictures are drawn.
        split: the concept to forget.
        seed: decides places and sizes of the objects.
        limits: the most rows of each set to audit, for example `retain=100`.

    Raises:
        UserError: for an unknown split or set, or for `data`.
    """
    if data:
        raise UserError("the pictures of scenes are drawn: leave out --data")
    if split not in SPLITS:
        raise UserError(f"scenes have no split '{split}'; there are {', '.join(SPLITS)}")
    rng = np.random.default_rng(seed)
    counted = ((scenes.every(), EACH), (scenes.every(scenes.MARKS[1:]), STAMPED))
    full, unseen = (
        [scenes.record(scene, rng) for some, count in counted for scene in some for _ in range(UNSEEN if is_unseen else count)]
        for is_unseen in (False, True)
    )
    concept = scenes.MARKS[1] if split == "stamp" else split
    forget, retain = ([r for r in full if (concept in (r["object"], r["style"], r["mark"])) == gone] for gone in (True, False))
    prompts: list[Record] = [{"caption": c} for c in dict.fromkeys(r["caption"] for r in retain)]
    holdout = [r for r in unseen if concept in (r["object"], r["style"], r["mark"])]
    sets = {"forget": forget, "retain": retain, "holdout": holdout, "prompts": prompts}
    return Suite(
        name=f"{NAME} {split}",
        sets={n: r[: checked(NAME, sets, limits).get(n)] for n, r in sets.items()},
        train={"full": full, "forget": forget, "retain": retain},
        specs={
            "forget": SetSpec("forget", ("score", "draw"), variants={"*": NAME}),
            "retain": SetSpec("retain"),
            "prompts": SetSpec("general", ("draw",)),
        },
    )


def judge() -> Judge:
    """The classifiers of object, style, color and stamp."""
    from expunge.benchmarks.common.scene_judges import judge

    return judge()
