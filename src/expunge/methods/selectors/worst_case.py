"""Worst-case forget sets: of all training rows, or of their classes, take those that are hardest to forget.

Random rows say little about a method: on most of them all methods look alike. Before any method, `--select worst_case` takes in the place
of the rows given to forget as many that the model still knows after it has unlearned them. Others make them superfluous, so a model
retrained without them knows them, too. What was taken, and the rest, is left in `selected/` of the run folder: audit with these.

Equation: min over w of sum_i w_i l_i(theta(w)) + gamma |w|^2, 0 <= w_i <= 1, sum_i w_i = m, with theta(w) reached from the model by steps
  -inner_lr sign(grad sum_i (1 - w_i) l_i): they do not move with w, so w <- P(w - outer_lr (l(theta(w)) + 2 gamma w)), P the projection;
  w begins with m rows at random, the m largest are taken; by class: l_c the mean over its rows
Source: Fan et al. 2024, arXiv 2403.07362
Needs: forget, retain: together the training rows, of which as many are taken as forget has
Cost: once, in every round: inner forwards and backwards and a forward of all rows; a copy of the model meanwhile
Differs: outer_lr is 100, since at the authors' 0.01 rows trade places in ten rounds only where their losses are 10 apart; losses are
  taken in evaluation mode, where the authors' code leaves batch norm in training; a class's loss is the mean over its rows, and that of a
  row with several labels the mean over those; the lower levels are those that take signed steps in the authors' code, too
Status: faithful
"""

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from expunge.core.capabilities import Categorical
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import GradCall, Grads, Objective, Selector, Update
from expunge.core.plan import Plan, Plans, Train
from expunge.core.rows import Rows, Sets
from expunge.core.view import Step, View
from expunge.methods.edits.random_weights import Reinitialise
from expunge.methods.gradients import Gradient
from expunge.methods.objectives import finetune
from expunge.methods.objectives.l1_sparse import L1
from expunge.methods.terms import NLL


def project(w: Tensor, total: int) -> Tensor:
    """The nearest point to w, (n,), with entries from 0 to 1 that add up to `total`: clip(w - mu), with mu found by bisection."""
    low, high = w.min() - 1, w.max()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if (w - middle).clamp(0, 1).sum() > total else (low, middle)
    return (w - high).clamp(0, 1)


@part
class Sign(Update):
    """Steps of one size in every weight, along the sign of the gradient."""

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        def signed(*roles: str) -> Gradient:
            value, got = grads(*roles)
            return value, [g.sign() for g in got]

        return signed


@part
class WorstCase(Selector):
    """Another forget set of the same size, and as retain set the rest: what is hardest to forget of both together."""

    when: ClassVar[Literal["run", "start", "epoch", "step"]] = "run"
    by: str = hp("row", "what is taken whole: row, class, or a column of the data whose equal values belong together")
    size: int = hp(0, "how many rows, classes or values; 0: as many as the rows to forget have", ge=0)
    easiest: bool = hp(False, "take what is easiest to forget instead")
    lower: Literal["finetune", "l1_sparse", "retrain"] = hp("finetune", "how rows are unlearned in each round")
    outer: int = hp(10, "rounds, each of which unlearns anew and then moves the selection", ge=1)
    outer_lr: float = hp(100.0, "step of the selection: losses 1 / outer_lr apart trade places in a round", gt=0)
    gamma: float = hp(0.0, "weight of the selection's squared length", ge=0)
    inner: int = hp(10, "passes over all rows in a round; 0: nothing is unlearned", ge=0)
    inner_lr: float = hp(1e-3, "step of every weight of the model", ge=0)
    inner_batch_size: int = hp(256, "rows in a step of the model", ge=1)
    reads = frozenset({"forget", "retain"})
    requires = frozenset({Categorical})
    gives = frozenset({"forget", "retain"})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.forget.concat(view.retain)
        owner = self._owners(rows)
        count, size = int(owner.max()) + 1, self.size or len(owner[: len(view.forget)].unique())
        if size >= count:
            raise UserError(
                f"{size} of {count} are to be forgotten (by {self.by}), so nothing would be left to retain: give a smaller size"
            )
        w = torch.zeros(count, dtype=torch.double)
        w[torch.randperm(count, generator=view.rng())[:size]] = 1
        for k in range(self.outer):
            slope = self._losses(view, rows, owner, w, f"round {k}") + 2 * self.gamma * w
            w = project(w + (self.outer_lr if self.easiest else -self.outer_lr) * slope, size)
        gone = torch.isin(owner, w.topk(size).indices)
        chosen = {"forget": rows.select(gone.nonzero()[:, 0].tolist()), "retain": rows.select((~gone).nonzero()[:, 0].tolist())}
        return {**sets, **{n: r.rename(n) for n, r in chosen.items()}}

    def _owners(self, rows: Rows) -> Tensor:
        """The number of what each row belongs to, (rows,). Errors: UserError for a column that is not there."""
        if self.by == "row":
            return torch.arange(len(rows))
        column = "answer_text" if self.by == "class" else self.by
        if column not in rows.columns:
            raise UserError(f"the rows have no column {self.by!r} to choose by: say row or class, or a column that all of them have")
        numbers: dict[str, int] = {}
        return torch.tensor([numbers.setdefault(str(value), len(numbers)) for value in rows[column]])

    def _losses(self, view: View, rows: Rows, owner: Tensor, w: Tensor, key: str) -> Tensor:
        """Mean loss of what could be taken, (count,), once the model has unlearned as much of it as w says."""
        left = replace(rows.rename("retain"), weight=tuple((1 - w)[owner].tolist()))
        after = view.run(self._unlearning(), {"retain": left}, key=key)
        loss = torch.cat([after.now(some).loss.mean().double().cpu() for some in after.batches("retain", 256)])
        return torch.zeros_like(w).index_add(0, owner, loss) / torch.bincount(owner, minlength=len(w))

    def _unlearning(self) -> Plans:
        train = Train(
            epochs=self.inner, lr=self.inner_lr, batch_size=self.inner_batch_size, optimizer="sgd", schedule="constant", anchor="retain"
        )
        loss: Objective = NLL("retain") + L1(l1_epochs=max(1, self.inner)) if self.lower == "l1_sparse" else NLL("retain")
        steps = Plan(loss, train=train, updates=(Sign(),), name="steps")
        return (Plan(Reinitialise(), name="restart"), steps) if self.lower == "retrain" else (steps,)


def plan() -> Plan:
    return replace(finetune.plan(), selectors=(WorstCase(),))
