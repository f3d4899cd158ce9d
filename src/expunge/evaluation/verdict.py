"""The verdict on a model: three states, and plain answers to four questions. It reads observations, and never touches a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from expunge import catalog
from expunge.evaluation.attack import AttackOutcome, called, is_intervention
from expunge.evaluation.checks import Limits, against_original, against_retrained, order, production
from expunge.evaluation.compare import Compared
from expunge.evaluation.equivalence import least_visible
from expunge.evaluation.leaks import FORGET, corpus_of, leaks, recitations
from expunge.evaluation.measure import BROKEN, Evidence, Items
from expunge.evaluation.profiles.profile import Counted, Profile, Records
from expunge.evaluation.recovery import Controls, recoveries
from expunge.evaluation.thresholds import Thresholds
from expunge.functional.brief import brief
from expunge.report.verdict_data import Check, Leak, Recovery, State, Verdict
from expunge.report.words import number

MARGIN = 0.1  # of a score that has none of its own
ALWAYS = (
    "earlier copies of the model and of the data: checkpoints, backups, caches, logs",
    "what was made from the model or the data: adapters, quantized or distilled models, other fine-tuned models",
    "the same facts in other words, elsewhere in the training data or in the base model",
    "attackers who know the method and adapt to it",
)


@brief()
@dataclass(frozen=True)
class Context:
    """What a verdict must know of an audit besides the numbers.

    Args:
        command: the command line of the audit; '' where it was called from Python.
        overlaps: sentences about sets that share items.
        mixed: whether the unseen set shares items with another set, so that membership cannot be judged.
        formats: what was found about the prompt format where another one fits the original better; '' otherwise.
        guarded: the weights stand behind a guard and were not changed.
        notes: further sentences for the reader.
    """

    command: str = ""
    overlaps: Sequence[str] = ()
    mixed: bool = False
    formats: str = ""
    guarded: bool = False
    notes: Sequence[str] = ()


@brief()
@dataclass(frozen=True, eq=False)
class Case:
    """The evidence on one model.

    Args:
        records, original_records: scores as records of `audit_scores`; of the model before unlearning, too, where it was observed.
        controls: the same attacks on other models.
    """

    evidence: Evidence
    compared: Mapping[str, Compared]
    records: Records
    skipped: Mapping[str, str]
    profile: Profile
    original_records: Records = field(default_factory=dict)
    attacks: Mapping[str, AttackOutcome] = field(default_factory=dict)
    controls: Controls = field(default_factory=lambda: Controls({}, {}))


def verdict(case: Case, context: Context = Context(), thresholds: Thresholds = Thresholds()) -> Verdict:  # noqa: B008 - frozen
    """Judge one model.

    Args:
        case: the evidence.
        context: what else is known of the audit.
        thresholds: the limits.
    """
    evidence = case.evidence
    with_retrained = evidence.retrained is not None
    unusable = {"membership": "the unseen rows are not unseen"} if context.mixed else {}
    limits = Limits(thresholds, unusable)
    leaked = leaks(evidence.model, evidence.retrained)
    scored = against_retrained(case.compared, limits) if with_retrained else against_original(case.compared, limits)
    checks = [*_weights(evidence), *production(leaked, _recited(evidence), with_retrained, thresholds), *scored]
    present = {c.score for c in scored if c.state == "not removed"}
    attacked = recoveries(case.attacks, case.controls, present, lambda name: _margin(name, case.compared, thresholds), thresholds)
    state, reason = _state(checks, attacked, leaked, context, evidence)
    checks = sorted(checks, key=order)
    counted = case.profile.counted(evidence.model.sets[FORGET]) if FORGET in evidence.model.sets else Counted(0, "row", "rows to forget")
    return Verdict(
        state,
        _gone(state, reason, leaked, attacked),
        _sure(state, checks, counted, thresholds, with_retrained),
        leaked,
        checks,
        attacked,
        list(_not_checked(case)),
        [*_damage(case, thresholds), *_beyond(scored, with_retrained)],
        [*filter(None, [context.formats]), *context.overlaps, *context.notes, *_features(scored)],
        _sharpen(case, context, counted, thresholds),
        {**thresholds.to_dict(), "margins": {name: thresholds.margin(name, c.spec.margin or MARGIN) for name, c in case.compared.items()}},
    )


def _margin(name: str, compared: Mapping[str, Compared], thresholds: Thresholds) -> float:
    return thresholds.margin(name, (compared[name].spec.margin if name in compared else None) or MARGIN)


def _recited(evidence: Evidence) -> Items:
    """Whether each forgotten answer is recited, of those that are long enough and no classes, (answers,)."""
    if FORGET not in evidence.model.sets:
        return np.zeros(0)
    values = recitations(evidence.model)
    if np.isnan(values).all():
        return np.zeros(0)
    usual = np.array(corpus_of(evidence.model).usual)
    return np.asarray(values[~np.isnan(values) & ~usual])


def _weights(evidence: Evidence) -> Iterator[Check]:
    """Weights that are those of the original, bit by bit, hold all that the original holds."""
    weights = evidence.model.about.get("weights")
    if evidence.original and weights and weights == evidence.original.about.get("weights"):
        retrained = evidence.retrained and evidence.retrained.about.get("weights") == weights
        if not retrained:
            yield Check("weights", "not removed", "The weights are those of the original, bit by bit.")


def _state(
    checks: Sequence[Check], attacked: Sequence[Recovery], leaked: Sequence[Leak], context: Context, evidence: Evidence
) -> tuple[State, str]:
    """The state, and the reason in words."""
    deciding = [c for c in checks if c.decides]
    if failing := [c for c in deciding if c.state == "not removed"]:
        return "not removed", failing[0].text
    if brought := [r for r in attacked if r.state == "not removed"]:
        return "not removed", brought[0].text
    if context.formats:
        return "cannot tell", context.formats
    if context.guarded:
        return "cannot tell", "the model answers through a guard, and its weights were not changed: what they hold is only hidden."
    if evidence.retrained is None:
        return "cannot tell", _without_retrained(checks, evidence, leaked)
    knowledge = [c for c in checks if c.against]
    if not any(c.decides for c in knowledge):
        reason = "the original itself does not differ from the retrained model by any score of this audit, so none can show a removal."
        return "cannot tell", reason if knowledge else "nothing could be compared with the retrained model."
    if open_checks := [c for c in deciding if c.state == "cannot tell"]:
        return "cannot tell", f"{len(open_checks)} of {len(deciding)} deciding checks allow more than their margin. {open_checks[0].text}"
    return "removed", ""


def _without_retrained(checks: Sequence[Check], evidence: Evidence, leaked: Sequence[Leak]) -> str:
    dropped = [c for c in checks if c.decides and c.against == "original"]
    if not evidence.original and leaked:
        return "parts of forgotten answers are produced that may be guesses, and no retrained model shows what it would guess."
    if not evidence.original:
        return "nothing shows what a model that never saw these rows does: neither a retrained model nor the original was given."
    if not dropped:
        why = next((c.text for c in checks if c.against == "original"), "No score of this audit compares with it.")
        return f"nothing shows that the original itself knew these rows beyond what it knows of others. {why}"
    return (
        "less is known than before, and nothing distinctive is produced; whether little enough, only a retrained model can tell. "
        f"{dropped[0].text}"
    )


def _gone(state: State, reason: str, leaked: Sequence[Leak], attacked: Sequence[Recovery]) -> str:
    if state == "removed":
        robust = [r.attack for r in attacked if r.state == "removed"]
        under = f", also under {', '.join(robust)}" if robust else ""
        return f"Yes, as far as this audit can see: the model answers about these rows like one that never saw them{under}."
    if state == "not removed":
        rows, proofs = {leak.row for leak in leaked}, {leak.row for leak in leaked if leak.proof}
        if proofs:
            many = f"{len(rows)} row{'' if len(rows) == 1 else 's'}"
            return f"No: forgotten answers, or names and numbers in them, are still produced for {many}, {len(proofs)} beyond any guess."
        return f"No: {reason}"
    return f"It cannot be told: {reason}"


def _sure(state: State, checks: Sequence[Check], counted: Counted, thresholds: Thresholds, with_retrained: bool) -> str:
    n = counted.count
    rows = f"{n} {counted.one}{'' if n == 1 else 's'}"
    least = number(least_visible(max(1, n), thresholds.alpha))
    if state == "removed":
        deciding = [c for c in checks if c.decides and c.against]
        widest = max((c.power or 0.0) for c in deciding)
        names = ", ".join(c.name.replace("_", " ") for c in deciding)
        return (
            f"All {len(deciding)} deciding checks ({names}) rule out a difference above their margins with {1 - thresholds.alpha:.0%} "
            f"confidence each. With {rows} this audit could not have seen a difference below {number(widest)} by its weakest check."
        )
    if state == "not removed":
        return (
            f"It is shown by at least one check, corrected for their number (chance of error {thresholds.alpha:.0%}), or by a text itself."
        )
    few = f"With {rows} no audit can rule out less than {least} of a score that goes from 0 to 1 ({1 - thresholds.alpha:.0%} confidence)."
    return few if with_retrained else f"{few} Without a retrained model this audit can say that something is left, and not that nothing is."


def _not_checked(case: Case) -> Iterator[str]:
    done = {name for name, outcome in case.attacks.items() if outcome.tries}
    open_attacks = [n for n in catalog.names("attacks") if is_intervention(n) and n not in done]
    if open_attacks:
        yield f"attacks that were not made: {', '.join(n.replace('_', ' ') for n in open_attacks)}"
    yield from (f"{called(name, way)}: {why}" for name, outcome in case.attacks.items() for way, why in outcome.missing.items())
    sets = case.evidence.model.sets
    if "holdout" not in sets:
        yield "membership: whether an attacker can tell that the rows were trained on (needs unseen rows, --holdout)"
    if not any(r["kind"] == "utility" for r in case.records.values()):
        yield "what the model has lost besides the rows (needs rows to keep, --retain)"
    if case.evidence.original is None:
        yield "whether the model before unlearning knew these rows at all (--original)"
    yield from ALWAYS


def _damage(case: Case, thresholds: Thresholds) -> Iterator[str]:
    if broken := [name for name, why in case.skipped.items() if why.endswith(BROKEN)]:
        yield f"The model gives numbers that are not finite, so {len(broken)} scores do not exist: it is broken."
    name = case.profile.utility or next((n for n, r in case.records.items() if r["kind"] == "utility" and r["direction"] == "higher"), "")
    if not (record := case.records.get(name)):
        return
    whose, yardstick = "retrained", record["retrained"]
    before = case.original_records.get(name)
    if yardstick is None and before and before["variant"] == record["variant"]:
        whose, yardstick = "original", before["value"]
    if yardstick is not None and yardstick > 0 and record["value"] < thresholds.kept * yardstick:
        yield (
            f"Utility is lost: {name.replace('_', ' ')} ({record['meaning']}) is {number(record['value'])}, below {thresholds.kept:.0%} "
            f"of the {whose} model's {number(yardstick)}."
        )


def _beyond(scored: Sequence[Check], with_retrained: bool) -> Iterator[str]:
    """Knowledge far below the retrained model's: such a model avoids the rows, and usually lost more than them."""
    for check in scored:
        if not with_retrained or not check.decides or check.state == "not removed":
            continue
        if check.interval and check.margin is not None and (check.interval[1] or 0.0) < -check.margin:
            yield (
                f"Over-forgotten: {check.name.replace('_', ' ')} is {number(check.value)}, far below the {number(check.yardstick)} of "
                "a model that never saw these rows."
            )
            return


