"""The models that an audit or a benchmark looks at: observed, scored, and as the report shows them."""

from __future__ import annotations

import base64
import copy
import datetime
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from expunge import catalog
from expunge.benchmarks.suite import Specs, spec_of
from expunge.core.capabilities import Displayable, Prompted, offers, require
from expunge.core.modality import Modality
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.guarding import is_guarded, unguarded
from expunge.engine.weights import put
from expunge.evaluation.attack import WITHOUT_GUARD, Attack, AttackOutcome, Unguarded, beside, intervene
from expunge.evaluation.attack_summary import WORST, attacked, relearned, worst_case
from expunge.evaluation.compare import Compared, comparisons
from expunge.evaluation.measure import Evidence
from expunge.evaluation.observation import Array, Observation, few
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.evaluation.observe import Memory, Records, observe
from expunge.evaluation.profiles.profile import Hit, Profile, group_of, profile_of
from expunge.evaluation.recovery import Controls
from expunge.evaluation.scoring import audit_scores, measured
from expunge.evaluation.thresholds import Thresholds
from expunge.evaluation.verdict import Case, Context, verdict
from expunge.evaluation.words import words
from expunge.functional.brief import brief
from expunge.io.models import Opened
from expunge.modalities.common.records import Records as Kept
from expunge.report.collect import curves
from expunge.report.report_data import Entry, ReportData, ReportedCost, Role, Sample, Score
from expunge.report.verdict_data import Verdict

Progress = Callable[[int, int, str], None]
COSTS = ("seconds", "tokens", "flops", "peak_memory_bytes")


def silent(done: int, total: int, activity: str) -> None:
    """Report no progress."""


@brief("name", "role", "method", "seed", "scores", "skipped", "attacks")
@dataclass(frozen=True, eq=False)
class AuditedModel:
    """A model of an audit with its observation, scores and attacks."""

    name: str
    role: Role
    observation: Observation
    scores: Mapping[str, Mapping[str, Any]]
    skipped: Mapping[str, str]
    method: str = ""
    seed: int | None = None
    log: Sequence[Mapping[str, Any]] = ()
    receipt: Mapping[str, Any] = field(default_factory=dict)
    attacks: Mapping[str, AttackOutcome] = field(default_factory=dict)
    yardstick: Mapping[str, AttackOutcome] = field(default_factory=dict)  # what the same attacks found in the retrained model
    attacked_original: Mapping[str, AttackOutcome] = field(default_factory=dict)  # and in the original
    original_scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    compared: Mapping[str, Compared] = field(default_factory=dict)  # the scores that are checks, beside the other models
    verdict: Verdict | None = None
    rated: bool = True  # whether the worst case over the attacks is one of its scores
    evidence: Evidence | None = None  # what it was scored beside

    @property
    def profile(self) -> Profile:
        """What an audit of its modality looks at."""
        return profile_of(self.observation.modality)

    @property
    def hits(self) -> list[Hit]:
        """The strongest case against the model, for each way of every attack."""
        return [h for n, a in self.attacks.items() for h in a.hits(self.yardstick.get(n))]

    def judge(self, context: Context, thresholds: Thresholds) -> AuditedModel:
        """The model with the verdict on it."""
        case = Case(
            self.evidence or Evidence(self.observation),
            self.compared,
            self.scores,
            self.skipped,
            self.profile,
            self.original_scores,
            self.attacks,
            Controls(self.yardstick, self.attacked_original),
        )
        return replace(self, verdict=verdict(case, context, thresholds))

    def entry(self) -> Entry:
        """As the report shows it."""
        scores = {n: Score(**dict(r)) for n, r in self.scores.items()}
        missing = {n: Score(missing=why) for n, why in self.skipped.items()}
        cost = self.receipt.get("cost", {})
        return Entry(
            name=self.name,
            role=self.role,
            label="" if self.role == "method" else self.name,
            method=self.method,
            seed=self.seed,
            scores={**scores, **(worst_case(self.hits) if self.rated else {}), **missing},
            panels=self.profile.panels(self.evidence or Evidence(self.observation)) if self.role != "random" else {},
            curves=curves(self.log),
            relearn=relearned(self.attacks, self.profile.curve),
            attacks=attacked(self.attacks),
            cost=ReportedCost(**{k: cost.get(k) for k in COSTS}, unit=self.profile.unit) if cost else None,
            receipt=dict(self.receipt),
            verdict=self.verdict,
        )


