"""The story that a report tells: plain data, JSON in and out. Everything but the title and the models may be left out.

A story is what an audit or a benchmark knows when it ends; the page and the tables are pure functions of it. Numbers may be missing
(`None`, NaN, infinite): they are shown as a dash. Unknown fields are an error, so that a misspelt one is not lost in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

Level = Literal["fail", "warn", "pass"]
Role = Literal["original", "retrained", "random", "filter", "method"]
Direction = Literal["lower", "higher", "retrained"]
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class Score:
    """One number about one model, as `audit.score.Measure` gives it."""

    value: float | None = None
    interval: tuple[float | None, float | None] | None = None
    n: int | None = None  # items behind the value
    direction: Direction = "retrained"  # what good forgetting looks like; retrained: as close as can be to the retrained model
    ideal: float | None = None  # None: the retrained model's value
    variant: str = ""  # which definition, where several are in use
    retrained: float | None = None  # the retrained model's value, where no such model is among the entries
    scale: Literal["linear", "p"] = "linear"  # p: a p-value; averaged and drawn as its logarithm, good from 0.05 up
    missing: str = ""  # why there is no value, as the reader should see it


@dataclass(frozen=True, config=_STRICT)
class Point:
    """One moment of training. `terms` are the parts of the loss; `scores` what was measured on the way, if anything was."""

    step: float | None
    epoch: float | None = None
    loss: float | None = None
    terms: dict[str, float | None] = field(default_factory=dict)
    scores: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, config=_STRICT)
class Relearned:
    """The scores after so many steps of fine-tuning on a part of the forget set; step 0 is the model as delivered."""

    step: float | None
    scores: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, config=_STRICT)
class After:
    """A score of the forgotten items before and after an attack, in the case that shows the most."""

    before: float | None
    value: float | None
    interval: tuple[float | None, float | None] | None = None
    n: int | None = None
    mean: float | None = None  # over all cases
    case: str = ""  # which one, in words


@dataclass(frozen=True, config=_STRICT)
class Attacked:
    """What an attack found in one of its ways (8 bits, 4 bits ...), or why it could not be made."""

    attack: str
    way: str = ""
    score: str = ""  # the one that it is judged by
    scores: dict[str, After] = field(default_factory=dict)
    recovered: list[tuple[int, float | None]] = field(default_factory=list)  # rows held, steps until it came back; None: it did not
    cases: int = 1  # that the attacker could choose from
    missing: str = ""


@dataclass(frozen=True, config=_STRICT)
class ReportedCost:
    """What it took to make a model."""

    seconds: float | None = None
    tokens: float | None = None
    flops: float | None = None
    peak_memory_bytes: float | None = None


@dataclass(frozen=True, config=_STRICT)
class LayerSimilarity:
    """How alike the features of the forgotten items are to another model's at one place, by linear CKA: 0 to 1."""

    name: str
    original: float | None = None
    retrained: float | None = None


@dataclass(frozen=True, config=_STRICT)
class Classes:
    """What a classifier makes of the items of each set, as counts, so that seeds can be added up."""

    names: list[str]  # of the classes, in the order of the outputs
    called: dict[str, list[tuple[int, int, int]]] = field(
        default_factory=dict
    )  # set -> (class, what it is called, how many), as they occur
    confidence: dict[str, list[int]] = field(default_factory=dict)  # forget, unseen (of the same classes) -> items by the probability of
    entropy: dict[str, list[int]] = field(default_factory=dict)  # their class, by entropy: equal bins from 0 to 1, to log(classes)
    roc: list[tuple[float | None, float | None]] = field(
        default_factory=list
    )  # of the loss attack: unseen called members, forgotten called
    layers: list[LayerSimilarity] = field(default_factory=list)  # first to last
    places: list[tuple[float | None, float | None, int, bool]] = field(default_factory=list)  # an item in a plane: x, y, class, forgotten?


@dataclass(frozen=True, config=_STRICT)
class Entry:
    """One model of the story. Entries of one role that share a `label` (or, without one, a `method`) and differ in `seed` are one row."""

    name: str
    role: Role = "method"
    method: str = ""  # name in the catalogue
    label: str = ""  # what to show and to pool seeds under; default: the method, else the name
    seed: int | None = None
    scores: dict[str, Score] = field(default_factory=dict)
    truth_ratios: list[float | None] = field(default_factory=list)  # one a forget item
    curves: list[Point] = field(default_factory=list)
    relearn: list[Relearned] = field(default_factory=list)
    attacks: list[Attacked] = field(default_factory=list)
    cost: ReportedCost | None = None
    receipt: dict[str, Any] = field(default_factory=dict)
    classes: Classes | None = None  # of a classifier


@dataclass(frozen=True, config=_STRICT)
class Verdict:
    """One finding, in words."""

    level: Level
    text: str


@dataclass(frozen=True, config=_STRICT)
class Sample:
    """What the models say to one question; `said` is keyed by the entries' names."""

    question: str
    answer: str = ""
    said: dict[str, str] = field(default_factory=dict)
    set: str = ""  # forget, retain ...
    picture: Annotated[str, Field(pattern=r"^([A-Za-z0-9+/]+=*)?$")] = ""  # of an image: a PNG in base64


@dataclass(frozen=True, config=_STRICT)
class Asked:
    """The request in short: how many rows of which set, from where, and the hash that identifies it."""

    forget: int | None = None
    retain: int | None = None
    holdout: int | None = None
    hash: str = ""
    paths: dict[str, str] = field(default_factory=dict)  # set -> where its rows came from


@dataclass(frozen=True, config=_STRICT)
class ReportData:
    """Everything that a report shows."""

    title: str
    models: list[Entry]
    subtitle: str = ""
    created: str = ""  # ISO date, given by the caller: the page is a pure function of the story
    request: Asked | None = None
    command: str = ""
    verdict: list[Verdict] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    receipt: dict[str, Any] = field(default_factory=dict)
    main: list[str] = field(default_factory=list)  # scores of the short table, in order; default: the first eight met
    meanings: dict[str, str] = field(default_factory=dict)  # score -> what it measures, in one line
    utility: str = "model_utility"  # the score on the scatter's x axis
    quality: str = "forget_quality"  # and on its y axis

    @classmethod
    def from_json(cls, source: str | bytes | Mapping[str, Any]) -> ReportData:
        """A story from JSON text, or from the mapping that such text holds."""
        adapter: TypeAdapter[ReportData] = TypeAdapter(cls)
        return adapter.validate_json(source) if isinstance(source, (str, bytes)) else adapter.validate_python(dict(source))

    def to_json(self) -> str:
        """Strict JSON text: NaN and infinities become null."""
        return TypeAdapter(ReportData).dump_json(self, indent=1).decode()
