"""Amnesiac unlearning: training keeps what every step changed; forgetting takes back the steps that saw the rows.

Taking back a step is cheap and needs no gradient. Later steps, which were taken at other weights because of it, stay as they are.

Equation: D_t = theta_t+1 - theta_t, with the rows of step t; to forget: theta <- theta - sum of D_t over the steps that saw a row, then
  `repair` epochs on the rows that are left, whose steps are kept as well
Source: Graves et al. 2021, Amnesiac machine learning, arXiv 2010.10981
Needs: retain, to make the store; forget, to take rows out; a copy of the weights in double precision for every step
Cost: that of training; forgetting is a subtraction, and one pass over the rows for each epoch of repair
Guarantee: H, none: only where no step came after those that saw the rows, the weights are exactly those before them
Differs: every step is kept, not only those with rows that are marked as sensitive, so any row can be forgotten; running statistics of
  batch norm are taken back too and measured again by the repair, while the public notebook leaves them
Status: shown

It is good where the rows were in few of the steps, about one in a hundred; a row that was in a step of every epoch takes a whole batch
with it each time. The store holds the training rows themselves and is as confidential as they are.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Weights
from expunge.core.parts import ByDesign, GradCall, Grads, Update
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows
from expunge.core.view import State, Step, View
from expunge.engine.weights import tensors_of
from expunge.methods.stores import alone, check_known, guarantee, meant
from expunge.methods.terms import NLL

Store = Mapping[str, Any]


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    """All tensors with a fraction as one vector in double precision, in which differences of single ones are exact."""
    return torch.cat([t.detach().double().flatten() for t in tensors.values() if t.is_floating_point()])


def shaped(vector: Tensor, like: Mapping[str, Tensor]) -> Weights:
    """The inverse of `flat`. like: tensors by name, whose shapes and types the result has; those without a fraction stay."""
    weights, at = dict[str, Tensor](), 0
    for name, t in like.items():
        size = t.numel() if t.is_floating_point() else 0
        weights[name] = vector[at : at + size].view(t.shape).to(t) if t.is_floating_point() else t.detach().clone()
        at += size
    return weights


@part
class StepLog(Update):
    """Keeps how every step changed the weights and which rows it saw. The gradients stay as they are."""

    reads = frozenset({"retain"})

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        return grads

    def begin(self, view: View) -> State:
        return {"weights": flat(tensors_of(view.model))}

    def after(self, step: Step) -> State:
        weights, place = flat(tensors_of(step.model)), {i: k for k, i in enumerate(step.whole_set("retain").ids)}
        change, rows = weights - step.state["weights"], torch.tensor([place[i] for i in step.retain.ids])
        return {**step.state, "weights": weights, f"change/{step.done}": change, f"rows/{step.done}": rows}


@part
class Amnesiac(ByDesign):
    """Training that can take its steps back."""

    repair: int = hp(1, "epochs on the rows that are left after steps were taken back; 0: none", ge=0)
    train: Train = Train(epochs=10, lr=1e-3, batch_size=32, anchor="retain")
    reads = frozenset({"retain"})

    def fit(self, view: View) -> Store:
        if self.train.lora:
            raise UserError("amnesiac keeps changes of all weights, so leave --lora out")
        rows = view.retain
        weights, steps = self._trained(view, rows, None, self.train.epochs, "fit")
        promise = guarantee("H", "steps were taken after those that saw the rows")
        return {"rows": rows, "weights": weights, "steps": steps, "forgotten": 0, "guarantee": promise}

    def forget(self, store: Store, ids: frozenset[str], view: View) -> Store:
        rows: Rows = store["rows"]
        check_known([rows], view)
        leaving = meant(rows, ids)
        gone = {i for i, leaves in zip(rows.ids, leaving, strict=True) if leaves}
        hit = [step for step in store["steps"] if not gone.isdisjoint(step["rows"])]
        kept = alone(rows.select([i for i, leaves in enumerate(leaving) if not leaves]), view)
        weights, steps = store["weights"], [step for step in store["steps"] if gone.isdisjoint(step["rows"])]
        if hit:
            weights = shaped(flat(weights) - torch.stack([step["change"] for step in hit]).sum(0), weights)
        if hit and self.repair and len(kept):
            weights, more = self._trained(view, kept, weights, self.repair, f"repair {store['forgotten'] + 1}")
            steps += more
        view.show("steps taken back", [{"of": len(store["steps"]), "taken_back": len(hit), "rows": len(gone)}])
        return {**store, "rows": kept, "weights": weights, "steps": steps, "forgotten": store["forgotten"] + 1}

    def weights(self, store: Store, view: View) -> Weights:
        return dict(store["weights"])

    def _trained(self, view: View, rows: Rows, start: Weights | None, epochs: int, key: str) -> tuple[Weights, list[dict[str, Any]]]:
        """Weights after training with every step kept, and the steps: how each changed the weights, and the ids of its rows."""
        log = StepLog()
        plan = Plan(NLL("retain"), train=replace(self.train, epochs=epochs), updates=(log,))
        done = view.run(plan, {"retain": rows}, start, key=key, alone=True)
        state = done.at("update0", log).state
        counts = sorted(int(n.removeprefix("change/")) for n in state if n.startswith("change/"))
        steps = [{"change": state[f"change/{n}"], "rows": [rows.ids[k] for k in state[f"rows/{n}"].tolist()]} for n in counts]
        model: nn.Module = done.model
        return {n: t.detach().clone() for n, t in tensors_of(model).items()}, steps


def plan() -> Plan:
    return Plan(Amnesiac())
