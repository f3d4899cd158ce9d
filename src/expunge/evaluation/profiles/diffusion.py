"""What an audit of a diffusion model looks at: losses of denoising, and what it draws for prompts, at the same seeds as other models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from expunge.benchmarks.suite import SetSpec
from expunge.core.capabilities import Denoises, require
from expunge.core.modality import Modality
from expunge.core.rows import Rows
from expunge.evaluation.drawn_panel import panels
from expunge.evaluation.measure import Evidence
from expunge.evaluation.observation import SetObservation, few
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.evaluation.profiles.profile import AskedSet, ContextSet, Profile, losses, texts
from expunge.modalities.diffusion.columns import CAPTIONS, PICTURES

SAMPLES = {"forget": 6, "prompts": 6, "retain": 4}  # prompts of a set whose pictures the report shows
KEPT = ("prompts", "retain")  # sets of prompts without the concept; the first one counts
SEEDS = 3  # pictures that are drawn for each prompt, with the seeds 0, 1 ...
PROMPTS = 24  # distinct prompts of a set that are drawn, evenly spread
AT_ONCE = 120  # pictures in one batch
ORIGINALS = 240  # pictures of a set that drawn ones are compared with
LARGEST = 256  # pixels of the longer side of an observed picture
ASKED = ("draw", "generate")  # sets that are asked so are drawn
Progress = Callable[[int, str], None]


def look(
    model: nn.Module, modality: Modality, sets: Mapping[str, AskedSet], spec: ObservationSpec, progress: Progress
) -> tuple[dict[str, SetObservation], dict[str, object]]:
    """Losses of all sets with pictures, and pictures that the model draws for the prompts of those that are asked to be drawn."""
    artist = require(modality, Denoises)
    shown = {n: a for n, a in sets.items() if all(p is not None for p in a.answers["picture"])}
    observations, details = losses(model, modality, shown, spec, progress)
    for name, asked_set in sets.items():
        rows = asked_set.answers
        if name not in observations:  # prompts alone, which have no loss
            observations[name] = SetObservation(rows.ids, *texts(modality, rows), {})
        if spec.generations and set(asked_set.spec.ask) & set(ASKED):
            chosen = _distinct(rows)
            progress(sum(map(len, observations.values())), f"drawing {len(chosen) * SEEDS} pictures for {name}")
            draws = tuple((rows["caption"][i],) if i in chosen else () for i in range(len(rows)))
            samples = drawn(model, artist, [rows["caption"][i] for i in sorted(chosen)])
            observations[name] = replace(observations[name], draws=draws, samples=samples)
        if spec.generations and name in shown:
            originals = torch.stack([rows["picture"][i] for i in few(len(rows), ORIGINALS)])
            observations[name] = replace(observations[name], originals=_limited(originals).numpy())
    return observations, details


def drawn(model: nn.Module, artist: Any, captions: list[str]) -> NDArray[np.uint8]:
    """Pictures for captions, each with the seeds 0, 1 ..., (captions, seeds, channels, height, width)."""
    texts_of_all = [c for c in captions for _ in range(SEEDS)]
    seeds = list(range(SEEDS)) * len(captions)
    pieces = []
    for first in range(0, len(seeds), AT_ONCE):
        latents, _ = artist.sample(model, texts_of_all[first : first + AT_ONCE], seeds[first : first + AT_ONCE])
        pieces.append(_limited(artist.drawn(latents)))
    pictures = torch.cat(pieces)
    result: NDArray[np.uint8] = pictures.view(len(captions), SEEDS, *pictures.shape[1:]).numpy()
    return result


def _distinct(rows: Rows) -> set[int]:
    """The places of rows with distinct captions, evenly spread."""
    first = list({c: i for i, c in reversed(list(enumerate(rows["caption"])))}.values())[::-1]
    return {first[k] for k in few(len(first), PROMPTS)}


def _limited(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures whose longer side has at most `LARGEST` pixels."""
    if (share := LARGEST / max(pictures.shape[-2:])) >= 1:
        return pictures
    size = [max(1, round(side * share)) for side in pictures.shape[-2:]]
    smaller = torch.nn.functional.interpolate(pictures.float(), size=size, mode="bilinear", antialias=True)
    return smaller.round().clamp(0, 255).to(torch.uint8)


def shown(evidence: Evidence) -> dict[str, Any]:
    """Grids of what is drawn for some prompts of each set."""
    return panels(evidence, SAMPLES)


def group(record: Mapping[str, Any]) -> str:
    """The caption of the picture in a record; '' where there is no picture."""
    return next((str(record[c]) for c in CAPTIONS if c in record), "") if record.keys() & set(PICTURES) else ""


def wants_under_attack(wants: ObservationSpec, spec: SetSpec) -> ObservationSpec:
    """Pictures are drawn under attack where classifiers judge them, because drawing takes longer than most attacks."""
    return replace(wants, generations=wants.generations or bool({"forget_drawn", "*"} & spec.variants.keys()))


def context(modality: Modality, sets: Mapping[str, Any]) -> dict[str, ContextSet]:
    """The prompts without the concept, which are not drawn: without them nothing tells which concept the prompts to forget share."""
    name = next((n for n in KEPT if sets.get(n)), "")
    if not name:
        return {}
    captions = dict.fromkeys(modality.rows(name, sets[name])["caption"])
    return {KEPT[0]: ContextSet([{"caption": c} for c in captions], SetSpec("general", ()))}


PROFILE = Profile(
    aspects=frozenset({"losses", "samples"}),
    look=look,
    headline=("ua", "ira", "cra", "frechet", "forget_drawn", "forget_fit", "loss_attack"),
    utility="kept_drawn",
    quality="forget_drawn",
    leads=("forget_drawn", "forget_fit"),
    samples={"forget": 4, "retain": 2},
    controls=("random_weights",),
    panels=shown,
    group=group,
    wants_under_attack=wants_under_attack,
    context=context,
    unit="draws",
)
