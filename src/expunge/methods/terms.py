"""Terms that many methods share. None of them knows what a row is."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from expunge.core.knobs import knob, part
from expunge.core.parts import Need, Objective, Selector, Sets
from expunge.core.step import Step, View


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
        return -step.mean(step.now(rows).logp, rows)


@part
class Ascent(Objective):
    """Gradient ascent: the log-likelihood of the rows to forget, minimised."""

    reads = frozenset({"forget"})

    def loss(self, step: Step) -> Tensor:
        return step.mean(step.now(step.forget).logp, step.forget)


@part
class KL(Objective):
    """KL(reference || model) at the label positions of the retain rows, averaged over them."""

    reads = frozenset({"retain"})
    needs = frozenset({Need.REFERENCE})
    role = "retain"

    def loss(self, step: Step) -> Tensor:
        old, new = step.reference(step.retain).dist, step.now(step.retain).dist
        return step.mean(old.map(lambda o: (o.exp() * (o - new.values)).sum(-1)), step.retain)


@part
class Substitute(Selector):
    """Give each row another answer, drawn anew at every step from the request's substitutes."""

    when: ClassVar[Literal["start", "epoch", "step"]] = "step"
    over: str = "forget"
    into: str = "substitute"
    draws: int = knob(1, "substitute answers a row", ge=1)

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({self.over, "substitutes"})

    @property
    def gives(self) -> frozenset[str]:
        return frozenset({self.into})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows, pool = view.rows(self.over), view.pool("substitutes")
        rows = rows.take([i for i in range(len(rows)) for _ in range(self.draws)])
        drawn = torch.randint(len(pool), (len(rows),), generator=view.rng()).tolist()
        answers = [pool["answer_text"][i] for i in drawn]
        return {**sets, self.into: view.port.relabel(rows, answers, self.into)}
