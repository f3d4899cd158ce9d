"""What an audit of a recommender looks at: losses of interactions, places of their items in the whole catalog, vectors, and some lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from expunge.core.capabilities import Ranks, require
from expunge.core.modality import Modality
from expunge.core.rows import Rows
from expunge.evaluation import representations as names
from expunge.evaluation.measure import Evidence
from expunge.evaluation.observation import Array, SetObservation, few
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.evaluation.profiles.profile import AskedSet, Counted, Profile, losses
from expunge.evaluation.recommender_panel import panels as shown
from expunge.modalities.ranking import representations

SAMPLES = {"forget": 6, "retain": 3}  # users whose lists the report shows
LISTED = 10  # items of a list
Progress = Callable[[int, str], None]


def look(
    model: nn.Module, modality: Modality, sets: Mapping[str, AskedSet], spec: ObservationSpec, progress: Progress
) -> tuple[dict[str, SetObservation], dict[str, object]]:
    """Losses, ranks, vectors and some lists of all sets, observed in one recommender.

    No other set has the rows to forget among its negatives and candidates, so that all models are asked the same, whether or not they know
    these rows.
    """
    recommender: Any = require(modality, Ranks)
    forgotten = sets["forget"].answers if "forget" in sets else None
    if forgotten is not None:
        rows_of = {n: a.answers if n == "forget" else recommender.avoiding(a.answers, forgotten) for n, a in sets.items()}
        sets = {n: AskedSet({"answer": (rows_of[n], a.kinds["answer"][1])}, a.spec) for n, a in sets.items()}
    observations, details = losses(model, modality, sets, spec, progress)
    for name, asked_set in sets.items():
        rows = asked_set.answers
        without = forgotten if name != "forget" else None
        ranks = recommender.ranks(model, rows, without=without).numpy()
        lists = _lists(model, recommender, rows, without) if spec.generations else ()
        observations[name] = replace(observations[name], ranks=ranks, draws=lists)
    if spec.features:
        rows_of = {n: a.answers for n, a in sets.items()}
        column, of_user = representations.attribute(list(rows_of.values()))
        for name in rows_of:
            observations[name] = replace(observations[name], features=_represented(model, recommender, rows_of, name, of_user))
        details = {**details, names.ATTRIBUTE: column}
    return observations, details


def _represented(model: nn.Module, recommender: Any, sets: Mapping[str, Rows], name: str, of_user: Mapping[int, str]) -> dict[str, Array]:
    """Vectors of the rows of a set, and where they lead; nan for rows beyond the most that are observed."""
    rows = sets[name]
    chosen = few(len(rows), names.MOST)
    some = rows if len(chosen) == len(rows) else rows.select(chosen)
    forgotten = sets.get("forget")
    values = {
        names.SCORE: representations.scores(model, some),
        names.ACTIVE: representations.active(recommender.known, some, forgotten),
        names.ATTRIBUTE: _codes(some, of_user),
    }
    if (both := representations.vectors(model, recommender)) is not None:
        values |= {n: x[list(some[n])].numpy() for n, x in zip((names.USER, names.ITEM), both, strict=True)}
    if name == "forget":
        values[names.NEIGHBOR] = representations.neighbor_places(model, recommender, some)
        if "retain" in sets:
            of_users = _row_of_each_user(sets["retain"], names.EVERY)
            values[names.EXPOSED], values[names.ALIKE] = representations.exposed_places(model, recommender, some, of_users)
    return {n: _at(len(rows), chosen, x) for n, x in values.items()}


def _at(rows: int, places: range, values: Array) -> Array:
    """Values of some rows among nan for the others, (rows, ...)."""
    whole = np.full((rows, *values.shape[1:]), np.nan, np.float32)
    whole[list(places)] = values
    return whole


def _codes(rows: Rows, of_user: Mapping[int, str]) -> Array:
    """The number of the attribute of each row's user, (rows, 1); nan where it is not known."""
    code = {value: float(k) for k, value in enumerate(sorted(set(of_user.values())))}
    return np.array([[code[of_user[u]] if u in of_user else np.nan] for u in rows["user"]], np.float32).reshape(len(rows), 1)


def _row_of_each_user(rows: Rows, most: int) -> Rows:
    """A row of some users, evenly spread over the rows."""
    first = list({user: i for i, user in reversed(list(enumerate(rows["user"])))}.values())[::-1]
    return rows.select(first[k] for k in few(len(first), most))


def _lists(model: nn.Module, modality: Any, rows: Rows, without: Rows | None) -> tuple[tuple[str, ...], ...]:
    """The first items that are recommended to the users of a few rows, as the answers of these rows; none for the other rows."""
    if not (limit := SAMPLES.get(rows.name)):
        return ()
    first_row: dict[int, int] = {}
    for i, user in enumerate(rows["user"]):
        first_row.setdefault(user, i)
    users = [user for k, user in enumerate(first_row) if k in few(len(first_row), limit)]
    lists = modality.lists(model, rows.select(i for i, user in enumerate(rows["user"]) if user in users), LISTED, without)
    shown = {first_row[user]: items for user, items in zip(sorted(users), lists.values(), strict=True)}
    return tuple(tuple(shown.get(i, ())) for i in range(len(rows)))


def users_counted(observation: SetObservation) -> Counted:
    """The users of a set: scores are means over them, however many interactions each has."""
    return Counted(len(set(observation.question)), "user", "users with interactions to forget")


def panels(evidence: Evidence) -> dict[str, Any]:
    """Lists of the sampled users, curves of recall, and users and items one by one."""
    return shown(evidence, SAMPLES)


PROFILE = Profile(
    aspects=frozenset({"losses", "ranks", "vectors"}),
    look=look,
    headline=("forget_recall", "forget_ndcg", "test_recall", "test_ndcg", "retain_recall", "forget_fit", "loss_attack", "mio"),
    utility="test_ndcg",
    quality="forget_recall",
    leads=("forget_recall", "forget_fit"),
    samples=SAMPLES,
    controls=("random_weights",),
    needs_random_init=True,
    panels=panels,
    unit="pairs",
    counted=users_counted,
)
