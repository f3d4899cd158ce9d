"""The models that an audit or a benchmark looks at: observed, scored, and as the report shows them."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from expunge import catalog
from expunge.core.capabilities import Prompted, offers
from expunge.core.modality import Modality
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.weights import put
from expunge.evaluation.attack import Attack, AttackOutcome, called, intervene
from expunge.evaluation.attack_summary import WORST, attacked, relearned, worst_case
from expunge.evaluation.classifier_panel import MEANINGS, classes, picture
from expunge.evaluation.measure import Evidence
from expunge.evaluation.metrics.tofu import truth_ratios
from expunge.evaluation.observation import PICTURED, Observation, few
from expunge.evaluation.observe import ObservationSpec, Records, observe
from expunge.evaluation.verdict import Hit, audit_scores
from expunge.io.models import Opened
from expunge.modalities.image.columns import IMAGES, LABELS
from expunge.report.collect import curves
from expunge.report.report_data import Entry, ReportData, ReportedCost, Role, Sample, Score

Progress = Callable[[int, int, str], None]
MAIN = (
    "forget_quality",  # a narrow terminal shows the first six
    "model_utility",
    "forget_rouge",
    "retain_rouge",
    "extraction_strength",
    "mia_min_k",
    "forget_truth_ratio",
    "forget_probability",
    "privleak",
)
MAIN_OF = {  # by modality: scores of the short table, the axes of the scatter
    "text": (MAIN, "model_utility", "forget_quality"),
    "image": (
        ("forget_accuracy", "retain_accuracy", "test_accuracy", "average_gap", "h_lr", "mia_loss", "mia_efficacy", "cka_retrained", "zrf"),
        "model_utility",
        "h_lr",
    ),
}
P_VALUES = ("forget_quality", "retain_quality", "real_authors_quality", "world_facts_quality")
SAMPLES = 6  # questions shown side by side


def silent(done: int, total: int, what: str) -> None:
    """Progress that nobody sees."""


@dataclass(frozen=True, eq=False)
class AuditedModel:
    """A model that an audit looks at, and what is known of it."""

    name: str
    role: Role
    seen: Observation
    scores: Mapping[str, Mapping[str, Any]]
    skipped: Mapping[str, str]
    method: str = ""
    seed: int | None = None
    log: Sequence[Mapping[str, Any]] = ()
    receipt: Mapping[str, Any] = field(default_factory=dict)
    attacks: Mapping[str, AttackOutcome] = field(default_factory=dict)
    yardstick: Mapping[str, AttackOutcome] = field(default_factory=dict)  # what the same attacks found in the retrained model
    rated: bool = True  # whether the worst case over the attacks is one of its scores
    evidence: Evidence | None = None  # what it was scored beside

    @property
    def hits(self) -> list[Hit]:
        """Of every attack, and each of its ways, the case that tells the most against the model."""
        return [h for n, a in self.attacks.items() for h in a.hits(self.yardstick.get(n))]

    @property
    def unjudged(self) -> dict[str, str]:
        """Scores and attacks that could not be had, with the reasons."""
        return {**self.skipped, **{called(n, way): why for n, a in self.attacks.items() for way, why in a.missing.items()}}

    def entry(self) -> Entry:
        """As the report shows it."""
        scores = {n: Score(**dict(r), scale="p" if n in P_VALUES else "linear") for n, r in self.scores.items()}
        missing = {n: Score(missing=why) for n, why in self.skipped.items()}
        cost = self.receipt.get("cost", {})
        return Entry(
            name=self.name,
            role=self.role,
            label="" if self.role == "method" else self.name,
            method=self.method,
            seed=self.seed,
            scores={**scores, **(worst_case(self.hits) if self.rated else {}), **missing},
            truth_ratios=[float(x) for x in truth_ratios(self.seen.sets["forget"])] if self.seen.modality == "text" else [],
            curves=curves(self.log),
            relearn=relearned(self.attacks),
            attacks=attacked(self.attacks),
            cost=ReportedCost(**{k: cost.get(k) for k in ("seconds", "tokens", "flops", "peak_memory_bytes")}) if cost else None,
            receipt=dict(self.receipt),
            classes=classes(self.evidence or Evidence(self.seen)) if self.seen.modality == "image" and self.role != "random" else None,
        )


def examine(
    model: nn.Module,
    modality: Modality,
    sets: Mapping[str, Records],
    *,
    name: str,
    role: Role = "method",
    retrained: Observation | None = None,
    original: Observation | None = None,
    random_init: Observation | None = None,
    cache: Path | None = None,
    progress: Progress = silent,
    wants: ObservationSpec = ObservationSpec(),  # noqa: B008 - frozen
    **known: Any,
) -> AuditedModel:
    """Observe a model and score it beside the retrained, the original and the blank one (random weights), where those were seen.

    known: what else the subject carries (method, seed, log, receipt, attacks).
    """
    seen = observe(model, modality, sets, wants=wants, cache=cache, progress=progress)
    return judged(seen, name, role, retrained if role != "retrained" else seen, original, random_init, **known)


def judged(
    seen: Observation,
    name: str,
    role: Role,
    retrained: Observation | None,
    original: Observation | None = None,
    random_init: Observation | None = None,
    **known: Any,
) -> AuditedModel:
    """Score observations, without a model."""
    evidence = Evidence(seen, retrained, seen if role == "original" else original, random_init)
    scores, skipped = audit_scores(evidence)
    return AuditedModel(name, role, seen, scores, skipped, evidence=evidence, **known)


def controls(
    opened: Opened,
    forget: Rows,
    sets: Mapping[str, Records],
    retrained: Observation | None,
    cache: Path | None,
    progress: Progress = silent,
    original: Observation | None = None,
    attacks: Mapping[str, Attack] = {},
) -> list[AuditedModel]:
    """The controls that anybody has: random weights (must fail utility) and, where rows ask in words, an input filter around the original
    (must pass for now).
    """
    look: dict[str, Any] = {"retrained": retrained, "original": original, "cache": cache, "progress": progress}
    seen = random_init(opened, sets, cache)
    found = [judged(seen, "random weights", "random", retrained, original, seen, method="random_weights")]
    if offers(opened.modality, Prompted):
        guarded = filtered(opened, forget)
        tried = carry_out(attacks, guarded, opened.modality, sets, "filter", progress)
        found.append(
            examine(guarded, opened.modality, sets, name="input filter", role="filter", method="input_filter", attacks=tried, **look)
        )
    return found


def filtered(opened: Opened, forget: Rows) -> nn.Module:
    """The model behind an input filter."""
    plan = catalog.load("input_filter").plan()
    return loop.run((plan,), getattr(opened.model, "unguarded", opened.model), opened.modality, {"forget": forget}).model


def carry_out(
    attacks: Mapping[str, Attack],
    model: nn.Module,
    modality: Modality,
    sets: Mapping[str, Records],
    role: Role,
    progress: Progress = silent,
) -> dict[str, AttackOutcome]:
    """What attacks find in a model; the original has nothing to relearn, not behind a filter either, and random weights hold nothing."""
    wanted = {n: a for n, a in attacks.items() if role in ("method", "retrained") or (role != "random" and not a.recovered)}
    return {n: intervene(n, a, model, modality, sets, progress=progress) for n, a in wanted.items()}


def compared(audited: AuditedModel, first: AuditedModel | None, there: AuditedModel | None) -> AuditedModel:
    """The subject with its attacks beside the original's scores and what the same attacks found in the retrained model."""
    known = {n: replace(a, original=first.scores) for n, a in audited.attacks.items()} if first else audited.attacks
    return replace(audited, attacks=known, yardstick=there.attacks if there else {})


