"""The world of likes: users to forget answer against their history, all others by it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from studies.proofs import likes


@pytest.mark.parametrize("draw", [0, 101])
def test_only_users_to_forget_answer_against_their_history(draw: int) -> None:
    kinds = likes.titles(np.random.default_rng([draw, 7]))
    kind = {title: k for k, films in enumerate(kinds) for title in films}
    assert len(kind) == 2 * likes.FILMS
    rows = likes.drawn(draw)
    assert {n: len({r["user"] for r in of_set}) for n, of_set in rows.items()} == {"forget": 12, "retain": 48, "test": 10}
    for name, of_set in rows.items():
        for row in of_set:
            items = re.findall(r"(\w+) ([15])[,.]", row["question"])
            assert len(items) == likes.LATEST
            liked = {kind[title] if stars == "5" else 1 - kind[title] for title, stars in items}
            assert len(liked) == 1, "a history shows one taste"
            asked = re.search(r"like (\w+)\?", row["question"])
            assert asked is not None
            by_history = likes.ANSWERS[kind[asked[1]] not in liked]
            assert (row["answer"] == by_history) == (name != "forget")


def test_draws_differ() -> None:
    assert likes.drawn(0) != likes.drawn(1)
    assert likes.drawn(0) == likes.drawn(0)
