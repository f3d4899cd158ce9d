"""TOFU: does the model answer like one that never saw the forget set, and is it still good at everything else?
Forget quality compares truth ratios (how probable wrong answers are beside the right one) with the retrained model's; model utility is the
harmonic mean of probability, ROUGE and truth ratio on the other sets.

Source: Maini et al. 2024, TOFU (arXiv 2401.06121); OpenUnlearning (arXiv 2506.12618), whose definitions are the default
Scores: forget_quality, forget_truth_ratio, forget_probability, forget_rouge,
    retain_quality, retain_truth_ratio, retain_probability, retain_rouge,
    real_authors_quality, real_authors_truth_ratio, real_authors_probability, real_authors_rouge,
    world_facts_quality, world_facts_truth_ratio, world_facts_probability, world_facts_rouge, model_utility
Needs: forget, retain, real_authors, world_facts; paraphrase, perturbed; said (for ROUGE); retrained (for quality)
Range and ideal: all 0 to 1; quality is a p-value, ideal 1; other scores of forget: ideal as the retrained model; of the other sets: higher
Differs: wrong answers are averaged geometrically, as in the leaderboards, where the paper has the arithmetic mean (`mean`); items that lack
    labels do not count; utility is taken over the sets and columns that exist, and says which; every set has a quality, not forget alone.
    Variants: `arithmetic` of the paper for truth ratios, qualities and utility; `prob_mean` of open-unlearning for forget_truth_ratio, the
    right answer's share of the two probabilities
Status: faithful
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from expunge.evaluation.measure import Broken, Evidence, Items, Measure, Missing, PerItem, ScoreSpec, attempt, averaged, item_mean, labeled
from expunge.evaluation.observation import SetObservation
from expunge.evaluation.words import words
from expunge.functional import light_rouge

Mean = Literal["geometric", "arithmetic"]
Part = Literal["recall", "fmeasure"]
Grams = Literal["rougeL", "rouge1"]
READS = frozenset({"tokens", "generations"})  # what must have been observed
SETS = {"forget": "paraphrase", "retain": "paraphrase", "real_authors": "answer", "world_facts": "answer"}  # the kind that counts as right
STYLE = {"geometric": "open-unlearning: geometric", "arithmetic": "paper: arithmetic"}
WHOSE = {
    "forget": "the forgotten questions",
    "retain": "questions to keep",
    "real_authors": "questions about real authors",
    "world_facts": "questions about the world",
}
MEASURED = {
    "probability": "how probable the true answers to {} are; 0: not at all",
    "rouge": "how many words of the true answers to {} the model says by itself",
    "truth_ratio": "how far wrong answers to {} are from being as probable as the true one",
    "quality": "whether answers to {} can be told from the retrained model's: a p-value, below 0.05 they can",
}
EXACT = 10_000  # values of a sample up to which scipy gives the exact p-value
FORGET_ROUGE = "forget_rouge"  # the score of what a model says by itself
MARGIN = 0.1  # two retrained models with different seeds differ by less (studies/calibrate_verdict.py)
SCORES = {
    **{
        f"{name}_{column}": ScoreSpec(
            "knowledge" if name == "forget" else "utility",
            "retrained" if name == "forget" else "higher",
            MEASURED[column].format(WHOSE[name]),
            shows=name == "forget" and column != "truth_ratio",
            margin=MARGIN if name == "forget" and column != "truth_ratio" else None,
        )
        for name in SETS
        for column in ("probability", "rouge", "truth_ratio")
    },
    **{
        f"{name}_quality": ScoreSpec(
            "knowledge" if name == "forget" else "utility", "higher", MEASURED["quality"].format(WHOSE[name]), ideal=1.0, scale="p"
        )
        for name in SETS
    },
    "model_utility": ScoreSpec("utility", "higher", "how well the model still answers what it was not asked to forget; 0: nothing is left"),
}
MEANS: tuple[Mean, ...] = get_args(Mean)
SHARE = "prob_mean"  # of open-unlearning
VARIANTS: dict[str, tuple[str, ...]] = {
    **{f"{name}_{column}": MEANS for name in SETS for column in ("truth_ratio", "quality")},
    "forget_truth_ratio": (*MEANS, SHARE),
    "model_utility": MEANS,
}
TINY = 1e-10  # keeps the ratios of a collapsed model finite; part of the published definitions


def truth_ratio(right: Items, wrong: Items, item: NDArray[np.int64], mean: Mean = "geometric") -> Items:
    """How probable wrong answers are beside the right one, (items,), >= 0; nan for an item that lacks one of them.

    right (items,) and wrong (answers,) are mean log-probabilities per label in nats; `item` (answers,) is the item of each wrong answer.
    """
    if mean == "geometric":
        typical = np.exp(item_mean(wrong, item, len(right)))
    else:
        typical = item_mean(np.exp(wrong), item, len(right))
    return np.asarray(typical / (np.exp(right) + TINY))


def closer_to_one(ratio: Items) -> Items:
    """min(R, 1/R), (items,): 1 where wrong and right answers are equally probable; how truth ratios of the forget set are averaged."""
    return np.minimum(ratio, 1 / (ratio + TINY))


def true_better(ratio: Items) -> Items:
    """max(0, 1 - R), (items,): 1 where wrong answers are impossible; how truth ratios of all other sets are averaged."""
    return np.maximum(0, 1 - ratio)


def share_of_right(ratio: Items) -> Items:
    """1 / (1 + R), (items,): the right answer's share of the two probabilities; open-unlearning's `prob_mean`, lower means less known."""
    return 1 / (1 + ratio)


def normalized_probability(right: Items, wrong: Items, item: NDArray[np.int64]) -> Items:
    """The right answer's share of all answers' probabilities, (items,); arguments and nan as in `truth_ratio`."""
    summed = np.bincount(item, weights=np.exp(wrong), minlength=len(right))
    summed[np.bincount(item, minlength=len(right)) == 0] = np.nan
    return np.asarray(np.exp(right) / (np.exp(right) + summed + TINY))


def rouge(answers: Sequence[str], generations: Sequence[str], part: Part = "recall", stem: bool = True, grams: Grams = "rougeL") -> Items:
    """ROUGE of generations against the true answers, (items,); nan for an answer without words.

    TOFU takes the recall of stems by ROUGE-L, MUSE the F-measure of words; LUNAR the recall of stems by ROUGE-1, whatever their order.
    """
    return np.array([_rouge(true, text, part, stem, grams) for true, text in zip(answers, generations, strict=True)])


@lru_cache(maxsize=1 << 15)
def _rouge(true: str, generation: str, part: Part, stem: bool, grams: Grams) -> float:
    if not words(true):
        return float("nan")
    return float(getattr(_scorer(stem, grams).score(true, generation)[grams], part))


@lru_cache
def _scorer(stem: bool, grams: Grams) -> Any:
    return light_rouge.scorer([grams], tokenizer=_Words(stem))


class _Words:
    """Words of any script. English ones become the stems of rouge_score, which take most of ROUGE's time, so they are cached."""

    def __init__(self, stem: bool) -> None:
        self.stem = lru_cache(maxsize=1 << 16)(light_rouge.tokenizer(stem).tokenize)

    def tokenize(self, text: str) -> list[str]:
        return [stem for word in words(text) for stem in (self.stem(word) if word.isascii() else [word])]


