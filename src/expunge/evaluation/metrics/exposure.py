"""Exposure: are removed items still recommended to users who never had them, above all to those who have items that look like them?
An item that was taken down must not come back because its pictures or texts are like those of an item that stays.

Source: our own, after the remark of MMRecUn (arXiv 2405.15328) that features of removed items stay in the model
Scores: exposure, exposure_alike
Needs: forget, retain; items whose interactions are all to be forgotten; features of items (for exposure_alike)
Range and ideal: 0 to 1; ideal as the retrained model's, which may be above 0: it knows the features, too
Differs: nothing
Status: shown

An item's exposure is the share of users (64 of the retain set) in whose first K recommendations it stands, K as in recall. Candidates are
all items that the user has no training interaction with. The exposure among look-alikes asks only users who have one of the five items
that stay and whose features are nearest to the removed one's (the sum of the cosines of all its features). Scores are means over removed
items.
"""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np

from expunge.evaluation.measure import Evidence, Items, Measure, Missing, ScoreSpec, attempt, averaged
from expunge.evaluation.metrics.recommendation import CUTS
from expunge.evaluation.observation import SetObservation
from expunge.evaluation.representations import ALIKE, EXPOSED, observed

READS = frozenset({"ranks", "vectors"})  # what must have been observed
MARGIN = 0.1
SCORES = {
    "exposure": ScoreSpec(
        "knowledge",
        "retrained",
        "share of the users who never had a removed item to whom it is recommended",
        shows=True,
        margin=MARGIN,
        decides=False,
    ),
    "exposure_alike": ScoreSpec(
        "knowledge",
        "retrained",
        "the same, of users who have an item that looks like the removed one",
        shows=True,
        margin=MARGIN,
        decides=False,
    ),
}
VARIANTS = {name: tuple(CUTS) for name in SCORES}


def exposures(k: int, alike: bool, observation: SetObservation) -> Items:
    """The exposure of each item at its first row, nan for its further rows and for items that are not removed altogether, (rows,)."""
    places = observed(observation, EXPOSED)
    if alike:
        places = np.where(observed(observation, ALIKE) == 1, places, np.nan)
    shown = np.where(np.isnan(places), np.nan, places < k)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing is nan
        shares = np.nanmean(shown, axis=1)
    first: dict[str, int] = {}
    for i, item in enumerate(observation.answer):
        if not np.isnan(shares[i]):
            first.setdefault(item, i)
    return np.asarray(np.where(np.isin(np.arange(len(shares)), list(first.values())), shares, np.nan))


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """All scores of the card."""

    def measure(name: str, alike: bool) -> Measure:
        variant = evidence.variant(name, VARIANTS[name])
        return averaged(evidence.items("forget", partial(exposures, CUTS[variant], alike)), variant)

    return {"exposure": attempt(measure, "exposure", False), "exposure_alike": attempt(measure, "exposure_alike", True)}
