"""PURGE: reinforce sampled answers that do not mention the target, which the model itself was asked to name first.

The method needs only questions about the target: no retain rows, no true answers, no refusals and no reward model. Whatever does not
mention a term is rewarded, an empty answer too, and only the KL keeps the model near what it was: the report shows how answers change.

Equation: L = sum_t [max(-A r_t, -A clip(r_t, 1 - 0.2, 1 + 0.2)) + beta (e^d - d - 1)] over the tokens of two answers, divided by their
  number, and then the mean over such pairs; A = (phi - mean phi) / (sd phi + 1e-4) in the group of answers to one question; r_t: ratio to
  the probability at sampling; d = log p_ref - log p; phi(y): 1 where no forget term stands in y, else 0 (binary); exp(-m / tau) with m
  mentions (exponential); 1 - sum of w over the terms in y, at least 0 (graph), w: PageRank of the terms in a graph of similar ones, 0 to 1
Source: Zaradoukas, Prenkaj and Kasneci 2026, arXiv 2601.20568
Needs: forget (questions); generation; the reference
Cost: once, an answer to each question; in a step, 4 answers to each of 4 questions, one reference forward, and a forward and backward
Differs: forget terms are the names that most of the model's own answers hold, without words that they also use in lower case, where the
  paper asks a large language model and checks by hand: give a list with `terms`, the target's name first. Self-probing samples from the
  whole distribution, where the authors take the top 0.9 of it. A term is whole where no letter touches it, so that `Jr.` is one,
  longer terms are matched first, and a common word keeps its case; `released` gives word boundaries, any order and no case. A list whose
  terms all have the weight 0 is refused. A step has four whole groups, which are mixed before they are cut into pairs
Status: shown
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from expunge.core.capabilities import Categorical, Generates, Prompted
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Selector
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows, Sets
from expunge.core.view import State, View
from expunge.functional.page_rank import min_max, page_rank, similarity_graph
from expunge.methods.linear_heads import HeadInput
from expunge.methods.rollouts.forget_terms import alternation, patterns, read_terms
from expunge.methods.rollouts.names import lower_words, most_named
from expunge.methods.rollouts.policy import PolicyGradient, PolicyKL
from expunge.methods.rollouts.reward import Reward
from expunge.methods.rollouts.sampling import Rollouts, distinct_pairs

Kind = Literal["binary", "exponential", "graph"]
BATCH_SIZE = 32  # terms in one forward


@part
class SelfProbe(Selector):
    """Ask the model the questions, and take the names in its answers for the forget terms. The questions lose their format."""

    prompts: int = hp(100, "questions that are asked, the first ones of the rows to forget; 0: all", ge=0)
    raw: bool = hp(True, "ask without a chat template")
    terms: str = hp("", "file with a forget term in each line, the target's name first; '': names of which the model tells")
    count: int = hp(50, "forget terms that are taken from the model's answers", ge=1)
    length: int = hp(100, "longest answer from which they are taken, in tokens", ge=1)
    heat: float = hp(0.7, "sampling temperature of these answers", gt=0)
    reads = frozenset({"forget"})
    requires = frozenset({Categorical, Generates, Prompted})
    gives = frozenset({"forget", "terms"})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.forget.select(range(min(self.prompts or len(view.forget), len(view.forget))))
        questions = view.modality.questions(rows)
        if missing := sum(not question.strip() for question in questions):
            raise UserError(f"{missing} of {len(rows)} rows to forget ask nothing, and this method needs questions to answer")
        if self.raw:
            answers = rows["answer_text"]
            asked = [{"prompt": q, "completion": a} for q, a in zip(questions, answers, strict=True)]
            rows = replace(view.modality.rows("forget", asked), weight=rows.weight)
        generated = view.generate(rows, self.length, sample=True, temperature=self.heat)
        texts = [f"{q}\n{a}" for q, a in zip(questions, view.modality.decode(generated.ids), strict=True)]
        terms, common = read_terms(self.terms) if self.terms else self._names(questions, texts), lower_words(texts)
        view.show("forget terms", [{"terms": float(len(terms)), "questions": float(len(rows))}])
        columns = {"term": terms, "common": [term.lower() in common for term in terms]}
        return {**sets, "forget": rows, "terms": Rows("terms", tuple(f"term {i}" for i in range(len(terms))), columns)}

    def _names(self, questions: Sequence[str], texts: Sequence[str]) -> list[str]:
        """The target's name, which most questions hold, and the names that most texts hold."""
        common = lower_words(texts)
        asked = [name for name, _ in most_named(questions)]
        terms = [*asked[:1], *(name for name, _ in most_named(texts) if name.lower() not in common)]
        if not terms:
            raise UserError(
                "the questions and the model's answers to them hold no names (words that begin with a capital), so there is nothing to "
                "avoid: give a file with --terms, one term a line"
            )
        return list(dict.fromkeys(terms))[: self.count]


