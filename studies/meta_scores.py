"""How far each score and attack can be trusted: faithfulness and robustness with intervals, from the audits of `meta_evaluation`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, harmonic_mean
from typing import Any

import numpy as np

from expunge.evaluation.attacks.mia import auc
from expunge.evaluation.measure import ScoreSpec
from expunge.evaluation.scoring import score_specs

VERDICT = "verdict"
STATES = {"removed": 0.0, "cannot tell": 0.5, "not removed": 1.0}
KINDS = ("knowledge", "membership")  # of scores that say whether the rows are known
USEFUL = 0.8  # share of the original's utility below which an unlearned model is left out
UTILITY = "model_utility"
RESAMPLES = 1000
TINY = 1e-30
REVERSED = {  # scores whose spec does not say how to read them as knowledge: ours from 0 (none)
    "forget_truth_ratio": lambda value: 1 - value,
    "privleak": lambda value: max(0.0, (100 - value) / 200),
}
Record = Mapping[str, Any]


def knowledge(name: str, value: float, spec: ScoreSpec | None) -> float:
    """A value that grows with what is known, at least 0: p-values as minus their logarithm to base 10."""
    if name in REVERSED:
        return float(REVERSED[name](value))
    if spec and spec.scale == "p":
        return -math.log10(max(value, TINY))
    return value


def values_of(record: Record, reworded: bool = False) -> dict[str, float]:
    """All scores, attacks and the verdict of a model, as knowledge."""
    specs = score_specs("text")
    scores = record.get("reworded", {}) if reworded else record["scores"]
    values = {n: knowledge(n, v, specs[n]) for n, v in scores.items() if n in specs and specs[n].kind in KINDS}
    if reworded:
        return values
    return {**values, **{f"attack {n}": v for n, v in record["attacks"].items()}, VERDICT: STATES[record["verdict"]]}


class Models:
    """The audited models by base and history."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = {(r["base"], tuple(r["history"])): r for r in records}
        self.values = {key: values_of(r) for key, r in self.records.items()}
        self.reworded = {key: values_of(r, reworded=True) for key, r in self.records.items()}

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(n for values in self.values.values() for n in values))

    def pool(self, name: str, knows: bool, steps: int) -> list[float]:
        """The values of a score on the models that know, or that do not, of so many steps."""
        kept = [key for key, r in self.records.items() if r["knows"] is knows and len(key[1]) == steps]
        return [self.values[key][name] for key in kept if name in self.values[key]]

    def units(self) -> list[tuple[int, tuple[str, ...]]]:
        """The unlearned models that are still useful."""
        useful = []
        for (base, history), r in self.records.items():
            if r["knows"] is None and history[0] == "trained" and len(history) == 2:
                before = self.records[base, history[:1]]["scores"][UTILITY]
                if r["scores"][UTILITY] >= USEFUL * before:
                    useful.append((base, history))
        return useful

    def survived(self, name: str) -> dict[str, list[float]]:
        """What the score says of each useful unlearned model after a change, as a share of what it said before: see the study."""
        shares: dict[str, list[float]] = {"relearned": [], "rounded": [], "reworded": []}
        for base, history in self.units():
            before = self.values[base, history].get(name)
            if before is None:
                continue
            again = self.values.get((base, (*history, "relearned")), {}).get(name)
            never = [self.values.get((base, steps), {}).get(name) for steps in (("retained",), ("retained", "relearned"))]
            if again is not None and never[0] is not None and never[1] is not None:
                shares["relearned"].append(relearning(before, again, never[0], never[1]))
            if (rounded := self.values.get((base, (*history, "in 4 bits")), {}).get(name)) is not None:
                shares["rounded"].append(share(before, rounded))
            if (reworded := self.reworded[base, history].get(name)) is not None:
                shares["reworded"].append(share(before, reworded))
        return shares


def relearning(before: float, after: float, never_before: float, never_after: float) -> float:
    """The rise of a model that never knew over the rise of the unlearned one, from 0 to 1; 1 where the latter does not rise."""
    rise = after - before
    return 1.0 if rise <= 1e-9 else min(max((never_after - never_before) / rise, 0.0), 1.0)


def share(before: float, after: float) -> float:
    """What a score said before a change as a share of what it says after it, at most 1; 1 where it says nothing after."""
    return 1.0 if after <= 1e-9 else min(before / after, 1.0)


