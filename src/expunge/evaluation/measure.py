"""What a number of an audit is: a statistic over items, with its interval, direction and ideal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from expunge.evaluation.observation import Observation, Scored, SetObservation

Beside = Literal["retrained", "original", "random"]
MODELS = {"retrained": "retrained model", "original": "original model", "random": "model with random weights"}
P = ParamSpec("P")
T = TypeVar("T")
BROKEN = "the model is broken"  # ends what is said where the audited model itself gave numbers that are not finite
Items = NDArray[np.float64]
PerItem = Callable[[SetObservation], Items]  # (items, ...) of one set, nan where an item lacks what the score needs; may raise Missing


class Missing(Exception):
    """A score cannot be computed from what there is; the message says what is missing, as the user reads it."""


class Broken(Missing):
    """A score cannot be computed because a model gave numbers that are not finite."""


@dataclass(frozen=True, eq=False)
class Measure:
    """`stat(*items)` is the value; rows of each array of `items` are what the bootstrap draws again, each array on its own."""

    items: tuple[Items, ...]
    stat: Callable[..., float]
    direction: Literal["lower", "higher", "retrained"]  # what good forgetting looks like; retrained: as near the retrained model as can be
    ideal: float | None = None  # None: the retrained model's value
    variant: str = ""  # which definition, where paper and code differ

    @property
    def n(self) -> int:
        return sum(len(x) for x in self.items)

    def value(self) -> float:
        return float(self.stat(*self.items))

    def interval(self, resamples: int = 200, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
        """Percentile bootstrap over items; (value, value) where nothing varies. Draws without a value (nan) do not count."""
        rng = np.random.default_rng(seed)
        draws = [self.stat(*(x[rng.integers(len(x), size=len(x))] for x in self.items)) for _ in range(resamples)]
        low, high = np.quantile([d for d in draws if not np.isnan(d)] or [self.value()], [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


@dataclass(frozen=True)
class Evidence:
    """What a family of scores may read: the model's observations and, where given, those of the retrained model, of the original and of
    one with random weights.
    """

    model: Observation
    retrained: Observation | None = None
    original: Observation | None = None
    random: Observation | None = None

    def items(self, name: str, of: PerItem) -> Items:
        """`of` the model's answers to a set, (items, ...), without the items that lack it. Errors: Missing."""
        return _kept(name, _of(self.model, name, of))

    def pairs(self, name: str, of: PerItem, beside: Beside = "retrained") -> Items:
        """`of` the same items under the model and under another one, (items, 2, ...). Errors: Missing, also where the items differ."""
        return _kept(name, np.stack(self.both(name, of, beside), axis=1))

    def both(self, name: str, of: PerItem, beside: Beside = "retrained") -> tuple[Items, Items]:
        """`of` the same items, in the same order, under the model and under another one; their widths may differ. Errors: as `pairs`."""
        known: Observation | None = getattr(self, beside)
        if known is None:
            raise Missing(f"no {MODELS[beside]} was given")
        here, there = _of(self.model, name, of), _of(known, name, of, MODELS[beside])
        ids, other = self.model.sets[name].ids, known.sets[name].ids
        count = Counter(ids)
        count.subtract(other)
        if odd := sum(map(abs, count.values())):
            raise Missing(f"{name}: the model and the {MODELS[beside]} answered different items ({odd} ids stand on one side only)")
        aligned = np.empty_like(there)
        aligned[np.argsort(ids, kind="stable")] = there[np.argsort(other, kind="stable")]
        return here, aligned


def labelled(seen: SetObservation, kind: str) -> Scored:
    """The answers of a kind. Errors: Missing where there are none, Broken where log-probabilities are not finite."""
    scored = seen.kinds.get(kind)
    if scored is None or not len(scored):
        raise Missing(f"no answers of the kind '{kind}' were observed")
    if not np.isfinite(scored.target_logp).all():
        raise Broken(f"log-probabilities of answers of the kind '{kind}' are not finite")
    return scored


def item_mean(values: Items, item: NDArray[np.int64], items: int) -> Items:
    """Mean of the values (answers,) of each item, (items,); nan values do not count, and an item without any is nan."""
    there = ~np.isnan(values)
    count = np.bincount(item[there], minlength=items)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the nan that we want
        return np.asarray(np.bincount(item[there], weights=values[there], minlength=items) / count)


def attempt(make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Missing:
    """What `make` returns, or the `Missing` that it raises."""
    try:
        return make(*args, **kwargs)
    except Missing as lack:
        return lack


def _of(observed: Observation, name: str, of: PerItem, other: str = "") -> Items:
    """other: what to call a model that is not the audited one."""
    if name not in observed.sets or not len(observed.sets[name]):
        raise Missing(f"the {other} was not asked about {name}" if other else f"the audit has no {name} set")
    try:
        return of(observed.sets[name])
    except Missing as lack:
        if other:
            raise Missing(f"{name}, of the {other}: {lack}") from None
        raise type(lack)(f"{name}: {lack}" + (f"; {BROKEN}" if isinstance(lack, Broken) else "")) from None


def _kept(name: str, values: Items) -> Items:
    kept = values[~np.isnan(values).reshape(len(values), -1).any(axis=1)]
    if not len(kept):
        raise Missing(f"{name}: no item has all that this score needs")
    return kept


# A family of scores is a file of `audit/metrics` or `audit/attacks` with a docstring card and
#     scores(evidence: Evidence) -> Mapping[str, Measure | Missing]
# which is pure: it reads observations, names every score that it knows, and says of each either how it comes out or what is missing.
Scores = Mapping[str, Measure | Missing]
