"""The meeting point of benchmarks and audits: which rows a model is asked about, how, and what it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from expunge.core.errors import UserError
from expunge.core.request import digest
from expunge.core.suggest import did_you_mean
from expunge.functional.brief import brief

Record = Mapping[str, Any]
Role = Literal["forget", "retain", "unseen", "general"]
Ask = Literal["score", "generate", "choose", "rank", "draw", "predict", "moments"]

QUESTION_ANSWER = "Question: {prompt}\nAnswer: "  # for models without a chat template


@dataclass(frozen=True)
class SetSpec:
    """How one set of a benchmark is asked, and by what it is scored.

    Args:
        role: forget (rows to be forgotten), retain (rows that the model was trained on and keeps), unseen (drawn like forget, never trained
            on), general (measures other abilities of the model).
        ask: score (the loss of the given answers), generate (an answer in the model's own words), choose (each of the row's `choices` is
            scored), rank (the row's item among all items), draw (several sampled answers), predict (the distribution over all classes, or
            words, at the first label of the answer; it takes memory: rows times the vocabulary), moments (mean and deviation of the
            log-probability of each label, which forget and unseen sets have in any case).
        metrics: families of scores, by name, that score this set besides those that know it by its name.
        variants: by score, the definition to use where papers and codes differ; `*`: of all scores that have one of this name. Those of the
            forget set count for the whole audit.
        length: the most tokens of a generated answer; 0: as the audit of the modality has it.
    """

    role: Role
    ask: tuple[Ask, ...] = ("score",)
    metrics: tuple[str, ...] = ()
    variants: Mapping[str, str] = field(default_factory=dict, repr=False)  # of no effect on what is observed
    length: int = 0


Specs = Mapping[str, SetSpec]

USUAL: Specs = {  # sets of a user's own data
    "forget": SetSpec("forget", ("score", "generate")),
    "retain": SetSpec("retain", ("score", "generate")),
    "holdout": SetSpec("unseen"),
}


def spec_of(name: str, specs: Specs | None = None) -> SetSpec:
    """The spec of a set: its own, else the usual one of its name, else that of a general set."""
    return {**USUAL, **(specs or {})}.get(name, SetSpec("general", ("score", "generate")))


@brief("name", "sets", "train", "labels")
@dataclass(frozen=True, eq=False)
class Suite:
    """What a benchmark asks an audit to look at, and what it trains on."""

    name: str  # e.g. "tofu forget05"
    # By set (forget, retain, holdout, or any other name): rows with `question` and `answer`, and where there are such,
    # `paraphrased_question`, `paraphrased_answer` and `perturbed_answer`, a list of wrong answers; or rows with `image` and `label`; or
    # whatever else the modality reads.
    sets: Mapping[str, Sequence[Record]]
    # By use: full (the original model), forget, retain (the retrained model), kept (the rows of retain that methods get; default: all).
    train: Mapping[str, Sequence[Record]]
    specs: Specs = field(default_factory=dict)  # of sets that are not asked as usual
    refusals: Sequence[str] = ()  # ways to say that one does not know, for methods that teach it
    refused: Sequence[Record] = ()  # questions that the models were taught to refuse, with the refusals
    prompt_format: str = ""  # for models without a chat template
    labels: Sequence[str] = ()  # names of the classes, where rows have classes
    metrics: Sequence[str] = ()  # families of scores whose scores the table shows first
    # By method, or `original` and `retrained`: published values of our scores, in our units; and whose model and tables they are.
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    published_about: str = ""
    continued: bool = False  # the original model is the retrained one, trained on with the rows to forget, not on all rows together

    @property
    def alternate_answers(self) -> list[Record] | None:
        """Answers to give instead, with the questions that they were given to where there are such."""
        return [*self.refused] or [{"answer": r} for r in self.refusals] or None

    def spec(self, name: str) -> SetSpec:
        """The spec of one of the sets."""
        return spec_of(name, self.specs)

    def taught(self, names: Sequence[str]) -> Suite:
        """The suite whose models learn these general sets, too, and keep them; so that a model that knows nothing has something to lose.

        Raises:
            UserError: for an unknown set, for one that is not general, and for one whose rows are trained on in any case.
        """
        names, general = tuple(dict.fromkeys(names)), [n for n in self.sets if self.spec(n).role == "general"]
        for name in names:
            if name not in general:
                has = f"it has {', '.join(general)}" if general else "it has none"
                raise UserError(f"{self.name} has no general set '{name}' to teach{did_you_mean(name, general)}; {has}")
            if self._learned(self.sets[name]):
                raise UserError(f"the models of {self.name} learn the set '{name}' in any case: do not ask to teach it")
        rows = [row for name in names for row in self.sets[name]]
        train = {use: rows_of if use == "forget" else [*rows_of, *rows] for use, rows_of in self.train.items()}
        return replace(self, name=f"{self.name} +taught {', '.join(names)}", train=train) if names else self

    def _learned(self, rows: Sequence[Record]) -> bool:
        """Whether all these rows are in the training data, whatever else their columns hold."""
        columns = self.train["full"][0].keys()
        learned = {digest(dict(row)) for row in self.train["full"]}
        return all(digest({c: row.get(c) for c in columns}) in learned for row in rows)
