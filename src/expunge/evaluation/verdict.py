"""Scores to judgement: every family's scores as plain records, and what they mean in plain words, failures first."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

from expunge.evaluation.measure import BROKEN, Evidence, Measure, Missing, Scores

Level = Literal["fail", "warn", "pass"]
Record = Mapping[str, Any]
Records = Mapping[str, Record]

LEVELS: tuple[Level, ...] = ("fail", "warn", "pass")
FOLDERS = ("metrics", "attacks")
ALPHA = 0.05  # forget quality below it: told from a model that never saw the forget set
KEPT = 0.8  # of the utility of the model that is the yardstick
FAR = 0.5  # of the retrained model's value: below it a forget score has collapsed
PAST = 0.1  # above the retrained model's truth ratio: wrong answers have become too probable
LEAK = 10.0  # percent of privleak
GAP = 0.1  # of the retrained model's AUC from chance: forget and holdout are not alike
CHANCE = 0.5
KNOWLEDGE = (  # less of the forget set known: lower
    "forget_probability",
    "forget_rouge",
    "extraction_strength",
    "exact_memorization",
    "remnant_memorization_accuracy",
    "forget_accuracy",
    "forget_confidence",
)
SLACK = 0.05  # of accuracy above the retrained model's: its own seeds differ by that
INNER = {"knn_forget": SLACK, "cka_original": 0.2}  # features that still know: how far above the retrained model's
CALLED = {"mia_efficacy": -1, "mia_entropy": 1, "mia_threshold": 1}  # which way the share moves where items look like members
TOLD = "mia_cv"  # accuracy of telling forgotten from unseen items, whichever of them look more familiar


class Finding(TypedDict):
    """One sentence of a verdict; `score` is the record that it is about, if it is about one."""

    level: Level
    score: str | None
    text: str


class Hit(NamedTuple):
    """The case of an attack that tells the most against a model."""

    attack: str  # with its way and case, in words
    score: str
    before: float  # the model as delivered
    found: Record  # after it; `retrained` is the retrained model's under the same attack


def families() -> list[str]:
    """Module names of all families of scores: the files of `metrics` and `attacks` that define `scores`; imports none of them."""
    here = Path(__file__).parent
    files = [file for folder in FOLDERS for file in sorted((here / folder).glob("*.py"))]
    return [f"{__package__}.{file.parent.name}.{file.stem}" for file in files if _is_family(file)]


def _is_family(file: Path) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name == "scores" for node in ast.parse(file.read_text()).body)


def audit_scores(evidence: Evidence, resamples: int = 200, seed: int = 0) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Every score as a record {value, interval: [lo, hi], n, direction, ideal, variant, retrained}, and why the others are missing.

    `interval` is the 95 % percentile bootstrap over items, widened to hold the value: a p-value drawn again is biased.
    `retrained` is the same score of the retrained model, None where there is none, or only one of another variant.
    Errors: ValueError where two families give scores of one name.
    """
    records: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    for family in map(importlib.import_module, families()):
        if evidence.model.modality not in getattr(family, "MODALITIES", (evidence.model.modality,)):
            continue
        mine: Scores = family.scores(evidence)
        theirs: Scores = family.scores(replace(evidence, model=evidence.retrained)) if evidence.retrained else {}
        for name, measure in mine.items():
            if name in records or name in skipped:
                raise ValueError(f"{family.__name__} gives a score '{name}', which another family gives too")
            if isinstance(measure, Missing):
                skipped[name] = str(measure)
            elif isfinite(value := measure.value()):
                records[name] = _record(measure, value, theirs.get(name), resamples, seed)
            else:
                skipped[name] = f"its value is not finite; {BROKEN}"
    return records, skipped


