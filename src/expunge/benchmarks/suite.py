"""The meeting point of benchmarks and audits: what to ask a model about, and what it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]

QUESTION_ANSWER = "Question: {prompt}\nAnswer: "  # for models without a chat template


@dataclass(frozen=True, eq=False)
class Suite:
    """What a benchmark asks an audit to look at, and what it trains on."""

    name: str  # e.g. "tofu forget05"
    # By set (forget, retain, holdout ...): rows with `question` and `answer`, and where there are such, `paraphrased_question`,
    # `paraphrased_answer` and `perturbed_answer`, a list of wrong answers; or rows with `image` and `label`.
    sets: Mapping[str, Sequence[Record]]
    # By what it is for: full (the original model), forget, retain (the retrained model); rows with `question` and `answer`.
    train: Mapping[str, Sequence[Record]]
    refusals: Sequence[str] = ()  # ways to say that one does not know, for methods that teach it
    refused: Sequence[Record] = ()  # questions that the models were taught to refuse, with the refusals
    prompt_format: str = ""  # for models without a chat template
    labels: Sequence[str] = ()  # names of the classes, where rows have classes

    @property
    def alternate_answers(self) -> list[Record] | None:
        """Answers to give instead, with the questions that they were given to where there are such."""
        return [*self.refused] or [{"answer": r} for r in self.refusals] or None
