"""The verdict on one model: plain data, JSON in and out. `docs/verdict.md` says in words what each field means.

A verdict has one of three states. "removed": every check that decides holds. "not removed": a check says so, or a forgotten answer is still
produced. "cannot tell": the evidence decides neither way; this is no pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from pydantic import ConfigDict, JsonValue, TypeAdapter
from pydantic.dataclasses import dataclass

from expunge.functional.brief import brief

SCHEMA = 1  # of the JSON; it grows where a field is renamed, removed or changes its meaning, not where one is added
State = Literal["removed", "not removed", "cannot tell"]
STATES: tuple[State, ...] = ("not removed", "cannot tell", "removed")  # worst first
PartKind = Literal["answer", "recited", "name", "number", "e-mail", "rare words"]
_STRICT = ConfigDict(extra="forbid")


@brief("score", "state")
@dataclass(frozen=True, config=_STRICT)
class Check:
    """One question that was asked of the model, and its outcome."""

    name: str  # of a score, an attack (`quantize, 4 bits`) or another check, for programs and headings
    state: State
    text: str  # one or two plain sentences with the numbers
    decides: bool = True  # whether the verdict as a whole rests on it; other checks are shown for their information
    score: str = ""  # the score that was compared
    value: float | None = None  # the model's
    yardstick: float | None = None  # what it was held against
    against: Literal["retrained", "random", "original", ""] = ""  # whose value the yardstick is; random: what untrained weights score
    margin: float | None = None  # differences up to this one count as none; in the units of the score
    effect: float | None = None  # value minus yardstick, on the same items
    interval: tuple[float | None, float | None] | None = None  # of the effect, at level 1 - 2 alpha: two one-sided tests
    p: float | None = None  # of "the effect is no larger than the margin", corrected for the number of checks; small: not removed
    n: int | None = None  # items of the forget set
    power: float | None = None  # the smallest effect that so many items can rule out, in the units of the score


@brief()
@dataclass(frozen=True, config=_STRICT)
class Leak:
    """A forgotten answer, or a telling part of one, that the model still produces."""

    row: int  # of the forget set, from 1
    question: str
    answer: str  # the forgotten answer
    produced: str  # what of it was produced, as the model wrote it
    model_answer: str  # the whole of it
    kind: PartKind  # answer: all of it; recited: every token, where the beginning is given
    proof: bool = True  # whether it alone shows that the row is still known; without it, it may be a guess


@brief("attack", "state", "score")
@dataclass(frozen=True, config=_STRICT)
class Recovery:
    """What an attack brought back, and with how little."""

    attack: str  # with its way, in words
    state: State  # not removed: it brought back what was forgotten; removed: it did not, although it works; cannot tell: it shows nothing
    text: str
    score: str = ""
    before: float | None = None  # the model as delivered
    after: float | None = None
    retrained: float | None = None  # the retrained model's value under the same attack
    works: bool | None = None  # whether the attack moved a positive control; None: there was no control
    steps: float | None = None  # of training that it took
    rows: float | None = None  # of the forget set that the attacker holds
    queries: float | None = None  # questions asked


@brief("state")
@dataclass(frozen=True, config=_STRICT)
class Verdict:
    """The verdict on one model. The first screen of a report answers four questions: `gone`, `sure`, `brings_back`, `not_checked`."""

    state: State
    gone: str = ""  # Is it gone? One or two sentences
    sure: str = ""  # How sure are we? The sentence says what so many rows cannot show
    leaks: list[Leak] = field(default_factory=list)  # shown first, verbatim
    checks: list[Check] = field(default_factory=list)  # worst first
    brings_back: list[Recovery] = field(default_factory=list)  # What could still bring it back? worst first
    not_checked: list[str] = field(default_factory=list)  # What was not checked? One item a line
    damage: list[str] = field(default_factory=list)  # what the model has lost beyond the forgotten rows; loud, but no part of the state
    notes: list[str] = field(default_factory=list)  # what to know about the audit: overlaps, formats, unlike sets
    sharpen: str = ""  # what would make the verdict sharper, in one line with the command; "": nothing
    thresholds: dict[str, JsonValue] = field(default_factory=dict)  # alpha, margins by score, and the other limits that were used
    schema: int = SCHEMA

    @property
    def passed(self) -> bool:
        """Whether the state is "removed", and nothing else."""
        return self.state == "removed"

    @classmethod
    def from_json(cls, source: str | bytes | Mapping[str, Any]) -> Verdict:
        """A verdict from JSON text, or from the mapping that such text holds."""
        adapter: TypeAdapter[Verdict] = TypeAdapter(cls)
        return adapter.validate_json(source) if isinstance(source, (str, bytes)) else adapter.validate_python(dict(source))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; NaN and infinities become None."""
        plain: dict[str, Any] = TypeAdapter(Verdict).dump_python(self, mode="json")
        return plain
