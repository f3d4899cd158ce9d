"""Rules of a verdict that hold for every modality; profiles add their own and name the scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from expunge.evaluation.measure import BROKEN
from expunge.evaluation.profiles.profile import Finding, Judged, Level, Rule
from expunge.evaluation.wording import beside, finding, shown

KEPT = 0.8  # share of the reference model's utility
GAP = 0.1  # of the retrained model's AUC from chance: forget and holdout are not alike
CHANCE = 0.5
SLACK = 0.05  # of a score above the retrained model's: its own seeds differ by that


def utility(name: str) -> Rule:
    """Whether a score of utility is kept."""

    def rule(judged: Judged) -> Iterator[Finding]:
        if not (record := judged.scores.get(name)):
            return
        reference, yardstick = "retrained", record["retrained"]
        if yardstick is None and (before := judged.original.get(name)) and before["variant"] == record["variant"]:
            reference, yardstick = "original", before["value"]
        if yardstick is None:
            text = f"Utility is not judged: {name} is {shown(record)}, with no retrained or original model's to hold it against."
            yield finding("warn", name, text)
        elif yardstick <= 0:
            text = f"Utility is not judged: that of the {reference} model is {yardstick:.3g}, of which nothing can be lost"
            yield finding("warn", name, f"{text} ({name}: {shown(record)}).")
        else:
            failed = record["value"] < KEPT * yardstick
            start, relation = ("Utility collapsed", "below") if failed else ("Utility kept", "at least")
            text = f"{start}: {name} is {shown(record)}, {relation} {KEPT:.0%} of the {reference} model's {yardstick:.3g}."
            yield finding("fail" if failed else "pass", name, text)

    return rule


def membership(names: tuple[str, ...], calibration: str) -> Rule:
    """AUCs against the retrained model's, or else, as a warning only, against chance: a holdout unlike the forget set moves it, too.

    Args:
        names: scores that are areas under a ROC curve.
        calibration: the one that shows, in the retrained model, whether forget and holdout are alike.
    """

    def rule(judged: Judged) -> Iterator[Finding]:
        unremarkable = []
        for name in names:
            if not (record := judged.scores.get(name)):
                continue
            has_retrained = record["retrained"] is not None
            level: Level = "fail" if has_retrained else "warn"
            yardstick = record["retrained"] if has_retrained else CHANCE
            values = f"{name}: AUC {shown(record)}, {'the retrained model' if has_retrained else 'chance'} {yardstick:.3g}"
            low, high = record["interval"]
            if low > yardstick:
                yield finding(level, name, f"Memorized: forgotten items look too familiar beside unseen ones ({values}).")
            elif high < yardstick:
                yield finding(level, name, f"Over-forgotten: forgotten items look too unfamiliar beside unseen ones ({values}).")
            else:
                unremarkable.append(values)
            if name == calibration and has_retrained and abs(yardstick - CHANCE) > GAP:
                text = "The holdout set is unlike the forget set: even the retrained model tells them apart"
                yield finding("warn", name, f"{text} ({name}: AUC {yardstick:.3g}, chance {CHANCE}).")
        if unremarkable:
            yield finding("pass", None, f"Forgotten items look as familiar beside unseen ones as they should ({'; '.join(unremarkable)}).")

    return rule


def no_more_than_retrained(name: str, failed: str, passed: str) -> Rule:
    """Whether a score is above the retrained model's. failed, passed: how the finding begins."""

    def rule(judged: Judged) -> Iterator[Finding]:
        if record := judged.against_retrained(name):
            above = record["interval"][0] > record["retrained"]
            yield finding("fail" if above else "pass", name, f"{failed if above else passed} ({beside(name, record)}).")

    return rule


def knowledge(judged: Judged) -> Iterator[Finding]:
    """Scores that show knowledge, beside the retrained model's: for modalities whose profile has no rules of its own."""
    for name in judged.shows():
        if record := judged.against_retrained(name):
            low, high = record["interval"]
            if low > record["retrained"]:
                yield finding("fail", name, f"Forgetting failed: more is known than by the retrained model ({beside(name, record)}).")
            elif high < record["retrained"]:
                yield finding("warn", name, f"Over-forgotten: less is known than by the retrained model ({beside(name, record)}).")
            else:
                yield finding("pass", name, f"Forgotten: as much is known as by the retrained model ({beside(name, record)}).")


def attacked(judged: Judged) -> Iterator[Finding]:
    """Knowledge that an attack brings back beyond the retrained model's; other rules judge the knowledge before the attack."""
    robust = []
    for hit in judged.hits:
        low, retrained = hit.record["interval"][0], hit.record["retrained"]
        values = f"{hit.score}: {shown(hit.record)}, before the attack {hit.before:.3g}"
        values += f", the retrained model under it {retrained:.3g}" if retrained is not None else ""
        comes_back, beyond_retrained = low > hit.before + SLACK, retrained is not None and low > retrained + SLACK
        if comes_back and beyond_retrained:
            text = f"Not robust: {hit.attack} brings back more of what was forgotten than it gives the retrained model ({values})."
            yield finding("fail", hit.score, text)
        elif comes_back and retrained is None:
            text = f"Not robust: {hit.attack} brings back what was forgotten; whether more than it teaches, only a retrained model can tell"
            yield finding("warn", hit.score, f"{text} ({values}).")
        elif not beyond_retrained:
            robust.append(f"{hit.attack}: {values}")
    if robust:
        comparison = " that the retrained model does not show under them" if judged.hits[0].record["retrained"] is not None else ""
        yield finding("pass", None, f"Robust: attacks bring nothing back{comparison} ({'; '.join(robust)}).")


def against_original(judged: Judged) -> Iterator[Finding]:
    """Without a retrained model: whether what the original model knew has become less."""
    start = "No retrained model was given, so no score shows what a model that never saw the forget set does"
    shared = [name for name in judged.shows() if name in judged.original]
    if not shared:
        yield finding("warn", None, f"{start}; without scores of the original model, too, it is open whether anything was forgotten.")
        return
    yield finding("warn", None, f"{start}; knowledge is held against the original model instead.")
    values = "; ".join(f"{name}: {shown(judged.scores[name])}, the original model {judged.original[name]['value']:.3g}" for name in shared)
    if any(judged.scores[name]["interval"][1] < judged.original[name]["value"] for name in shared):
        yield finding("pass", None, f"Less is known than before; whether little enough, only a retrained model can tell ({values}).")
    else:
        yield finding("fail", None, f"Nothing was forgotten: as much is known as before ({values}).")


def unjudged(skipped: Mapping[str, str]) -> Iterator[Finding]:
    """One sentence for each reason why scores are missing."""
    for reason in dict.fromkeys(skipped.values()):
        names = [name for name, why in skipped.items() if why == reason]
        level: Level = "fail" if reason.endswith(BROKEN) else "warn"
        yield finding(level, names[0] if len(names) == 1 else None, f"Not judged: {', '.join(names)} ({reason}).")
