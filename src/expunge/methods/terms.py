"""Terms and selectors that many methods share. They work for every modality that has the capabilities they require."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from expunge.core.capabilities import Categorical
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import ModelOutput
from expunge.core.needs import Need
from expunge.core.parts import Objective, Selector, Sum
from expunge.core.rows import Packed, Sets
from expunge.core.view import Step, View


class SetTerm(Objective):
    """A term over the rows of one set, `over`, which is its role too where a term does not say otherwise."""

    over: str

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({self.over})

    @property
    def role(self) -> str:
        return self.over


@part
class NLL(SetTerm):
    """Negative log-likelihood of a set's labels, averaged over all labels of the batch: the loss that training minimizes."""

    over: str = "retain"

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        return step.mean(step.now(rows).loss, rows)


@part
class Ascent(Objective):
    """Gradient ascent: minimizes the log-likelihood of the forget rows."""

    reads = frozenset({"forget"})

    def loss(self, step: Step) -> Tensor:
        return -step.mean(step.now(step.forget).loss, step.forget)


@part
class RowNLL(SetTerm):
    """Negative log-likelihood, averaged over the labels of each row and then over rows: that of batches of one, accumulated."""

    over: str = "retain"

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        return step.mean(step.now(rows).loss.mean(), rows)


@part
class RowAscent(Objective):
    """Gradient ascent on the loss that is averaged over the labels of each forget row and then over rows."""

    reads = frozenset({"forget"})

    def loss(self, step: Step) -> Tensor:
        return -step.mean(step.now(step.forget).loss.mean(), step.forget)


@part
class RowNPO(Objective):
    """NPO of the mean loss l_i of each row: -(2/beta) mean_i log sigmoid(beta (l_i - l_ref,i)). It needs another beta than NPO of sums."""

    beta: float = hp(0.1, "inverse temperature; near 0 the term is gradient ascent on the mean loss", gt=0)
    reads = frozenset({"forget"})
    needs = frozenset({Need.REFERENCE_LOGP})

    def loss(self, step: Step) -> Tensor:
        gain = step.reference(step.forget).loss.mean() - step.now(step.forget).loss.mean()
        return -(2 / self.beta) * step.mean(logsigmoid(-self.beta * gain), step.forget)


@part
class BatchNPO(Objective):
    """NPO of the mean loss l of a batch: -(2/beta) log sigmoid(beta (l - l_ref)). It needs another beta than NPO of single rows."""

    beta: float = hp(0.1, "inverse temperature; near 0 the term is gradient ascent on the mean loss", gt=0)
    reads = frozenset({"forget"})
    needs = frozenset({Need.REFERENCE_LOGP, Need.BATCH_MEANS})

    def loss(self, step: Step) -> Tensor:
        reference_loss = step.reference(step.forget).loss.values
        gain = step.mean(step.now(step.forget).loss.map(lambda loss: reference_loss - loss), step.forget)
        return -(2 / self.beta) * logsigmoid(-self.beta * gain)


def npo_on_means(beta: float, retain_weight: float, batch_mean: bool) -> Sum:
    """NPO of mean losses with a likelihood term on the retain rows: the base of methods from the authors of `sam`.

    Args:
        beta: inverse temperature.
        retain_weight: weight of the retain term.
        batch_mean: the mean is over all labels of a batch; otherwise over the labels of each row, and the terms are averaged over rows.
    """
    forget, retain = (BatchNPO(beta), NLL("retain")) if batch_mean else (RowNPO(beta), RowNLL("retain"))
    return forget + retain_weight * retain


@part
class KL(SetTerm):
    """KL(reference || model) at the label positions of a set, averaged over these positions."""

    over: str = "retain"
    requires = frozenset({Categorical})
    needs = frozenset({Need.REFERENCE})
    role = "retain"

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        reference, current = step.reference(rows).log_probs, step.now(rows).log_probs
        return step.mean(reference.map(lambda log_probs: (log_probs.exp() * (log_probs - current.values)).sum(-1)), rows)


@part
class Whole(Selector):
    """Makes every position of a row a label, including the prompt's but not the first. Rows without a prompt stay as they are."""

    when = "step"
    over: str = "forget"
    into: str = "whole"

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({self.over})

    @property
    def gives(self) -> frozenset[str]:
        return frozenset({self.into})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.rows(self.over)
        if "prompt" in rows.columns:
            answers = [[*p[1:], *a] for p, a in zip(rows["prompt"], rows["answer"], strict=True)]
            rows = rows.add(prompt=[p[:1] for p in rows["prompt"]], answer=answers)
        return {**sets, self.into: rows.rename(self.into)}


@part
class Substitute(Selector):
    """Gives each row another answer. Every step draws new answers from the request's alternate answers."""

    when: ClassVar[Literal["start", "epoch", "step"]] = "step"
    over: str = "forget"
    into: str = "substitute"
    draws: int = hp(1, "substitute answers per row", ge=1)
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
        indices = torch.randint(len(pool), (len(rows),), generator=view.rng()).tolist()
        answers = [pool["answer_text"][i] for i in indices]
        return {**sets, self.into: view.modality.relabel(rows, answers, self.into)}


@part
class Mix(Selector):
    """Puts forget and retain rows into one set, `mix`, so that batches hold both. Its column `forgets` marks the forget rows."""

    share: float = hp(1.0, "share of the retain rows in the set, drawn once", ge=0, le=1)
    reads = frozenset({"forget", "retain"})
    gives = frozenset({"mix"})

    def pick(self, sets: Sets, view: View) -> Sets:
        forget, retain = view.forget, view.retain
        indices = torch.randperm(len(retain), generator=view.rng())[: round(self.share * len(retain))].tolist()
        mix = forget.add(forgets=[True] * len(forget)).concat(retain.select(indices).add(forgets=[False] * len(indices)))
        return {**sets, "mix": mix.rename("mix")}


@part
class Turns(Selector):
    """Alternates passes over the forget rows and over the retain rows, forget first. The steps of an epoch see one of the two sets."""

    when: ClassVar[Literal["start", "epoch", "step"]] = "epoch"
    rounds: int = hp(-1, "passes over the forget rows, one before each pass over the retain rows; -1: until the end", ge=-1)
    reads = frozenset({"forget", "retain"})
    gives = frozenset({"forget", "retain"})

    def pick(self, sets: Sets, view: View) -> Sets:
        is_forget_pass = view.epoch % 2 == 0 and (self.rounds < 0 or view.epoch < 2 * self.rounds)
        kept, dropped = ("forget", "retain") if is_forget_pass else ("retain", "forget")
        return {**{name: rows for name, rows in sets.items() if name != dropped}, kept: view.rows(kept)}


def hits(view: View, name: str) -> Tensor:
    """Share of each row's labels that the model predicts as the likeliest class. For a classifier: 1 where it is right, else 0.

    Args:
        view: The view of a part that reads the set.
        name: The set of rows.

    Returns:
        Shares between 0 and 1, (rows,), on the CPU.
    """
    return torch.cat([guessed(view.now(rows)).mean().cpu() for rows in view.batches(name, 32)])


def guessed(output: ModelOutput) -> Packed:
    """Whether each label is the likeliest class: 1 or 0, (labels,)."""
    return output.logits.map(lambda logits: (logits.argmax(-1) == output.labels).float())
