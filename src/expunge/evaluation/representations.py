"""What is observed in a recommender besides losses and ranks, by name, with the readers that metrics and attacks share."""

from __future__ import annotations

import numpy as np

from expunge.evaluation.measure import Broken, Items, Missing
from expunge.evaluation.observation import SetObservation

USER, ITEM = "user", "item"  # the vectors of a row's user and item, (rows, width) each
SCORE = "score"  # of the row's pair, (rows, 1)
ACTIVE = "active"  # 1 for rows of users with the most interactions, else 0, (rows, 1)
ATTRIBUTE = "attribute"  # the number of an attribute of the row's user, (rows, 1)
NEIGHBOR = "neighbor"  # the place of the row's item among the neighbors of the user's other items, (rows, 1)
EXPOSED = "exposed"  # the places of the row's item in the rankings of users who never had it, (rows, users)
ALIKE = "alike"  # 1 where these users have an item that looks like it, else 0, (rows, users)
MOST = 4096  # rows of a set whose vectors are observed
EVERY = 64  # users in whose rankings removed items are looked for


def observed(observation: SetObservation, name: str) -> Items:
    """One of the above for each row of a set, (rows, ...), nan where a row lacks it.

    Raises:
        Missing: where it was not observed.
        Broken: where numbers of the model are infinite.
    """
    values = observation.features.get(name)
    if values is None:
        raise Missing("no vectors of users and items were observed")
    if np.isinf(values).any():
        raise Broken("vectors of users and items are not finite")
    if np.isnan(values).all():
        raise Missing(LACKING[name])
    return np.asarray(values, np.float64)


LACKING = {
    USER: "the model has no vectors of users",
    ITEM: "the model has no vectors of items",
    SCORE: "the model gives no scores",
    ACTIVE: "the model holds no training interactions",
    ATTRIBUTE: "no column of the rows has an attribute of users: a text that is the same in all rows of a user, such as an age group",
    NEIGHBOR: "the model has no vectors of users and items of one width",
    EXPOSED: "no item is removed altogether: each has training interactions that are kept",
    ALIKE: "the model reads no features of items",
}
