"""k-FPF: k times on the way, and last at the end, fine-tune only the modules that forget most, on a few rows to retain.

Few modules carry what a run on other rows destroys: norms and the last layer. To repair them now and then costs a fraction of a retain term
at every step, and what was repaired shows where a model keeps what is specific to some rows: `sensitivity` and `drift` say it by module.

Equation: k times, total / k steps apart: theta_l <- theta_l - eta grad_l NLL(buffer) for T steps on chosen modules l, all others fixed
  (with `distil`: + lambda |z - f(x)|^2, z the scores of the model before); S_l = mean over batches of |grad_l L|_1 / |l|,
  C_l = mean over t of |theta_l^(t+1) - theta_l^t|_1 / |l|, |l| the number of weights of the module
Source: Zhao et al. 2023, arXiv 2304.04158
Needs: forget, retain (some of it); as an update any objective
Cost: k T small batches with few weights that move; a copy of the model meanwhile
Differs: a method of continual learning, with the rows to forget as the stream and gradient ascent as what learns from it; the buffer is
  drawn from the retain rows at once, where a reservoir fills on the way to the same distribution; T, eta, beta and S_l are recalled or
  inferred; layer norms count as norms; an adapter is repaired as a whole
Status: reproduced
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Categorical
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Weights
from expunge.core.parts import GradCall, Grads, Objective, Selector, Update
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows, Sets
from expunge.core.view import State, Step, View
from expunge.engine.adapters import base_of, is_adapted
from expunge.engine.weights import put, tensors_of, weights_of
from expunge.methods.terms import NLL, Ascent

Record = Mapping[str, Any]
Modules = Literal["norm+head", "norm+first", "sensitive", "all"]


def is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def modules_of(model: nn.Module) -> dict[str, list[str]]:
    """Names of tensors by module: a layer's together, but each tensor of a norm, running statistics too, or outside a layer by itself."""
    found: dict[str, list[str]] = {}
    for name, tensor in tensors_of(model).items():
        owner = name.rpartition(".")[0]
        if tensor.is_floating_point():
            found.setdefault(name if not owner or is_norm(model.get_submodule(owner)) else owner, []).append(name)
    return found


def _ranked(model: nn.Module, of: Iterable[Mapping[str, Tensor]]) -> list[Record]:
    """A record a module, the largest score first: the mean, over some changes or gradients, of the mean size of its numbers."""
    columns, groups = list(of), modules_of(model)
    records = []
    for module, names in groups.items():
        kept = [[c[n] for n in names if n in c] for c in columns]
        if kept and kept[0]:
            curve = [float(torch.cat([t.float().flatten() for t in some]).abs().mean()) for some in kept]
            records.append({"module": module, "size": sum(t.numel() for t in kept[0]), "score": sum(curve) / len(curve), "curve": curve})
    largest = max((r["score"] for r in records), default=0.0)
    shared = [{**r, "share": r["score"] / largest if largest else 0.0} for r in records]
    return sorted(shared, key=lambda r: -r["score"])


def drift(model: nn.Module, snapshots: Sequence[Weights]) -> list[Record]:
    """How far each module went: records with `module`, `size`, `curve` (mean absolute change from a snapshot to the next), their mean
    `score`, and its `share` of the largest one. Of snapshots after epochs it is the paper's dynamics, after tasks its C_l.

    snapshots: `weights_of(model)` at two moments or more; modules that forget most come first.
    """
    return _ranked(model, ({n: b[n] - t for n, t in a.items()} for a, b in pairwise(snapshots)))


def sensitivity(view: View, rows: Rows, batch_size: int = 32) -> list[Record]:
    """How hard some rows pull at each module that moves, at the weights of this moment: records as those of `drift`, a batch a point."""
    moving = [n for n, p in view.model.named_parameters() if p.requires_grad]
    parts = [rows.select(range(i, min(i + batch_size, len(rows)))) for i in range(0, len(rows), batch_size)]
    return _ranked(view.model, (dict(zip(moving, view.grad(NLL(rows.name), {rows.name: some}), strict=True)) for some in parts))


def table(records: Sequence[Record]) -> str:
    """Records as text: a line a module."""
    width = max([len("module"), *(len(r["module"]) for r in records)])
    lines = [f"{r['module']:{width}}  {r['size']:>10,}  {r['score']:10.3g}  {r['share']:6.3f}" for r in records]
    return "\n".join([f"{'module':{width}}  {'numbers':>10}  {'score':>10}  {'share':>6}", *lines])


