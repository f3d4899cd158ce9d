"""Noisy counts of a table whose noise sticks to the question, as Diffix (2018) had it, and the tests that read the noise.

A question is a conjunction of conditions. Its noise is a function of its text (static) and of the users that it selects (dynamic), so that
asking again gives the same answer; so do two questions that select the same users, and that is what leaks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from expunge.functional.brief import brief

Mask = NDArray[np.bool_]  # (users,)
OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "=": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}
WORD = 64  # bits of a hash


@brief("column", "operator")
class Condition(NamedTuple):
    """One condition of a question, such as `age < 40`."""

    column: str
    operator: str
    value: Any

    def __str__(self) -> str:
        return f"{self.column} {self.operator} {self.value!r}"


@brief("users", "sticky")
class StickyNoise:
    """A table that answers counting questions with noise.

    Args:
        table: columns by name, one cell for each user.
        salt: the secret of the instance, below 2^64.
        sd: standard deviation of each of the two layers of noise of a condition.
        threshold, threshold_sd: mean and deviation of the number of users below which there is no answer.
        least: fewer users than this never get an answer.
        sticky: equal questions get equal noise; otherwise each question gets noise of its own.
    """

    def __init__(
        self,
        table: Mapping[str, Sequence[Any]],
        salt: int = 0,
        sd: float = 1.0,
        threshold: float = 4.0,
        threshold_sd: float = 0.5,
        least: int = 2,
        sticky: bool = True,
    ) -> None:
        self.table = {name: np.array(list(cells), dtype=object) for name, cells in table.items()}
        self.users = len(next(iter(self.table.values()), ()))
        self.salt, self.sd, self.threshold, self.threshold_sd, self.least, self.sticky = salt, sd, threshold, threshold_sd, least, sticky
        self.hashes = np.array([word_of(f"user {i}") for i in range(self.users)], dtype=np.uint64)
        self.present = np.ones(self.users, bool)
        self.asked = 0
        self._masks: dict[Condition, Mask] = {}

    def delete(self, user: int) -> None:
        """Take a user out; salt and the noise of other users stay as they are."""
        self.present[user] = False

    def selected(self, conditions: Sequence[Condition]) -> Mask:
        """The users that meet all conditions, (users,)."""
        chosen = self.present.copy()
        for c in conditions:
            if c not in self._masks:
                self._masks[c] = np.array(OPERATORS[c.operator](self.table[c.column], c.value), dtype=bool)
            chosen &= self._masks[c]
        return chosen

    def count(self, conditions: Sequence[Condition]) -> int | None:
        """The noisy number of users that meet all conditions; None: too few to be answered."""
        self.asked += 1
        chosen = self.selected(conditions)
        size, users = int(chosen.sum()), int(np.bitwise_xor.reduce(self.hashes[chosen])) if chosen.any() else 0
        salt = self.salt if self.sticky else word_of(f"{self.salt} {self.asked}")
        if size < self.least or size < self.threshold + self.threshold_sd * normal("threshold", salt ^ users):
            return None
        static = [word_of(str(c)) ^ salt for c in conditions]
        noise = sum(normal("static", seed) + normal("dynamic", seed ^ users) for seed in static)
        return round(size + self.sd * noise)


class Decision(NamedTuple):
    """What an attack says of a victim: whether the condition on the secret holds (None: it cannot say), and what that took."""

    holds: bool | None
    questions: int


def log_ratio(differences: Sequence[float], known: int, sd: float = 1.0) -> float:
    """The log-likelihood ratio of differences of two counts, with the victim in one of them against the victim in none.

    Args:
        differences: answers without a condition less answers with its negation.
        known: known attributes of the victim.
        sd: of each layer of noise.
    """
    q = np.asarray(differences, np.float64)
    among, alone = (2 * known + 2) * sd**2, 2 * sd**2
    return float((-((q - 1) ** 2) / (2 * among) + q**2 / (2 * alone) - 0.5 * np.log(among / alone)).sum())


def differential(noisy: StickyNoise, victim: Mapping[str, Any], secret: Condition) -> Decision:
    """Decide by a likelihood ratio whether a condition holds for the one user with some attributes.

    Args:
        noisy: the table.
        victim: what is known of the user, by column; together it must single the user out.
        secret: the condition in question.
    """
    start, differences = noisy.asked, []
    for column in victim:
        others = [Condition(c, "=", v) for c, v in victim.items() if c != column]
        without = noisy.count([*others, secret])
        negated = noisy.count([Condition(column, "!=", victim[column]), *others, secret])
        if without is not None and negated is not None:
            differences.append(float(without - negated))
    holds = log_ratio(differences, len(victim), noisy.sd) > 0 if differences else None
    return Decision(holds, noisy.asked - start)


def spread(differences: Sequence[int]) -> bool:
    """Whether differences of rounded answers vary by more than two roundings of one number can: these give two neighbors at most."""
    return max(differences) - min(differences) >= 2


def cloning(
    noisy: StickyNoise, victim: Mapping[str, Any], secret: Condition, dummies: Sequence[Condition], rng: np.random.Generator, subsets: int
) -> Decision:
    """Decide by the variance over dummy conditions whether a condition holds for a user, after checking by questions alone that it can.

    Args:
        noisy: the table.
        victim: what is known of the user, by column.
        secret: the condition in question.
        dummies: conditions that every user meets, as their meaning tells.
        rng: draws the known attributes that are used.
        subsets: how many sets of attributes are tried at most until one passes the checks.
    """
    start, columns = noisy.asked, list(victim)
    for _ in range(subsets):
        chosen = rng.permutation(columns)[: rng.integers(2, len(columns) + 1)].tolist()
        equals = {c: Condition(c, "=", victim[c]) for c in chosen}
        *shared, last = chosen
        base = [equals[c] for c in shared]
        if noisy.count([*base, equals[last]]) is not None:  # several users share these values
            continue
        differences = []
        for dummy in dummies:
            without = noisy.count([*base, secret, dummy])
            negated = noisy.count([*base, Condition(last, "!=", victim[last]), secret, dummy])
            if without is None or negated is None:
                break
            differences.append(without - negated)
        if len(differences) == len(dummies):
            return Decision(spread(differences), noisy.asked - start)
    return Decision(None, noisy.asked - start)


def averaging(noisy: StickyNoise, victim: Mapping[str, Any], secret: Condition, repeats: int) -> Decision:
    """Decide by the mean of the same two questions asked again and again: it works where noise is fresh, and not where it sticks."""
    start, columns = noisy.asked, list(victim)
    others = [Condition(c, "=", victim[c]) for c in columns[:-1]]
    negation = Condition(columns[-1], "!=", victim[columns[-1]])
    pairs = [(noisy.count([*others, secret]), noisy.count([negation, *others, secret])) for _ in range(repeats)]
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    return Decision(float(np.mean(differences)) > 0.5 if differences else None, noisy.asked - start)


def deletion_shows(noisy: StickyNoise, user: int, conditions: Sequence[Sequence[Condition]]) -> bool | None:
    """Whether taking a user out changes the answer to some question, which it then gives away; None: no question is answered.

    Questions that the user does not meet keep their answers, so there are no false alarms.
    """
    before = [noisy.count(c) for c in conditions]
    noisy.delete(user)
    after = [noisy.count(c) for c in conditions]
    noisy.present[user] = True
    if all(a is None for a in before):
        return None
    return any(a != b for a, b in zip(before, after, strict=True))


def never_wrong(table: Mapping[str, Sequence[Any]], number: int) -> list[Condition]:
    """Dummy conditions that every user meets: columns do not hold values that they cannot have."""
    columns = list(table)
    return [Condition(columns[i % len(columns)], "!=", f"no such value {i}") for i in range(number)]


def word_of(text: str) -> int:
    """A text as a number below 2^64."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[: WORD // 8], "big")


def normal(layer: str, seed: int) -> float:
    """The first number of a stream of standard normals that a seed begins."""
    return float(ndtri((word_of(f"{layer} {seed}") + 0.5) / 2**WORD))
