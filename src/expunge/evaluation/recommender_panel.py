"""What the report's panel of recommenders shows of one model, from observations: lists, curves of recall, users and items one by one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from expunge.evaluation.measure import Evidence
from expunge.evaluation.metrics.recommendation import cut_of
from expunge.evaluation.observation import SetObservation
from expunge.report.panels import ranking as panel

CURVES = ("forget", "test", "holdout")  # sets with a curve of recall; of the last two the first one that there is
STEPS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 2000, 5000, 10_000)
MOST = 400  # users and items that are reported one by one


def panels(evidence: Evidence, listed: Collection[str]) -> dict[str, Any]:
    """The panel's data on the audited model.

    Args:
        listed: sets whose users' lists are shown.
    """
    sets = {n: o for n, o in evidence.model.sets.items() if o.ranks is not None}
    cut = cut_of(evidence)
    unseen = next((n for n in CURVES[1:] if n in sets), "")
    curves = {kind: _curve(sets[n]) for kind, n in (("forget", "forget"), ("unseen", unseen)) if n in sets}
    forget = sets.get("forget")
    users, items = ([], []) if forget is None else (_one_by_one(forget, names, cut) for names in (forget.question, forget.answer))
    lists = {n: _lists(o) for n, o in evidence.model.sets.items() if n in listed and o.draws}
    shown = panel.Recommended(lists, cut, curves, users, items)
    return {panel.NAME: panel.data(shown)} if any(lists.values()) or curves else {}


def _lists(observation: SetObservation) -> list[panel.ListOfUser]:
    """The lists of the sampled users, with their own items of the set."""
    own: dict[str, list[str]] = {}
    for user, item in zip(observation.question, observation.answer, strict=True):
        own.setdefault(user, []).append(item)
    sampled = [(observation.question[i], list(items)) for i, items in enumerate(observation.draws) if items]
    return [panel.ListOfUser(user, items, [i for i in items if i in own[user]]) for user, items in sampled]


def _curve(observation: SetObservation) -> list[tuple[int, float]]:
    """The share of a set's items among the first K of their users, for rising K until it is 1."""
    places = _known(observation.ranks)
    if not len(places):
        return []
    curve = [(k, float((places < k).mean())) for k in STEPS]
    return curve[: next((i for i, (_, share) in enumerate(curve) if share == 1), len(curve)) + 1]


def _one_by_one(observation: SetObservation, names: Sequence[str], cut: int) -> list[panel.OneByOne]:
    """How each user's, or each item's, rows to forget are recommended."""
    if observation.ranks is None:
        return []
    places: dict[str, list[int]] = {}
    for name, place in zip(names, observation.ranks.tolist(), strict=True):
        if place >= 0:
            places.setdefault(name, []).append(place)
    chosen = list(places)[:MOST]
    return [panel.OneByOne(n, len(places[n]), float(np.mean(np.array(places[n]) < cut)), float(np.median(places[n])) + 1) for n in chosen]


def _known(ranks: Any) -> Any:
    """Places without those of broken scores."""
    return ranks[ranks >= 0] if ranks is not None else np.empty(0)
