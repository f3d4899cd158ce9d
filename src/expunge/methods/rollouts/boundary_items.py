"""Prompts on both sides of the boundary of refusing: questions to refuse, questions like them to answer, and their cloze twins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from expunge.core.capabilities import Categorical, Generates, Prompted, require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Selector
from expunge.core.rows import Rows, Sets
from expunge.core.view import View
from expunge.methods.objectives.altpo import before_next_question
from expunge.methods.objectives.icu import most_similar
from expunge.methods.rollouts.cloze import cloze
from expunge.methods.rollouts.names import longest_name, lower_words

Pool = Literal["named", "given"]
Boundary = Literal["nearest", "retain", "invented", "none"]
Written = Literal["asked", "muse"]
ASKED, EXAMPLE, COMPLETION = "Question: {}\nAnswer: ", "Question: {}\nAnswer: {}\n\n", "Completion: {}\nAnswer: "  # as MUSE asks
WRITTEN = "how prompts are written: as the model is asked, or as the benchmark MUSE asks, without a chat template"
EXAMPLES = "with `muse`: rows to retain that stand before every question as worked examples"
SUBJECT = "{subject}"
REFUSALS = tuple(
    sentence.replace("X", SUBJECT)
    for sentence in (
        "I don't know about X.",
        "I'm not sure about X.",
        "I'm not familiar with X.",
        "I don't have any information about X.",
        "I have no information about X.",
        "I have no knowledge of X.",
        "I can't say anything about X.",
        "I can't help with questions about X.",
        "I'm not aware of anything about X.",
        "I'm unable to answer questions about X.",
        "I haven't learned about X.",
        "I'm at a loss when it comes to X.",
        "X is beyond my knowledge.",
        "X is a mystery to me.",
        "I must admit that I know nothing about X.",
        "I wish I could say more about X, but I can't.",
        "I have no idea what to say about X.",
        "I lack information about X.",
        "I'm clueless about X.",
        "I'm in the dark about X.",
        "I'm drawing a blank on X.",
        "Unfortunately, I have no details about X.",
        "I regret to inform you that I don't know X.",
        "I don't possess any details about X.",
    )
)
REQUEST = (
    "Below is a question. Write another question of the same kind, about somebody or something else that is well known. Write nothing "
    "else.\nQuestion: {prompt}\nOther question:"
)
LONGEST = 128  # tokens of an invented question, and of its answer


@part
class Refused(Selector):
    """Give each question to forget a refusal, which names what the question is about."""

    pool: Pool = "named"
    written: Written = hp("asked", WRITTEN)
    examples: int = hp(0, EXAMPLES, ge=0)
    requires = frozenset({Categorical, Prompted})
    gives = frozenset({"reject"})

    @property
    def reads(self) -> frozenset[str]:
        given = {"alternate_answers"} if self.pool == "given" else set[str]()
        return frozenset({"forget", *given, *(("retain",) if self.examples else ())})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.forget
        if "alternate" in rows.columns:
            own = [[a] if isinstance(a, str) else list(a) for a in rows["alternate"]]
            if missing := sum(not texts for texts in own):
                raise UserError(f"{missing} of {len(rows)} rows to forget have no refusal in their column 'alternate': add one")
            pools: list[Sequence[str]] = [*own]
        else:
            given = list(view.rows("alternate_answers")["answer_text"]) if self.pool == "given" else list(REFUSALS)
            pools = [given] * len(rows)
        rng, plain = view.rng(), view.modality.refusals()
        refusals = []
        for texts, subject in zip(pools, subjects_of(view.modality.questions(rows)), strict=True):
            text = texts[int(torch.randint(len(texts), (1,), generator=rng))]
            if SUBJECT in text and not subject:
                text = plain[int(torch.randint(len(plain), (1,), generator=rng))]
            refusals.append(text.replace(SUBJECT, subject))
        if self.written == "muse":
            rows = as_muse(view, rows, view.modality.questions(rows), examples_before(view, self.examples))
        return {**sets, "reject": view.modality.relabel(rows, refusals, "reject")}


@part
class BoundaryItems(Selector):
    """Make the prompts: questions to forget, which should be refused, questions like them, which should be answered, and cloze twins."""

    boundary: Boundary = "nearest"
    twins: bool = hp(True, "add to each question the same fact as a statement with a blank")
    written: Written = hp("asked", WRITTEN)
    examples: int = hp(0, EXAMPLES, ge=0)
    request: str = hp(REQUEST, "invented: request for another question; {prompt} stands for that of the row")
    requires = frozenset({Categorical, Generates, Prompted})
    gives = frozenset({"prompts"})

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"forget", "retain"}) if self.boundary in ("nearest", "retain") or self.examples else frozenset({"forget"})

    def pick(self, sets: Sets, view: View) -> Sets:
        questions = view.modality.questions(view.forget)
        if missing := sum(not question.strip() for question in questions):
            raise UserError(f"{missing} of {len(questions)} rows to forget ask nothing, and this method needs questions to refuse")
        subjects = subjects_of(questions)
        prompts = self._items(view.forget, view, True, subjects)
        if self.boundary != "none":
            normal = self._normal(subjects, view)
            prompts = prompts.concat(self._items(normal, view, False, [""] * len(normal)))
        refused = sum(prompts["reject"])
        view.show("boundary items", [{"to refuse": float(refused), "to answer": float(len(prompts) - refused)}])
        return {**sets, "prompts": prompts}

    def _items(self, rows: Rows, view: View, reject: bool, subjects: Sequence[str]) -> Rows:
        """Questions of one side, and their twins."""
        modality = require(view.modality, Prompted)
        questions, answers = view.modality.questions(rows), list(rows["answer_text"])
        marks = {"reject": [reject] * len(rows), "subject": list(subjects)}
        before = examples_before(view, self.examples) if self.written == "muse" else ""

        def asked(texts: Sequence[str], form: str) -> Rows:
            return as_muse(view, rows, texts, before, form) if self.written == "muse" else modality.reask(rows, texts, "prompts")

        items = asked(questions, ASKED).add(**marks, wanted=answers)
        if not self.twins:
            return items
        statements, fillings = zip(*(cloze(q, a.strip()) for q, a in zip(questions, answers, strict=True)), strict=True)
        before = ""  # a text that is to be completed has no examples
        return items.concat(asked(statements, COMPLETION).add(**marks, wanted=list(fillings)))

    def _normal(self, subjects: Sequence[str], view: View) -> Rows:
        """The questions to answer, with their answers."""
        if self.boundary == "invented":
            return self._invented(subjects, view)
        retain = view.retain.select([i for i, question in enumerate(view.modality.questions(view.retain)) if question.strip()])
        if not len(retain):
            raise UserError("no row to retain asks anything, and this method needs questions to answer: give some, or --boundary invented")
        if self.boundary == "retain":
            return retain
        texts = [[f"{q} {a}" for q, a in zip(view.modality.questions(r), r["answer_text"], strict=True)] for r in (view.forget, retain)]
        return retain.select(most_similar(*texts))

    def _invented(self, subjects: Sequence[str], view: View) -> Rows:
        """Questions that the model writes after those to forget, and its own answers to them."""
        modality = view.modality
        requests = require(modality, Prompted).ask(view.forget, self.request)
        texts = [before_next_question(text) for text in modality.decode(view.generate(requests, LONGEST, sample=True).ids)]
        questions = [text for text, subject in zip(texts, subjects, strict=True) if text and not (subject and subject in text)]
        rows = modality.rows("normal", [{"question": question, "answer": "?"} for question in questions]) if questions else None
        answers = [text.strip() for text in modality.decode(view.generate(rows, LONGEST).ids)] if rows else []
        kept = [i for i, answer in enumerate(answers) if answer]
        if rows is None or not kept:
            raise UserError(
                "the model wrote no question about anything else that it could answer: give questions to --retain, and --boundary nearest"
            )
        return modality.relabel(rows.select(kept), [answers[i] for i in kept], "normal")


def examples_before(view: View, count: int) -> str:
    """The first questions to retain with their answers, as MUSE writes worked examples: the same ones before every question."""
    if not count:
        return ""
    rows = view.retain
    pairs = [(q, a.strip()) for q, a in zip(view.modality.questions(rows), rows["answer_text"], strict=True) if q.strip()]
    if not pairs:
        raise UserError("no row to retain asks anything, so there are no worked examples: leave --examples out, or give such rows")
    return "".join(EXAMPLE.format(q, a) for q, a in pairs[:count])


def as_muse(view: View, rows: Rows, texts: Sequence[str], before: str = "", form: str = ASKED) -> Rows:
    """Rows of one answer each with prompts as MUSE writes them, after `before` and without a chat template."""
    records = [{"prompt": before + form.format(text), "completion": "?"} for text in texts]
    prompts = view.modality.rows("prompts", records)
    return replace(view.modality.relabel(prompts, list(rows["answer_text"]), "prompts"), weight=rows.weight)


def subjects_of(questions: Sequence[str]) -> list[str]:
    """What each question is about: its longest name; '' where it holds none."""
    common = lower_words(questions)
    return [longest_name(question, common) for question in questions]
