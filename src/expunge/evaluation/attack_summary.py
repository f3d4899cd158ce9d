"""What a report shows of attacks: each score before and after, the worst case over all attacks, the relearning curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from expunge.evaluation.attack import AttackOutcome
from expunge.evaluation.profiles.profile import Hit
from expunge.report.report_data import After, Attacked, Relearned, Score

WORST = "worst_attack"  # the name of the score


def relearned(attacks: Mapping[str, AttackOutcome], curve: Sequence[str]) -> list[Relearned]:
    """The relearning curve, where that attack was made. curve: the scores that are drawn; empty: all that show knowledge."""
    outcome = attacks.get("relearn")
    tries = outcome.tries if outcome else ()
    drawn = curve or (outcome.shows if outcome else ())
    return [Relearned(step=t.at["steps"], scores={n: t.scores[n]["value"] for n in drawn if n in t.scores}) for t in tries]


def attacked(attacks: Mapping[str, AttackOutcome]) -> list[Attacked]:
    """A line a way, and one for each that was not open."""
    found = []
    for name, a in attacks.items():
        for way in a.ways if a.lead else []:
            after = {n: _after(a, way, n) for n in a.scored}
            cases = 1 if a.recovered else len(a.cases(way, a.lead))  # steps of one training are not chosen from
            found.append(Attacked(name, way, a.lead, after, list(a.steps_to_recover(way).items()), cases))
        found += [Attacked(name, way, missing=why) for way, why in a.missing.items()]
    return found


def _after(a: AttackOutcome, way: str, score: str) -> After:
    worst, before = a.worst(way, score), a.before[score]
    found = worst.scores[score]
    low, high = found["interval"]
    return After(before["value"], found["value"], (low, high), found["n"], a.mean(way, score), worst.case)


def worst_case(hits: Sequence[Hit]) -> dict[str, Score]:
    """How far a score is beyond the retrained model's where that is most, over all attacks, both models under the same one."""
    beside = [(float(h.found["value"]) - h.found["retrained"], h) for h in hits if h.found["retrained"] is not None]
    if not beside:
        return {}
    value, hit = max(beside, key=lambda found: found[0])
    low, high = (x - hit.found["retrained"] for x in hit.found["interval"])
    what = f"{hit.score} beyond the retrained model's under the same attack, in the worst case"
    return {WORST: Score(value, (low, high), hit.found["n"], direction="lower", ideal=0.0, variant=what)}
