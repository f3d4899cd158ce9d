"""What an audit of an image classifier looks at: distributions over classes, features of every block, small pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import nn

from expunge.core.capabilities import Displayable, offers, require
from expunge.core.errors import UserError
from expunge.core.modality import Modality, ModelOutput
from expunge.core.rows import Rows
from expunge.evaluation.classifier_panel import classes
from expunge.evaluation.measure import Evidence
from expunge.evaluation.observation import HEAD, SetObservation, few
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.evaluation.profiles.profile import AskedSet, Profile, Record, ScoredModel
from expunge.evaluation.teacher_forced import packed, score
from expunge.modalities.common.labels import LABELS
from expunge.modalities.image.columns import IMAGES
from expunge.report.panels import image as panel

SAMPLES = {"forget": 8, "retain": 4}  # items of a set that pictures are kept of
Progress = Callable[[int, str], None]


def look(
    model: nn.Module, modality: Modality, sets: Mapping[str, AskedSet], spec: ObservationSpec, progress: Progress
) -> tuple[dict[str, SetObservation], dict[str, object]]:
    """Distributions, features and pictures of all sets, observed in one classifier."""
    observations: dict[str, SetObservation] = {}
    for name, asked_set in sets.items():
        observations[name] = _classified(model, modality, asked_set.answers, spec.features)
        progress(sum(map(len, observations.values())), f"reading {name}")
    return observations, {}


def _classified(model: nn.Module, modality: Modality, rows: Rows, features: bool) -> SetObservation:
    """A classifier's distributions and features; its generation is its most probable class."""
    hook_points = _hook_points(model, modality) if features else {}
    log_probs, labels = list[torch.Tensor](), list[torch.Tensor]()
    features_of: dict[str, list[torch.Tensor]] = {n: [] for n in hook_points.values()}

    def keep(output: ModelOutput) -> None:  # rows are all of one length, so their order stays
        log_probs.append(output.log_probs.values.float().cpu())
        labels.append(output.labels.cpu())
        for hook_point, name in hook_points.items():
            features_of[name].append((output.input(hook_point) if name == HEAD else output.hidden(hook_point)).values.float().cpu())

    scored = packed(modality, rows, range(len(rows)), score(model, modality, rows, False, tuple(hook_points), keep))
    all_log_probs = torch.cat(log_probs)
    display: Any = modality
    return SetObservation(
        rows.ids,
        tuple(display.questions(rows)),
        tuple(display.answer_texts(rows)),
        {"answer": scored},
        generations=tuple(display.decode(all_log_probs.argmax(-1)[:, None].tolist())),
        log_probs=all_log_probs.numpy(),
        label=torch.cat(labels).numpy(),
        features={n: torch.cat(x).numpy() for n, x in features_of.items()},
        pictures=_pictures(modality, rows),
    )


def _pictures(modality: Modality, rows: Rows) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    """Small pictures of a few rows, for people to look at; None for a set that the report does not show."""
    if not offers(modality, Displayable) or not (limit := SAMPLES.get(rows.name)):
        return None
    drawn = require(modality, Displayable).pictures(rows.select(few(len(rows), limit)))
    return None if drawn is None else drawn.numpy()


def _hook_points(model: nn.Module, modality: Modality) -> dict[str, str]:
    """Hook points of the features, with their names: the blocks, and the input of the last linear layer, where the model has one."""
    points = {path: path for path in modality.blocks(model)}
    with suppress(UserError):
        points[modality.head(model)] = HEAD
    return points


def likeness(model: ScoredModel, retrained: ScoredModel) -> list[float]:
    """How near a classifier comes to the retrained one in utility, in accuracy on forgotten items and in the loss attack."""
    scores, target = ({n: r["value"] for n, r in m.scores.items()} for m in (model, retrained))
    near = [1 - abs(scores[n] - target[n]) for n in ("forget_accuracy", "test_forget_accuracy", "mia_loss") if n in scores]
    return [min(1.0, scores["model_utility"] / target["model_utility"]), *near]


def panels(evidence: Evidence) -> dict[str, Any]:
    """Counts, curves and places of the items, for pictures."""
    drawn = classes(evidence)
    return {panel.NAME: panel.data(drawn)} if drawn else {}


def group(record: Record) -> str:
    """The class of the image in a record, written out; '' where there is no image."""
    return next((str(record[n]) for n in LABELS if n in record), "") if record.keys() & set(IMAGES) else ""


PROFILE = Profile(
    aspects=frozenset({"distributions", "features"}),
    look=look,
    headline=(
        "forget_accuracy",
        "retain_accuracy",
        "test_accuracy",
        "average_gap",
        "h_lr",
        "mia_loss",
        "mia_efficacy",
        "cka_retrained",
        "zrf",
    ),
    utility="model_utility",
    quality="h_lr",
    leads=("forget_accuracy",),
    curve=("forget_accuracy", "forget_confidence"),
    samples=SAMPLES,
    controls=("random_weights",),
    needs_random_init=True,
    panels=panels,
    likeness=likeness,
    group=group,
    unit="images",
)
