"""MovieLens: ratings of films by users of a web site; forget those of some users, of some films, or single ones.

Source: Harper and Konstan 2015, The MovieLens datasets: history and context; protocol as in CURE4Rec (arXiv 2408.14393)
Licence: that of GroupLens, for research; the data are not shipped: unpack ml-latest-small and give its folder with --data
Splits: user05, user10 (all training ratings of a share of the users, drawn with the seed), core05 and edge05 (of the users with the most
  and with the fewest), item05 (all of a share of the films), pair05 (a share of all ratings)
Scores: recall, NDCG, precision and MAP at 20, of forgotten, retained and unseen interactions; losses
Status: faithful; every rating counts as an interaction, users and films with fewer than 5 are left out, a fifth of each user's is unseen,
  drawn with the seed. Unseen ratings of users (or films) to be forgotten are the holdout set; those of 200 others are the set `test`

The folder has ratings.csv (userId, movieId, rating, timestamp) and, for models that read features, movies.csv (movieId, title, genres);
either may have its header or lack it. The genres are the features of a film; the first row of a film in the training data holds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from expunge.benchmarks.common.interactions import described, divided, held_out, like
from expunge.benchmarks.common.ratings import checked, interactions, often, table
from expunge.benchmarks.suite import Record, SetSpec, Suite
from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean

MODEL = "bpr_mf-micro"  # the built-in size that it is made for

FEWEST = 5  # interactions of a user and of a film
SHARE = 0.2  # of a user's interactions that are unseen
TESTED = 200  # users of the set `test`
SPLITS = ("user05", "user10", "core05", "edge05", "item05", "pair05")
FILMS = ("movieId", "title", "genres")  # columns of movies.csv


def load(data: str = "", split: str = "user05", seed: int = 0, **limits: int) -> Suite:
    """Load the suite of a split.

    Args:
        data: the folder of ml-latest-small.
        split: one of the card.
        seed: decides which interactions are unseen, and which are to be forgotten.
        limits: the most rows of each set to audit, for example `retain=100`.

    Raises:
        UserError: for a folder without the files, for damaged files, and for an unknown split or set.
    """
    if split not in SPLITS:
        raise UserError(f"movielens has no split '{split}'{did_you_mean(split, SPLITS)}; there are {', '.join(SPLITS)}")
    folder = Path(data).expanduser()
    if not data or not (folder / "ratings.csv").is_file():
        raise UserError(
            "MovieLens is not shipped: get ml-latest-small from https://grouplens.org/datasets/movielens, unpack it, and give the folder "
            "with ratings.csv as --data FOLDER"
        )
    genres = _genres(folder / "movies.csv")
    rows = often(interactions(folder / "ratings.csv"), FEWEST)
    if genres and (without := {r["item"] for r in rows} - genres.keys()):
        raise UserError(f"{folder / 'movies.csv'} lacks {len(without)} films that ratings.csv has, among them {min(without)}")
    order = np.random.default_rng([seed, 0]).permutation(len(rows))
    full, unseen = held_out([rows[i] for i in order], SHARE, by_time=False)
    full = described(full, {film: {"genres": of_film} for film, of_film in genres.items()})
    forget, retain = divided(full, split, seed)
    holdout, test = like(forget, retain, unseen, split)
    sets: dict[str, Sequence[Record]] = {"forget": forget, "retain": retain, "holdout": holdout}
    tested = dict.fromkeys(r["user"] for r in test)
    kept = set(list(tested)[:TESTED])
    sets |= {"test": [r for r in test if r["user"] in kept]} if test else {}
    checked("movielens", sets, limits)
    return Suite(
        name=f"movielens {split}",
        sets={n: r[: limits.get(n)] for n, r in sets.items()},
        train={"full": full, "forget": forget, "retain": retain},
        specs={"test": SetSpec("general")},
    )


def _genres(file: Path) -> dict[str, list[float]]:
    """For each film 1 where it is of a genre and else 0, by the film's id; empty without the file."""
    if not file.is_file():
        return {}
    of_film = {row["movieId"]: set(row["genres"].split("|")) for row in table(file, FILMS)}
    names = sorted(set().union(*of_film.values()))
    return {film: [float(name in own) for name in names] for film, own in of_film.items()}