def examine(
    model: nn.Module,
    modality: Modality,
    sets: Mapping[str, Records],
    *,
    name: str,
    role: Role = "method",
    specs: Specs | None = None,
    retrained: Observation | None = None,
    original: Observation | None = None,
    random_init: Observation | None = None,
    cache: Path | None = None,
    progress: Progress = silent,
    wants: ObservationSpec = ObservationSpec(),  # noqa: B008 - frozen
    **fields: Any,
) -> AuditedModel:
    """Observe a model and score it beside the retrained, the original and the randomly initialized one, where those were observed.

    Args:
        specs: how to ask and score sets that differ from the default.
        fields: further fields of the audited model (method, seed, log, receipt, attacks).
    """
    observation = observe(model, modality, sets, specs=specs, wants=wants, cache=cache, progress=progress)
    return judged(observation, name, role, retrained if role != "retrained" else observation, original, random_init, specs, **fields)


def judged(
    observation: Observation,
    name: str,
    role: Role,
    retrained: Observation | None,
    original: Observation | None = None,
    random_init: Observation | None = None,
    specs: Specs | None = None,
    **fields: Any,
) -> AuditedModel:
    """Score an observation, without a model."""
    variants = spec_of("forget", specs).variants
    evidence = Evidence(observation, retrained, observation if role == "original" else original, random_init, variants)
    measures = measured(evidence, specs, beside=True)
    scores, skipped = audit_scores(evidence, measures=measures)
    return AuditedModel(name, role, observation, scores, skipped, evidence=evidence, compared=comparisons(measures), **fields)


def controls(
    opened: Opened,
    forget: Rows,
    sets: Mapping[str, Records],
    retrained: Observation | None,
    cache: Path | None,
    progress: Progress = silent,
    original: Observation | None = None,
    attacks: Mapping[str, Attack] = {},
    specs: Specs | None = None,
) -> list[AuditedModel]:
    """The controls that need no other model: random weights, which must fail utility, and, for rows that ask in words, an input filter
    around the original, which must pass for now.
    """
    look: dict[str, Any] = {"retrained": retrained, "original": original, "cache": cache, "progress": progress, "specs": specs}
    kinds = profile_of(opened.modality.name).controls
    models = []
    if "random_weights" in kinds:
        random_weights = random_init(opened, sets, cache, specs)
        models.append(
            judged(random_weights, "random weights", "random", retrained, original, random_weights, specs, method="random_weights")
        )
    if "input_filter" in kinds and _all_ask(opened.modality, forget):
        guarded = filtered(opened, forget)
        outcomes = carry_out(attacks, opened.model, guarded, sets, "filter", progress, specs)
        known: dict[str, Any] = {"name": "input filter", "role": "filter", "method": "input_filter", "attacks": outcomes}
        models.append(examine(opened.model, guarded, sets, **known, **look))
    return models


def _all_ask(modality: Modality, rows: Rows) -> bool:
    """Whether all rows ask something in words, which a filter of inputs goes by; texts ask nothing."""
    return offers(modality, Prompted) and all(words(q) for q in require(modality, Displayable).questions(rows))


def filtered(opened: Opened, forget: Rows) -> Modality:
    """The model's modality behind an input filter."""
    plan = catalog.load("input_filter").plan()
    return loop.run((plan,), opened.model, unguarded(opened.modality), {"forget": forget}).modality


def attacks_on(attacks: Mapping[str, Attack], modality: Modality, role: Role) -> dict[str, Attack]:
    """Attacks that a model gets, by name. The original, with or without a filter, has nothing to relearn; random weights hold nothing;
    a guarded model is also looked at without its guard.
    """
    possible = {n: a for n, a in attacks.items() if role in ("method", "retrained") or (role != "random" and not a.recovered)}
    return {WITHOUT_GUARD: Unguarded(), **possible} if is_guarded(modality) else possible


def carry_out(
    attacks: Mapping[str, Attack],
    model: nn.Module,
    modality: Modality,
    sets: Mapping[str, Records],
    role: Role,
    progress: Progress = silent,
    specs: Specs | None = None,
    scored: Sequence[str] = ("forget",),
) -> dict[str, AttackOutcome]:
    """Outcomes of the attacks that a model gets, by name.

    Args:
        scored: sets that are scored under attack.
    """
    of_model = attacks_on(attacks, modality, role)
    memory: Memory = {}
    return {
        n: intervene(n, a, model, modality, sets, specs=specs, scored=scored, progress=progress, memory=memory) for n, a in of_model.items()
    }


