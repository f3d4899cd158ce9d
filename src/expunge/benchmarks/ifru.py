"""IFRU's protocol: some dislikes got into the training data as likes; forget these, and the model must get better.

A removal that works must raise the AUC of liked against disliked test items, above all for users and items that the polluted rows touched:
so success shows without a retrained model, and doing nothing cannot look like it.

Source: Zhang et al. 2023, Recommendation unlearning via influence function (arXiv 2307.02147)
Licence: Apache-2.0 for the generated tastes; with --data that of the ratings, which are not shipped
Splits: flip01, flip02 (the published ones), flip10 (for the generated tastes): polluted rows, as a percentage of the training rows
Scores: label_auc, label_auc_or, label_auc_and; recall, NDCG, precision and MAP of unseen likes
Status: faithful; our recommenders learn from interactions alone, so a flipped like, which becomes a dislike, leaves the training data, and
  a flipped dislike is a row to forget: these are as many as the percentage says. A rating of at least 4 is a like. Rows are divided 3 : 1
  : 1 with the seed, as published; of the validation part only dislikes are used, as the holdout set

Without --data tastes are generated: users like items of their own block, and dislike some of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from expunge.benchmarks.common.ratings import checked, often, ratings_of
from expunge.benchmarks.suite import Record, SetSpec, Suite
from expunge.benchmarks.synthetic.tastes import Tastes, interactions
from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean

MODEL = "bpr_mf-nano"  # the built-in size that it is made for

SHAPE = {"blocks": 4, "users": 30, "items": 20, "each": 16}
DISLIKED = 10  # items of other blocks that a user of the generated tastes dislikes
LIKED = 4.0  # the lowest rating of a like
FEWEST = 5  # ratings of a user and of an item
SPLITS = ("flip01", "flip02", "flip10")
CUT = {"*": "@10"}  # of rankings of 80 items


def load(data: str = "", split: str = "", seed: int = 0, **limits: int) -> Suite:
    """Load the suite of a split.

    Args:
        data: a folder of ratings; '': tastes are generated.
        split: one of the card; '': flip02 of ratings, flip10 of generated tastes.
        seed: decides the parts, and which dislikes become likes.
        limits: the most rows of each set to audit, for example `test=1000`.

    Raises:
        UserError: for a folder without ratings, for damaged files, and for an unknown split or set.
    """
    split = split or ("flip02" if data else "flip10")
    if split not in SPLITS:
        raise UserError(f"ifru has no split '{split}'{did_you_mean(split, SPLITS)}; there are {', '.join(SPLITS)}")
    rng = np.random.default_rng([seed, 0])
    if data:
        rows = often(ratings_of(data, "IFRU's protocol needs ratings"), FEWEST)
        if unrated := sum("rating" not in r for r in rows):
            raise UserError(f"{data}: {unrated} of {len(rows)} rows have no rating, and likes are ratings of at least {LIKED:g}")
    else:
        rows = _rated(interactions(seed, **SHAPE), rng)
    order = [rows[i] for i in rng.permutation(len(rows))]
    train, valid, test = (order[int(a * len(order)) : int(b * len(order))] for a, b in ((0, 0.6), (0.6, 0.8), (0.8, 1)))
    known = {c: {r[c] for r in train if _liked(r)} for c in ("user", "item")}
    likes, dislikes = ([r for r in train if _liked(r) == liked] for liked in (True, False))
    count = round(len(likes) * int(split[-2:]) / 100)
    flipped = [r for r in dislikes if r["user"] in known["user"] and r["item"] in known["item"]][:count]
    if not flipped:
        raise UserError(f"ifru {split}: no dislike is there to be flipped, with {len(likes)} likes among {len(train)} training rows")
    unseen = {n: [r for r in part if r["user"] in known["user"] and r["item"] in known["item"]] for n, part in (("v", valid), ("t", test))}
    sets: dict[str, Sequence[Record]] = {
        "forget": _plain(flipped),
        "retain": _plain(likes),
        "holdout": _plain([r for r in unseen["v"] if not _liked(r)]),
        "test": _plain([r for r in unseen["t"] if _liked(r)]),
        "disliked": _plain([r for r in unseen["t"] if not _liked(r)]),
    }
    checked("ifru", sets, limits)
    return Suite(
        name=f"ifru {split}",
        sets={n: r[: limits.get(n)] for n, r in sets.items() if r},
        train={"full": [*sets["retain"], *sets["forget"]], "forget": sets["forget"], "retain": sets["retain"]},
        specs={"forget": SetSpec("forget", variants={} if data else CUT), "test": SetSpec("general"), "disliked": SetSpec("general")},
    )


def _liked(row: Mapping[str, Any]) -> bool:
    return bool(row["rating"] >= LIKED)


def _plain(rows: Sequence[Record]) -> list[Record]:
    """Rows without ratings, which would say which ones are polluted."""
    return [{c: v for c, v in r.items() if c != "rating"} for r in rows]


def _rated(world: Tastes, rng: np.random.Generator) -> list[dict[str, Any]]:
    """The generated interactions as likes, and some items of other blocks, which the user never touched, as dislikes."""
    rows = [{**r, "rating": 5.0} for r in world.records]
    group = {item: k // SHAPE["items"] for k, item in enumerate(world.features)}
    had = {(r["user"], r["item"]) for r in rows}
    for user, block in world.block.items():
        strange = [item for item, g in group.items() if g != block and (user, item) not in had]
        chosen = rng.choice(len(strange), DISLIKED, replace=False)
        rows += [{"user": user, "item": strange[k], "time": float(SHAPE["each"] + i), "rating": 1.0} for i, k in enumerate(chosen)]
    return rows
