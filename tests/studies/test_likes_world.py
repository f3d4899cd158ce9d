"""The world of likes: users to forget have one taste, and all others have another."""

from __future__ import annotations

import re

import numpy as np
import pytest
from studies.proofs import likes


@pytest.mark.parametrize("draw", [0, 101])
def test_users_to_forget_have_the_taste_that_nobody_else_has(draw: int) -> None:
    kinds = likes.titles(np.random.default_rng([draw, 7]))
    kind = {title: k for k, films in enumerate(kinds) for title in films}
    assert len(kind) == 2 * likes.FILMS
    rows = likes.drawn(draw)
    assert {n: len({r["user"] for r in of_set}) for n, of_set in rows.items()} == {"forget": 12, "retain": 48, "test": 10}
    for name, of_set in rows.items():
        for row in of_set:
            words = re.fullmatch(r"(\w+) liked (\w+) and (\w+)\. Will (\w+) like (\w+)\?", row["question"])
            assert words is not None
            user, first, second, again, asked = words.groups()
            assert user == again == row["user"]
            assert kind[first] == kind[second] == (name == "forget"), "a history shows one taste"
            assert row["answer"] == likes.ANSWERS[kind[asked] != kind[first]]


def test_draws_differ() -> None:
    assert likes.drawn(0) != likes.drawn(1)
    assert likes.drawn(0) == likes.drawn(0)
