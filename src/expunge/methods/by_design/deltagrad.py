"""DeltaGrad: retraining along the remembered path of training, with most gradients replaced by remembered ones.

Training keeps the weights and the gradient of every step. To forget, the same steps are taken again without the rows. Only now and then
is a gradient computed over the whole batch; in between it is the old one, corrected by a quasi-Newton estimate of the curvature.

Equation: w_t+1 = w_t - eta (n G^_t - sum_{i gone} grad F_i(w_t)) / (n - r) - eta lambda w_t; G^_t = grad F(w_t) where t <= j0 or (t - j0)
  mod T0 = 0, then s = w_t - w_old,t and y = grad F(w_t) - G_old,t + lambda s are a pair; elsewhere G^_t = G_old,t + (B - lambda) (w_t -
  w_old,t), B the L-BFGS matrix of the last m pairs; n and r count the rows of the batch and those that leave it
Source: Wu et al. 2020, DeltaGrad: rapid retraining of machine learning models, arXiv 2006.14755
Needs: retain, to make the store; forget, to take rows out; twice as many numbers as weights for every step
Cost: that of training; forgetting one of many rows computes one gradient in T0 over whole batches, and the gradients of the row itself
Guarantee: B where the head alone is trained (`trainable` of the plan), with weight decay: the weights are within o(r/n) of those of
  retraining on the same batches; H elsewhere
Differs: plain gradient descent with a constant rate, in evaluation mode, so without dropout and with fixed statistics of batch norm; a
  row is weighed once, however many labels it has. The kept path is replaced by the new one, so that the store forgets too, and it may be
  forgotten from again; a pair along which the gradient hardly rises, s'y <= 1e-10 s's, is skipped, for losses that are not convex
Status: shown

The store holds the training rows themselves and is as confidential as they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Weights
from expunge.core.parts import ByDesign
from expunge.core.plan import Plan
from expunge.core.random import seed_of
from expunge.core.rows import Rows
from expunge.core.view import View
from expunge.engine.weights import tensors_of
from expunge.functional.quasi_newton import quasi_hessian
from expunge.methods.stores import Level, check_known, guarantee, meant, seed_in
from expunge.methods.terms import RowNLL

Store = Mapping[str, Any]
FLAT = 1e-10  # share of s's that s'y must exceed for a pair to count


@part
class DeltaGrad(ByDesign):
    """Gradient descent whose path can be walked again without some rows."""

    epochs: int = hp(20, "passes over the rows", ge=1)
    lr: float = hp(0.1, "constant learning rate", gt=0, allow_inf_nan=False)
    batch_size: int = hp(256, "rows in one step", ge=1)
    weight_decay: float = hp(0.005, "lambda: weight of half the squared length of the weights in the loss", ge=0, allow_inf_nan=False)
    memory: int = hp(2, "m: pairs that the curvature is estimated from", ge=1)
    period: int = hp(5, "T0: every so many steps a gradient is computed over the whole batch; 1: always, which is retraining", ge=1)
    burn_in: int = hp(10, "j0: first steps whose gradients are all computed", ge=0)
    reads = frozenset({"retain"})

    def fit(self, view: View) -> Store:
        rows, batches = view.retain, []
        for epoch in range(self.epochs):
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed_of(seed_in(view), "order", epoch))).tolist()
            batches += [[rows.ids[i] for i in order[at : at + self.batch_size]] for at in range(0, len(order), self.batch_size)]
        start, path, gradients = _read(view), list[Tensor](), list[Tensor]()
        place, w = {i: k for k, i in enumerate(rows.ids)}, start
        for batch in batches:
            path.append(w)
            gradients.append(self._gradient(view, w, rows.select(place[i] for i in batch)))
            w = w - self.lr * (gradients[-1] + self.weight_decay * w)
        promise = guarantee(self._level(view), "the learning rate is too large for the curvature, or many of the rows leave")
        kept = {"rows": rows, "batches": batches, "path": path, "gradients": gradients, "end": w, "guarantee": promise}
        return {**kept, "names": [n for n, t in tensors_of(view.model).items() if t.requires_grad]}

    def forget(self, store: Store, ids: frozenset[str], view: View) -> Store:
        rows: Rows = store["rows"]
        check_known([rows], view)
        leaving = meant(rows, ids)
        gone = {i for i, leaves in zip(rows.ids, leaving, strict=True) if leaves}
        kept = rows.select([i for i, leaves in enumerate(leaving) if not leaves])
        if not len(kept):
            raise UserError("no row would be left in the store: delete it, and keep the model that it began with")
        place = {i: k for k, i in enumerate(rows.ids)}
        w, pairs, exact = store["path"][0], list[tuple[Tensor, Tensor]](), 0
        path, gradients, batches = list[Tensor](), list[Tensor](), list[list[str]]()
        for t, (batch, old_w, old_g) in enumerate(zip(store["batches"], store["path"], store["gradients"], strict=True)):
            n, out = len(batch), [i for i in batch if i in gone]
            stay = [i for i in batch if i not in gone]
            if not stay:
                continue
            drop = self._gradient(view, w, rows.select(place[i] for i in out)) if out else torch.zeros_like(w)
            if t <= self.burn_in or (t - self.burn_in) % self.period == 0 or not pairs:
                exact += 1
                rest = self._gradient(view, w, rows.select(place[i] for i in stay))
                whole, s = (len(stay) * rest + len(out) * drop) / n, w - old_w
                y = whole - old_g + self.weight_decay * s
                if s @ y > FLAT * (s @ s):
                    pairs = [*pairs, (s, y)][-self.memory :]
            else:
                moved = w - old_w
                whole = old_g + quasi_hessian(pairs)(moved) - self.weight_decay * moved
                rest = (n * whole - len(out) * drop) / len(stay)
            path.append(w)
            gradients.append(rest)
            batches.append(stay)
            w = w - self.lr * (rest + self.weight_decay * w)
        view.show("gradients", [{"steps": len(batches), "over_whole_batches": exact, "rows": len(gone)}])
        return {**store, "rows": kept, "batches": batches, "path": path, "gradients": gradients, "end": w}

    def weights(self, store: Store, view: View) -> Weights:
        return _named(store["end"], store["names"], view)

    def _gradient(self, view: View, w: Tensor, rows: Rows) -> Tensor:
        """The mean gradient over rows at weights w, (weights,)."""
        at = 0
        with torch.no_grad():
            for p in view.params:
                p.copy_(w[at : at + p.numel()].view_as(p))
                at += p.numel()
        return torch.cat([g.detach().flatten() for g in view.grad(RowNLL("retain"), {"retain": rows}, self.batch_size)]).to(w)

    def _level(self, view: View) -> Level:
        """B for a linear model with weight decay, whose loss is strongly convex; H for what the theory does not reach."""
        head = {id(p) for p in view.modality.module(view.model, view.modality.head(view.model)).parameters()}
        return "B" if self.weight_decay and all(id(p) in head for p in view.params) else "H"


def _read(view: View) -> Tensor:
    return torch.cat([p.detach().flatten() for p in view.params])


def _named(w: Tensor, names: Sequence[str], view: View) -> Weights:
    """The weights by name, of a vector of all that are trained."""
    tensors, weights, at = tensors_of(view.model), dict[str, Tensor](), 0
    for name in names:
        size = tensors[name].numel()
        weights[name] = w[at : at + size].view(tensors[name].shape)
        at += size
    return weights


def plan() -> Plan:
    return Plan(DeltaGrad())
