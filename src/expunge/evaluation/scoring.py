"""The scores of every family, as plain records and as measures that can be compared item by item."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from math import isfinite
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from expunge import catalog
from expunge.benchmarks.suite import Specs, spec_of
from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.evaluation.judging import CLIP, JUDGE, TEXTS, cleanness_of, judge_of, likeness_of
from expunge.evaluation.measure import BROKEN, ENCODER, Evidence, Measure, Missing, Scores, ScoreSpec
from expunge.evaluation.observation import Observation
from expunge.evaluation.profiles.profile import profile_of
from expunge.methods.sentences import encoder_of

KINDS = ("metrics", "attacks")
UNSEEN = "holdout"  # the set of unseen items


@catalog.until_change
def families() -> tuple[ModuleType, ...]:
    """All families of scores: the metrics and attacks that define `scores`, plug-ins included."""
    return tuple(catalog.load(name, kind) for kind in KINDS for name in catalog.names(kind) if catalog.defines("scores", name, kind))


def score_specs(modality: str = "") -> dict[str, ScoreSpec]:
    """The specs of all scores of all families, by name.

    Args:
        modality: leave out scores that its audits do not have; default: all scores. Some names (`model_utility`) mean something else in
            each modality.
    """
    aspects = profile_of(modality).aspects if modality else None
    known = [family for family in families() if aspects is None or family.READS.issubset(aspects)]
    return {name: spec for family in known for name, spec in family.SCORES.items()}


def _family(name: str) -> ModuleType:
    """The family of a name. Raises: UserError where there is none."""
    kind = next((kind for kind in KINDS if name in catalog.names(kind)), KINDS[0])
    module = catalog.load(name, kind)
    if not catalog.defines("scores", name, kind):
        raise UserError(f"{name!r} gives no scores of what was observed, so no set can be scored by it")
    return module


def with_variants(specs: Specs, variants: Mapping[str, str]) -> Specs:
    """The specs of an audit that uses other definitions of some scores.

    Args:
        variants: the definition to use, by score; `*`: of all scores that have one of this name.

    Raises:
        UserError: for a score that has one definition alone, for an unknown definition, and for an encoder that does not exist.
    """
    known: dict[str, tuple[str, ...]] = {}
    for family in families() if variants else ():
        known |= getattr(family, "VARIANTS", {})
    names = sorted(known)
    known["*"] = tuple(
        dict.fromkeys(variant for of_score in known.values() for variant in of_score if variant not in (ENCODER, JUDGE, CLIP, TEXTS))
    )
    for score, variant in variants.items():
        if score not in known:
            raise UserError(f"{score!r} is no score with several definitions{did_you_mean(score, known)}; such are {', '.join(names)}")
        if known[score] == (ENCODER,):
            encoder_of(variant)  # refuses what is none before anything is observed
        elif known[score] == (JUDGE,):
            judge_of(variant)  # likewise
        elif known[score] == (CLIP,):
            likeness_of(variant)  # likewise
        elif known[score] == (TEXTS,):
            cleanness_of(variant)  # likewise
        elif variant not in known[score]:
            raise UserError(f"{score!r} has no definition {variant!r}; it has {', '.join(known[score])}")
    forget = spec_of("forget", specs)
    return {**specs, "forget": replace(forget, variants={**forget.variants, **variants})} if variants else specs


def audit_scores(
    evidence: Evidence, resamples: int = 200, seed: int = 0, specs: Specs | None = None, measures: Mapping[str, Measured] | None = None
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Every score as a record, and why the others are missing.

    Args:
        resamples: draws of the bootstrap.
        specs: sets that are also scored by the families that their spec names.
        measures: what `measured` gave for this evidence, where that is known already.

    Returns:
        Records {value, interval: [lo, hi], n, variant, retrained, kind, direction, ideal, meaning, shows, scale}, and reasons, by name.
        `interval` is the 95 % percentile bootstrap over items, widened to hold the value: a p-value drawn again is biased. `retrained` is
        the same score of the retrained model, None where there is none, or only one of another variant.

    Raises:
        UserError: where a spec names an unknown family.
        ValueError: where two families give scores of one name.
    """
    records: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    for name, (measure, spec, retrained_measure, *_) in (measures or measured(evidence, specs)).items():
        if isinstance(measure, Missing):
            skipped[name] = str(measure)
        elif isfinite(value := measure.value()):
            records[name] = _record(measure, value, spec, retrained_measure, resamples, seed)
        else:
            skipped[name] = f"its value is not finite; {BROKEN}"
    return records, skipped


class Measured(NamedTuple):
    """A score of the audited model, with the same score of the other models, where these are known."""

    own: Measure | Missing
    spec: ScoreSpec
    retrained: Measure | Missing | None = None
    original: Measure | Missing | None = None
    random: Measure | Missing | None = None
    unseen: Measure | Missing | None = None  # of the original, on unseen items in the place of those to forget


