"""BLUR: does forgetting hold, and knowledge to keep remain, where one query asks for both?
The answers of a model to single and to combined queries are compared with the original's answers to the single ones.

Source: Hu et al. 2025, BLUR (arXiv 2506.15699), and its code s-huu/BLUR
Scores: blur_forget_forget, blur_retain_retain, blur_forget_combine, blur_retain_combine, and each with _f1
Needs: blur_forget, blur_retain, blur_combined, with generated answers; original
Range and ideal: recall of ROUGE-L with stems, 0 to 1 (_f1: its F-measure, which counts words too many); low for questions to forget, high
    for questions to keep; the original itself is below 1 on combined queries
Differs: the original's answer to the kept half of a combined query is found by the text of the question; variant `published` pairs by line
    as the code does, which for three of four tasks compares with answers to other questions; variant `gold` of single queries compares
    with the true answers where a task has them; questions are answered greedily, where the code leaves sampling to the checkpoint
Status: faithful
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np

from expunge.evaluation.measure import Evidence, Items, Measure, Missing, ScoreSpec, attempt, averaged
from expunge.evaluation.metrics.tofu import Part, rouge
from expunge.evaluation.observation import SetObservation
from expunge.functional.combined_queries import parted

READS = frozenset({"tokens", "generations"})  # what must have been observed
PROMPT = ("Answer the following question. Question: ", " Answer:")  # what stands before and after a query
ABOUT = {
    "forget_forget": ("knowledge", "lower", "how much of the original's answers to forgotten questions is still said"),
    "retain_retain": ("utility", "higher", "how much of the original's answers to kept questions is still said"),
    "forget_combine": ("knowledge", "lower", "how much of forgotten answers is said where a kept question is asked along"),
    "retain_combine": ("utility", "higher", "how much of kept answers is said where a forgotten question is asked along"),
}
F1 = "_f1"
SCORES = {
    f"blur_{name}{end}": ScoreSpec(kind, direction, meaning, ideal=0.0 if direction == "lower" else 1.0, shows=kind == "knowledge")  # type: ignore[arg-type]
    for end in ("", F1)
    for name, (kind, direction, meaning) in ABOUT.items()
}
SINGLE, COMBINED = ("base", "gold"), ("matched", "published")
VARIANTS = {name: COMBINED if "combine" in name else SINGLE for name in SCORES}
SEED = 42  # of the sample that the code draws where there are more combined queries than single ones


def bare_query(prompt: str) -> str:
    """The query in a prompt."""
    return prompt.removeprefix(PROMPT[0]).removesuffix(PROMPT[1])


def by_query(observation: SetObservation) -> dict[str, str]:
    """The generated answer to each query."""
    return dict(zip(map(bare_query, observation.question), observation.generations, strict=True))


def matched(combined: SetObservation, forget: SetObservation, single: SetObservation, half: int) -> list[tuple[str, str]]:
    """The answer to one half of each combined query, asked alone, and the answer to the whole.

    half: 0, the half to forget; 1, the half to keep. Queries whose half was not asked alone are left out.
    """
    answers, firsts = by_query(single), list(by_query(forget))
    pairs = []
    for query, answer in zip(map(bare_query, combined.question), combined.generations, strict=True):
        halves = parted(query, firsts)
        if halves and halves[half] in answers:
            pairs.append((answers[halves[half]], answer))
    return pairs


def by_line(references: Sequence[str], answers: Sequence[str]) -> list[tuple[str, str]]:
    """References and answers of the same line, as the code pairs them: of more answers than references a sample, in its random order."""
    if len(answers) > len(references):
        answers = random.Random(SEED).sample(list(answers), k=len(references))
    return list(zip(references, answers, strict=False))


def overlap(pairs: Sequence[tuple[str, str]], part: Part = "recall") -> Items:
    """ROUGE-L with stems of each pair of a reference and an answer, (pairs,). Raises: Missing where no reference has words."""
    values = rouge([r for r, _ in pairs], [a for _, a in pairs], part, stem=True)
    if not len(values) or np.isnan(values).all():
        raise Missing("no answer of the original has words to compare with")
    return values


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """All scores of the card; none where the audit has no combined queries."""
    if "blur_combined" not in evidence.model.sets:
        return {}

    def answers(name: str, of_original: bool = False) -> SetObservation:
        observation = evidence.original if of_original else evidence.model
        if observation is None:
            raise Missing("no original model was given, whose answers are the references")
        if name not in observation.sets or not observation.sets[name].generations:
            raise Missing(f"{name}: no generated answers were observed")
        return observation.sets[name]

    def single(name: str, how: str) -> list[tuple[str, str]]:
        own = answers(name)
        if how == "gold":
            return list(zip(own.answer, own.generations, strict=True))
        references = by_query(answers(name, of_original=True))
        return [(references[q], a) for q, a in by_query(own).items() if q in references]

    def combine(name: str, how: str) -> list[tuple[str, str]]:
        references, combined = answers(name, of_original=True), answers("blur_combined")
        if how == "published":
            return by_line(references.generations, combined.generations)
        return matched(combined, answers("blur_forget", of_original=True), references, half=int(name == "blur_retain"))

    def measure(name: str, pairs_of: Callable[[str, str], list[tuple[str, str]]], on: str) -> Measure:
        how = evidence.variant(name, VARIANTS[name])
        part: Part = "fmeasure" if name.endswith(F1) else "recall"
        values = overlap(pairs_of(on, how), part)
        return averaged(values[~np.isnan(values)], f"ROUGE-L, {part} of stems, {how}")

    measures: dict[str, Measure | Missing] = {}
    for name in SCORES:
        on = "blur_forget" if "_forget_" in name else "blur_retain"
        measures[name] = attempt(measure, name, combine if "combine" in name else single, on)
    return measures
