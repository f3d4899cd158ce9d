"""RESTOR: after unlearning documents that were wrong, does the model know again what it knew before it read them?
Generated answers show whether the truth is back; log-probabilities show whether wrong answers fell and right ones rose.

Source: Rezaei et al. 2025, RESTOR (arXiv 2411.00204), and its code k1rezaei/restor
Scores: restor_accuracy, restor_accuracy_others, restor_recovery, restor_correct, restor_corrupted, restor_random, restor_forgetting,
    restor_restoration, restor_perplexity_forget, restor_perplexity_retain
Needs: restor_facts, restor_others, with generated answers and options; forget, retain; original (the corrupted model) and retrained (the
    clean one) for recovery, forgetting and restoration
Range and ideal: accuracy 0 to 1, high; recovery and restoration 0 at the corrupted model and 1 at the clean one; log-probabilities in nats,
    ideal as the clean model's; perplexity of text to keep low
Differs: an answer is right where its first line holds an accepted one, word for word; the paper asks a language model to judge
Status: faithful
"""

from __future__ import annotations

from functools import partial

import numpy as np

from expunge.evaluation.measure import Evidence, Items, Measure, Missing, PerItem, ScoreSpec, attempt, averaged, item_mean, labeled
from expunge.evaluation.metrics.memorization import content
from expunge.evaluation.observation import SetObservation
from expunge.evaluation.words import words
from expunge.functional.recovery_rates import recovered_share

READS = frozenset({"tokens", "generations"})  # what must have been observed
SCORES = {
    "restor_accuracy": ScoreSpec(
        "utility", "higher", "share of questions about people whom the documents got wrong that are answered right"
    ),
    "restor_accuracy_others": ScoreSpec("utility", "higher", "share of questions about other people that are answered right"),
    "restor_recovery": ScoreSpec("utility", "higher", "share of the lost accuracy that is back; 0: none, 1: all of it", ideal=1.0),
    "restor_correct": ScoreSpec("utility", "higher", "mean log-probability of a token of right answers"),
    "restor_corrupted": ScoreSpec("knowledge", "retrained", "mean log-probability of a token of the documents' wrong answers", shows=True),
    "restor_random": ScoreSpec("utility", "retrained", "mean log-probability of a token of wrong answers that no document gives"),
    "restor_forgetting": ScoreSpec("knowledge", "higher", "share of the rise of the documents' wrong answers that is undone", ideal=1.0),
    "restor_restoration": ScoreSpec("utility", "higher", "share of the fall of right answers that is undone", ideal=1.0),
    "restor_perplexity_forget": ScoreSpec("knowledge", "retrained", "how surprising the documents are: perplexity, a mean over them"),
    "restor_perplexity_retain": ScoreSpec("utility", "lower", "how surprising ordinary text is: perplexity, a mean over texts"),
}
FACTS, OTHERS = "restor_facts", "restor_others"
KINDS = {"restor_correct": "paraphrase", "restor_corrupted": "perturbed", "restor_random": "choice"}


def first_line(text: str) -> str:
    """The answer alone: what stands before the first line break."""
    return text.split("\n")[0]


def holds(text: str, accepted: str) -> bool:
    """Whether a text has the words of an accepted answer in a row, whatever their case and punctuation."""
    own, wanted = words(text), words(accepted)
    return bool(wanted) and any(own[i : i + len(wanted)] == wanted for i in range(len(own) - len(wanted) + 1))


def accepted_answers(observation: SetObservation) -> Items:
    """1 where the generated answer holds one of the accepted ones, (items,). Raises: Missing."""
    if len(observation.generations) != len(observation):
        raise Missing("no generated answers were observed")
    options = labeled(observation, "paraphrase")
    right = np.zeros(len(observation))
    for item, text in zip(options.item, options.text, strict=True):
        right[item] = max(right[item], holds(first_line(observation.generations[item]), text))
    return right


def option_logp(observation: SetObservation, kind: str) -> Items:
    """Mean log-probability per token of an option, end of sequence left out, averaged over the options of an item, (items,), in nats."""
    scored = labeled(observation, kind)
    options = [content(scored, k, scored.target_logp.astype(np.float64)) for k in range(len(scored))]
    return item_mean(np.array([x.mean() if len(x) else np.nan for x in options]), scored.item, len(observation))


def perplexity(observation: SetObservation) -> Items:
    """exp(-mean log-probability of a token) of each text, (items,)."""
    scored = labeled(observation, "answer")
    return item_mean(np.exp(-scored.mean_logp()), scored.item, len(observation))


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """All scores of the card; none where the audit has no facts of RESTOR."""
    if FACTS not in evidence.model.sets:
        return {}

    def accuracy(name: str) -> Measure:
        return averaged(evidence.items(name, accepted_answers), "word for word, in the first line")

    def mean(name: str, of: PerItem, variant: str = "") -> Measure:
        return Measure((evidence.items(name, of),), np.mean, variant)

    def between(of: PerItem) -> Measure:
        """Where the mean stands between the original's (0) and the retrained model's (1)."""
        own, corrupted = evidence.both(FACTS, of, "original")
        _, clean = evidence.both(FACTS, of, "retrained")
        table = np.column_stack([own, corrupted, clean])
        table = table[~np.isnan(table).any(axis=1)]
        if not len(table):
            raise Missing(f"{FACTS}: no item has all that this score needs")
        if np.isnan(_share(table)):
            raise Missing("the original and the retrained model do not differ, so there is nothing to recover")
        return Measure((table,), _share, "0: the original, 1: the retrained model")

    return {
        "restor_accuracy": attempt(accuracy, FACTS),
        "restor_accuracy_others": attempt(accuracy, OTHERS),
        "restor_recovery": attempt(between, accepted_answers),
        **{name: attempt(mean, FACTS, partial(option_logp, kind=kind), "mean over options") for name, kind in KINDS.items()},
        "restor_forgetting": attempt(between, partial(option_logp, kind="perturbed")),
        "restor_restoration": attempt(between, partial(option_logp, kind="paraphrase")),
        "restor_perplexity_forget": attempt(mean, "forget", perplexity),
        "restor_perplexity_retain": attempt(mean, "retain", perplexity),
    }


def _share(table: Items) -> float:
    own, corrupted, clean = table.mean(axis=0)
    return recovered_share(own, corrupted, clean)