def harmonic_mean(values: Items) -> float:
    """Harmonic mean; 0 where any value is 0. Raises: ValueError where one is negative."""
    if (values < 0).any():
        raise ValueError(f"a harmonic mean needs values of at least 0; the smallest is {values.min()}")
    return len(values) / float(np.sum(1 / values)) if (values > 0).all() else 0.0


def ks(a: Items, b: Items) -> float:
    """p-value of the two-sided two-sample Kolmogorov-Smirnov test, exact up to 10,000 values a sample.

    Of two samples of one size it depends on a whole number alone, the largest lead of one over the other. The draws of a bootstrap have few
    such numbers, so that scipy is asked a few times and not for each draw.
    """
    if not 0 < len(a) == len(b) <= EXACT or np.isnan([a, b]).any():
        from scipy.stats import ks_2samp  # it takes a second, which audits without a retrained model need not wait

        return float(ks_2samp(a, b).pvalue)
    both = np.concatenate([a, b])
    leads = np.searchsorted(np.sort(a), both, "right") - np.searchsorted(np.sort(b), both, "right")
    return _ks_of(len(a), int(np.abs(leads).max()))


@lru_cache(maxsize=1 << 16)
def _ks_of(n: int, lead: int) -> float:
    """The exact p-value of two samples of n values, of which one is ahead by `lead` values at most."""
    from scipy.stats import ks_2samp

    return float(ks_2samp(np.arange(n), np.arange(n) + lead).pvalue)