def _features(scored: Sequence[Check]) -> Iterator[str]:
    """Checks that do not decide and say that something is left."""
    if left := [c.name.replace("_", " ") for c in scored if not c.decides and c.state == "not removed" and "decides nothing" not in c.text]:
        yield f"Other scores show traces, which do not decide: {', '.join(left)}."


def _sharpen(case: Case, context: Context, counted: Counted, thresholds: Thresholds) -> str:
    """The options that would help the most, in one line with the command."""
    sets = case.evidence.model.sets
    wanted: list[str] = []
    if case.evidence.retrained is None:
        wanted.append("--retrained MODEL (trained without these rows: expunge train --data RETAIN)")
    if case.evidence.original is None:
        wanted.append("--original MODEL (before unlearning)")
    wanted += [f"--{name} FILE" for name in ("retain", "holdout") if name not in sets]
    if not case.attacks:
        wanted.append("--attack relearn --attack quantize")
    smallest = min((thresholds.margin(name, c.spec.margin or MARGIN) for name, c in case.compared.items()), default=MARGIN)
    enough = int(np.ceil(np.log(thresholds.alpha) / np.log1p(-smallest)))
    more = f"at least {enough} {counted.forgotten} instead of {counted.count} (a margin of {number(smallest)} needs so many)"
    more = more if counted.count < enough else ""
    if not wanted:
        return f"What would sharpen this: {more}." if more else ""
    command = context.command or "expunge audit MODEL --forget FILE --out FOLDER"
    options = " ".join(w.partition(" (")[0] for w in wanted)
    explained = "; ".join(w for w in wanted if "(" in w)
    return f"What would sharpen this: {command} {options}" + (f" [{explained}]" if explained else "") + (f"; and {more}" if more else "")
