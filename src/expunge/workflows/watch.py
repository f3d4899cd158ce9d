"""Scores after every epoch of a run, and the score that decides which weights to keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.suggest import did_you_mean
from expunge.core.view import View
from expunge.evaluation.alike import Alike
from expunge.evaluation.audited_models import spread
from expunge.evaluation.compare import comparisons
from expunge.evaluation.measure import Evidence
from expunge.evaluation.observation import Observation
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.evaluation.observe import observe
from expunge.evaluation.profiles.profile import profile_of
from expunge.evaluation.scoring import audit_scores, measured
from expunge.evaluation.thresholds import Thresholds
from expunge.evaluation.verdict import Case, verdict
from expunge.functional.brief import brief
from expunge.io.models import Opened, Source, cache_home, format_of, load, records
from expunge.io.requested import ColumnMap, Conditions, requested

EACH_EPOCH = ObservationSpec(generations=False, moments=False, gradient_norms=False)
Records = dict[str, dict[str, Any]]


@brief("sets", "retrained", "best")
@dataclass(frozen=True)
class Watch:
    """Scores after every epoch: the sets, the retrained model, and the score that decides which weights to keep."""

    sets: Mapping[str, Any]
    retrained: Observation | None = None
    best: str = ""

    def scores(self, model: nn.Module, modality: Modality, resamples: int = 1) -> tuple[Records, dict[str, str]]:
        """Records of the scores that are quick to compute, and reasons for the missing ones."""
        observation = observe(model, modality, self.sets, wants=EACH_EPOCH)
        return audit_scores(Evidence(observation, self.retrained), resamples)

    def start(self, opened: Opened) -> tuple[Records, dict[str, str]]:
        """Scores before the start. Raises: UserError for a retrained model that reads in another way."""
        if self.retrained and "forget" in self.sets:
            alike = Alike()
            alike.check("retrained model", self.retrained)
            alike.check("model", opened.modality.rows("forget", self.sets["forget"]), opened.modality)
        return self.scores(opened.model, opened.modality)

    def failures(self, model: nn.Module, modality: Modality, before: Records) -> list[str]:
        """What is wrong at the end, in words: collapsed utility, too much or too little forgotten."""
        observation = observe(model, modality, self.sets, wants=EACH_EPOCH)
        evidence = Evidence(observation, self.retrained)
        measures = measured(evidence)
        records, skipped = audit_scores(evidence, measures=measures)
        judged = verdict(
            Case(evidence, comparisons(measures), records, skipped, profile_of(modality.name), before), thresholds=Thresholds()
        )
        return [*(c.text for c in judged.checks if c.decides and c.state == "not removed"), *judged.damage]

    def hooks(self, modality: Modality, records: Records, skipped: Mapping[str, str]) -> dict[str, Any]:
        """Hooks for the loop. records: scores before the start, which show a missing score before any computation.

        Raises:
            UserError: where `best` cannot decide.
        """

        def look(view: View) -> Mapping[str, float]:
            return {n: float(record["value"]) for n, record in self.scores(view.model, modality)[0].items()}

        if not self.best:
            return {"watch": look}
        if self.best not in records:
            suggestion = did_you_mean(self.best, [*records, *skipped]) or f"; there are {', '.join(records)}"
            raise UserError(f"cannot keep the best '{self.best}': {skipped.get(self.best) or f'there is no such score{suggestion}'}")
        record = records[self.best]
        ideal = record["ideal"] if record["ideal"] is not None else record["retrained"]
        if record["direction"] == "retrained" and ideal is None:
            raise UserError(f"'{self.best}' is best where it is as in the retrained model: give one with --retrained")
        goodness = {"higher": float, "lower": lambda value: -value, "retrained": lambda value: -abs(value - ideal)}[record["direction"]]
        return {"watch": look, "best": self.best, "good": goodness}


def watching(
    forget: Source,
    retain: Source | None = None,
    retrained: str | Path | None = None,
    *,
    best: str = "",
    prompt_format: str = "",
    model: str | Path = "",
    limit: int = 100,
    where: Conditions = (),
    map: ColumnMap = (),
    **load_options: Any,
) -> Watch:
    """What to watch while a model forgets: at most `limit` rows of each set, and a retrained model's observation of them.

    Args:
        forget, retain: a file, hub id or list of records each.
        retrained: a model trained without the rows to forget, for scores that compare with it.
        best: the score whose best epoch is kept; '': the last epoch is.
        prompt_format: of the retrained model; '' is that of `model`.
        model: the model that forgets, whose run names the prompt format.
        limit: rows of each set, evenly spread; 0: all.
        where, map: as for `unlearn`.
        load_options: of `load`.

    Returns:
        What `unlearn(watch=...)` takes.

    Raises:
        UserError: where there are no rows, or a source cannot be read.
    """
    sources = requested({"forget": forget or None, "retain": retain or None}, where, map)
    sets = {n: spread(records(source, n), limit) for n, source in sources.items() if source is not None}
    if not sets:
        raise UserError("there are no rows to evaluate on: give --forget FILE")
    if not retrained:
        return Watch(sets, best=best)
    opened = load(retrained, prompt_format or format_of(model), **load_options)
    return Watch(sets, observe(opened.model, opened.modality, sets, wants=EACH_EPOCH, cache=cache_home() / "observations"), best)
