"""What attacks bring back. An attack is judged only where something was removed, and it counts only where it moves a positive control."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from expunge.evaluation.attack import AttackOutcome, Try, called
from expunge.evaluation.thresholds import Thresholds
from expunge.functional.brief import brief
from expunge.report.verdict_data import STATES, Recovery, State
from expunge.report.words import number

SURVIVES = 0.5  # share of its score that the original keeps under an attack which only asks or rounds


@brief()
@dataclass(frozen=True)
class Controls:
    """The same attacks on other models: the retrained one, and the original."""

    retrained: Mapping[str, AttackOutcome]
    original: Mapping[str, AttackOutcome]


def recoveries(
    attacks: Mapping[str, AttackOutcome],
    controls: Controls,
    present: Collection[str],
    margin_of: Callable[[str], float],
    thresholds: Thresholds,
) -> list[Recovery]:
    """The outcome of every way of every attack, worst first.

    Args:
        present: scores that show that nothing was removed in the first place.
        margin_of: the margin of a score.
    """
    outcomes = [
        recovery
        for name, outcome in attacks.items()
        for recovery in _of_attack(outcome, controls.retrained.get(name), controls.original.get(name), present, margin_of, thresholds)
    ]
    return sorted(outcomes, key=lambda r: STATES.index(r.state))


def _of_attack(
    outcome: AttackOutcome,
    retrained: AttackOutcome | None,
    original: AttackOutcome | None,
    present: Collection[str],
    margin_of: Callable[[str], float],
    thresholds: Thresholds,
) -> Iterator[Recovery]:
    lead = outcome.lead
    for way in outcome.ways if lead else []:
        if not (tries := outcome.cases(way, lead)):
            continue
        others = retrained.cases(way, lead) if retrained else {}
        before = float(outcome.before[lead]["value"])
        margin = margin_of(lead)

        def excess(t: Try, others: Mapping[str, Try] = others) -> float:
            """How far a case lies beyond the retrained model under the same attack, for sure."""
            low = float(t.scores[lead]["interval"][0])
            return low - (float(others[t.case].scores[lead]["value"]) if t.case in others else 0.0)

        worst = max(tries.values(), key=excess)
        back = [t for t in tries.values() if float(t.scores[lead]["interval"][0]) > before + thresholds.moved]
        beyond = [t for t in back if t.case in others and excess(t) > margin]
        shown = min(beyond, key=_effort) if beyond else worst
        after, other = float(shown.scores[lead]["value"]), others.get(shown.case)
        works = _works(outcome, retrained, original, way, thresholds)
        teaches = bool(outcome.recovered)
        open_by = max(_rise(t, lead, max(before, _value(others.get(c), lead))) for c, t in tries.items())
        state, text = _judged(lead in present, bool(back), bool(beyond), bool(others), teaches, works)
        if state == "removed" and open_by >= margin:
            n = int(worst.scores[lead]["n"])
            rows = f"with {n} row{'' if n == 1 else 's'}"
            state, text = "cannot tell", f"may bring back up to {number(open_by)}: {rows} it cannot be told whether that is nothing"
        retrained_after = float(other.scores[lead]["value"]) if other else None
        took = _took(shown, len(tries), int(shown.scores[lead]["n"]), teaches)
        values = f"{lead.replace('_', ' ')} {number(before)} before, {number(after)} after"
        values += f", the retrained model under the same attack {number(retrained_after)}" if retrained_after is not None else ""
        attack = called(outcome.attack, way)
        yield Recovery(
            attack,
            state,
            f"{attack} {text} ({values}; {took}).",
            lead,
            before,
            after,
            retrained_after,
            works,
            shown.at.get("steps"),
            shown.at.get("rows"),
            None if teaches else float(len(tries) * int(shown.scores[lead]["n"])),
        )


def _value(t: Try | None, lead: str) -> float:
    return float(t.scores[lead]["value"]) if t else 0.0


def _rise(t: Try, lead: str, above: float) -> float:
    """How far a score may have risen above a value, at most."""
    return float(t.scores[lead]["interval"][1]) - above


def _effort(t: Try) -> tuple[float, float]:
    return t.at.get("rows", 0.0), t.at.get("steps", 0.0)


def _took(t: Try, cases: int, n: int, teaches: bool) -> str:
    if teaches:
        rows = int(t.at.get("rows", 0))
        held = f"{rows} row{'' if rows == 1 else 's'}"
        return f"{t.at['steps']:g} steps of training on {held}" if "steps" in t.at else f"with {held} in the attacker's hands"
    case = f", best in: {t.case}" if t.case else ""
    return f"{cases * n} questions asked{case}"


def _works(
    outcome: AttackOutcome, retrained: AttackOutcome | None, original: AttackOutcome | None, way: str, thresholds: Thresholds
) -> bool | None:
    """Whether an attack moved a positive control: training must teach a model; asking or rounding must leave the original its knowledge."""
    lead = outcome.lead
    moved = [_moved(o, way, lead) > thresholds.moved for o in (retrained, outcome) if o and lead in o.before and o.cases(way, lead)]
    if any(moved):
        return True
    if outcome.recovered:
        return False if retrained and len(moved) > 1 else None
    if original is None or lead not in original.before or not original.cases(way, lead):
        return None
    known = float(original.before[lead]["value"])
    return known >= thresholds.knows and float(original.worst(way, lead).scores[lead]["value"]) >= SURVIVES * known


def _moved(outcome: AttackOutcome, way: str, lead: str) -> float:
    return float(outcome.worst(way, lead).scores[lead]["value"]) - float(outcome.before[lead]["value"])


def _judged(present: bool, back: bool, beyond: bool, compared: bool, teaches: bool, works: bool | None) -> tuple[State, str]:
    if present:
        return "cannot tell", "was not judged, since nothing was removed before it"
    if beyond:
        return "not removed", "brings back more of what was forgotten than it gives the retrained model"
    if back and not compared:
        if not teaches:
            return "not removed", "brings back what was forgotten, and teaches nothing"
        return "cannot tell", "brings the rows back; whether more than it teaches, only a retrained model can tell"
    if works:
        return "removed", "brings nothing back" + (" that the retrained model does not show under it" if compared else "")
    if works is None:
        return "cannot tell", "brings nothing back, and no control shows that it works"
    return "cannot tell", "shows nothing: it does not even move the control"
