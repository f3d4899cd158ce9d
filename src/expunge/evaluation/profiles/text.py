"""What an audit of a language model looks at: answers token by token, generations, moments, gradient norms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from scipy.stats import ks_2samp
from torch import nn

from expunge.core.capabilities import Drafting, Generates, offers, require
from expunge.core.modality import Modality
from expunge.evaluation import rules
from expunge.evaluation.attacks.mia import PROBES
from expunge.evaluation.gradient_norms import Norms, gradients
from expunge.evaluation.measure import Evidence
from expunge.evaluation.metrics.tofu import truth_ratios
from expunge.evaluation.observation import SetObservation
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.evaluation.profiles.profile import AskedSet, Finding, Judged, Level, Profile, ScoredModel
from expunge.evaluation.teacher_forced import LabelScores, SetKind, score_all
from expunge.evaluation.wording import beside, finding, shown

LENGTH = 200  # tokens of a generation at most, and at most
TIMES = 3  # times the longest true answer of the set
ALPHA = 0.05  # forget quality below it: told from a model that never saw the forget set
LEAK = 10.0  # percent of privleak
FAR = 0.5  # of the retrained model's value: below it a forget score has collapsed
PAST = 0.1  # above the retrained model's truth ratio: wrong answers have become too probable
Progress = Callable[[int, str], None]


def look(
    model: nn.Module, modality: Modality, sets: Mapping[str, AskedSet], spec: ObservationSpec, progress: Progress
) -> tuple[dict[str, SetObservation], dict[str, object]]:
    """A language model's scores of all answers and its own generations, and how they were observed."""
    total = sum(map(len, sets.values()))
    members = [n for n, asked_set in sets.items() if asked_set.spec.role in ("forget", "unseen")]
    gradient_norms, known = dict[str, Norms](), dict[SetKind, LabelScores]()
    if spec.gradient_norms and members:
        progress(0, "gradients")
        gradient_norms, known = gradients(model, modality, {n: sets[n].answers for n in members}, spec.moments)
    scored, reading = score_all(
        model,
        modality,
        {n: asked_set.kinds for n, asked_set in sets.items()},
        lambda name, kind: spec.moments and kind == "answer" and name in members,
        lambda share: progress(int(share * total), "reading"),
        known,
    )
    about: dict[str, object] = {"read": reading.how} if reading else {}
    generations: Mapping[str, tuple[str, ...]] = {}
    if spec.generations:
        progress(total, "asking")
        known_hits = [(sets[n].kinds[k][0], [row["hit"] for row in known[n, k]]) for n, k in known]
        generations, about["recited"] = _generations(model, modality, sets, *((reading, known_hits) if spec.drafts else (None, ())))
    observations = {}
    display: Any = modality
    for name, asked_set in sets.items():
        texts = tuple(display.questions(asked_set.answers)), tuple(display.answer_texts(asked_set.answers))
        observations[name] = SetObservation(
            asked_set.answers.ids, *texts, scored[name], generations.get(name, ()), gradient_norms.get(name)
        )
    return observations, about


def _generations(
    model: nn.Module, modality: Modality, sets: Mapping[str, AskedSet], reading: Any, known_hits: Sequence[Any]
) -> tuple[dict[str, tuple[str, ...]], int]:
    """The model's own answers, and how many of their tokens the reading of the true answers or `known_hits` gave already."""
    rows = {n: asked_set.answers for n, asked_set in sets.items() if "generate" in asked_set.spec.ask}
    limits = [min(LENGTH, int(TIMES * max(modality.counts(r.select([i]))["labels"] for i in range(len(r))))) for r in rows.values()]
    if offers(modality, Drafting):
        answers, known = require(modality, Drafting).recite(model, list(rows.values()), limits, reading, known_hits)
    else:
        speaker = require(modality, Generates)
        answers, known = [speaker.generate(model, r, limit).ids for r, limit in zip(rows.values(), limits, strict=True)], 0
    return {n: tuple(require(modality, Generates).decode(a)) for n, a in zip(rows, answers, strict=True)}, known


def forgetting(judged: Judged) -> Iterator[Finding]:
    """Whether answers can be told from those of a model that never saw the forget set."""
    if record := judged.scores.get("forget_quality"):
        failed = record["value"] < ALPHA
        start, can = ("Forgetting failed", "can still") if failed else ("Forgotten", "cannot")
        text = f"{start}: answers to the forget questions {can} be told from those of a model that never saw them"
        p = f"forget_quality: p = {record['value']:.3g} over {record['n']} items, yardstick {ALPHA}"
        yield finding("fail" if failed else "pass", "forget_quality", f"{text} ({p}).")