def together(parts: Iterable[float]) -> float:
    """The harmonic mean; 0 where a part is 0."""
    values = [max(v, 0.0) for v in parts]
    return harmonic_mean(values) if values else math.nan


def separation(knowing: Sequence[float], others: Sequence[float]) -> float:
    """The area under the ROC curve, 1 where every model that knows scores above every other."""
    return auc(-np.array(knowing), -np.array(others))


Draw = Callable[[Sequence[float]], Sequence[float]]


def trusted(models: Models, name: str, draw: Draw = lambda values: values) -> dict[str, float]:
    """Faithfulness, robustness and both together of a score, on models drawn again."""
    knowing, others = (models.pool(name, knows, 1) for knows in (True, False))
    rating = {"faithful": separation(draw(knowing), draw(others))}
    changed = [models.pool(name, knows, 2) for knows in (True, False)]
    if all(changed):
        rating["changed"] = separation(draw(changed[0]), draw(changed[1]))
    survived = {k: fmean(draw(v)) for k, v in models.survived(name).items() if v}
    rating |= survived
    if survived:
        rating["robust"] = together(survived.values())
        rating["trust"] = together((rating["faithful"], rating["robust"]))
    return rating


def scored(records: Sequence[Record]) -> dict[str, Any]:
    """The entry of every score and attack, the most trusted first, with 95 % intervals over models; and how the defaults fare."""
    models, rng = Models(records), np.random.default_rng(0)
    specs = score_specs("text")
    entries, drawn = [], dict[str, list[float]]()

    def draw(values: Sequence[float]) -> Sequence[float]:
        return [values[i] for i in rng.integers(len(values), size=len(values))]

    for name in models.names:
        if not all(models.pool(name, knows, 1) for knows in (True, False)):
            continue
        ratings = [trusted(models, name, draw) for _ in range(RESAMPLES)]
        values = trusted(models, name)
        drawn[name] = [r.get("trust", math.nan) for r in ratings]
        entry: dict[str, Any] = {"name": name, "kind": kind_of(name), "decides": bool(name in specs and deciding(specs[name]))}
        for part, value in values.items():
            low, high = np.quantile([r[part] for r in ratings], [0.025, 0.975])
            entry[part] = {"value": round(value, 4), "low": round(float(low), 4), "high": round(float(high), 4)}
        entries.append(entry)
    entries.sort(key=lambda e: (-e.get("trust", e["faithful"])["value"], e["name"]))
    return {
        "models": len(records),
        "pools": {state: sum(r["knows"] is knows for r in records) for state, knows in (("knows", True), ("does not", False))},
        "unlearned": sum(r["knows"] is None and len(r["history"]) == 2 and r["history"][0] == "trained" for r in records),
        "useful": len(models.units()),
        "scores": entries,
        "defaults": defaults(entries, drawn, specs),
    }


def kind_of(name: str) -> str:
    """verdict, attack, or the kind of a score."""
    if name == VERDICT:
        return VERDICT
    return "attack" if name.startswith("attack ") else score_specs("text")[name].kind


def deciding(spec: ScoreSpec) -> bool:
    """Whether the verdict needs a check of the score."""
    return spec.margin is not None and spec.decides


def defaults(entries: Sequence[Record], drawn: Mapping[str, Sequence[float]], specs: Mapping[str, ScoreSpec]) -> list[dict[str, Any]]:
    """Each deciding score beside the most trusted check of its kind that does not decide."""
    compared = []
    for entry in entries:
        if not entry["decides"] or "trust" not in entry:
            continue
        rivals = [
            e
            for e in entries
            if e["kind"] == entry["kind"] and e["name"] in specs and not e["decides"] and specs[e["name"]].margin and "trust" in e
        ]
        if not rivals:
            compared.append({"name": entry["name"], "rival": ""})
            continue
        rival = rivals[0]
        gaps = np.array(drawn[entry["name"]]) - np.array(drawn[rival["name"]])
        low, high = np.quantile(gaps, [0.025, 0.975])
        gap = {
            "value": round(entry["trust"]["value"] - rival["trust"]["value"], 4),
            "low": round(float(low), 4),
            "high": round(float(high), 4),
        }
        compared.append({"name": entry["name"], "rival": rival["name"], "difference": gap, "clearly_worse": bool(high < 0)})
    return compared
