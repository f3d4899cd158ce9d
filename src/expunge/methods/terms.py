"""Terms that many methods share. None of them knows what a row is."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from expunge.core.capabilities import Categorical
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import ModelOutput
from expunge.core.needs import Need
from expunge.core.parts import Objective, Selector
from expunge.core.rows import Packed, Sets
from expunge.core.view import Step, View


@part
class NLL(Objective):
    """Negative log-likelihood of a set's labels, averaged over all labels of the batch: what training minimises."""

    over: str = "retain"

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({self.over})

    @property
    def role(self) -> str:
        return self.over

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        return step.mean(step.now(rows).loss, rows)


@part
class Ascent(Objective):
    """Gradient ascent: the log-likelihood of the rows to forget, minimised."""

    reads = frozenset({"forget"})

    def loss(self, step: Step) -> Tensor:
        return -step.mean(step.now(step.forget).loss, step.forget)


@part
class BatchNPO(Objective):
    """NPO of the mean loss l of a batch: -(2/beta) log sigmoid(beta (l - l_ref)). Not that of rows, so another beta suits it."""

    beta: float = hp(0.1, "inverse temperature; towards 0 it is gradient ascent on the mean loss", gt=0)
    reads = frozenset({"forget"})
    needs = frozenset({Need.REFERENCE_LOGP, Need.BATCH_MEANS})

    def loss(self, step: Step) -> Tensor:
        old = step.reference(step.forget).loss.values
        gain = step.mean(step.now(step.forget).loss.map(lambda new: old - new), step.forget)
        return -(2 / self.beta) * logsigmoid(-self.beta * gain)


@part
class KL(Objective):
    """KL(reference || model) at the label positions of the retain rows, averaged over them."""

    reads = frozenset({"retain"})
    requires = frozenset({Categorical})
    needs = frozenset({Need.REFERENCE})
    role = "retain"

    def loss(self, step: Step) -> Tensor:
        old, new = step.reference(step.retain).log_probs, step.now(step.retain).log_probs
        return step.mean(old.map(lambda o: (o.exp() * (o - new.values)).sum(-1)), step.retain)


@part
class Substitute(Selector):
    """Give each row another answer, drawn anew at every step from the request's alternate answers."""

    when: ClassVar[Literal["start", "epoch", "step"]] = "step"
    over: str = "forget"
    into: str = "substitute"
    draws: int = hp(1, "substitute answers a row", ge=1)
    requires = frozenset({Categorical})

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({self.over, "alternate_answers"})

    @property
    def gives(self) -> frozenset[str]:
        return frozenset({self.into})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows, pool = view.rows(self.over), view.whole_set("alternate_answers")
        rows = rows.select([i for i in range(len(rows)) for _ in range(self.draws)])
        drawn = torch.randint(len(pool), (len(rows),), generator=view.rng()).tolist()
        answers = [pool["answer_text"][i] for i in drawn]
        return {**sets, self.into: view.modality.relabel(rows, answers, self.into)}


@part
class Mix(Selector):
    """All rows in one set, `mix`, so that batches hold both kinds; its column `forgets` says which rows are to be forgotten."""

    share: float = hp(1.0, "share of the retain rows that joins, drawn once", ge=0, le=1)
    reads = frozenset({"forget", "retain"})
    gives = frozenset({"mix"})

    def pick(self, sets: Sets, view: View) -> Sets:
        forget, retain = view.forget, view.retain
        drawn = torch.randperm(len(retain), generator=view.rng())[: round(self.share * len(retain))].tolist()
        both = forget.add(forgets=[True] * len(forget)).concat(retain.select(drawn).add(forgets=[False] * len(drawn)))
        return {**sets, "mix": both.rename("mix")}


@part
class Turns(Selector):
    """Passes over the rows to forget and over the retain rows by turns, forget first: the steps of an epoch see one of the two sets."""

    when: ClassVar[Literal["start", "epoch", "step"]] = "epoch"
    rounds: int = hp(-1, "passes over the rows to forget, one before each pass over the retain rows; -1: to the end", ge=-1)
    reads = frozenset({"forget", "retain"})
    gives = frozenset({"forget", "retain"})

    def pick(self, sets: Sets, view: View) -> Sets:
        forgets = view.epoch % 2 == 0 and (self.rounds < 0 or view.epoch < 2 * self.rounds)
        mine, other = ("forget", "retain") if forgets else ("retain", "forget")
        return {**{n: r for n, r in sets.items() if n != other}, mine: view.rows(mine)}


def hits(view: View, name: str) -> Tensor:
    """Share of its labels that the model finds likeliest, of each row of a set, (rows,) on the host: for a classifier 1 where right."""
    return torch.cat([guessed(view.now(rows)).mean().cpu() for rows in view.batches(name, 32)])


def guessed(answer: ModelOutput) -> Packed:
    """Whether each label is the likeliest, 1 or 0."""
    return answer.logits.map(lambda z: (z.argmax(-1) == answer.labels).float())
