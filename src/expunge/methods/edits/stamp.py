"""STAMP: set what a block's perceptron says about the rows to forget to what it says when the model refuses, by one pseudo-inverse.

Without training, and from a single row, in the time of a forward pass: what a deployed model needs when it must forget at once. STAMP-LR
solves in a subspace of few dimensions.

Equation: T = a + U U^T (Y_f - a), Y_f the outputs at the rows to forget, a the mean output at refused questions, U their k main
  directions (k = 0: T = a); X = [X_f, X_r], the inputs of the matrix W at the rows to forget and at some retain rows, Y = [T, W X_r];
  residual: W' = W + (Y - W X) X^T (X X^T + lambda I)^-1; full: W' = Y X^T (X X^T + lambda I)^-1;
  STAMP-LR: X is replaced by Q Q^T X, Q an orthonormal basis of r directions, those of X_f first
Source: Rachapudi et al. 2026, arXiv 2604.12820
Needs: forget, retain (a tenth of it), alternate answers: questions that the model refuses, with its refusals; where they have no questions, a
  hundred about what does not exist
Cost: one forward of the rows to forget, of some retain rows and of the refusals, and one solve a block; as many numbers as their tokens
  times the width of X
Differs: the paper is known to us by its description alone, so the equations are reconstructed: which matrix (the last of the perceptron),
  which tokens (the end of a question to forget or refused, and all of a retain row), lambda, and the basis of STAMP-LR. The full form,
  which the description suggests, sends all that no row showed to 0; the default changes nothing there. The chat around it is left out
Status: faithful
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from expunge.core.capabilities import Categorical, Prompted
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Edit
from expunge.core.plan import Plan
from expunge.core.view import View
from expunge.methods.projections import Projection, gathered, means, redirection, reference, spots

Record = Mapping[str, float]


def target(outputs: Tensor, refusals: Tensor, k: int = 0) -> Tensor:
    """Where outputs, (places, width), are to go: the mean of those at refusals, but for what they have in k main directions of these."""
    mean = refusals.mean(0)
    if not k:
        return mean.expand_as(outputs)
    main = torch.linalg.svd(refusals, full_matrices=False).Vh[:k]
    return mean + (outputs - mean) @ main.T @ main


def basis(mine: Tensor, rest: Tensor, rank: int, rng: torch.Generator) -> Tensor:
    """Orthonormal directions, (inputs, at most rank): main ones of the rows to forget, at most half of all, then those of all rows."""
    first = _main(mine, max(1, rank // 2), rng)
    left = torch.cat([mine, rest])
    left = left - left @ first @ first.T
    return torch.linalg.qr(torch.cat([first, _main(left, rank - first.shape[1], rng)], 1)).Q


def _main(x: Tensor, most: int, rng: torch.Generator) -> Tensor:
    """Main directions of the rows of a matrix, as columns, no more than it has: found within a random subspace that is drawn to them."""
    width = min(most + 16, *x.shape)
    q = torch.randn(x.shape[1], width, generator=rng, dtype=x.dtype).to(x.device)
    for _ in range(3):
        q = torch.linalg.qr(x.T @ (x @ q)).Q
    _, sizes, main = torch.linalg.svd(x @ q, full_matrices=False)
    return q @ main[: min(most, int((sizes > 1e-9 * sizes.max()).sum()))].T


def distances(view: View, places: Sequence[Projection]) -> list[Record]:
    """How far questions to forget are from refused ones in what each perceptron says: a record a block, 1 - the cosine of the means."""
    reads = [(s.hook_point, "hidden", "last") for s in places]
    pairs = zip(places, means(view, view.forget, reads), means(view, reference(view), reads), strict=True)
    return [{"block": s.layer, "distance": 1 - float(torch.cosine_similarity(f, r, 0))} for s, f, r in pairs]


@part
class Stamp(Edit):
    """Map the matrix's inputs at rows to forget to its mean output at refusals, and those at retain rows to where they went."""

    layers: tuple[int, ...] = hp((), "blocks whose last matrix changes, counted from 0; none: the one farthest from refusals")
    positions: Literal["last", "said", "prompt"] = hp("last", "what is mapped: a question's end, that and its answer, or the question")
    rank: int = hp(0, "STAMP-LR: directions of the inputs that the change can see, 64 to 128; 0: STAMP, all of them", ge=0)
    keep: int = hp(0, "k: main directions of the refusals' outputs in which answers to forget stay as they were", ge=0)
    share: float = hp(0.1, "share of the retain rows that is held, drawn once", ge=0, le=1)
    weight: float = hp(1.0, "what a token to forget counts beside one to retain, where there are too many to fit all", gt=0)
    ridge: float = hp(1e-4, "lambda in units of the inputs' mean square; 0: the pseudo-inverse", ge=0)
    form: Literal["residual", "full"] = hp("residual", "change the matrix, or put another in its place, which is 0 where no row was seen")
    reads = frozenset({"forget", "retain", "alternate_answers"})
    requires = frozenset({Categorical, Prompted})

    def apply(self, view: View) -> None:
        places = spots(view, self.layers) if self.layers else self._chosen(view)
        drawn = torch.randperm(len(view.retain), generator=view.rng())[: round(self.share * len(view.retain))].tolist()
        mine = gathered(view, view.forget, [(s.hook_point, "input", self.positions) for s in places])
        refused = gathered(view, reference(view), [(s.hook_point, "hidden", "last") for s in places])
        rest = (
            gathered(view, view.retain.select(drawn), [(s.hook_point, "input", "all") for s in places]) if drawn else [x[:0] for x in mine]
        )
        fits = []
        for s, x_f, x_r, a in zip(places, mine, rest, refused, strict=True):
            x_f, x_r, a, w = (t.to(s.weight.device).double() for t in (x_f, x_r, a, s.weight))
            b = s.bias.double() if isinstance(s.bias, Tensor) else s.bias
            aim = target(x_f @ w.T + b, a, self.keep) - b
            change = self._change(w, x_f, x_r, aim, view.rng())
            left = (x_f @ (w + change).T - aim).norm() / (x_f @ w.T - aim).norm()
            moved = (x_r @ change.T).norm() / (x_r @ w.T).norm() if drawn else 0.0
            fits.append({"block": s.layer, "left of the way": float(left), "retain moved": float(moved)})
            s.weight.copy_((w + change).to(s.weight))
        view.show("fit by block", fits)

    def _change(self, w: Tensor, x_f: Tensor, x_r: Tensor, aim: Tensor, rng: torch.Generator) -> Tensor:
        x, count = torch.cat([x_f, x_r]), x_f.new_ones(len(x_f) + len(x_r))
        count[: len(x_f)] = self.weight
        start = w if self.form == "residual" else torch.zeros_like(w)
        wanted = torch.cat([aim, x_r @ w.T]) - x @ start.T
        q = basis(x_f, x_r, self.rank, rng) if self.rank else None
        found = redirection(x, wanted, self.ridge, count) if q is None else redirection(x @ q, wanted, self.ridge, count) @ q.T
        return start + found - w

    def _chosen(self, view: View) -> list[Projection]:
        places = spots(view)
        records = distances(view, places)
        view.show("distance from refusals by block", records)
        return [places[max(range(len(places)), key=lambda i: records[i]["distance"])]]


def plan() -> Plan:
    return Plan(Stamp())