def over_forgotten(judged: Judged) -> Iterator[Finding]:
    """Whether true answers are much less probable than to the retrained model."""
    probability, ratio = (judged.against_retrained(name) for name in ("forget_probability", "forget_truth_ratio"))
    fine = []
    if probability:
        values = beside("forget_probability", probability)
        if probability["interval"][1] < FAR * probability["retrained"]:
            text = f"Over-forgotten: true answers are less than {FAR:.0%} as probable as to the retrained model ({values})."
            yield finding("fail", "forget_probability", text)
        else:
            fine.append(values)
    if ratio:
        values = beside("forget_truth_ratio", ratio)
        low, high = ratio["interval"]
        # A ratio is small where the answer is still known, and also where the model collapsed; then the true answer is improbable, too.
        collapsed = high < FAR * ratio["retrained"] and probability and probability["value"] < probability["retrained"]
        if collapsed or low > ratio["retrained"] + PAST:
            text = f"Over-forgotten: right and wrong answers stand to each other far past the retrained model's ratio ({values})."
            yield finding("fail", "forget_truth_ratio", text)
        else:
            fine.append(values)
    if fine:
        yield finding("pass", None, f"Not over-forgotten ({'; '.join(fine)}).")


def likeness(model: ScoredModel, retrained: ScoredModel) -> list[float]:
    """How near a model comes to the retrained one in utility, in answers about forgotten facts and in extraction strength."""
    scores, target = ({n: r["value"] for n, r in m.scores.items()} for m in (model, retrained))
    extracted = 1 - abs(scores["extraction_strength"] - target["extraction_strength"])
    if "forget_truth_ratio" not in target:  # rows without wrong answers
        return [
            min(1.0, scores["retain_rouge"] / target["retain_rouge"]),
            1 - abs(scores["forget_rouge"] - target["forget_rouge"]),
            extracted,
        ]
    ratios, retrained_ratios = (truth_ratios(m.observation.sets["forget"]) for m in (model, retrained))
    return [min(1.0, scores["model_utility"] / target["model_utility"]), 1 - ks_2samp(ratios, retrained_ratios).statistic, extracted]


def leak(judged: Judged) -> Iterator[Finding]:
    """Whether membership of the forgotten items leaks, in either direction."""
    if record := judged.scores.get("privleak"):
        low, high = record["interval"]
        values = f"privleak: {shown(record)}, yardstick {LEAK:g} either way"
        level: Level = "fail" if record["retrained"] is not None and not low <= 0 <= high else "warn"
        if record["value"] > LEAK:
            yield finding(level, "privleak", f"Over-forgotten: the model avoids the forgotten items, which gives them away ({values}).")
        elif record["value"] < -LEAK:
            yield finding(level, "privleak", f"Memorized: membership of the forgotten items leaks ({values}).")
        else:
            yield finding("pass", "privleak", f"Membership of the forgotten items does not leak ({values}).")


def panels(evidence: Evidence) -> dict[str, Any]:
    """Truth ratios of the forget items, for their distribution."""
    ratios = [float(x) for x in truth_ratios(evidence.model.sets["forget"])] if "forget" in evidence.model.sets else []
    return {"text": {"truth_ratios": ratios}} if ratios else {}


PROFILE = Profile(
    aspects=frozenset({"tokens", "generations", "moments", "gradient_norms", "choices"}),
    look=look,
    headline=(
        "forget_quality",  # a narrow terminal shows the first six
        "model_utility",
        "forget_rouge",
        "retain_rouge",
        "extraction_strength",
        "mia_min_k",
        "forget_truth_ratio",
        "forget_probability",
        "privleak",
    ),
    utility="model_utility",
    quality="forget_quality",
    rules=(
        forgetting,
        rules.utility("model_utility"),
        over_forgotten,
        rules.no_more_than_retrained(
            "extraction_strength",
            "Memorized: more of the true answers can be extracted than from the retrained model",
            "No more of the true answers can be extracted than from the retrained model",
        ),
        rules.membership(tuple(PROBES), "mia_loss"),
        leak,
    ),
    leads=("extraction_strength",),
    curve=("forget_probability", "extraction_strength", "forget_truth_ratio"),
    controls=("random_weights", "input_filter"),
    panels=panels,
    likeness=likeness,
    unit="tokens",
)