@part
class Mentions(Reward):
    """Rewards answers that mention no forget term."""

    kind: Kind = "binary"
    tau: float = hp(1.0, "exponential: mentions after which the reward has fallen to 1/e", gt=0)
    damping: float = hp(0.85, "graph: probability with which PageRank follows an edge", ge=0, lt=1)
    quantile: float = hp(0.75, "graph: share of the similarities that give no edge", ge=0, le=1)
    released: bool = hp(False, "match terms as the released code does: word boundaries, in the order of the list, in any case")
    fluency: float = hp(0.0, "share of different pairs of words below which an answer pays nothing; 0: an empty one pays, too", ge=0, le=1)
    reads = frozenset({"terms"})
    requires = frozenset({Categorical})

    def begin(self, view: View) -> State:
        if self.kind != "graph":
            return {}
        weight = min_max(page_rank(similarity_graph(self._vectors(view), self.quantile), damping=self.damping))
        if not weight.any():
            raise UserError("in the graph of forget terms all have the same weight, so nothing would be avoided: give more with --terms")
        return {"weight": weight}

    def _vectors(self, view: View) -> Tensor:
        """The mean over its tokens of what the model's head reads of each term, (terms, width)."""
        terms, path = list(view.whole_set("terms")["term"]), view.modality.head(view.model)
        looker, vectors = view.at("head", HeadInput(path)), list[Tensor]()
        for at in range(0, len(terms), BATCH_SIZE):  # the line break after a term is its last label, and no state sees it
            rows = view.modality.rows("terms", [{"text": f"{term}\n"} for term in terms[at : at + BATCH_SIZE]])
            vectors += [states[:-1].mean(0).double().cpu() for states in looker.look(rows).input(path).split()]
        return torch.stack(vectors)

    def score(self, rows: Rows, texts: Sequence[str], view: View) -> list[float]:
        rewards = self._silence(texts, view)
        return [r if distinct_pairs([text]) >= self.fluency else 0.0 for r, text in zip(rewards, texts, strict=True)]

    def _silence(self, texts: Sequence[str], view: View) -> list[float]:
        """The reward of each answer for what it does not mention."""
        listed = view.whole_set("terms")
        terms = list(listed["term"])
        common = frozenset(term.lower() for term, word in zip(terms, listed["common"], strict=True) if word)
        if self.kind == "graph":
            single, weights = patterns(terms, self.released, common), view.state["weight"].tolist()
            spent = [sum(w for p, w in zip(single, weights, strict=True) if p.search(text)) for text in texts]
            return [min(1.0, max(0.0, 1.0 - used)) for used in spent]
        together = alternation(terms, self.released, common)
        if self.kind == "binary":
            return [float(together.search(text) is None) for text in texts]
        return [math.exp(-sum(1 for _ in together.finditer(text)) / self.tau) for text in texts]


def plan(
    reward: Annotated[
        Kind, "binary: no term or nothing; exponential: falls with each mention; graph: terms weigh by their place among each other"
    ] = "binary",
) -> Plan:
    rollouts = Rollouts(Mentions(reward), samples=4, length=256, eps=1e-4, piece=2, mixed=True)
    train = Train(epochs=15 if reward == "exponential" else 40, lr=1e-6, batch_size=16 if reward == "graph" else 4, max_grad_norm=1.0)
    loss = PolicyGradient(clip_high=0.2, dual_clip=0.0) + 0.04 * PolicyKL()
    return Plan(loss, train=train, selectors=(SelfProbe(), rollouts))
