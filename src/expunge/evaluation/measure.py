"""What a number of an audit is: a statistic over items, with its interval, direction and ideal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from expunge.evaluation.observation import Observation, Scored, SetObservation
from expunge.functional.brief import brief

Beside = Literal["retrained", "original", "random"]
MODELS = {"retrained": "retrained model", "original": "original model", "random": "model with random weights"}
P = ParamSpec("P")
T = TypeVar("T")
BROKEN = "the model is broken"  # ends the message where the audited model itself gave numbers that are not finite
Items = NDArray[np.float64]
PerItem = Callable[[SetObservation], Items]  # (items, ...) of one set, nan where an item lacks what the score needs; may raise Missing


ENCODER = "a folder or hub id of a sentence encoder"  # in place of the definitions of a score that is computed with one


class Missing(Exception):
    """A score cannot be computed from the evidence; the message says what is missing, as the user reads it."""


class Broken(Missing):
    """A score cannot be computed because a model gave numbers that are not finite."""


Kind = Literal["knowledge", "utility", "membership", "features"]
Direction = Literal["lower", "higher", "retrained"]


@dataclass(frozen=True)
class ScoreSpec:
    """What a score is.

    Args:
        kind: what it measures: knowledge of the forgotten data, utility, membership (can an attacker tell forgotten from unseen items), or
            features (what the model knows below its output).
        direction: what good forgetting looks like; retrained: as near the retrained model as possible.
        meaning: what it measures, in one line of plain words.
        ideal: the best value; None: the retrained model's.
        shows: more of it means that more of the forgotten data is known.
        scale: p: a p-value, which is averaged and drawn as its logarithm.
        margin: makes the score a check of the verdict: differences from the retrained model up to this one count as none, in the units of
            the score. Of knowledge and features, a larger value means that more is known; of membership, a difference in either direction
            gives the forgotten items away. None: no check.
        decides: whether the verdict needs the check; else it is shown for its information. Knowledge that is found counts in any case.
        one: what one of the items is called that the score is taken over.
    """

    kind: Kind
    direction: Direction
    meaning: str
    ideal: float | None = None
    shows: bool = False
    scale: Literal["linear", "p"] = "linear"
    margin: float | None = None
    decides: bool = True
    one: str = "row"


@brief("n", "variant")
@dataclass(frozen=True, eq=False)
class Measure:
    """`stat(*items)` is the value; the bootstrap draws the rows of each array of `items` again, each array on its own.

    kernel: of a value that is a mean over items, or over pairs of items of two arrays: what it is the mean of, one axis for each array,
    from 0 to 1. A difference between two models is then tested without assumptions about its distribution (see `equivalence`).
    """

    items: tuple[Items, ...]
    stat: Callable[..., float]
    variant: str = ""  # which definition, where paper and code differ
    kernel: Callable[..., Items] | None = None

    @property
    def n(self) -> int:
        return sum(len(x) for x in self.items)

    def value(self) -> float:
        return float(self.stat(*self.items))

    def interval(self, resamples: int = 200, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
        """Percentile bootstrap over items; (value, value) where nothing varies. Draws without a value (nan) do not count."""
        rng = np.random.default_rng(seed)
        if self.stat is np.mean and len(self.items) == 1 and self.items[0].ndim == 1:  # the same draws at once
            (values,) = self.items
            draws = values[rng.integers(len(values), size=(resamples, len(values)))].mean(1).tolist()
        else:
            draws = [self.stat(*(x[rng.integers(len(x), size=len(x))] for x in self.items)) for _ in range(resamples)]
        low, high = np.quantile([d for d in draws if not np.isnan(d)] or [self.value()], [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


@brief("model", "retrained", "original", "random")
@dataclass(frozen=True)
class Evidence:
    """What a family of scores may read: the model's observations and, where given, those of the retrained model, of the original and of
    one with random weights.
    """

    model: Observation
    retrained: Observation | None = None
    original: Observation | None = None
    random: Observation | None = None
    variants: Mapping[str, str] = field(
        default_factory=dict, hash=False
    )  # by score, the definition to use; default: the first of its family

    def variant(self, score: str, of: Sequence[str]) -> str:
        """The definition of a score to use, among those that its family has."""
        return next((v for v in (self.variants.get(score), self.variants.get("*")) if v in of), of[0])

    def focused(self, name: str) -> Evidence:
        """The same evidence with another set in the place of the forget set, for a family that scores any set."""

        def moved(observation: Observation | None) -> Observation | None:
            if observation is None or name not in observation.sets:
                return None
            return replace(observation, sets={**observation.sets, "forget": observation.sets[name]})

        model = moved(self.model)
        if model is None:
            raise Missing(f"the audit has no {name} set")
        return Evidence(model, moved(self.retrained), moved(self.original), moved(self.random), self.variants)

    def items(self, name: str, of: PerItem) -> Items:
        """Values of `of` on the model's answers to a set, (items, ...), without the items that lack one. Raises: Missing."""
        return _without_gaps(name, _values_of(self.model, name, of))

    def pairs(self, name: str, of: PerItem, beside: Beside = "retrained") -> Items:
        """Values of `of` on the same items under the model and another one, (items, 2, ...). Raises: Missing, also where items differ."""
        return _without_gaps(name, np.stack(self.both(name, of, beside), axis=1))

    def both(self, name: str, of: PerItem, beside: Beside = "retrained") -> tuple[Items, Items]:
        """Values of `of` on the same items, in the same order, under the model and under another one; their widths may differ.

        Raises:
            Missing: as `pairs`.
        """
        other_observation: Observation | None = getattr(self, beside)
        if other_observation is None:
            raise Missing(f"no {MODELS[beside]} was given")
        own_values, other_values = _values_of(self.model, name, of), _values_of(other_observation, name, of, MODELS[beside])
        ids, other_ids = self.model.sets[name].ids, other_observation.sets[name].ids
        count = Counter(ids)
        count.subtract(other_ids)
        if odd := sum(map(abs, count.values())):
            raise Missing(f"{name}: the model and the {MODELS[beside]} answered different items ({odd} ids stand on one side only)")
        aligned = np.empty_like(other_values)
        aligned[np.argsort(ids, kind="stable")] = other_values[np.argsort(other_ids, kind="stable")]
        return own_values, aligned


