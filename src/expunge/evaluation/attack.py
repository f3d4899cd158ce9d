"""Attacks that change something: a copy of the model, or the prompts. The same observation and the same scores follow, whatever the attack.

An intervention is a file of `audit/attacks` with a card, a part that derives from `Attack`, and `plan()`, which makes it with its defaults.
The part looks at the model as often as it likes. Each look is a *case* (after 20 steps, in capitals), and cases belong to *ways* (8 bits,
4 bits) that a report tells apart; the attacker takes the best case of a way.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from accelerate import Accelerator
from torch import nn

from expunge import catalog
from expunge.benchmarks.suite import Specs, spec_of
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hyperparameters_of, named, override
from expunge.core.modality import Modality
from expunge.core.suggest import did_you_mean
from expunge.engine import adapters
from expunge.engine.guarding import unguarded
from expunge.evaluation.measure import Evidence, Missing
from expunge.evaluation.observation import Observation
from expunge.evaluation.observation_spec import QUICK, ObservationSpec
from expunge.evaluation.observe import Memory, Records, observe
from expunge.evaluation.profiles.profile import Hit, profile_of
from expunge.evaluation.scoring import audit_scores
from expunge.functional.brief import brief

KEPT = ("value", "interval", "n")  # fields of a score record that an attack keeps

Scores = Mapping[str, Mapping[str, Any]]  # by score, the KEPT fields of its record
Progress = Callable[[int, int, str], None]


@brief("way", "scores")
@dataclass(frozen=True)
class Try:
    """One look at the model under attack."""

    way: str
    case: str
    scores: Scores
    at: Mapping[str, float] = field(default_factory=dict)  # the numbers of the case: steps, rows, bits
    items: Mapping[str, Sequence[float]] = field(default_factory=dict)  # by name, numbers of each row to forget, to compare models with


@brief("attack", "ways", "tries", "missing")
@dataclass(frozen=True)
class AttackOutcome:
    """The outcome of an attack: scores of the model as delivered and of every case, and the ways that were not open, with reasons."""

    attack: str
    before: Scores = field(default_factory=dict)
    tries: Sequence[Try] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    recovered: float = 0.0  # share of the original's score from which on it has come back; 0: the attack takes no steps
    original: Scores = field(default_factory=dict)  # the original's scores as delivered, where they are known
    shows: Sequence[str] = ()  # scores of which more is worse
    leads: Sequence[str] = ()  # scores that may judge the attack; the first one that exists does

    @property
    def ways(self) -> list[str]:
        return list(dict.fromkeys(t.way for t in self.tries))

    @property
    def scored(self) -> list[str]:
        """Scores of which more is worse."""
        return [n for n in self.shows if n in self.before and any(n in t.scores for t in self.tries)]

    @property
    def lead(self) -> str:
        """The score that judges the attack; '' where there is none."""
        return next((n for n in (*self.leads, *self.scored) if n in self.scored), "")

    def cases(self, way: str, score: str) -> dict[str, Try]:
        """The cases of a way that have a score."""
        return {t.case: t for t in self.tries if t.way == way and score in t.scores}

    def worst(self, way: str, score: str) -> Try:
        """The case of a way in which the model shows the most."""
        return max(self.cases(way, score).values(), key=lambda t: float(t.scores[score]["value"]))

    def mean(self, way: str, score: str) -> float:
        values = [float(t.scores[score]["value"]) for t in self.cases(way, score).values()]
        return sum(values) / len(values)

    def steps_to_recover(self, way: str) -> dict[int, float | None]:
        """The first step at which the lead score has come back, by the number of rows that the attacker holds; None: it did not."""
        first: dict[int, float | None] = {}
        if not self.recovered or self.lead not in self.original:
            return first
        enough = self.recovered * float(self.original[self.lead]["value"])
        for t in (t for t in self.cases(way, self.lead).values() if "steps" in t.at):
            rows = int(t.at["rows"])
            if first.get(rows) is None:
                first[rows] = t.at["steps"] if t.scores[self.lead]["value"] >= enough else None
        return first

    def hits(self, retrained: AttackOutcome | None = None) -> list[Hit]:
        """The strongest case of each way: the case furthest beyond the retrained model under the same attack or, without a retrained
        model, the case in which the model shows the most.
        """
        hits = []
        for way in self.ways if self.lead else []:
            if not (own_tries := self.cases(way, self.lead)):
                continue
            retrained_tries = retrained.cases(way, self.lead) if retrained else {}
            beyond = {
                c: own_tries[c].scores[self.lead]["value"] - retrained_tries[c].scores[self.lead]["value"]
                for c in own_tries
                if c in retrained_tries
            }
            case = max(beyond, key=lambda c: beyond[c]) if beyond else self.worst(way, self.lead).case
            record = {
                **own_tries[case].scores[self.lead],
                "retrained": retrained_tries[case].scores[self.lead]["value"] if beyond else None,
            }
            before = float(self.before[self.lead]["value"])
            hits.append(Hit(called(self.attack, way, case), self.lead, before, record))
        return hits

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> AttackOutcome:
        """An outcome that was written as JSON."""
        return cls(**{**record, "tries": [Try(**t) for t in record["tries"]]})

    def record(self, retrained: AttackOutcome | None = None) -> dict[str, Any]:
        """The entry of audit.json."""
        return {
            "before": dict(self.before),
            "ways": {way: {n: self._way_record(way, n, retrained) for n in self.scored if self.cases(way, n)} for way in self.ways},
            "steps_to_recover": {way: self.steps_to_recover(way) for way in self.ways} if self.recovered else {},
            "tries": [asdict(t) for t in self.tries],
            "missing": dict(self.missing),
        }

    def _way_record(self, way: str, score: str, retrained: AttackOutcome | None) -> dict[str, Any]:
        worst = self.worst(way, score)
        retrained_value = retrained.worst(way, score).scores[score]["value"] if retrained and retrained.cases(way, score) else None
        context = {"case": worst.case, "mean": self.mean(way, score), "before": self.before[score]["value"], "retrained": retrained_value}
        return {**worst.scores[score], **context}


def called(*words: str) -> str:
    """An attack with its way and case, for people: `quantize, 4 bits`."""
    return ", ".join(w.replace("_", " ") for w in words if w)


class Scene:
    """The model under attack, the rows to forget, and the record of every look."""

    def __init__(
        self,
        model: nn.Module,
        modality: Modality,
        sets: Mapping[str, Records],
        accelerator: Accelerator | None,
        on_look: Callable[[], None],
        specs: Specs | None = None,
        scored: Sequence[str] = ("forget",),
        wants: ObservationSpec = QUICK,
        memory: Memory | None = None,
    ) -> None:
        self.memory = {} if memory is None else memory
        self.model, self.modality, self.sets, self.accelerator, self.on_look = model, modality, sets, accelerator, on_look
        self.specs = specs or {}
        self.profile = profile_of(modality.name)
        self.scored, self.wants = scored, self.profile.wants_under_attack(wants, spec_of("forget", specs))
        self.context = self.profile.context(modality, sets)
        self.records: Records = sets["forget"]
        self.tries: list[Try] = []
        self.missing: dict[str, str] = {}
        self.shows: list[str] = []

    def bare(self, merged: bool = False) -> nn.Module:
        """A copy of the weights; merged: with adapters worked into the weights. A guard is no part of it: see `weights_modality`."""
        inner = copy.deepcopy(self.model)
        return adapters.merged(inner) if merged else inner

    @property
    def weights_modality(self) -> Modality:
        """The modality of an attacker who holds the weights: without any guard."""
        return unguarded(self.modality)

    @property
    def asked(self) -> dict[str, Records]:
        """The sets that are scored under attack: the rows to forget that the attack can use, and those that the caller adds."""
        return {"forget": self.records, **{n: self.sets[n] for n in self.scored if n != "forget" and n in self.sets}}

    def scores(self, model: nn.Module | None = None, modality: Modality | None = None, records: Records | None = None) -> Scores:
        """Scores of a changed model, or of the model as it is when the rows to forget are asked in another way.

        Args:
            model: a changed copy of the weights, which is asked without any guard.
            modality: how it is asked; default: with the guard where the model is unchanged.
            records: rows to forget in another form.
        """
        self.on_look()
        if modality is None:
            modality = self.modality if model is None else self.weights_modality
        sets = self.asked if records is None else {**self.asked, "forget": records}
        context = {name: kept for name, kept in self.context.items() if name not in sets}
        specs = {name: self.specs[name] for name in sets if name in self.specs} | {name: kept.spec for name, kept in context.items()}
        sets |= {name: kept.records for name, kept in context.items()}
        memory = self.memory if model is None and modality is self.modality else None
        return self.scores_of(observe(model or self.model, modality, sets, specs=specs, wants=self.wants, memory=memory), specs)

    def try_wording(self, records: Records, case: str, way: str = "", modality: Modality | None = None) -> None:
        """Look at the rows to forget in another form, and record why where the model has no room for it.

        Args:
            records: rows to forget in another form.
            case, way: of the look.
            modality: how the model is asked; default: as it is.
        """
        try:
            scores = self.scores(modality=modality, records=records)
        except UserError as error:  # a longer prompt may leave no room for the answer
            self.lacks(str(error), ", ".join(filter(None, (way, case))))
        else:
            self.look(scores, case, way)

    def scores_of(self, observation: Observation, specs: Specs | None = None) -> Scores:
        """Scores of what was observed under attack: those that show knowledge, and those of other sets."""
        sets = observation.sets
        score_records, _ = audit_scores(Evidence(observation), specs=specs)
        self.shows = list(dict.fromkeys([*self.shows, *(n for n, r in score_records.items() if r["shows"])]))
        other_scores = {n for name in sets if name != "forget" for n in score_records if n.startswith(f"{name}_")}
        kept_names = {*self.shows, *self.profile.curve, *other_scores}
        return {n: {k: r[k] for k in KEPT} for n, r in score_records.items() if n in kept_names}

    def look(self, scores: Scores, case: str = "", way: str = "", by_row: Mapping[str, Sequence[float]] = {}, **at: float) -> None:
        """Record the scores of a case. by_row: numbers of each row; at: numbers of the case."""
        self.tries.append(Try(way, case, scores, at, {name: [float(x) for x in values] for name, values in by_row.items()}))

    def lacks(self, why: str, way: str = "") -> None:
        """Record why a way is not open."""
        self.missing[way] = why


class Attack(ABC):
    """An intervention. Its fields are its hyperparameters."""

    recovered = 0.0  # a hyperparameter of attacks that take steps: see `AttackOutcome`
    wants = QUICK  # what is observed at each look
    leads: ClassVar[tuple[str, ...]] = ()  # scores that judge it before those of the profile

    def about(self, records: Records, modality: Modality) -> Records:
        """The rows to forget that the attack can use. Raises: Missing where there are none."""
        return records

    def start(self, scene: Scene) -> Scores:
        """Scores of the model before the attack."""
        return scene.scores()

    @abstractmethod
    def run(self, scene: Scene) -> None:
        """Change a copy of the model, or the prompts, and look at it."""


WITHOUT_GUARD = "without_the_guard"  # the attack that every guarded model gets


class Unguarded(Attack):
    """The weights alone, as whoever holds them can ask them."""

    def run(self, scene: Scene) -> None:
        scene.look(scene.scores(scene.bare()))


def intervene(
    name: str,
    attack: Attack,
    model: nn.Module,
    modality: Modality,
    sets: Mapping[str, Records],
    *,
    specs: Specs | None = None,
    scored: Sequence[str] = ("forget",),
    accelerator: Accelerator | None = None,
    progress: Progress = lambda done, total, activity: None,
    memory: Memory | None = None,
) -> AttackOutcome:
    """Carry an attack out; the model stays as it is.

    Args:
        sets: the rows to forget, and whatever else an attack may hold or score.
        specs: how sets are asked and scored.
        scored: sets that are scored under the attack.
        memory: what other attacks observed of the same model as it is, so that it is asked once.
    """
    looks: list[int] = []

    def count_look() -> None:
        looks.append(1)
        progress(len(looks) - 1, len(looks), name.replace("_", " "))

    scene = Scene(model, modality, sets, accelerator, count_look, specs, scored, attack.wants, memory)
    try:
        scene.records = attack.about(sets["forget"], modality)
    except Missing as reason:
        return AttackOutcome(name, missing={"": str(reason)})
    before = attack.start(scene)
    attack.run(scene)
    leads = (*attack.leads, *scene.profile.leads)
    return AttackOutcome(name, before, scene.tries, scene.missing, attack.recovered, shows=scene.shows, leads=leads)


def beside(name: str, outcome: AttackOutcome, original: AttackOutcome | None, retrained: AttackOutcome | None) -> AttackOutcome:
    """The outcome with what the same attack on the original and on the retrained model says of it.

    An attack that compares models has a function `beside` of its three outcomes (None: not known) in its file, which gives more tries.
    """
    compare = getattr(catalog.load(name, "attacks"), "beside", None) if name in catalog.names("attacks") else None
    return replace(outcome, tries=[*outcome.tries, *compare(outcome, original, retrained)]) if compare else outcome


def is_intervention(name: str) -> bool:
    """Whether an attack changes something; a probe reads existing observations. Raises: UserError for an unknown name."""
    return catalog.defines("plan", name, "attacks")


def chosen(names: Sequence[str], hyperparameters: Mapping[str, Any]) -> dict[str, Attack]:
    """The interventions among some attacks. A hyperparameter goes to each intervention that has it, `relearn:lr` to one.

    Raises:
        UserError: for an unknown attack or hyperparameter.
    """
    plans = {n: catalog.load(n, "attacks").plan() for n in dict.fromkeys(names) if is_intervention(n)}
    if hyperparameters and not plans:
        reason = f"the attack {names[0]!r} has no hyperparameters" if names else "no attack is named"
        raise UserError(f"{reason}, so there is no use for --{next(iter(hyperparameters))}")
    for key, value in hyperparameters.items():
        attack, _, hyperparameter = key.rpartition(":")
        if attack and attack not in plans:
            raise UserError(f"the hyperparameter --{key} is for the attack {attack!r}, which is not made here{did_you_mean(attack, plans)}")
        for n in [attack] if attack else list(_having(hyperparameter, plans)):
            plans[n] = override(plans[n], {hyperparameter: value})
    return plans


def _having(hyperparameter: str, plans: Mapping[str, Attack]) -> Iterator[str]:
    """The attacks that have a hyperparameter; where none has, the first one, which says so."""
    having = [n for n, p in plans.items() if named(hyperparameters_of(p), hyperparameter)]
    yield from having or list(plans)[:1]
