"""Concepts in drawn pictures: does a model still draw what it was to forget, does it still draw everything else, and as well as before?
Classifiers name what the pictures show that a model draws for prompts with the concept and for prompts without it.

Source: UnlearnCanvas (Zhang et al. 2024, arXiv 2402.11846) for UA, IRA and CRA; Heusel et al. 2017 (arXiv 1706.08500) for the Fréchet
    distance; Hessel et al. 2021 (arXiv 2104.08718) for the CLIP score
Scores: forget_drawn, ua, kept_drawn, ira, cra, frechet, sample_shift, clip_score
Needs: forget, and prompts or retain; samples; classifiers of drawn pictures (--variant forget_drawn=FOLDER; a benchmark brings its own);
    original (for sample_shift); a CLIP model (--variant clip_score=FOLDER)
Range and ideal: 0 to 1; forget_drawn as the retrained model's; ua = 1 - forget_drawn, which papers want high; kept_drawn, ira and cra
    high; frechet from 0, low; sample_shift from 0; clip_score -100 to 100
Differs: the concept is the class that all prompts to forget name and no other prompt does, and its domain is that of its classifier; ira is
    over prompts that name another class of the domain, judged in this domain; cra is over all prompts, those with the concept included, and
    averaged over the other domains; both are means over pictures, where every prompt has as many. The Fréchet distance is that of our
    classifiers' features, between pictures for the kept prompts and pictures of the retained rows, so its values compare within one
    benchmark alone; below some thousand pictures it is biased upwards
Status: faithful
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from expunge.benchmarks.common.judges import Judge, Judged
from expunge.evaluation.judging import CLIP, JUDGE, judge_of, likeness_of
from expunge.evaluation.measure import Evidence, Items, Measure, Missing, ScoreSpec, attempt, averaged
from expunge.evaluation.observation import Observation, SetObservation
from expunge.functional.frechet import frechet_distance

READS = frozenset({"samples"})  # what must have been observed
MARGIN = 0.1  # of means from 0 to 1, as of other scores
KEPT = ("prompts", "retain")  # sets of prompts without the concept; the first that was drawn counts
SCORES = {
    "forget_drawn": ScoreSpec(
        "knowledge",
        "retrained",
        "share of pictures for prompts with the concept that show it",
        shows=True,
        margin=MARGIN,
        one="picture",
    ),
    "ua": ScoreSpec("knowledge", "higher", "share of pictures for prompts with the concept that do not show it", one="picture"),
    "kept_drawn": ScoreSpec(
        "utility", "higher", "share of pictures for other prompts that show what these name, over all domains", one="picture"
    ),
    "ira": ScoreSpec("utility", "higher", "share of pictures for prompts with others of the concept's kind that show these", one="picture"),
    "cra": ScoreSpec("utility", "higher", "share of pictures that show what their prompts name of other kinds", one="picture"),
    "frechet": ScoreSpec(
        "utility", "lower", "distance of pictures for other prompts from the pictures that are kept", ideal=0.0, one="picture"
    ),
    "sample_shift": ScoreSpec(
        "utility", "lower", "how far pictures for other prompts moved from the original's at equal seeds", one="picture"
    ),
    "clip_score": ScoreSpec("utility", "higher", "how well pictures for other prompts fit them under a CLIP model", one="picture"),
}
VARIANTS: Mapping[str, tuple[str, ...]] = {"forget_drawn": (JUDGE,), "clip_score": (CLIP,)}


class Target(NamedTuple):
    """What is to be forgotten: a domain, and the number of its class."""

    domain: str
    number: int


def prompts_of(observation: SetObservation) -> list[str]:
    """The prompts that pictures were drawn for."""
    return [prompt for drawn in observation.draws for prompt in drawn]


def pictures_of(observation: SetObservation) -> tuple[NDArray[np.uint8], list[str]]:
    """All drawn pictures (pictures, channels, height, width), and the prompt of each. Raises: Missing where none were drawn."""
    if observation.samples is None or not len(observation.samples):
        raise Missing("no pictures were drawn")
    seeds = observation.samples.shape[1]
    return observation.samples.reshape(-1, *observation.samples.shape[2:]), [p for p in prompts_of(observation) for _ in range(seeds)]


@lru_cache(maxsize=64)
def judged(observation: SetObservation, judge: str) -> Judged:
    """What the pictures of a set show, by the judge of a name. Raises: Missing where none were drawn."""
    return judge_of(judge).judged(pictures_of(observation)[0])


def kept_of(observation: Observation) -> SetObservation:
    """The set of prompts without the concept. Raises: Missing where none was drawn."""
    for name in KEPT:
        if name in observation.sets and observation.sets[name].samples is not None:
            return observation.sets[name]
    raise Missing(f"no pictures were drawn for prompts without the concept ({' or '.join(KEPT)})")


def kept_prompts(observation: Observation) -> list[str]:
    """The prompts without the concept, drawn or not. Raises: Missing where no set has any."""
    for name in KEPT:
        if name in observation.sets:
            return prompts_of(observation.sets[name]) or list(observation.sets[name].question)
    raise Missing(f"the audit has no prompts without the concept ({' or '.join(KEPT)})")


def target_of(judge: Judge, forget: list[str], kept: list[str]) -> Target:
    """The class that all prompts to forget name and no other prompt does.

    Raises:
        Missing: where there is none, so no classifier can tell whether the concept is drawn.
    """
    named, others = judge.expected(forget), judge.expected(kept)
    for domain, numbers in named.items():
        if len(set(numbers.tolist())) == 1 and numbers[0] >= 0 and numbers[0] not in others[domain]:
            return Target(domain, int(numbers[0]))
    classes = ", ".join(n for names in judge.domains.values() for n in names)
    raise Missing(
        f"no class of the classifiers is named by all prompts to forget and by no other prompt, so whether the concept is drawn cannot be "
        f"judged; the classes are {classes[:200]}"
    )


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """All scores of the card."""
    makers: dict[str, Callable[[Evidence], Measure]] = {
        "forget_drawn": lambda e: averaged(_shares(e, "forget")),
        "ua": lambda e: averaged(1 - _shares(e, "forget")),
        "kept_drawn": lambda e: averaged(_kept(e)),
        "ira": lambda e: averaged(_shares(e, "ira")),
        "cra": lambda e: averaged(_shares(e, "cra")),
        "frechet": _frechet,
        "sample_shift": lambda e: Measure((_shift(e),), np.mean, "mean absolute difference, pixels from 0 to 1"),
        "clip_score": lambda e: Measure((_likeness(e),), np.mean, "100 times the cosine"),
    }
    return {name: attempt(make, evidence) for name, make in makers.items()}


def _judge_name(evidence: Evidence) -> str:
    name = evidence.variants.get("forget_drawn") or evidence.variants.get("*")
    if not name:
        raise Missing("no classifiers of drawn pictures were named: give --variant forget_drawn=FOLDER")
    return name


def _forget(observation: Observation) -> SetObservation:
    if "forget" not in observation.sets:
        raise Missing("the audit has no forget set")
    return observation.sets["forget"]


def _shares(evidence: Evidence, score: str) -> Items:
    """For each picture whether it shows the concept (forget), or what its prompt names (ira, cra), (pictures,)."""
    name, forget = _judge_name(evidence), _forget(evidence.model)
    judge = judge_of(name)
    domain, number = target_of(judge, prompts_of(forget), kept_prompts(evidence.model))
    if score == "forget":
        return np.asarray(judged(forget, name).classes[domain] == number, np.float64)
    kept = kept_of(evidence.model)
    if score == "ira":
        expected = judge.expected(pictures_of(kept)[1])[domain]
        hits = np.asarray(judged(kept, name).classes[domain] == expected, np.float64)
        return _some(hits[(expected >= 0) & (expected != number)], "a prompt names another one of the concept's kind")
    others = [d for d in judge.domains if d != domain]
    return _some(np.concatenate([_hits(judge, name, s, others) for s in (forget, kept)]), "the classifiers have another domain")


def _kept(evidence: Evidence) -> Items:
    name, kept = _judge_name(evidence), kept_of(evidence.model)
    return _some(_hits(judge_of(name), name, kept, list(judge_of(name).domains)), "a prompt names a class of the classifiers")


def _hits(judge: Judge, name: str, observation: SetObservation, domains: list[str]) -> Items:
    """Whether each picture shows what its prompt names, a mean over domains; pictures whose prompt names nothing are left out."""
    expected, classes = judge.expected(pictures_of(observation)[1]), judged(observation, name).classes
    hits = np.array([np.where(expected[d] >= 0, classes[d] == expected[d], np.nan) for d in domains], np.float64)
    known = hits[:, ~np.isnan(hits).all(0)] if len(hits) else hits.reshape(0, 0)
    return np.asarray(np.nanmean(known, 0)) if known.size else np.empty(0)


def _some(values: Items, condition: str) -> Items:
    if not len(values):
        raise Missing(f"this score needs that {condition}, and that is not so")
    return values


def _frechet(evidence: Evidence) -> Measure:
    name, kept, retain = _judge_name(evidence), kept_of(evidence.model), evidence.model.sets.get("retain")
    if retain is None or retain.originals is None or len(retain.originals) < 2:
        raise Missing("the audit has no retain set with pictures")
    features = judge_of(name).judged(retain.originals).features
    return Measure((judged(kept, name).features, features), frechet_distance, f"{features.shape[1]} features")


def _shift(evidence: Evidence) -> Items:
    """Mean absolute difference of each picture from the original model's, pixels from 0 to 1, (pictures,)."""
    if evidence.original is None:
        raise Missing("no original model was given")
    (own, prompts), (other, others) = (pictures_of(kept_of(o)) for o in (evidence.model, evidence.original))
    if prompts != others or own.shape != other.shape:
        raise Missing("the model and the original model drew pictures for different prompts")
    return np.asarray(np.abs(own.astype(np.float64) - other).reshape(len(own), -1).mean(1) / 255)


def _likeness(evidence: Evidence) -> Items:
    name = evidence.variants.get("clip_score")
    if not name:
        raise Missing("no CLIP model was named: give --variant clip_score=FOLDER")
    return np.asarray(100 * likeness_of(name)(*pictures_of(kept_of(evidence.model))))