def _record(measure: Measure, value: float, retrained: Measure | Missing | None, resamples: int, seed: int) -> dict[str, Any]:
    low, high = measure.interval(resamples, seed=seed)
    same = retrained.value() if isinstance(retrained, Measure) and retrained.variant == measure.variant else None
    return {
        "value": value,
        "interval": [min(low, value), max(high, value)],
        "n": measure.n,
        "direction": measure.direction,
        "ideal": measure.ideal,
        "variant": measure.variant,
        "retrained": same if same is not None and isfinite(same) else None,
    }


def verdict(scores: Records, skipped: Mapping[str, str], original_scores: Records | None = None, hits: Sequence[Hit] = ()) -> list[Finding]:
    """What the records of `audit_scores` mean, failures first; `original_scores` are those of the model before forgetting, `hits` what
    attacks on it found.
    """
    original = original_scores or {}
    compared = any(record["retrained"] is not None for record in scores.values())
    found = [
        *_forgetting(scores),
        *_classified(scores),
        *_utility(scores, original),
        *_over_forgotten(scores),
        *_memorised(scores),
        *_membership(scores),
        *_called(scores),
        *_leak(scores),
        *_attacked(hits),
        *([] if compared else _against_original(scores, original)),
        *_unjudged(skipped),
    ]
    return sorted(found, key=lambda finding: LEVELS.index(finding["level"]))


def _forgetting(scores: Records) -> Iterator[Finding]:
    if found := scores.get("forget_quality"):
        failed = found["value"] < ALPHA
        start, can = ("Forgetting failed", "can still") if failed else ("Forgotten", "cannot")
        text = f"{start}: answers to the forget questions {can} be told from those of a model that never saw them"
        p = f"forget_quality: p = {found['value']:.3g} over {found['n']} items, yardstick {ALPHA}"
        yield _finding("fail" if failed else "pass", "forget_quality", f"{text} ({p}).")


def _utility(scores: Records, original: Records) -> Iterator[Finding]:
    if found := scores.get("model_utility"):
        whose, yardstick = "retrained", found["retrained"]
        if yardstick is None and (before := original.get("model_utility")) and before["variant"] == found["variant"]:
            whose, yardstick = "original", before["value"]
        if yardstick is None:
            text = f"Utility is not judged: model_utility is {_shown(found)}, with no retrained or original model's to hold it against."
            yield _finding("warn", "model_utility", text)
        elif yardstick <= 0:
            text = f"Utility is not judged: that of the {whose} model is {yardstick:.3g}, of which nothing can be lost"
            yield _finding("warn", "model_utility", f"{text} (model_utility: {_shown(found)}).")
        else:
            failed = found["value"] < KEPT * yardstick
            start, than = ("Utility collapsed", "below") if failed else ("Utility kept", "at least")
            text = f"{start}: model_utility is {_shown(found)}, {than} {KEPT:.0%} of the {whose} model's {yardstick:.3g}."
            yield _finding("fail" if failed else "pass", "model_utility", text)


def _membership(scores: Records) -> Iterator[Finding]:
    """AUCs against the retrained model's, or else, as a warning only, against chance: a holdout unlike the forget set moves it, too."""
    quiet = []
    for name, found in scores.items():
        if not name.startswith("mia_") or name in (*CALLED, TOLD):
            continue
        known = found["retrained"] is not None
        level: Level = "fail" if known else "warn"
        yardstick = found["retrained"] if known else CHANCE
        seen = f"{name}: AUC {_shown(found)}, {'the retrained model' if known else 'chance'} {yardstick:.3g}"
        low, high = found["interval"]
        if low > yardstick:
            yield _finding(level, name, f"Memorised: forgotten items look too familiar beside unseen ones ({seen}).")
        elif high < yardstick:
            yield _finding(level, name, f"Over-forgotten: forgotten items look too unfamiliar beside unseen ones ({seen}).")
        else:
            quiet.append(seen)
        if name == "mia_loss" and known and abs(yardstick - CHANCE) > GAP:
            text = "The holdout set is unlike the forget set: even the retrained model tells them apart"
            yield _finding("warn", name, f"{text} ({name}: AUC {yardstick:.3g}, chance {CHANCE}).")
    if quiet:
        yield _finding("pass", None, f"Forgotten items look as familiar beside unseen ones as they should ({'; '.join(quiet)}).")


