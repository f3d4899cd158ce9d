"""MMRecUn: train the rows to forget as the other of two classes, and the retain rows as before, until both recalls are right.

For a recommender trained by comparisons the other class is the reversed comparison: a forgotten item is to rank behind one that the user
never touched. The loss is bounded from below and its gradient vanishes once the order is turned, so nothing is torn apart.

Equation: L = alpha L_F + (1 - alpha) L_R; L_F = mean over labels of forget rows of -log p(other class), which for BPR is -log sigmoid(s_j -
  s_i), the loss with item i and negative j swapped; L_R = NLL(retain), and the contrastive term of a model that trains with one
Source: Sinha, Mandal and Kankanhalli 2024, Multi-modal recommendation unlearning, arXiv 2405.15328
Needs: forget, retain; two classes; ranks, for the stop rule
Cost: one forward and backward of a forget and a retain batch a step; an epoch is one pass over the retain rows, and ends with a ranking of
  all items for each user of a row
Differs: reconstructed: the weights alpha and 1 - alpha, the batches, the negatives (items without any interaction of the user, forgotten
  ones included) and the stop rule are inferred, since there is no public code. Recall counts on the retain rows themselves, because no
  request has validation rows; patience counts epochs with a recall of retain rows below its limit, since above it recall need not rise.
  Where the model has a graph, it is that without the forget rows from the first step on; the L2 term is the optimizer's weight decay, off
  by default, because Adam moves vectors by it that no row of the batch names
Status: not shown
"""

from typing import Annotated

import torch
from torch import Tensor

from expunge.core.capabilities import Categorical, Displayable, Ranks, require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Stop
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows
from expunge.core.view import State, Step, View
from expunge.engine.run_state import evaluating
from expunge.methods.contrastive import WEIGHT, trained_with
from expunge.methods.terms import SetTerm


@part
class OtherClass(SetTerm):
    """Negative log-likelihood of the other one of two classes, averaged over the labels of a set."""

    over: str = "forget"
    requires = frozenset({Categorical})
    role = "forget"

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        output = step.now(rows)
        if (classes := output.logits.values.shape[-1]) != 2:
            raise UserError(f"this method trains the rows to forget as the other one of two classes, and this model has {classes}")
        others = (1 - output.labels)[:, None]
        return step.mean(output.log_probs.map(lambda log_probs: -log_probs.gather(1, others)[:, 0]), rows)


@part
class RecallStop(Stop):
    """Stop once the items of retain rows are recommended as before and those of forget rows rarely, or once the former are lost."""

    cut: int = hp(20, "K: a row's item is recalled if it is among the first K items of the ranking for its user", ge=1)
    forget_recall: float = hp(
        -1.0, "recall of forget rows at or below which they are forgotten, such as that of a retrained model; -1: K / items", ge=-1, le=1
    )
    tolerance: float = hp(0.05, "share of the recall of retain rows that may be lost", ge=0, le=1)
    patience: int = hp(5, "epochs in a row with recall of retain rows below its limit and not rising, after which training stops", ge=1)
    reads = frozenset({"forget", "retain"})
    requires = frozenset({Displayable, Ranks})

    def begin(self, view: View) -> State:
        items = require(view.modality, Ranks).score_items(view.model, view.forget.select([0])).shape[1]
        most = self.forget_recall if self.forget_recall >= 0 else min(1.0, self.cut / items)
        recalls = self._recalls(view)
        return {"most": torch.tensor(most), "floor": (1 - self.tolerance) * recalls["retain"], "waited": torch.tensor(0), **recalls}

    def after(self, step: Step) -> State:
        """The recalls at the end of each epoch, and for how many epochs that of retain rows has been too low without rising."""
        state = step.state
        if step.done % max(1, -(-step.total // max(1, step.epochs))):
            return state
        recalls = self._recalls(step)
        suffers = float(recalls["retain"]) < min(float(state["floor"]), float(state["retain"]) + 1e-9)
        return {**state, **recalls, "waited": state["waited"] + 1 if suffers else torch.tensor(0)}

    def _recalls(self, view: View) -> dict[str, Tensor]:
        return {name: torch.tensor(self._recall(view, view.whole_set(name))) for name in ("forget", "retain")}

    def _recall(self, view: View, rows: Rows) -> float:
        """Recall at K, a mean over users."""
        with evaluating(view.model):
            hits = (require(view.modality, Ranks).ranks(view.model, rows) < self.cut).double()
        names = require(view.modality, Displayable).questions(rows)
        number = {name: i for i, name in enumerate(dict.fromkeys(names))}
        user = torch.tensor([number[name] for name in names])
        return float((torch.zeros(len(number), dtype=torch.double).index_add(0, user, hits) / torch.bincount(user)).mean())

    def stop(self, view: View) -> str | None:
        state = {n: float(v) for n, v in view.state.items()}
        recalls = f"recall at {self.cut} of forget rows {state['forget']:.3f}, of retain rows {state['retain']:.3f}"
        if state["forget"] <= state["most"] and state["retain"] >= state["floor"]:
            return f"forgotten: {recalls}"
        if state["waited"] >= self.patience:
            return f"retain rows are recommended too rarely: {recalls}"
        return None


def plan(
    alpha: Annotated[float, "weight of the forget term, from 0 to 1; the retain term has the rest"] = 0.5,
    contrast: Annotated[float, WEIGHT] = 0.0,
) -> Plan:
    if not 0 <= alpha <= 1:
        raise UserError(f"alpha is a weight from 0 to 1, and this is {alpha:g}")
    return Plan(
        alpha * OtherClass() + (1 - alpha) * trained_with(contrast),
        train=Train(epochs=50, lr=1e-3, batch_size=2048, optimizer="adam", schedule="constant", anchor="retain"),
        stop_rules=(RecallStop(),),
    )
