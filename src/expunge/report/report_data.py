"""The story that a report tells: plain data, JSON in and out. Everything but the title and the models may be left out.

A story is what an audit or a benchmark knows when it ends. The page and the tables are pure functions of it. Numbers may be missing
(`None`, NaN, infinite): the page shows a dash for them. Unknown fields are an error, so that a misspelled one is not lost in silence.

The story knows no modality. What only some models have (the confusion of a classifier, say) is the data of a panel, `Entry.panels`, which
the module `report/panels/NAME.py` checks and draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, ConfigDict, Field, JsonValue, TypeAdapter
from pydantic.dataclasses import dataclass

from expunge.functional.brief import brief
from expunge.report.verdict_data import STATES, State, Verdict

Role = Literal["original", "retrained", "random", "filter", "method"]
Direction = Literal["lower", "higher", "retrained"]
_STRICT = ConfigDict(extra="forbid")
_ANSWERS = Field(validation_alias=AliasChoices("model_answers", "said"), serialization_alias="model_answers")


@brief("value", "direction", "n", "missing")
@dataclass(frozen=True, config=_STRICT)
class Score:
    """One number about one model, with all that the report says of it."""

    value: float | None = None
    interval: tuple[float | None, float | None] | None = None
    n: int | None = None  # items behind the value
    direction: Direction = "retrained"  # what good forgetting looks like; retrained: as close as possible to the retrained model
    ideal: float | None = None  # None: the retrained model's value
    variant: str = ""  # which definition, where several are in use
    retrained: float | None = None  # the retrained model's value, where no such model is among the entries
    scale: Literal["linear", "p"] = "linear"  # p: a p-value; averaged and drawn as its logarithm, good from 0.05 up
    missing: str = ""  # why there is no value, as the reader should see it
    kind: str = ""  # what the score is about: knowledge, utility, membership ...
    meaning: str = ""  # what it measures, in one line
    shows: bool = False  # whether a larger value means that more of the forgotten data is known


@brief("step", "epoch", "loss", "scores")
@dataclass(frozen=True, config=_STRICT)
class Point:
    """One moment of training."""

    step: float | None
    epoch: float | None = None
    loss: float | None = None
    terms: dict[str, float | None] = field(default_factory=dict)  # the parts of the loss
    scores: dict[str, float | None] = field(default_factory=dict)  # measured during training, if any were


@brief("step", "scores")
@dataclass(frozen=True, config=_STRICT)
class Relearned:
    """The scores after so many steps of fine-tuning on a part of the forget set; step 0 is the model as delivered."""

    step: float | None
    scores: dict[str, float | None] = field(default_factory=dict)


@brief("before", "value", "n")
@dataclass(frozen=True, config=_STRICT)
class After:
    """A score of the forgotten items before and after an attack, in the case that shows the most."""

    before: float | None
    value: float | None
    interval: tuple[float | None, float | None] | None = None
    n: int | None = None
    mean: float | None = None  # over all cases
    case: str = ""  # the worst case, in words


@brief("attack", "way", "score", "cases")
@dataclass(frozen=True, config=_STRICT)
class Attacked:
    """The result of an attack in one of its ways (8 bits, 4 bits ...), or why it could not be carried out."""

    attack: str
    way: str = ""
    score: str = ""  # the score that the attack is judged by
    scores: dict[str, After] = field(default_factory=dict)
    recovered: list[tuple[int, float | None]] = field(default_factory=list)  # rows held, steps until the score came back; None: it did not
    cases: int = 1  # that the attacker could choose from
    missing: str = ""


@dataclass(frozen=True, config=_STRICT)
class ReportedCost:
    """What it took to make a model."""

    seconds: float | None = None
    tokens: float | None = None  # items processed, counted in `unit`
    flops: float | None = None
    peak_memory_bytes: float | None = None
    unit: str = "tokens"  # what `tokens` counts


@brief("name", "role", "method", "seed", "scores", "attacks")
@dataclass(frozen=True, config=_STRICT)
class Entry:
    """One model of the story.

    Entries of one role that share a `label` (or, without one, a `method`) and differ in `seed` are one row.
    """

    name: str
    role: Role = "method"
    method: str = ""  # name in the catalog
    label: str = ""  # the name to show and to pool seeds under; default: the method, else the name
    seed: int | None = None
    scores: dict[str, Score] = field(default_factory=dict)
    curves: list[Point] = field(default_factory=list)
    relearn: list[Relearned] = field(default_factory=list)
    attacks: list[Attacked] = field(default_factory=list)
    cost: ReportedCost | None = None
    receipt: dict[str, Any] = field(default_factory=dict)
    panels: dict[str, JsonValue] = field(default_factory=dict)  # panel -> its data on this model, plain JSON, checked by the panel
    verdict: Verdict | None = None  # of an audited model: on the controls too, where they were judged


@brief("set", "model_answers")
@dataclass(frozen=True, config=_STRICT)
class Sample:
    """What the models say to one question; `model_answers` is keyed by the names of the entries, and JSON calls it `said`."""

    question: str
    answer: str = ""
    model_answers: Annotated[dict[str, str], _ANSWERS] = field(default_factory=dict)
    set: str = ""  # forget, retain ...
    picture: Annotated[str, Field(pattern=r"^([A-Za-z0-9+/]+=*)?$")] = ""  # of an image: a PNG in base64


@brief("forget", "retain", "holdout")
@dataclass(frozen=True, config=_STRICT)
class Asked:
    """The request in short: how many rows of which set, from where, and the hash that identifies it."""

    forget: int | None = None
    retain: int | None = None
    holdout: int | None = None
    hash: str = ""
    paths: dict[str, str] = field(default_factory=dict)  # set -> where its rows came from


@brief("title", "models", "notes", "samples")
@dataclass(frozen=True, config=_STRICT)
class ReportData:
    """Everything that a report shows."""

    title: str
    models: list[Entry]
    subtitle: str = ""
    model: str = ""  # what the user calls the model that an audit is about
    created: str = ""  # ISO date, set by the caller: the page is a pure function of the story
    request: Asked | None = None
    command: str = ""
    notes: list[str] = field(default_factory=list)  # what the reader must know first: not audited yet, warnings of the run
    samples: list[Sample] = field(default_factory=list)
    receipt: dict[str, Any] = field(default_factory=dict)
    main: list[str] = field(default_factory=list)  # scores of the short table, in order; default: the first eight
    panels: list[str] = field(default_factory=list)  # panels to show, in order; default: those of the entries (`shown_panels`)
    utility: str = ""  # the score on the scatter's x axis; without both axes there is no scatter
    quality: str = ""  # and on its y axis
    published: dict[str, dict[str, float | None]] = field(default_factory=dict)  # by method or role: scores as published, in our units
    published_about: str = ""  # whose model and tables these are

    @property
    def judged(self) -> list[Entry]:
        """The unlearned models that have a verdict, in order: one in an audit, one for each method and seed in a benchmark."""
        return [entry for entry in self.models if entry.verdict and entry.role == "method"]

    @property
    def states(self) -> dict[State, int]:
        """How many of the judged models are in which state, worst first."""
        return {state: sum(entry.verdict.state == state for entry in self.judged if entry.verdict) for state in STATES}

    @property
    def shown_panels(self) -> list[str]:
        """The panels of the page in order: as the story names them, else those of the entries in the order of appearance."""
        return self.panels or list(dict.fromkeys(name for entry in self.models for name in entry.panels))

    @classmethod
    def from_json(cls, source: str | bytes | Mapping[str, Any]) -> ReportData:
        """A story from JSON text, or from the mapping that such text holds."""
        adapter: TypeAdapter[ReportData] = TypeAdapter(cls)
        return adapter.validate_json(source) if isinstance(source, (str, bytes)) else adapter.validate_python(dict(source))

    def to_json(self) -> str:
        """Strict JSON text: NaN and infinities become null."""
        return TypeAdapter(ReportData).dump_json(self, indent=1, by_alias=True).decode()
