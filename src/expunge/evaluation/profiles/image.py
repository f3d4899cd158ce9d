"""What an audit of an image classifier looks at: distributions over classes, features of every block, small pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import nn

from expunge.core.capabilities import Displayable, offers, require
from expunge.core.errors import UserError
from expunge.core.modality import Modality, ModelOutput
from expunge.core.rows import Rows
from expunge.evaluation import rules
from expunge.evaluation.classifier_panel import classes
from expunge.evaluation.measure import Evidence
from expunge.evaluation.observation import HEAD, SetObservation, few
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.evaluation.profiles.profile import AskedSet, Finding, Judged, Profile, Record, ScoredModel
from expunge.evaluation.teacher_forced import packed, score
from expunge.evaluation.wording import beside, finding
from expunge.modalities.image.columns import IMAGES, LABELS
from expunge.report.panels import image as panel

SAMPLES = {"forget": 8, "retain": 4}  # items of a set that pictures are kept of
SLACK = 0.05  # of accuracy above the retrained model's: its own seeds differ by that
INNER = {"knn_forget": SLACK, "cka_original": 0.2}  # features that still know: how far above the retrained model's
CALLED = {"mia_efficacy": -1, "mia_entropy": 1, "mia_threshold": 1}  # which way the share moves where items look like members
TOLD = "mia_cv"  # accuracy of telling forgotten from unseen items, whichever of them look more familiar
Progress = Callable[[int, str], None]


def look(
    model: nn.Module, modality: Modality, sets: Mapping[str, AskedSet], spec: ObservationSpec, progress: Progress
) -> tuple[dict[str, SetObservation], dict[str, object]]:
    """What a classifier makes of all sets."""
    observations: dict[str, SetObservation] = {}
    for name, one in sets.items():
        observations[name] = _classified(model, modality, one.answers, spec.features)
        progress(sum(map(len, observations.values())), f"reading {name}")
    return observations, {}


def _classified(model: nn.Module, modality: Modality, rows: Rows, features: bool) -> SetObservation:
    """A classifier's distributions and features; its answer is its most probable class."""
    hook_points = _hook_points(model, modality) if features else {}
    log_probs, labels = list[torch.Tensor](), list[torch.Tensor]()
    inner: dict[str, list[torch.Tensor]] = {n: [] for n in hook_points.values()}

    def keep(output: ModelOutput) -> None:  # rows are all of one length, so their order stays
        log_probs.append(output.log_probs.values.float().cpu())
        labels.append(output.labels.cpu())
        for hook_point, name in hook_points.items():
            inner[name].append((output.input(hook_point) if name == HEAD else output.hidden(hook_point)).values.float().cpu())

    scored = packed(modality, rows, range(len(rows)), score(model, modality, rows, False, tuple(hook_points), keep))
    every = torch.cat(log_probs)
    display: Any = modality
    return SetObservation(
        rows.ids,
        tuple(display.questions(rows)),
        tuple(display.answer_texts(rows)),
        {"answer": scored},
        generations=tuple(display.decode(every.argmax(-1)[:, None].tolist())),
        log_probs=every.numpy(),
        label=torch.cat(labels).numpy(),
        features={n: torch.cat(x).numpy() for n, x in inner.items()},
        pictures=_pictures(modality, rows),
    )


def _pictures(modality: Modality, rows: Rows) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    """Small pictures of a few rows, for people to look at; None of a set that nobody looks at."""
    if not offers(modality, Displayable) or not (many := SAMPLES.get(rows.name)):
        return None
    drawn = require(modality, Displayable).pictures(rows.select(few(len(rows), many)))
    return None if drawn is None else drawn.numpy()


def _hook_points(model: nn.Module, modality: Modality) -> dict[str, str]:
    """Where features are looked at, with the names that they get: the blocks, and what the last linear layer reads, where there is one."""
    points = {path: path for path in modality.blocks(model)}
    with suppress(UserError):
        points[modality.head(model)] = HEAD
    return points


def classified(judged: Judged) -> Iterator[Finding]:
    """Accuracy on what was forgotten, beside the retrained model's; then what the features know below the head."""
    for name, what in (("forget_accuracy", "forgotten items"), ("test_forget_accuracy", "unseen items of forgotten classes")):
        if record := judged.against_retrained(name):
            values, (low, high) = beside(name, record), record["interval"]
            if low > record["retrained"] + SLACK:
                yield finding("fail", name, f"Forgetting failed: too many {what} are still classified right ({values}).")
            elif high < record["retrained"] - SLACK:
                yield finding("fail", name, f"Over-forgotten: {what} are more often wrong than to a model that never saw them ({values}).")
            else:
                yield finding("pass", name, f"Forgotten: {what} are classified as by a model that never saw them ({values}).")
    known = [(n, record, slack) for n, slack in INNER.items() if (record := judged.against_retrained(n))]
    if odd := [beside(n, record) for n, record, slack in known if record["interval"][0] > record["retrained"] + slack]:
        yield finding("warn", None, f"The features below the last layer still know what was to be forgotten ({'; '.join(odd)}).")


def called(judged: Judged) -> Iterator[Finding]:
    """Shares of forgotten items that simple attacks on classifiers call members: warnings, since such attacks overstate privacy."""
    odd, quiet = [], []
    for name, way in CALLED.items():
        if record := judged.against_retrained(name):
            low, high = record["interval"]
            too_familiar = low > record["retrained"] if way > 0 else high < record["retrained"]
            (odd if too_familiar else quiet).append(beside(name, record))
    if odd:
        yield finding("warn", None, f"Forgotten items look more like training items than to the retrained model ({'; '.join(odd)}).")
    if quiet:
        yield finding("pass", None, f"Forgotten items look no more like training items than to the retrained model ({'; '.join(quiet)}).")
    if record := judged.against_retrained(TOLD):
        better = record["interval"][0] > record["retrained"]
        text = f"Forgotten items can be told from unseen ones {'better' if better else 'no better'} than by the retrained model"
        yield finding("warn" if better else "pass", TOLD, f"{text} ({beside(TOLD, record)}).")


def likeness(model: ScoredModel, retrained: ScoredModel) -> list[float]:
    """How near a classifier comes to the retrained one in utility, in accuracy on forgotten items and in what a loss attack sees."""
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
    rules=(classified, rules.utility("model_utility"), rules.membership(("mia_loss",), "mia_loss"), called),
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