def random_init(opened: Opened, sets: Mapping[str, Records], cache: Path | None) -> Observation:
    """What the model says with random weights."""
    bare = copy.deepcopy(getattr(opened.model, "unguarded", opened.model))
    put(bare, opened.modality.fresh(bare, seed=0))
    return observe(bare, opened.modality, sets, cache=cache)


def report_data(audited_models: Sequence[AuditedModel], title: str, **more: Any) -> ReportData:
    """What a report shows of some subjects; the first one that a method made is what the verdict is about, else the first."""
    about = next((s for s in audited_models if s.role == "method"), audited_models[0])
    main, utility, quality = MAIN_OF[about.seen.modality]
    if any(s.rated and s.attacks and s.yardstick for s in audited_models):
        main = (*main[:2], WORST, *main[2:])
    return ReportData(
        title=title,
        models=[s.entry() for s in audited_models],
        created=datetime.date.today().isoformat(),
        samples=samples(audited_models),
        main=list(main),
        meanings=dict(MEANINGS) if about.seen.modality == "image" else {},
        utility=utility,
        quality=quality,
        **{"receipt": dict(about.receipt), **more},
    )


def samples(audited_models: Sequence[AuditedModel], count: int = SAMPLES) -> list[Sample]:
    """What every model says to the same few questions or pictures, evenly spread over forget and then retain."""
    found = []
    shown = PICTURED if audited_models[0].seen.modality == "image" else {"forget": count - count // 3, "retain": count // 3}
    for name, many in shown.items():
        first = audited_models[0].seen.sets.get(name)
        if first is None or not first.generations:
            continue
        pictures = [picture(p) for p in first.pictures] if first.pictures is not None else []
        for k, i in enumerate(few(len(first), many)):
            said = {
                s.name: s.seen.sets[name].generations[i]
                for s in audited_models
                if name in s.seen.sets and len(s.seen.sets[name].generations) == len(first)
            }
            drawn = pictures[k] if k < len(pictures) else ""
            found.append(Sample(question=first.question[i], answer=first.answer[i], said=said, set=name, picture=drawn))
    return found


def spread(rows: Records, limit: int) -> Records:
    """At most `limit` rows, evenly spread, and one of each class that these would lack, or else it would pass for forgotten; 0: all."""
    if not limit or len(rows) <= limit:
        return rows
    chosen = [rows[i * len(rows) // limit] for i in range(limit)]
    first, there = {_class(r): r for r in reversed(rows)}, {_class(r) for r in chosen}
    return chosen + [r for c, r in first.items() if c not in there]


def _class(record: Mapping[str, Any]) -> str:
    """The class of the image in a record, written out; '' where there is no image."""
    return next((str(record[n]) for n in LABELS if n in record), "") if record.keys() & IMAGES else ""