def averaged(values: Items, variant: str = "") -> Measure:
    """The mean over items of values from 0 to 1, (items,)."""
    return Measure((values,), np.mean, variant, kernel=np.asarray)


def labeled(observation: SetObservation, kind: str) -> Scored:
    """The answers of a kind.

    Raises:
        Missing: where the set has none.
        Broken: where log-probabilities are not finite.
    """
    scored = observation.kinds.get(kind)
    if scored is None or not len(scored):
        raise Missing(f"no answers of the kind '{kind}' were observed")
    if not np.isfinite(scored.target_logp).all():
        raise Broken(f"log-probabilities of answers of the kind '{kind}' are not finite")
    return scored


def item_mean(values: Items, item: NDArray[np.int64], items: int) -> Items:
    """Mean of the values (answers,) of each item, (items,); nan values do not count, and an item without any is nan."""
    has_value = ~np.isnan(values)
    count = np.bincount(item[has_value], minlength=items)
    with np.errstate(invalid="ignore"):  # 0 / 0 gives the nan of an item without values
        return np.asarray(np.bincount(item[has_value], weights=values[has_value], minlength=items) / count)


def attempt(make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Missing:
    """What `make` returns, or the `Missing` that it raises."""
    try:
        return make(*args, **kwargs)
    except Missing as missing:
        return missing


def _values_of(observed: Observation, name: str, of: PerItem, other_name: str = "") -> Items:
    """Values of one set under one model. other_name: what to call a model that is not the audited one; '' is the audited one."""
    if name not in observed.sets or not len(observed.sets[name]):
        raise Missing(f"the {other_name} was not asked about {name}" if other_name else f"the audit has no {name} set")
    try:
        return of(observed.sets[name])
    except Missing as missing:
        if other_name:
            raise Missing(f"{name}, of the {other_name}: {missing}") from None
        raise type(missing)(f"{name}: {missing}" + (f"; {BROKEN}" if isinstance(missing, Broken) else "")) from None


def _without_gaps(name: str, values: Items) -> Items:
    complete = values[~np.isnan(values).reshape(len(values), -1).any(axis=1)]
    if not len(complete):
        raise Missing(f"{name}: no item has all that this score needs")
    return complete


# A family of scores is a file of `evaluation/metrics` or `evaluation/attacks`, or a plug-in, with a docstring card and
#     READS: frozenset[str]              what must have been observed (aspects of a profile)
#     SCORES: Mapping[str, ScoreSpec]    every score that it knows
#     scores(evidence: Evidence) -> Mapping[str, Measure | Missing]
# and, where papers and codes define a score in several ways,
#     VARIANTS: Mapping[str, tuple[str, ...]]   their names, by score; the first is the default, `evidence.variant` gives the chosen one
# A score that needs a sentence encoder has the one definition ENCODER, and the choice names the encoder.
# `scores` is pure: it reads observations and gives, for each score, its measure or what is missing.
Scores = Mapping[str, Measure | Missing]
