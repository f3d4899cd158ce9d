"""What an audit of a language model looks at: answers token by token, generations, moments, gradient norms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from expunge.core.capabilities import Drafting, Generates, offers, require
from expunge.core.modality import Modality
from expunge.core.rows import Rows
from expunge.evaluation.gradient_norms import Norms, gradients
from expunge.evaluation.measure import Evidence
from expunge.evaluation.metrics.tofu import truth_ratios
from expunge.evaluation.observation import SetObservation
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.evaluation.profiles.profile import AskedSet, Profile, ScoredModel
from expunge.evaluation.teacher_forced import LabelScores, SetKind, score_all

LENGTH = 200  # tokens of a generation at most, and at most
TIMES = 3  # times the longest true answer of the set
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
        lambda name, kind: spec.moments and kind == "answer" and (name in members or "moments" in sets[name].spec.ask),
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
        texts = tuple(display.questions(asked_set.answers)), _answers(modality, asked_set)
        observations[name] = SetObservation(
            asked_set.answers.ids, *texts, scored[name], generations.get(name, ()), gradient_norms.get(name)
        )
    return observations, about


def _generations(
    model: nn.Module, modality: Modality, sets: Mapping[str, AskedSet], reading: Any, known_hits: Sequence[Any]
) -> tuple[dict[str, tuple[str, ...]], int]:
    """The model's own answers, and how many of their tokens the reading of the true answers or `known_hits` gave already."""
    rows = {n: asked_set.answers for n, asked_set in sets.items() if "generate" in asked_set.spec.ask}
    limits = [sets[n].spec.length or min(LENGTH, int(TIMES * _longest(modality, r))) for n, r in rows.items()]
    if offers(modality, Drafting):
        answers, known = require(modality, Drafting).recite(model, list(rows.values()), limits, reading, known_hits)
    else:
        speaker = require(modality, Generates)
        answers, known = [speaker.generate(model, r, limit).ids for r, limit in zip(rows.values(), limits, strict=True)], 0
    return {n: tuple(require(modality, Generates).decode(a)) for n, a in zip(rows, answers, strict=True)}, known


def _answers(modality: Modality, asked_set: AskedSet) -> tuple[str, ...]:
    """The true answers as text; where the length of generated ones is set, as many of their tokens."""
    display: Any = modality
    if not (length := asked_set.spec.length):
        return tuple(display.answer_texts(asked_set.answers))
    return tuple(require(modality, Generates).decode([ids[:length] for ids in asked_set.answers["answer"]]))


def _longest(modality: Modality, rows: Rows) -> float:
    """Labels of the longest true answer."""
    return max(modality.counts(rows.select([i]))["labels"] for i in range(len(rows)))


def likeness(model: ScoredModel, retrained: ScoredModel) -> list[float]:
    """How near a model comes to the retrained one in utility, in answers about forgotten facts and in extraction strength."""
    from scipy.stats import ks_2samp  # it takes a second, which audits need not wait

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


def panels(evidence: Evidence) -> dict[str, Any]:
    """Truth ratios of the forget items, for their distribution."""
    ratios = [float(x) for x in truth_ratios(evidence.model.sets["forget"])] if "forget" in evidence.model.sets else []
    return {"text": {"truth_ratios": ratios}} if ratios else {}


PROFILE = Profile(
    aspects=frozenset({"tokens", "generations", "moments", "gradient_norms", "choices", "predictions"}),
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
    leads=("extraction_strength",),
    curve=("forget_probability", "extraction_strength", "forget_truth_ratio"),
    controls=("random_weights", "input_filter"),
    panels=panels,
    likeness=likeness,
    unit="tokens",
)
