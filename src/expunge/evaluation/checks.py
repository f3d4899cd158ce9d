"""The checks of a verdict: scores against the retrained model or the original, and forgotten answers that are still produced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from expunge.evaluation.compare import Compared
from expunge.evaluation.equivalence import Difference, holm, least_visible
from expunge.evaluation.measure import Items
from expunge.evaluation.thresholds import Thresholds
from expunge.functional.brief import brief
from expunge.report.verdict_data import STATES, Check, Leak, State
from expunge.report.words import number

FORGET_SET = "forget"


@brief()
@dataclass(frozen=True)
class Limits:
    """What the checks of one audit have in common.

    Args:
        unusable: kinds of scores that cannot decide in this audit, with the reason: membership where holdout is no holdout.
    """

    thresholds: Thresholds
    unusable: Mapping[str, str]

    @property
    def confidence(self) -> str:
        return f"{1 - self.thresholds.alpha:.0%}"


def against_retrained(compared: Mapping[str, Compared], limits: Limits) -> list[Check]:
    """Two one-sided tests of each score against the retrained model; those that say "not removed" are corrected for their number."""
    judged = {name: c for name, c in compared.items() if c.beyond is not None}
    p_values = []
    for name, c in judged.items():
        margin = limits.thresholds.margin(name, c.spec.margin or 0.0)
        above = _of(c.beyond).p_above(margin)
        p_values.append(min(1.0, 2 * min(above, _of(c.beyond).p_below(-margin))) if c.spec.kind == "membership" else above)
    corrected = dict(zip(judged, holm(p_values), strict=True))
    return sorted((_against_retrained(name, c, corrected[name], limits) for name, c in judged.items()), key=order)


def order(check: Check) -> tuple[bool, int]:
    """Checks that decide first, and of these the worst."""
    return not check.decides, STATES.index(check.state)


def _against_retrained(name: str, compared: Compared, p: float, limits: Limits) -> Check:
    difference, spec = _of(compared.beyond), compared.spec
    margin, alpha = limits.thresholds.margin(name, spec.margin or 0.0), limits.thresholds.alpha
    low, high = difference.interval(alpha)
    two_sided = spec.kind == "membership"
    state: State = "cannot tell"
    if p < alpha:
        state = "not removed"
    elif high < margin and (low > -margin or not two_sided):
        state = "removed"
    decides = spec.decides or (spec.kind == "knowledge" and state == "not removed")
    against = "random" if compared.by_chance else "retrained"
    check = _check(name, state, difference, (low, high), text="", decides=decides, against=against, margin=margin, p=p, n=compared.n)
    text = _sentence(check, spec.meaning, two_sided, limits)
    if (reason := limits.unusable.get(spec.kind)) and spec.decides:
        return replace(check, decides=False, text=f"{text} It decides nothing here: {reason}.")
    if spec.decides and (reason := _shows_nothing(compared, margin, alpha)):
        return replace(check, decides=False, text=f"{text} It decides nothing here: {reason}, so it cannot show a removal.")
    return replace(check, text=text)


def _shows_nothing(compared: Compared, margin: float, alpha: float) -> str:
    """Why a score cannot show that anything was removed: the original does not differ, or no more than chance may do; '' where it can."""
    if compared.shown is None:
        return ""
    start = f"the original itself scores {number(compared.original)}"
    if abs(compared.shown) <= margin:
        return f"{start}, no further from the retrained model than the margin"
    if compared.contrast is not None:
        low, high = compared.contrast.interval(alpha)
        if low <= 0 <= high:
            return f"{start}, and with {compared.n} row{'' if compared.n == 1 else 's'} that may differ from the retrained model by chance"
    return ""


def _sentence(check: Check, meaning: str, two_sided: bool, limits: Limits) -> str:
    low, high = check.interval or (None, None)
    margin = number(check.margin)
    whose = "untrained weights" if check.against == "random" else "the retrained model"
    values = f"{number(check.value)} here, {number(check.yardstick)} for {whose}"
    between = f"difference between {number(low)} and {number(high)} with {limits.confidence} confidence at each end"
    start = f"{check.name.replace('_', ' ')} ({meaning}): {values};"
    if check.state == "removed":
        return f"{start} the {between}, which is less than the margin of {margin}."
    if check.state == "not removed":
        way = "above" if (check.effect or 0) > 0 else "below"
        trace = "; to avoid the forgotten rows gives them away, too" if two_sided and way == "below" else ""
        return f"{start} that is further {way} it than the margin of {margin} (p = {number(check.p)}, corrected){trace}."
    least = limits.thresholds.alpha and least_visible(max(1, check.n or 1), limits.thresholds.alpha)
    rows = (
        f"with {check.n} row{'' if check.n == 1 else 's'} this audit could not have seen less than {number(max(least, check.power or 0))}"
    )
    return f"{start} the {between}, and only less than {margin} counts as none; {rows}."


def against_original(compared: Mapping[str, Compared], limits: Limits) -> list[Check]:
    """Without a retrained model: whether what the original knew has become materially less. Less is no proof that nothing is left."""
    judged = {n: c for n, c in compared.items() if c.gained is not None and c.beyond is None and c.spec.kind == "knowledge"}
    p_values = [_of(c.gained).p_above(-limits.thresholds.margin(n, c.spec.margin or 0.0)) for n, c in judged.items()]
    corrected = dict(zip(judged, holm(p_values), strict=True))
    return sorted((_against_original(name, c, corrected[name], limits) for name, c in judged.items()), key=order)


def _against_original(name: str, compared: Compared, p: float, limits: Limits) -> Check:
    difference, spec = _of(compared.gained), compared.spec
    margin, thresholds = limits.thresholds.margin(name, spec.margin or 0.0), limits.thresholds
    low, high = difference.interval(thresholds.alpha)
    values = f"{name.replace('_', ' ')} ({spec.meaning}): {number(difference.value)} here, {number(difference.yardstick)} for the original"
    knew = difference.yardstick >= thresholds.knows
    general = compared.shown is not None and compared.shown <= margin
    state: State = "cannot tell"
    if general:
        text = f"{values}; the original scores rows that it never saw as high, so this shows nothing."
    elif not knew:
        text = f"{values}; the original itself hardly knows these rows by it (below {number(thresholds.knows)}), so it shows nothing."
    elif p < thresholds.alpha:
        state, text = "not removed", f"{values}; that is no material drop: less than the margin of {number(margin)}."
    elif high < -margin:
        text = f"{values}; that is a material drop, and whether what is left is what any model guesses, only a retrained model can tell."
    else:
        rows = f"{compared.n} row{'' if compared.n == 1 else 's'}"
        text = f"{values}; with {rows} it cannot be told whether that is a drop of more than {number(margin)}."
    decides = spec.decides and knew and not general
    return _check(name, state, difference, (low, high), text=text, decides=decides, against="original", margin=margin, p=p, n=compared.n)


def _check(name: str, state: State, difference: Difference, interval: tuple[float, float], **fields: Any) -> Check:
    """The check of a score, with the numbers of the difference that it judges. fields: all else that a check of a score has."""
    return Check(
        name,
        state,
        score=name,
        value=difference.value,
        yardstick=difference.yardstick,
        effect=difference.effect,
        interval=interval,
        power=interval[1] - difference.effect,
        **fields,
    )


def production(leaked: Sequence[Leak], recited: Items, with_retrained: bool, thresholds: Thresholds) -> list[Check]:
    """Whether forgotten answers are still produced, which fails whatever else holds.

    Args:
        leaked: what is still produced.
        recited: whether each answer that is long enough and unlike others is recited, (answers,).
    """
    checks = []
    rows, proofs = {leak.row for leak in leaked}, {leak.row for leak in leaked if leak.proof}
    if leaked:
        n = len(proofs or rows)
        start = f"forgotten answers, or names and numbers in them, are still produced for {n} row{'' if n == 1 else 's'}"
        if proofs:
            checks.append(Check("leaks", "not removed", f"{start}; nobody guesses them.", n=n))
        else:
            text = f"{start}; each may be a guess (a lone name, a year, a word)."
            checks.append(Check("leaks", "cannot tell", text, decides=not with_retrained, n=n))
    many, total = int(recited.sum()), len(recited)
    if with_retrained or not total:
        return checks
    from scipy.special import bdtrc

    p = float(bdtrc(many - 1, total, thresholds.guessed)) if many else 1.0
    text = f"{many} of {total} forgotten answers are recited once their beginning is given"
    if p < thresholds.alpha:
        text = f"{text}, more than the {thresholds.guessed:.0%} that a model without the knowledge might guess."
        return [*checks, Check("recitation", "not removed", text, value=many / total, margin=thresholds.guessed, p=p, n=total)]
    text = f"{text}; up to {thresholds.guessed:.0%} may be guesses, and what is not recited may still be known."
    return [*checks, Check("recitation", "cannot tell", text, value=many / total, margin=thresholds.guessed, p=p, n=total)]


def _of(difference: Difference | None) -> Difference:
    assert difference is not None
    return difference
