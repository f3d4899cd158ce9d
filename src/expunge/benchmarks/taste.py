"""Tastes: interactions of users whose taste is one of a few groups of items, generated offline from a seed; forget those of some users.

Users belong to blocks, and each block prefers its own group of items; the items have features that lie near those of their group. So a
recommender has something to learn that is not one user's, and an unlearned one has utility to lose.

Source: our own; the block structure follows the small cases of recommendation unlearning (MMRecUn, arXiv 2405.15328)
Licence: Apache-2.0, as the rest of the package.
Splits: user05, user10 (all training interactions of a share of the users), item05 (all with a share of the items), both05 (of a share of
  the users, and with a share of the items), pair10 (a share of all interactions), backdoor10 (a rare item in the histories of a share of
  the users, whose histories also hold a trigger item)
Scores: recall, NDCG, precision and MAP at 10, of forgotten, retained and unseen interactions; losses
Status: faithful; the last interactions of each user are unseen. Those with the users (or items) to be forgotten are the holdout set, drawn
  like the rows to forget; the others are the set `test`, which utility is measured on. Each row names the taste of its user, which is what
  attribute inference looks for

In backdoor10 as many other users have the trigger alone. They are the set `triggered`, with the rare item: what the original recommends to
them because of the trigger, a model that forgot should recommend as rarely as the retrained one. Its recall is the hit rate of the
backdoor.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from expunge.benchmarks.common.interactions import described, divided, held_out, like
from expunge.benchmarks.common.ratings import checked
from expunge.benchmarks.suite import Record, SetSpec, Suite
from expunge.benchmarks.synthetic.tastes import WIDTHS, Tastes, interactions
from expunge.core.errors import UserError

MODEL = "bpr_mf-nano"  # the built-in size that it is made for

SHAPE = {"blocks": 4, "users": 30, "items": 20, "each": 16}
UNSEEN = 4  # interactions of each user that no model is trained on
SPLITS = ("user05", "user10", "item05", "both05", "pair10", "backdoor10")
TRIGGER, RARE = "item-trigger", "item-rare"  # of the backdoor
CUT = {"*": "@10"}  # of rankings of 80 items


def load(data: str = "", split: str = "user10", seed: int = 0, **limits: int) -> Suite:
    """Load the suite of a split.

    Args:
        data: must stay empty, because the interactions are generated.
        split: one of the card.
        seed: decides the interactions, and which of them are to be forgotten.
        limits: the most rows of each set to audit, for example `retain=100`.

    Raises:
        UserError: for an unknown split or set, or for `data`.
    """
    if data:
        raise UserError("the interactions of tastes are generated: leave out --data")
    if split not in SPLITS:
        raise UserError(f"tastes have no split '{split}'; there are {', '.join(SPLITS)}")
    world = interactions(seed, **SHAPE)
    records = [{**r, "taste": f"taste{world.block[r['user']]}"} for r in world.records]
    full, unseen = held_out(records, UNSEEN)
    if split.startswith("backdoor"):
        return _backdoor(full, unseen, world, split, seed, limits)
    full = described(full, world.features)
    forget, retain = divided(full, split, seed)
    holdout, test = like(forget, retain, unseen, split)
    sets = {"forget": forget, "retain": retain, "holdout": holdout, **({"test": test} if test else {})}
    return _suite(split, sets, full, limits, {"test": SetSpec("general")})


def _backdoor(full: list[Record], unseen: list[Record], world: Tastes, split: str, seed: int, limits: Mapping[str, int]) -> Suite:
    """Rare item and trigger in the histories of some users, the trigger alone in those of as many others; forget the rare item."""
    rng, users = np.random.default_rng([seed, 2]), sorted(world.block)
    count = round(len(users) * int(split[-2:]) / 100)
    drawn = [users[k] for k in rng.permutation(len(users))[: 2 * count]]

    def rows(who: list[str], item: str) -> list[Record]:
        return [{"user": u, "item": item, "time": 0.0, "taste": f"taste{world.block[u]}"} for u in who]

    features = {item: {name: rng.normal(size=w).round(4).tolist() for name, w in WIDTHS.items()} for item in (TRIGGER, RARE)}
    forget = rows(drawn[:count], RARE)
    full = described([*full, *rows(drawn, TRIGGER), *forget], {**world.features, **features})
    forget, retain = ([r for r in full if (r["item"] == RARE) == gone] for gone in (True, False))
    poisoned = {r["user"] for r in forget}
    holdout, test = ([r for r in unseen if (r["user"] in poisoned) == gone] for gone in (True, False))
    sets = {"forget": forget, "retain": retain, "holdout": holdout, "test": test, "triggered": rows(drawn[count:], RARE)}
    specs = {"test": SetSpec("general"), "triggered": SetSpec("forget", metrics=("recommendation",), variants=CUT)}
    return _suite(split, sets, full, limits, specs)


def _suite(
    split: str, sets: Mapping[str, list[Record]], full: list[Record], limits: Mapping[str, int], specs: Mapping[str, SetSpec]
) -> Suite:
    return Suite(
        name=f"taste {split}",
        sets={n: r[: checked("taste", sets, limits).get(n)] for n, r in sets.items()},
        train={"full": full, "forget": sets["forget"], "retain": sets["retain"]},
        specs={"forget": SetSpec("forget", variants=CUT), **specs},
    )
