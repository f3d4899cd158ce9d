"""Worst-case forget sets: of all training rows, or of their classes, take the ones that are hardest to forget.

Random forget rows say little about a method, because most methods look alike on them. Before any method, `--select worst_case` replaces the
given forget rows by as many training rows that the model still knows after it has unlearned them. Other rows make these rows redundant, so
a model retrained without them knows them, too. The folder `selected/` of the run holds the selected rows and the remaining rows: audit with
these.

Equation: min over w of sum_i w_i l_i(theta(w)) + gamma |w|^2, 0 <= w_i <= 1, sum_i w_i = m, with theta(w) reached from the model by steps
  -inner_lr sign(grad sum_i (1 - w_i) l_i): they do not move with w, so w <- P(w - outer_lr (l(theta(w)) + 2 gamma w)), P the projection; w
  begins with m rows at random, the m largest are taken; by class: l_c the mean over its rows
Source: Fan et al. 2024, arXiv 2403.07362
Needs: forget, retain: together the training rows, of which as many are taken as forget has
Cost: once, in every round: `inner` forwards and backwards and a forward of all rows; a copy of the model in the meantime
Differs: outer_lr is 100, because at the authors' 0.01 rows trade places within ten rounds only where their losses differ by 10; losses are
  taken in evaluation mode, while the authors' code leaves batch norm in training mode; the loss of a class is the mean over its rows, and
  the loss of a row with several labels is the mean over its labels; the lower levels offered are those that take signed steps in the
  authors' code, too; losses are means over a batch, while the authors sum them, so that the penalty of l1_sparse weighs about 128 times as
  much here at 256 rows a batch (without a penalty signed steps do not depend on the scale)
Status: shown
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
from expunge.functional import simplex
from expunge.methods.edits.random_weights import Reinitialize
from expunge.methods.gradients import Gradient
from expunge.methods.objectives import finetune
from expunge.methods.objectives.l1_sparse import L1
from expunge.methods.terms import NLL


@part
class Sign(Update):
    """Replace the gradient by its sign, so that a step has the same size in every weight."""

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        def signed(*roles: str) -> Gradient:
            value, gradient = grads(*roles)
            return value, [g.sign() for g in gradient]

        return signed


@part
class WorstCase(Selector):
    """Replace the forget set by the hardest part of all training rows to forget, and the retain set by the rest."""

    when: ClassVar[Literal["run", "start", "epoch", "step"]] = "run"
    by: str = hp("row", "unit of selection: row, class, or a data column, whose equal values form a unit")
    size: int = hp(0, "number of units to forget; 0: as many as the given forget rows have", ge=0)
    easiest: bool = hp(False, "take the units that are easiest to forget instead")
    lower: Literal["finetune", "l1_sparse", "retrain"] = hp("finetune", "method that unlearns in each round")
    outer: int = hp(10, "number of rounds; each unlearns from the original model and then updates the selection", ge=1)
    outer_lr: float = hp(100.0, "step size of the selection: units whose losses differ by 1 / outer_lr trade places in a round", gt=0)
    gamma: float = hp(0.0, "weight of the squared length of the selection weights", ge=0)
    inner: int = hp(10, "epochs over all rows in a round; 0: no unlearning", ge=0)
    inner_lr: float = hp(1e-3, "step size of every model weight", ge=0)
    inner_batch_size: int = hp(256, "rows in a step of the inner training", ge=1)
    reads = frozenset({"forget", "retain"})
    requires = frozenset({Categorical})
    gives = frozenset({"forget", "retain"})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.forget.concat(view.retain)
        unit = self._units(rows)
        count, size = int(unit.max()) + 1, self.size or len(unit[: len(view.forget)].unique())
        if size >= count:
            raise UserError(
                f"{size} of {count} are to be forgotten (by {self.by}), so nothing would be left to retain: give a smaller size"
            )
        w = torch.zeros(count, dtype=torch.double)
        w[torch.randperm(count, generator=view.rng())[:size]] = 1
        for k in range(self.outer):
            gradient = self._losses(view, rows, unit, w, f"round {k}") + 2 * self.gamma * w
            w = simplex.capped(w + (self.outer_lr if self.easiest else -self.outer_lr) * gradient, size)
        selected = torch.isin(unit, w.topk(size).indices)
        chosen = {"forget": rows.select(selected.nonzero()[:, 0].tolist()), "retain": rows.select((~selected).nonzero()[:, 0].tolist())}
        return {**sets, **{n: r.rename(n) for n, r in chosen.items()}}

    def _units(self, rows: Rows) -> Tensor:
        """Index of the unit of selection that each row belongs to, (rows,).

        Raises:
            UserError: when the rows lack the column to choose by.
        """
        if self.by == "row":
            return torch.arange(len(rows))
        column = "answer_text" if self.by == "class" else self.by
        if column not in rows.columns:
            raise UserError(f"the rows have no column {self.by!r} to choose by: give row, class, or a column that all rows have")
        numbers: dict[str, int] = {}
        return torch.tensor([numbers.setdefault(str(value), len(numbers)) for value in rows[column]])

    def _losses(self, view: View, rows: Rows, unit: Tensor, w: Tensor, key: str) -> Tensor:
        """Mean loss of each unit, (count,), after the model has unlearned the units in proportion to w."""
        weighted = replace(rows.rename("retain"), weight=tuple((1 - w)[unit].tolist()))
        unlearned = view.run(self._unlearning(), {"retain": weighted}, key=key)
        losses = torch.cat([unlearned.now(batch).loss.mean().cpu().double() for batch in unlearned.batches("retain", 256)])
        return torch.zeros_like(w).index_add(0, unit, losses) / torch.bincount(unit, minlength=len(w))

    def _unlearning(self) -> Plans:
        train = Train(
            epochs=self.inner, lr=self.inner_lr, batch_size=self.inner_batch_size, optimizer="sgd", schedule="constant", anchor="retain"
        )
        loss: Objective = NLL("retain") + L1(l1_epochs=max(1, self.inner)) if self.lower == "l1_sparse" else NLL("retain")
        steps = Plan(loss, train=train, updates=(Sign(),), name="steps")
        return (Plan(Reinitialize(), name="restart"), steps) if self.lower == "retrain" else (steps,)


def plan() -> Plan:
    return replace(finetune.plan(), selectors=(WorstCase(),))
