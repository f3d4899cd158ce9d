"""CURE4Rec: forget core, edge or random users of a recommender, and look at completeness, utility, efficiency and fairness at once.

Source: Chen et al. 2024, CURE4Rec: a benchmark for recommendation unlearning with deeper influence (arXiv 2408.14393)
Licence: that of the data, which are not shipped: MovieLens 100K, 1M or the small one, Amazon Digital Music as ratings.csv, or any other
  ratings
Splits: core05, core10, core15, core20 (of the users with the most training interactions), edge05 to edge20 (with the fewest), random05 to
  random20 (drawn with the seed); the numbers are percentages of the users
Scores: recall (which the authors' code calls HR), NDCG, precision and MAP at 20; a_igf (fairness); mio (completeness); seconds
Status: faithful; users and items with fewer than 5 ratings are left out, every rating counts as an interaction, a fifth of each user's is
  unseen, drawn with the seed, and the number of users to forget is rounded down. The unseen rows of users to forget are the holdout set,
  and leave the set `test`, which utility is measured on

The folder has ratings.csv, u.data, ratings.dat, or a file *.inter. Exact methods are by design complete; their partition belongs to them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from expunge.benchmarks.common.interactions import divided, held_out, like
from expunge.benchmarks.common.ratings import checked, often, ratings_of
from expunge.benchmarks.suite import Record, SetSpec, Suite
from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean

MODEL = "bpr_mf-micro"  # the built-in size that it is made for

FEWEST = 5  # ratings of a user and of an item
SHARE = 0.2  # of a user's ratings that are unseen
SPLITS = tuple(f"{kind}{share:02d}" for kind in ("core", "edge", "random") for share in (5, 10, 15, 20))


def load(data: str = "", split: str = "random05", seed: int = 42, **limits: int) -> Suite:
    """Load the suite of a split.

    Args:
        data: a folder of ratings.
        split: one of the card.
        seed: decides which interactions are unseen, and which users of a random split are to be forgotten.
        limits: the most rows of each set to audit, for example `test=1000`.

    Raises:
        UserError: for a folder without ratings, for damaged files, and for an unknown split or set.
    """
    if split not in SPLITS:
        raise UserError(f"cure4rec has no split '{split}'{did_you_mean(split, SPLITS)}; there are {', '.join(SPLITS)}")
    rows = often(ratings_of(data, "CURE4Rec's data are not shipped: get MovieLens from https://grouplens.org/datasets/movielens"), FEWEST)
    order = np.random.default_rng([seed, 0]).permutation(len(rows))
    full, unseen = held_out([rows[i] for i in order], SHARE, by_time=False)
    forget, retain = divided(full, split, seed, down=True)
    holdout, test = like(forget, retain, unseen, split)
    sets: dict[str, Sequence[Record]] = {"forget": forget, "retain": retain, "holdout": holdout, "test": test}
    checked("cure4rec", sets, limits)
    return Suite(
        name=f"cure4rec {split}",
        sets={n: r[: limits.get(n)] for n, r in sets.items() if r},
        train={"full": full, "forget": forget, "retain": retain},
        specs={"test": SetSpec("general")},
    )