def measured(evidence: Evidence, specs: Specs | None = None, beside: bool = False) -> dict[str, Measured]:
    """All scores that the observed aspects allow, by name.

    Args:
        specs: sets that are also scored by the families that their spec names.
        beside: also measure the original, the model with random weights, and the original on unseen items, by families with checks.

    Raises:
        UserError: where a spec names an unknown family.
        ValueError: where two families give scores of one name.
    """
    measures: dict[str, Measured] = {}
    specs = specs or {}
    evidence = replace(evidence, variants={**evidence.variants, **spec_of("forget", specs).variants})
    for name, score in _measures(evidence, specs, beside):
        if name in measures:
            raise ValueError(f"two families give a score '{name}'")
        measures[name] = score
    return measures


def _measures(evidence: Evidence, specs: Specs, beside: bool) -> Iterator[tuple[str, Measured]]:
    aspects = profile_of(evidence.model.modality).aspects
    names = set()
    for family in (f for f in families() if f.READS.issubset(aspects)):
        scores, *others = _of_models(family, evidence, beside)
        names.update(scores)
        for name, measure in scores.items():
            yield name, Measured(measure, family.SCORES[name], *(o.get(name) for o in others))
    for set_name, spec in specs.items():
        chosen = [_family(name) for name in spec.metrics] if set_name in evidence.model.sets else []
        for family in (f for f in chosen if f.READS.issubset(aspects)):
            focused = evidence.focused(set_name)
            focused = replace(focused, variants={**focused.variants, **spec.variants})
            scores, *others = _of_models(family, focused, beside)
            for name in _about_forget(family, focused, scores):
                own_name = f"{set_name}_{name.removeprefix('forget_')}"
                if own_name in names:  # the family scores this set by itself, as `tofu` does the retain set
                    continue
                yield own_name, Measured(scores[name], _of_set(family.SCORES[name], spec.role), *(o.get(name) for o in others))


def _of_models(family: ModuleType, evidence: Evidence, beside: bool) -> list[Scores]:
    """The scores of the model, of the retrained model, of the original, of random weights, and of the original on unseen items."""
    compared = beside and any(spec.margin is not None for spec in family.SCORES.values())
    models = (evidence.model, evidence.retrained, *((evidence.original, evidence.random) if compared else (None, None)))
    scores: list[Scores] = [_scores_of(family.scores, replace(evidence, model=m)) if m else {} for m in models]
    if compared and evidence.original and not evidence.retrained and _has_unseen(evidence.original):
        unseen = Evidence(evidence.original, variants=evidence.variants).focused(UNSEEN)
        return [*scores, _scores_of(family.scores, unseen)]
    return [*scores, {}]


def _has_unseen(observation: Observation) -> bool:
    """Whether unseen items show what is known without the rows to forget: not where these are whole classes, which the rows taught."""
    forget, retain = observation.sets.get("forget"), observation.sets.get("retain")
    labels = [s.label for s in (forget, retain) if s is not None and s.label is not None]
    return UNSEEN in observation.sets and (len(labels) < 2 or bool(np.isin(*labels).all()))


@lru_cache(maxsize=64)
def _scores_of(scores: Callable[[Evidence], Scores], evidence: Evidence) -> Scores:
    """The scores of a family, kept for a while: each audited model is held against the same original and retrained model."""
    return scores(evidence)


def _about_forget(family: ModuleType, evidence: Evidence, scores: Scores) -> list[str]:
    """The scores that read the set in the place of the forget set, and are missing without it. The others belong to the whole audit."""
    sets = {name: observation for name, observation in evidence.model.sets.items() if name != "forget"}
    try:
        scores_without: Scores = family.scores(replace(evidence, model=replace(evidence.model, sets=sets)))
    except (Missing, KeyError):  # of a family that is about this set alone
        return list(scores)
    return [
        n for n, measure in scores.items() if not isinstance(scores_without.get(n), Measure) and str(scores_without.get(n)) != str(measure)
    ]


def _of_set(spec: ScoreSpec, role: str) -> ScoreSpec:
    """The spec of a score on a set of some role: on sets to keep, more knowledge is better."""
    if role == "forget":
        return spec
    spec = replace(spec, margin=None)  # only what was to be forgotten is a check of the verdict
    if role == "unseen":
        return spec
    return replace(spec, kind="utility", shows=False, direction="higher" if spec.shows else spec.direction)


def _record(
    measure: Measure, value: float, spec: ScoreSpec, retrained: Measure | Missing | None, resamples: int, seed: int
) -> dict[str, Any]:
    low, high = measure.interval(resamples, seed=seed)
    retrained_value = retrained.value() if isinstance(retrained, Measure) and retrained.variant == measure.variant else None
    return {
        "value": value,
        "interval": [min(low, value), max(high, value)],
        "n": measure.n,
        "direction": spec.direction,
        "ideal": spec.ideal,
        "variant": measure.variant,
        "retrained": retrained_value if retrained_value is not None and isfinite(retrained_value) else None,
        "kind": spec.kind,
        "meaning": spec.meaning,
        "shows": spec.shows,
        "scale": spec.scale,
    }