def _called(scores: Records) -> Iterator[Finding]:
    """Shares of forgotten items that simple attacks on classifiers call members: warnings, since such attacks overstate privacy."""
    odd, quiet = [], []
    for name, way in CALLED.items():
        if found := _against_retrained(scores, name):
            low, high = found["interval"]
            too_familiar = low > found["retrained"] if way > 0 else high < found["retrained"]
            (odd if too_familiar else quiet).append(_beside(name, found))
    if odd:
        yield _finding("warn", None, f"Forgotten items look more like training items than to the retrained model ({'; '.join(odd)}).")
    if quiet:
        yield _finding("pass", None, f"Forgotten items look no more like training items than to the retrained model ({'; '.join(quiet)}).")
    if found := _against_retrained(scores, TOLD):
        better = found["interval"][0] > found["retrained"]
        text = f"Forgotten items can be told from unseen ones {'better' if better else 'no better'} than by the retrained model"
        yield _finding("warn" if better else "pass", TOLD, f"{text} ({_beside(TOLD, found)}).")


def _classified(scores: Records) -> Iterator[Finding]:
    """Classifiers: accuracy on what was forgotten, beside the retrained model's; then what the features know below the head."""
    for name, what in (("forget_accuracy", "forgotten items"), ("test_forget_accuracy", "unseen items of forgotten classes")):
        if found := _against_retrained(scores, name):
            seen, (low, high) = _beside(name, found), found["interval"]
            if low > found["retrained"] + SLACK:
                yield _finding("fail", name, f"Forgetting failed: too many {what} are still classified right ({seen}).")
            elif high < found["retrained"] - SLACK:
                yield _finding("fail", name, f"Over-forgotten: {what} are more often wrong than to a model that never saw them ({seen}).")
            else:
                yield _finding("pass", name, f"Forgotten: {what} are classified as by a model that never saw them ({seen}).")
    known = [(n, found, slack) for n, slack in INNER.items() if (found := _against_retrained(scores, n))]
    if odd := [_beside(n, found) for n, found, slack in known if found["interval"][0] > found["retrained"] + slack]:
        yield _finding("warn", None, f"The features below the last layer still know what was to be forgotten ({'; '.join(odd)}).")


def _leak(scores: Records) -> Iterator[Finding]:
    if found := scores.get("privleak"):
        low, high = found["interval"]
        seen = f"privleak: {_shown(found)}, yardstick {LEAK:g} either way"
        level: Level = "fail" if found["retrained"] is not None and not low <= 0 <= high else "warn"
        if found["value"] > LEAK:
            yield _finding(level, "privleak", f"Over-forgotten: the model avoids the forgotten items, which gives them away ({seen}).")
        elif found["value"] < -LEAK:
            yield _finding(level, "privleak", f"Memorised: membership of the forgotten items leaks ({seen}).")
        else:
            yield _finding("pass", "privleak", f"Membership of the forgotten items does not leak ({seen}).")


def _memorised(scores: Records) -> Iterator[Finding]:
    name = "extraction_strength"
    if found := _against_retrained(scores, name):
        failed = found["interval"][0] > found["retrained"]
        text = f"{'Memorised: more' if failed else 'No more'} of the true answers can be extracted than from the retrained model"
        yield _finding("fail" if failed else "pass", name, f"{text} ({_beside(name, found)}).")