@part
class Buffer(Selector):
    """A few retain rows, drawn once, as the set `buffer`."""

    size: int = hp(500, "retain rows that repairs see", ge=1)
    scores: bool = False  # keep what the model says of them before the stage
    reads = frozenset({"retain"})
    requires = frozenset({Categorical})
    gives = frozenset({"buffer"})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.retain
        drawn = torch.randperm(len(rows), generator=view.rng())[: self.size].tolist()
        buffer = rows.select(drawn).rename("buffer")
        if self.scores:
            said = [view.now(buffer.select([i])).logits.values.cpu() for i in range(len(buffer))]
            buffer = buffer.add(scores=said)
        return {**sets, "buffer": buffer}


@part
class Recall(Objective):
    """Squared distance of the scores to those that the buffer remembers, summed over classes, averaged over labels."""

    reads = frozenset({"buffer"})
    requires = frozenset({Categorical})
    role = "distil"

    def loss(self, step: Step) -> Tensor:
        rows = step.rows("buffer")
        new, old = step.now(rows).logits, torch.cat(list(rows["scores"]))
        return step.mean(new.map(lambda z: (z - old.to(z)).square().sum(-1)), rows)


REPAIR = Train(epochs=0, steps=300, lr=0.05, batch_size=32, optimizer="sgd", schedule="constant", anchor="buffer")


@part
class FPF(Update):
    """Repair chosen modules on the buffer, k times in a stage."""

    k: int = hp(3, "repairs, evenly spaced, the last one at the end; 0: the base run", ge=0)
    modules: Modules = hp("norm+head", "what is repaired: norms and the last or the first layer, what the buffer pulls at hardest, or all")
    beta: float = hp(0.1, "for sensitive: least sensitivity of a module, as a share of the largest", ge=0, le=1)
    repair: Plan = Plan(NLL("buffer"), train=REPAIR, name="repair")
    reads = frozenset({"buffer"})

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        return grads.call

    def after(self, step: Step) -> State:
        past, due = ((done * self.k) // step.total for done in (step.done - 1, step.done))
        if past < due < self.k:
            self._repair(step, step.whole_set("buffer"), str(due))
        return step.state

    def end(self, view: View) -> None:
        if self.k:
            self._repair(view, view.rows("buffer"), "end")

    def _repair(self, view: View, buffer: Rows, key: str) -> None:
        repair = self.repair if is_adapted(view.model) else replace(self.repair, trainable=_regex(self.chosen(view, buffer)))
        put(view.model, weights_of(view.run(repair, {"buffer": buffer}, key=key).model))

    def chosen(self, view: View, buffer: Rows) -> list[str]:
        """Names of the parameters to repair, of those that move. Errors: UserError where there are none."""
        model = base_of(view.model)
        moving = {n: p for n, p in model.named_parameters() if p.requires_grad and re.search(self.repair.trainable, n)}
        if self.modules == "all":
            names = [*moving]
        elif self.modules == "sensitive":
            sensitive = [r["module"] for r in sensitivity(view, buffer) if r["share"] >= self.beta]
            groups = modules_of(model)
            names = [n for module in sensitive for n in groups[module] if n in moving]
        else:
            layers = [m for m in model.modules() if not is_norm(m) and any(True for _ in m.parameters(recurse=False))]
            end = model.get_submodule(view.modality.head(model)) if self.modules == "norm+head" else layers[0]
            wanted = {id(p) for m in (end, *filter(is_norm, model.modules())) for p in m.parameters(recurse=False)}
            names = [n for n, p in moving.items() if id(p) in wanted]
        if not names:
            raise UserError(f"none of the weights that move belongs to modules that are repaired ({self.modules}): choose other modules")
        return names


def _regex(names: list[str]) -> str:
    return f"^({'|'.join(map(re.escape, names))})$"


def plan(distil: Annotated[bool, "whether repairs also draw scores back to those of the model before"] = False) -> Plan:
    repair: Objective = NLL("buffer") + Recall() if distil else NLL("buffer")
    train = Train(epochs=5, lr=1e-2, batch_size=32, optimizer="sgd", schedule="constant")
    update = FPF(repair=Plan(repair, train=REPAIR, name="repair"))
    return Plan(Ascent(), train=train, selectors=(Buffer(scores=distil),), updates=(update,))