def compared(audited: AuditedModel, original: AuditedModel | None, retrained: AuditedModel | None) -> AuditedModel:
    """The audited model with its attacks beside the original's scores and what the same attacks found in the retrained model."""
    outcomes = {n: replace(a, original=original.scores) for n, a in audited.attacks.items()} if original else audited.attacks
    if audited is not original and audited is not retrained:
        others = [m.attacks if m else {} for m in (original, retrained)]
        outcomes = {n: beside(n, a, *(o.get(n) for o in others)) for n, a in outcomes.items()}
    return replace(
        audited,
        attacks=outcomes,
        yardstick=retrained.attacks if retrained else {},
        attacked_original=original.attacks if original else {},
        original_scores=original.scores if original else {},
    )


def random_init(opened: Opened, sets: Mapping[str, Records], cache: Path | None, specs: Specs | None = None) -> Observation:
    """Observation of the model with random weights."""
    bare, modality = copy.deepcopy(opened.model), unguarded(opened.modality)
    put(bare, modality.fresh(bare, seed=0))
    return observe(bare, modality, sets, specs=specs, cache=cache)


def report_data(audited_models: Sequence[AuditedModel], title: str, **fields: Any) -> ReportData:
    """Report data of several models; the verdict is about the first unlearned one, else the first."""
    about = next((s for s in audited_models if s.role == "method"), audited_models[0])
    profile = about.profile
    headline = profile.headline or tuple(n for n, r in about.scores.items() if r["kind"] in ("utility", "knowledge"))
    if any(s.rated and s.attacks and s.yardstick for s in audited_models):
        headline = (*headline[:2], WORST, *headline[2:])
    kinds = {kind: [n for n, r in about.scores.items() if r["kind"] == kind] for kind in ("utility", "knowledge")}
    return ReportData(
        title=title,
        models=[s.entry() for s in audited_models],
        created=datetime.date.today().isoformat(),
        samples=samples(audited_models),
        main=list(headline),
        utility=profile.utility or next(iter(kinds["utility"]), ""),
        quality=profile.quality or next(iter(kinds["knowledge"]), ""),
        **{"receipt": dict(about.receipt), **fields},
    )


def samples(audited_models: Sequence[AuditedModel]) -> list[Sample]:
    """Every model's generations for the same few items, evenly spread over forget and then retain."""
    shown = []
    for name, limit in audited_models[0].profile.samples.items():
        first = audited_models[0].observation.sets.get(name)
        if first is None or not first.generations:
            continue
        pictures = [picture(p) for p in first.pictures] if first.pictures is not None else []
        for k, i in enumerate(few(len(first), limit)):
            answers = {
                s.name: s.observation.sets[name].generations[i]
                for s in audited_models
                if name in s.observation.sets and len(s.observation.sets[name].generations) == len(first)
            }
            picture_text = pictures[k] if k < len(pictures) else ""
            shown.append(Sample(question=first.question[i], answer=first.answer[i], model_answers=answers, set=name, picture=picture_text))
    return shown


def picture(values: Array) -> str:
    """A PNG in base64 of values (channels, height, width) from 0 to 255."""
    from PIL import Image

    pixels = values if len(values) == 3 else values[:1]
    turned = pixels.transpose(1, 2, 0)
    image = Image.fromarray(np.ascontiguousarray(turned.squeeze(2) if len(pixels) == 1 else turned))
    image.save(file := io.BytesIO(), "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def spread(records: Records, limit: int) -> Records:
    """At most `limit` records, evenly spread, and one of each group that these lack: a missing group would look forgotten. 0: all."""
    if not limit or len(records) <= limit:
        return records
    chosen = [i * len(records) // limit for i in range(limit)]
    first_of_group = {group_of(r): i for i, r in reversed(list(enumerate(records)))}
    kept_groups = {group_of(records[i]) for i in chosen}
    chosen += [i for g, i in first_of_group.items() if g not in kept_groups]
    return records.pick(chosen) if isinstance(records, Kept) else [records[i] for i in chosen]
