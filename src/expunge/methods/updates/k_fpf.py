"""k-FPF: k times during the run, the last time at its end, fine-tune only the modules that forget most, on a few retain rows.

Training on other rows damages few modules: norms and the last layer. An occasional repair of these modules costs a fraction of a retain
term at every step. The repaired modules also show where a model keeps knowledge specific to some rows: `sensitivity` and `drift` measure it
by module.

Equation: k times, total / k steps apart: theta_l <- theta_l - eta grad_l NLL(buffer) for T steps on chosen modules l, all others fixed
  (with `distil`: + lambda |z - f(x)|^2, z the logits of the model before); S_l = mean over batches of |grad_l L|_1 / |l|,
  C_l = mean over t of |theta_l^(t+1) - theta_l^t|_1 / |l|, |l| the number of weights of the module
Source: Zhao et al. 2023, arXiv 2304.04158
Needs: forget, retain (some of it); as an update any objective
Cost: k T small batches with few trainable weights; a copy of the model during a repair
Differs: the source is a method of continual learning; here the forget rows are the stream and gradient ascent is the learner; the buffer is
  drawn from the retain rows at once, while a reservoir reaches the same distribution along the way; T, eta, beta and S_l are recalled or
  inferred; layer norms count as norms; an adapter is repaired as a whole
Status: shown
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
    """Whether the module is a normalization layer, judged by its class name."""
    return "norm" in type(module).__name__.lower()


def modules_of(model: nn.Module) -> dict[str, list[str]]:
    """Group the floating-point tensors of a model, buffers included, into modules.

    Returns:
        Tensor names by module. The tensors of one layer share a module. Each tensor of a norm (running statistics included) and each tensor
        outside a layer is a module by itself.
    """
    groups: dict[str, list[str]] = {}
    for name, tensor in tensors_of(model).items():
        owner = name.rpartition(".")[0]
        if tensor.is_floating_point():
            groups.setdefault(name if not owner or is_norm(model.get_submodule(owner)) else owner, []).append(name)
    return groups


def _ranked(model: nn.Module, measurements: Iterable[Mapping[str, Tensor]]) -> list[Record]:
    """One record a module, largest score first.

    Args:
        model: the model whose modules are ranked.
        measurements: changes or gradients by tensor name. A module's score is the mean over measurements of its mean absolute entry.
    """
    measurements, groups = list(measurements), modules_of(model)
    records: list[Record] = []
    for module, names in groups.items():
        columns = [[m[n] for n in names if n in m] for m in measurements]
        if columns and columns[0]:
            curve = [float(torch.cat([t.float().flatten() for t in tensors]).abs().mean()) for tensors in columns]
            size = sum(t.numel() for t in columns[0])
            records.append({"module": module, "size": size, "score": sum(curve) / len(curve), "curve": curve})
    largest = max((r["score"] for r in records), default=0.0)
    with_shares = [{**r, "share": r["score"] / largest if largest else 0.0} for r in records]
    return sorted(with_shares, key=lambda r: -r["score"])


def drift(model: nn.Module, snapshots: Sequence[Weights]) -> list[Record]:
    """How far each module moved between snapshots, the module that moved most first.

    Snapshots after epochs give the paper's dynamics, snapshots after tasks give its C_l.

    Args:
        model: the model whose modules are measured.
        snapshots: `weights_of(model)` at two or more moments.

    Returns:
        Records with `module`, `size` (number of entries), `curve` (mean absolute change from each snapshot to the next), `score` (the mean
        of the curve) and `share` (the score over the largest score).
    """
    return _ranked(model, ({n: later[n] - t for n, t in earlier.items()} for earlier, later in pairwise(snapshots)))


def sensitivity(view: View, rows: Rows, batch_size: int = 32) -> list[Record]:
    """The mean absolute gradient of each trainable module on some rows, at the current weights.

    Returns:
        Records like those of `drift`, the largest score first; `curve` has one point a batch.
    """
    trainable = [n for n, p in view.model.named_parameters() if p.requires_grad]
    batches = [rows.select(range(i, min(i + batch_size, len(rows)))) for i in range(0, len(rows), batch_size)]
    return _ranked(view.model, (dict(zip(trainable, view.grad(NLL(rows.name), {rows.name: batch}), strict=True)) for batch in batches))


def table(records: Sequence[Record]) -> str:
    """The records as a text table with one line a module."""
    width = max([len("module"), *(len(r["module"]) for r in records)])
    lines = [f"{r['module']:{width}}  {r['size']:>10,}  {r['score']:10.3g}  {r['share']:6.3f}" for r in records]
    return "\n".join([f"{'module':{width}}  {'numbers':>10}  {'score':>10}  {'share':>6}", *lines])


@part
class Buffer(Selector):
    """Give a few retain rows, drawn once, as the set `buffer`."""

    size: int = hp(500, "retain rows that the repairs train on", ge=1)
    scores: bool = False  # keep the model's logits for these rows from before the stage
    reads = frozenset({"retain"})
    requires = frozenset({Categorical})
    gives = frozenset({"buffer"})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.retain
        drawn = torch.randperm(len(rows), generator=view.rng())[: self.size].tolist()
        buffer = rows.select(drawn).rename("buffer")
        if self.scores:
            logits = [view.now(buffer.select([i])).logits.values.cpu() for i in range(len(buffer))]
            buffer = buffer.add(scores=logits)
        return {**sets, "buffer": buffer}


@part
class Recall(Objective):
    """Squared distance of the logits to the logits stored in the buffer, summed over classes and averaged over labels."""

    reads = frozenset({"buffer"})
    requires = frozenset({Categorical})
    role = "distil"

    def loss(self, step: Step) -> Tensor:
        rows = step.rows("buffer")
        logits, stored = step.now(rows).logits, torch.cat(list(rows["scores"]))
        return step.mean(logits.map(lambda z: (z - stored.to(z)).square().sum(-1)), rows)


REPAIR = Train(epochs=0, steps=300, lr=0.05, batch_size=32, optimizer="sgd", schedule="constant", anchor="buffer")


@part
class FPF(Update):
    """Repair chosen modules on the buffer, k times in a stage."""

    k: int = hp(3, "number of repairs, evenly spaced, the last one at the end; 0: the base run", ge=0)
    modules: Modules = hp("norm+head", "modules to repair: norms and the last or first layer, the most sensitive ones, or all")
    beta: float = hp(0.1, "least sensitivity of a repaired module, as a share of the largest (for sensitive)", ge=0, le=1)
    repair: Plan = Plan(NLL("buffer"), train=REPAIR, name="repair")
    reads = frozenset({"buffer"})

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        return grads.call

    def after(self, step: Step) -> State:
        repairs_before, repairs_due = ((done * self.k) // step.total for done in (step.done - 1, step.done))
        if repairs_before < repairs_due < self.k:
            self._repair(step, step.whole_set("buffer"), str(repairs_due))
        return step.state

    def end(self, view: View) -> None:
        if self.k:
            self._repair(view, view.rows("buffer"), "end")

    def _repair(self, view: View, buffer: Rows, key: str) -> None:
        repair = self.repair if is_adapted(view.model) else replace(self.repair, trainable=_regex(self.chosen(view, buffer)))
        put(view.model, weights_of(view.run(repair, {"buffer": buffer}, key=key).model))

    def chosen(self, view: View, buffer: Rows) -> list[str]:
        """Names of the trainable parameters to repair.

        Raises:
            UserError: when no trainable parameter belongs to the chosen modules.
        """
        model = base_of(view.model)
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad and re.search(self.repair.trainable, n)}
        if self.modules == "all":
            names = [*trainable]
        elif self.modules == "sensitive":
            sensitive = [r["module"] for r in sensitivity(view, buffer) if r["share"] >= self.beta]
            groups = modules_of(model)
            names = [n for module in sensitive for n in groups[module] if n in trainable]
        else:
            layers = [m for m in model.modules() if not is_norm(m) and any(True for _ in m.parameters(recurse=False))]
            outer_layer = model.get_submodule(view.modality.head(model)) if self.modules == "norm+head" else layers[0]
            chosen = {id(p) for m in (outer_layer, *filter(is_norm, model.modules())) for p in m.parameters(recurse=False)}
            names = [n for n, p in trainable.items() if id(p) in chosen]
        if not names:
            raise UserError(f"none of the weights that move belongs to the modules to repair ({self.modules}): choose other modules")
        return names


def _regex(names: list[str]) -> str:
    return f"^({'|'.join(map(re.escape, names))})$"


def plan(distil: Annotated[bool, "whether repairs also pull the logits back to those of the model before the stage"] = False) -> Plan:
    repair: Objective = NLL("buffer") + Recall() if distil else NLL("buffer")
    train = Train(epochs=5, lr=1e-2, batch_size=32, optimizer="sgd", schedule="constant")
    update = FPF(repair=Plan(repair, train=REPAIR, name="repair"))
    return Plan(Ascent(), train=train, selectors=(Buffer(scores=distil),), updates=(update,))
