"""What an audit of a vision-language model looks at: what an audit of a language model does, through every door to a fact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from expunge.benchmarks.suite import SetSpec
from expunge.core.modality import Modality
from expunge.core.rows import Rows
from expunge.evaluation.attacks.doors import DOORS, score_of, set_of
from expunge.evaluation.measure import Evidence, Missing
from expunge.evaluation.metrics.fiubench import CUTS, KEYWORD, keywords_said
from expunge.evaluation.observation import Scored, SetObservation, few
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.evaluation.profiles import text
from expunge.evaluation.profiles.profile import AskedSet, Profile
from expunge.modalities.vision_language.columns import KEYWORDS
from expunge.report.panels import vision_language as panel

SAMPLES = {"forget": 8, "retain": 4}  # items of a set that pictures are kept of
Progress = Callable[[int, str], None]


def look(
    model: nn.Module, modality: Modality, sets: Mapping[str, AskedSet], spec: ObservationSpec, progress: Progress
) -> tuple[dict[str, SetObservation], dict[str, object]]:
    """What is observed of a language model, with keywords and small pictures, and the rows to forget through every door that they open."""
    observations, about = text.look(model, modality, sets, spec, progress)
    for name, asked_set in sets.items():
        observations[name] = _completed(observations[name], modality, asked_set.answers)
    if "forget" in sets and "about" in sets["forget"].answers.columns:
        seeing: Any = modality
        opened: dict[str, Rows] = seeing.doors(sets["forget"].answers)
        asked = {
            set_of(d): AskedSet({"answer": (r, list(range(len(r))))}, SetSpec("forget", ("score", "generate"))) for d, r in opened.items()
        }
        through, _ = text.look(model, modality, asked, replace(spec, moments=False, gradient_norms=False), progress) if asked else ({}, {})
        for name, observation in through.items():
            observations[name] = _completed(observation, modality, asked[name].answers)
    return observations, about


def _completed(observation: SetObservation, modality: Modality, rows: Rows) -> SetObservation:
    """An observation with the keywords of its rows as answers without labels, and with some pictures."""
    words = [(i, w) for i, ways in enumerate(rows.columns.get("about", ())) for w in ways.get(KEYWORDS, ())]
    kinds = dict(observation.kinds)
    if words:
        none = np.zeros(0, np.float32)
        item, start = np.array([i for i, _ in words], np.int64), np.zeros(len(words) + 1, np.int64)
        kinds[KEYWORD] = Scored(item, start, none, none.astype(bool), np.zeros(len(words), bool), tuple(w for _, w in words))
    display: Any = modality
    limit = SAMPLES.get(rows.name, 0)
    drawn = display.pictures(rows.select(few(len(rows), limit))) if limit and len(rows) else None
    return replace(observation, kinds=kinds, pictures=None if drawn is None else drawn.numpy())


def panels(evidence: Evidence) -> dict[str, Any]:
    """The share of keywords said through each door, for one picture of all models."""
    shares = {}
    for door in DOORS:
        observation = evidence.model.sets.get(set_of(door))
        try:
            values = keywords_said(CUTS[0], observation) if observation is not None else None
        except Missing:
            continue
        if values is not None:
            shares[door] = float(np.nanmean(values))
    return {**text.panels(evidence), **({panel.NAME: panel.data(panel.Doors(shares))} if shares else {})}


PROFILE = Profile(
    aspects=frozenset({*text.PROFILE.aspects, "doors"}),
    look=look,
    headline=(
        "forget_keywords",
        "fiu_utility",
        *(score_of(door) for door in DOORS if door != "picture"),
        "forget_quality",
        "model_utility",
        "mia_min_k",
        "fiu_min_k",
    ),
    utility="fiu_utility",
    quality="forget_quality",
    leads=("widest_door", "forget_keywords", "extraction_strength"),
    curve=("forget_probability", "extraction_strength", "forget_truth_ratio"),
    samples=SAMPLES,
    controls=("random_weights",),
    panels=panels,
    likeness=text.likeness,
    unit="tokens",
)