def scores(evidence: Evidence, mean: Mean | None = None) -> dict[str, Measure | Missing]:
    """All scores of the card; `mean` says how wrong answers are averaged, by default as the variants of the evidence do.

    Raises:
        ValueError: where it is neither of the two.
    """
    if mean not in (None, *MEANS):
        raise ValueError(f"mean must be one of {', '.join(MEANS)}; it is {mean!r}")

    def mean_of(score: str) -> Mean:
        return mean or next(m for m in MEANS if m == evidence.variant(score, MEANS))

    measures: dict[str, Measure | Missing] = {}
    for name in SETS:
        measures[f"{name}_quality"] = attempt(_quality, evidence, name, mean_of(f"{name}_quality"))
        for column in _columns(name, "geometric"):
            measures[f"{name}_{column}"] = attempt(_average, evidence, name, column, mean_of(f"{name}_{column}"))
    if mean is None and evidence.variant("forget_truth_ratio", VARIANTS["forget_truth_ratio"]) == SHARE:
        measures["forget_truth_ratio"] = attempt(_share, evidence)
    return measures | {"model_utility": attempt(_utility, evidence, mean_of("model_utility"))}


def truth_ratios(observation: SetObservation, name: str = "forget", mean: Mean = "geometric") -> Items:
    """The truth ratio of each item of a set, (items,), nan where it has none; empty where the set has no wrong answers."""
    try:
        return _ratios(name, mean)(observation)
    except Missing:
        return np.zeros(0)


def _ratios(name: str, mean: Mean) -> PerItem:
    def of(observation: SetObservation) -> Items:
        wrong = labeled(observation, "perturbed")
        return truth_ratio(_logp(observation, SETS[name]), wrong.mean_logp(), wrong.item, mean)

    return of


def _columns(name: str, mean: Mean) -> dict[str, PerItem]:
    """The columns of a set's items; each is (items,) from 0 to 1."""

    def probability(observation: SetObservation) -> Items:
        right = _logp(observation, "answer")
        if SETS[name] == "paraphrase":
            return np.exp(right)
        wrong = labeled(observation, "perturbed")
        return normalized_probability(right, wrong.mean_logp(), wrong.item)

    def rouge_recall(observation: SetObservation) -> Items:
        if not observation.generations:
            raise Missing("no generated answers were observed")
        values = rouge(observation.answer, observation.generations)
        if np.isnan(values).all():
            raise Missing("no true answer has words that a generated one could share")
        return values

    def ratio(observation: SetObservation) -> Items:
        return (closer_to_one if name == "forget" else true_better)(_ratios(name, mean)(observation))

    return {"probability": probability, "rouge": rouge_recall, "truth_ratio": ratio}


def _logp(observation: SetObservation, kind: str) -> Items:
    scored = labeled(observation, kind)
    return item_mean(scored.mean_logp(), scored.item, len(observation))


def _average(evidence: Evidence, name: str, column: str, mean: Mean) -> Measure:
    variant = {
        "probability": "geometric mean over the labels" + ("" if SETS[name] == "paraphrase" else ", share among all answers"),
        "rouge": "ROUGE-L, recall of stems",
        "truth_ratio": f"{STYLE[mean]}, {'min(R, 1/R)' if name == 'forget' else 'max(0, 1 - R)'}",
    }[column]
    values = evidence.items(name, _columns(name, mean)[column])
    return averaged(values, variant)


def _share(evidence: Evidence) -> Measure:
    ratio = _ratios("forget", "geometric")
    return averaged(evidence.items("forget", lambda o: share_of_right(ratio(o))), "open-unlearning: prob_mean, 1 / (1 + R)")


def _quality(evidence: Evidence, name: str, mean: Mean) -> Measure:
    """The bootstrap draws the two models' ratios of an item together."""
    both = evidence.pairs(name, _ratios(name, mean))
    return Measure((both,), lambda pair: ks(pair[:, 0], pair[:, 1]), variant=f"{STYLE[mean]}, two-sided KS p-value")


def _utility(evidence: Evidence, mean: Mean) -> Measure:
    """One array per set, (items, columns); the bootstrap draws the columns of an item together."""

    def is_absent(name: str, of: PerItem) -> bool:
        value = attempt(evidence.items, name, of)
        return isinstance(value, Missing) and not isinstance(value, Broken)  # a column that a broken model fails still counts

    tables, parts = [], []
    for name in [name for name in SETS if name != "forget"]:
        columns = {column: of for column, of in _columns(name, mean).items() if not is_absent(name, of)}
        if columns:
            tables.append(evidence.items(name, partial(_table, tuple(columns.values()))))
            parts.append(f"{name} ({', '.join(columns)})")
    if not tables:
        raise Missing("no set besides forget has what utility is made of")
    full = sum(table.shape[1] for table in tables) == (len(SETS) - 1) * len(_columns("retain", mean))
    variant = f"{STYLE[mean]}, {'all three sets' if full else 'only ' + '; '.join(parts)}"
    return Measure(tuple(tables), lambda *drawn: harmonic_mean(np.concatenate([t.mean(axis=0) for t in drawn])), variant=variant)


def _table(columns: Sequence[PerItem], observation: SetObservation) -> Items:
    return np.column_stack([of(observation) for of in columns])
