"""What an audit of a modality looks at: one file a modality, and a plain profile for every modality that has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import nn

from expunge import catalog
from expunge.benchmarks.suite import SetSpec
from expunge.core.capabilities import Displayable, offers, require
from expunge.core.modality import Modality
from expunge.core.rows import Rows
from expunge.evaluation.measure import Evidence
from expunge.evaluation.observation import Observation, SetObservation
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.functional.brief import brief

Record = Mapping[str, Any]
Records = Mapping[str, Record]  # scores by name
Kinds = Mapping[str, tuple[Rows, list[int]]]  # rows by kind of answer, with the item that each belongs to

COMPARED = ("knowledge", "utility")
BATCH = 256  # rows in one forward pass of a modality without a profile


@brief("attack", "score", "before")
class Hit(NamedTuple):
    """The case of an attack that tells the most against a model."""

    attack: str  # with its way and case, in words
    score: str
    before: float  # the model as delivered
    record: Record  # after the attack; `retrained` is the retrained model's value under the same attack


@brief("kinds", "spec")
@dataclass(frozen=True, eq=False)
class AskedSet:
    """One set of an audit, ready to be asked."""

    kinds: Kinds
    spec: SetSpec

    @property
    def answers(self) -> Rows:
        """The rows with their true answers."""
        return self.kinds["answer"][0]

    def __len__(self) -> int:
        return sum(len(rows) for rows, _ in self.kinds.values())


Look = Callable[
    [nn.Module, Modality, Mapping[str, AskedSet], ObservationSpec, Callable[[int, str], None]],
    tuple[dict[str, SetObservation], dict[str, object]],
]


def losses(
    model: nn.Module, modality: Modality, sets: Mapping[str, AskedSet], spec: ObservationSpec, progress: Callable[[int, str], None]
) -> tuple[dict[str, SetObservation], dict[str, object]]:
    """The mean loss of each row, which every modality can give."""
    observations: dict[str, SetObservation] = {}
    for name, asked_set in sets.items():
        rows = asked_set.answers
        values = []
        for i in range(0, len(rows), BATCH):
            batch = rows.select(range(i, min(i + BATCH, len(rows))))
            values += modality.forward(model, [batch])[0].loss.mean().float().cpu().tolist()
        questions, answers = texts(modality, rows)
        observations[name] = SetObservation(rows.ids, questions, answers, {}, loss=np.array(values, np.float32))
        progress(sum(map(len, observations.values())), f"reading {name}")
    return observations, {}


def texts(modality: Modality, rows: Rows) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Questions and answers for people to read; places of rows and empty texts where a modality shows neither."""
    if not offers(modality, Displayable):
        return tuple(f"row {k}" for k in range(1, len(rows) + 1)), ("",) * len(rows)
    display = require(modality, Displayable)
    return tuple(display.questions(rows)), tuple(display.answer_texts(rows))


def no_panels(evidence: Evidence) -> dict[str, Any]:
    """No panels beside the tables."""
    return {}


@brief("count", "one")
class Counted(NamedTuple):
    """What the scores of forgotten rows are means of."""

    count: int
    one: str  # what one is called
    forgotten: str  # what many are called that are to be forgotten


def rows_counted(observation: SetObservation) -> Counted:
    """The rows of a set."""
    return Counted(len(observation), "row", "rows to forget")


def one_group(record: Record) -> str:
    """One group for all records."""
    return ""


@brief("spec")
class ContextSet(NamedTuple):
    """A set that scores under attack read besides those that are scored."""

    records: Sequence[Record]
    spec: SetSpec


def no_context(modality: Modality, sets: Mapping[str, Sequence[Record]]) -> dict[str, ContextSet]:
    """No set besides those that are scored."""
    return {}


class ScoredModel(Protocol):
    """A model with its scores and its observation."""

    @property
    def scores(self) -> Records: ...
    @property
    def observation(self) -> Observation: ...


def likeness(model: ScoredModel, retrained: ScoredModel) -> list[float]:
    """How near the scores of knowledge and utility come to the retrained model's, each from 0 to 1."""
    both = [(r["value"], retrained.scores[n]["value"]) for n, r in model.scores.items() if n in retrained.scores and r["kind"] in COMPARED]
    return [1 / (1 + abs(a - b)) for a, b in both]


@brief("aspects", "headline", "unit")
@dataclass(frozen=True)
class Profile:
    """What an audit of a modality looks at.

    Args:
        aspects: what is observed; a family of scores runs where it reads nothing else.
        look: how a model is observed.
        headline: scores of the short table, in order; empty: those of kind utility and knowledge.
        utility, quality: axes of the trade-off picture.
        leads: scores that judge an attack; the first one that exists counts.
        curve: scores of the relearning curve; empty: the leads.
        samples: the number of items of each set that the report shows.
        controls: the controls that make sense: random_weights, input_filter.
        needs_random_init: some scores compare with random weights.
        panels: plain data for panels of the report, by the panel's name.
        likeness: what tuning maximizes: closeness to the retrained model in several respects, each from 0 to 1.
        group: the group of a record; thinning a set keeps a record of each group.
        unit: the unit of cost.
        wants_under_attack: what is observed at each look of an attack, from what the attack asks for and the spec of the rows to forget.
        context: sets that scores under attack read besides those that are scored, by name.
        counted: how many independent cases the rows to forget are, which decides what an audit can see.
    """

    aspects: frozenset[str] = frozenset({"losses"})
    look: Look = losses
    headline: tuple[str, ...] = ()
    utility: str = ""
    quality: str = ""
    leads: tuple[str, ...] = ()
    curve: tuple[str, ...] = ()
    samples: Mapping[str, int] = field(default_factory=lambda: {"forget": 4, "retain": 2})
    controls: tuple[str, ...] = ("random_weights",)
    needs_random_init: bool = False
    panels: Callable[[Evidence], dict[str, Any]] = no_panels
    likeness: Callable[[ScoredModel, ScoredModel], list[float]] = likeness
    group: Callable[[Record], str] = one_group
    unit: str = "rows"
    wants_under_attack: Callable[[ObservationSpec, SetSpec], ObservationSpec] = lambda wants, spec: wants
    context: Callable[[Modality, Mapping[str, Sequence[Record]]], Mapping[str, ContextSet]] = no_context
    counted: Callable[[SetObservation], Counted] = rows_counted


PLAIN = Profile()


def profile_of(modality: str) -> Profile:
    """The profile of a modality, by its name; the plain one where it has none."""
    if modality not in catalog.names("profiles"):
        return PLAIN
    profile: Profile = catalog.load(modality, "profiles").PROFILE
    return profile


def group_of(record: Record) -> str:
    """The group of a record, from the profiles that know such records."""
    return "/".join(profile_of(name).group(record) for name in catalog.names("profiles"))
