"""E2URec: a language model recommends films by answering yes or no to a user's history; forget a fifth of the users.

Source: Wang et al. 2024, E2URec (arXiv 2403.03536), on MovieLens (Harper and Konstan 2015)
Licence: that of GroupLens, for research; the data are not shipped: unpack ml-1m or ml-latest-small and give its folder with --data
Splits: user20 (published), user10, user05: the share of the users whose rows are to be forgotten
Scores: distances of answers from the retrained model's (answer_jsd, answer_jeffreys_half, answer_l2), AUC, accuracy and log loss of yes
  against no
Status: faithful; the data are cut as published, sentences of the prompt are our own. Folders without users.dat have no sentences on gender,
  age and job. Audits look at 200 rows of a set, evenly spread, unless limits say otherwise

A row asks whether a user likes a film, after up to ten films that the user rated before, with stars; liked is more than three stars. Models
that write their answers behind the prompt and models with an encoder (T5) read the same rows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from expunge.benchmarks.common.rated_films import Films, Rater, Rating, read
from expunge.benchmarks.suite import Record, SetSpec, Suite
from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean

T = TypeVar("T")
MODEL = "micro"  # the built-in size that it is made for
SPLITS = ("user20", "user10", "user05")
FEWEST = 5  # films that a user rated before a row's film
LATEST = 10  # of these in the prompt
MOST = 100_000  # rows, of the last fifth in time
LIKED = 3  # stars that liked films exceed
SHUFFLED = 42  # the published seed of the users to forget, at seed 0
AUDITED = 200  # rows of a set that an audit looks at
ANSWERS = ("Yes.", "No.")


def load(data: str = "", split: str = "user20", seed: int = 0, **limits: int) -> Suite:
    """Load the suite of a split.

    Args:
        data: the folder of ml-1m or ml-latest-small.
        split: one of the card.
        seed: of the users to forget; 0 is the published draw.
        limits: rows of each set to audit, for example `retain=500`.

    Raises:
        UserError: for a folder without the files, damaged files, too few rows, and an unknown split or set.
    """
    if split not in SPLITS:
        raise UserError(f"e2urec has no split '{split}'{did_you_mean(split, SPLITS)}; there are {', '.join(SPLITS)}")
    folder = Path(data).expanduser()
    if not data or not folder.is_dir():
        raise UserError(
            "MovieLens is not shipped: get ml-1m or ml-latest-small from https://grouplens.org/datasets/movielens, unpack it, and give its "
            "folder as --data FOLDER"
        )
    films = read(folder)
    train, valid, test = ([row(case, films) for case in cases] for cases in divided(cases_of(films.ratings)))
    gone = forgotten([r["user"] for r in train], int(split[-2:]) / 100, seed)
    forget, retain = ([r for r in train if (r["user"] in gone) == out] for out in (True, False))
    if not forget or not retain:
        raise UserError(f"{folder} has rows of {len({r['user'] for r in train})} users to train on, too few to forget some and keep others")
    sets = {"forget": forget, "retain": retain, "holdout": [r for r in valid if r["user"] in gone], "test": test}
    sets = {name: rows for name, rows in sets.items() if rows}
    if unknown := sorted(set(limits) - set(sets)):
        raise UserError(f"e2urec has no set '{unknown[0]}'; the sets are {', '.join(sets)}")
    family = ("preference",)
    return Suite(
        name=f"e2urec {split}",
        sets={name: thinned(rows, limits.get(name, AUDITED)) for name, rows in sets.items()},
        train={"full": train, "forget": forget, "retain": retain},
        specs={
            "forget": SetSpec("forget", ("score", "choose", "predict")),
            "retain": SetSpec("retain", ("score", "choose", "predict"), family),
            "holdout": SetSpec("unseen", ("score",)),
            "test": SetSpec("general", ("score", "choose", "predict"), family),
        },
        prompt_format="{prompt}\n",
    )


def cases_of(ratings: Sequence[Rating]) -> list[tuple[Rating, list[Rating]]]:
    """The ratings of users who rated enough films before, with the last of these, the oldest first. ratings: in order of time."""
    history: dict[int, list[Rating]] = {}
    cases = []
    for rating in ratings:
        before = history.setdefault(rating.user, [])
        if len(before) >= FEWEST:
            cases.append((rating, before[-LATEST:]))
        before.append(rating)
    return cases


def row(case: tuple[Rating, list[Rating]], films: Films) -> Record:
    """The row that asks for a rating, whose answer is yes where the film was liked."""
    rating, before = case
    question = prompt(before, rating.film, films, films.people.get(rating.user))
    return {"question": question, "answer": ANSWERS[rating.stars <= LIKED], "choices": list(ANSWERS), "user": str(rating.user)}


def prompt(before: Sequence[Rating], film: int, films: Films, person: Rater | None) -> str:
    """The question whether a user likes a film.

    Args:
        before: the films that the user rated last, the oldest first.
        person: what is known of the user.
    """
    rated = [f"{k}. {films.titles[r.film]} ({stars(r.stars)})" for k, r in enumerate(before)]
    about, whose = list[str](), "The user's"
    if person:
        whose = {"male": "His", "female": "Her"}[person.gender]
        about = [f"The user is {person.gender}. {whose} job is {person.job}, and {whose.lower()} age is {person.age}."]
    return "\n".join(
        [
            *about,
            f"{whose} ratings of films so far, the oldest first: {rated}",
            f"Will the user like the film ***{films.titles[film]}***?",
            "More stars mean that a film was liked more.",
            "Answer with yes or no only.",
        ]
    )


def stars(count: float) -> str:
    """`1 star`, `4 stars`, `3.5 stars`."""
    return f"{count:g} star{'' if count == 1 else 's'}"


def divided(cases: Sequence[T]) -> tuple[list[T], list[T], list[T]]:
    """Training, validation and test cases: the last fifth in time, at most `MOST` of it, cut 60 : 20 : 20."""
    late = list(cases[int(0.8 * len(cases)) :])[-MOST:]
    first, second = int(0.6 * len(late)), int(0.8 * len(late))
    return late[:first], late[first:second], late[second:]


def forgotten(users: Sequence[str], share: float, seed: int) -> set[str]:
    """The users to forget: the first ones of a shuffle. users: of the training rows, in their order."""
    different = list(dict.fromkeys(users))
    random.Random(SHUFFLED + seed).shuffle(different)
    return set(different[: int(share * len(different))])


def thinned(rows: list[Record], most: int) -> list[Record]:
    """At most so many of the rows, evenly spread."""
    return rows[:: max(1, len(rows) // most)][:most]