def _attacked(hits: Sequence[Hit]) -> Iterator[Finding]:
    """What came back beyond the retrained model under the same attack; what was there before the attack is judged elsewhere."""
    quiet = []
    for hit in hits:
        low, beside = hit.found["interval"][0], hit.found["retrained"]
        seen = f"{hit.score}: {_shown(hit.found)}, before the attack {hit.before:.3g}"
        seen += f", the retrained model under it {beside:.3g}" if beside is not None else ""
        back, more = low > hit.before + SLACK, beside is not None and low > beside + SLACK
        if back and more:
            text = f"Not robust: {hit.attack} brings back more of what was forgotten than it gives the retrained model ({seen})."
            yield _finding("fail", hit.score, text)
        elif back and beside is None:
            text = f"Not robust: {hit.attack} brings back what was forgotten; whether more than it teaches, only a retrained model can tell"
            yield _finding("warn", hit.score, f"{text} ({seen}).")
        elif not more:
            quiet.append(f"{hit.attack}: {seen}")
    if quiet:
        than = " that the retrained model does not show under them" if hits[0].found["retrained"] is not None else ""
        yield _finding("pass", None, f"Robust: attacks bring nothing back{than} ({'; '.join(quiet)}).")


def _over_forgotten(scores: Records) -> Iterator[Finding]:
    probability, ratio = (_against_retrained(scores, name) for name in ("forget_probability", "forget_truth_ratio"))
    fine = []
    if probability:
        seen = _beside("forget_probability", probability)
        if probability["interval"][1] < FAR * probability["retrained"]:
            text = f"Over-forgotten: true answers are less than {FAR:.0%} as probable as to the retrained model ({seen})."
            yield _finding("fail", "forget_probability", text)
        else:
            fine.append(seen)
    if ratio:
        seen = _beside("forget_truth_ratio", ratio)
        low, high = ratio["interval"]
        # A ratio is small where the answer is still known, and also where the model collapsed; then the true answer is improbable, too.
        collapsed = high < FAR * ratio["retrained"] and probability and probability["value"] < probability["retrained"]
        if collapsed or low > ratio["retrained"] + PAST:
            text = f"Over-forgotten: right and wrong answers stand to each other far past the retrained model's ratio ({seen})."
            yield _finding("fail", "forget_truth_ratio", text)
        else:
            fine.append(seen)
    if fine:
        yield _finding("pass", None, f"Not over-forgotten ({'; '.join(fine)}).")


def _against_original(scores: Records, original: Records) -> Iterator[Finding]:
    """What can be said without a retrained model: whether what the original model knew has become less."""
    start = "No retrained model was given, so no score shows what a model that never saw the forget set does"
    both = [name for name in KNOWLEDGE if name in scores and name in original]
    if not both:
        yield _finding("warn", None, f"{start}; without scores of the original model, too, it is open whether anything was forgotten.")
        return
    yield _finding("warn", None, f"{start}; knowledge is held against the original model instead.")
    seen = "; ".join(f"{name}: {_shown(scores[name])}, the original model {original[name]['value']:.3g}" for name in both)
    if any(scores[name]["interval"][1] < original[name]["value"] for name in both):
        yield _finding("pass", None, f"Less is known than before; whether little enough, only a retrained model can tell ({seen}).")
    else:
        yield _finding("fail", None, f"Nothing was forgotten: as much is known as before ({seen}).")


def _unjudged(skipped: Mapping[str, str]) -> Iterator[Finding]:
    """One sentence a reason."""
    for reason in dict.fromkeys(skipped.values()):
        names = [name for name, why in skipped.items() if why == reason]
        level: Level = "fail" if reason.endswith(BROKEN) else "warn"
        yield _finding(level, names[0] if len(names) == 1 else None, f"Not judged: {', '.join(names)} ({reason}).")


def _against_retrained(scores: Records, name: str) -> Record | None:
    found = scores.get(name)
    return found if found and found["retrained"] is not None else None


def _shown(found: Record) -> str:
    low, high = found["interval"]
    return f"{found['value']:.3g} [{low:.3g}, {high:.3g}]"


def _beside(name: str, found: Record) -> str:
    return f"{name}: {_shown(found)}, the retrained model {found['retrained']:.3g}"


def _finding(level: Level, score: str | None, text: str) -> Finding:
    return {"level": level, "score": score, "text": text}
