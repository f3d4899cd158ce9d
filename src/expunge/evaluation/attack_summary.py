"""What a report shows of attacks: each score before and after, the worst case over all attacks, the relearning curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from expunge.evaluation.attack import AttackOutcome
from expunge.evaluation.profiles.profile import Hit
from expunge.report.report_data import After, Attacked, Relearned, Score

WORST = "worst_attack"  # the name of the score


def relearned(attacks: Mapping[str, AttackOutcome], curve: Sequence[str]) -> list[Relearned]:
    """The relearning curve, where the audit has that attack. curve: the scores to draw; empty: all that show knowledge."""
    outcome = attacks.get("relearn")
    tries = outcome.tries if outcome else ()
    drawn = curve or (outcome.shows if outcome else ())
    return [Relearned(step=t.at["steps"], scores={n: t.scores[n]["value"] for n in drawn if n in t.scores}) for t in tries]


def attacked(attacks: Mapping[str, AttackOutcome]) -> list[Attacked]:
    """One table row for each way, and one for each way that was not open."""
    rows = []
    for name, a in attacks.items():
        for way in (w for w in a.ways if a.lead and a.cases(w, a.lead)):
            after = {n: _after(a, way, n) for n in a.scored if a.cases(way, n)}
            cases = 1 if a.recovered else len(a.cases(way, a.lead))  # the attacker does not choose among the steps of one training
            rows.append(Attacked(name, way, a.lead, after, list(a.steps_to_recover(way).items()), cases))
        rows += [Attacked(name, way, missing=why) for way, why in a.missing.items()]
    return rows


def _after(outcome: AttackOutcome, way: str, score: str) -> After:
    worst, before = outcome.worst(way, score), outcome.before[score]
    record = worst.scores[score]
    low, high = record["interval"]
    return After(before["value"], record["value"], (low, high), record["n"], outcome.mean(way, score), worst.case)


def worst_case(hits: Sequence[Hit]) -> dict[str, Score]:
    """The largest distance of a score beyond the retrained model's, over all attacks; each attack is the same for both models."""
    beside = [(float(h.record["value"]) - h.record["retrained"], h) for h in hits if h.record["retrained"] is not None]
    if not beside:
        return {}
    value, hit = max(beside, key=lambda pair: pair[0])
    low, high = (x - hit.record["retrained"] for x in hit.record["interval"])
    description = f"{hit.score} beyond the retrained model's under the same attack, in the worst case"
    return {WORST: Score(value, (low, high), hit.record["n"], direction="lower", ideal=0.0, variant=description)}
