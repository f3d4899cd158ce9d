"""STAMP: set the output of a block's perceptron on the forget rows to its output where the model refuses, by one pseudo-inverse.

The edit needs no training, works from a single row and takes the time of a forward pass, so a deployed model can forget at once. STAMP-LR
solves in a subspace of few dimensions.

Equation: T = a + U U^T (Y_f - a), Y_f the outputs at the rows to forget, a the mean output at refused questions, U their k main
  directions (k = 0: T = a); X = [X_f, X_r], the inputs of the matrix W at the rows to forget and at some retain rows, Y = [T, W X_r];
  residual: W' = W + (Y - W X) X^T (X X^T + lambda I)^-1; full: W' = Y X^T (X X^T + lambda I)^-1;
  STAMP-LR: X is replaced by Q Q^T X, Q an orthonormal basis of r directions, those of X_f first
Source: Rachapudi et al. 2026, arXiv 2604.12820
Needs: forget, retain (a tenth of it), alternate answers: questions that the model refuses, with its refusals; where they have no questions,
  a hundred invented ones about things that do not exist
Cost: one forward of the rows to forget, of some retain rows and of the refusals, and one solve a block; as many numbers as their tokens
  times the width of X
Differs: the paper is known to us by its description alone, so the equations are reconstructed: the matrix (the last of the perceptron), the
  tokens (the end of a forget or refused question, and all of a retain row), lambda, and the basis of STAMP-LR. The full form, which the
  description suggests, maps inputs outside the span of the given rows to 0; the default changes nothing there. The chat is left out
Status: shown
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from expunge.core.capabilities import Categorical, OneSequence, Prompted
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Edit
from expunge.core.plan import Plan
from expunge.core.view import View
from expunge.methods.projections import Projection, gathered, means, redirection, reference, spots

Record = Mapping[str, float]


def target(outputs: Tensor, refusals: Tensor, k: int = 0) -> Tensor:
    """New outputs for the forget rows: the mean output at refusals, while k main directions keep the old values.

    Args:
        outputs: Outputs at the forget rows, (positions, width).
        refusals: Outputs at refused questions, (questions, width).
        k: Number of main directions of the refusals in which outputs stay as they are.

    Returns:
        Targets, (positions, width).
    """
    mean = refusals.mean(0)
    if not k:
        return mean.expand_as(outputs)
    main = torch.linalg.svd(refusals, full_matrices=False).Vh[:k]
    return mean + (outputs - mean) @ main.T @ main


def basis(x_forget: Tensor, x_retain: Tensor, rank: int, rng: torch.Generator) -> Tensor:
    """Orthonormal directions of the inputs: main directions of the forget rows, at most half of all, then those of all rows.

    Args:
        x_forget: Inputs at the forget rows, (positions, inputs).
        x_retain: Inputs at retain rows, (positions, inputs).
        rank: Largest number of directions.
        rng: Source of randomness of the search.

    Returns:
        Directions as columns, (inputs, at most rank).
    """
    first = _main_directions(x_forget, max(1, rank // 2), rng)
    residual = torch.cat([x_forget, x_retain])
    residual = residual - residual @ first @ first.T
    return torch.linalg.qr(torch.cat([first, _main_directions(residual, rank - first.shape[1], rng)], 1)).Q


def _main_directions(x: Tensor, limit: int, rng: torch.Generator) -> Tensor:
    """At most `limit` main directions of a matrix's rows, as columns, by power iteration of a random subspace."""
    width = min(limit + 16, *x.shape)
    q = torch.randn(x.shape[1], width, generator=rng, dtype=x.dtype).to(x.device)
    for _ in range(3):
        q = torch.linalg.qr(x.T @ (x @ q)).Q
    _, singular_values, main = torch.linalg.svd(x @ q, full_matrices=False)
    return q @ main[: min(limit, int((singular_values > 1e-9 * singular_values.max()).sum()))].T


def distances(view: View, projections: Sequence[Projection]) -> list[Record]:
    """Distance of forget questions from refused questions in the output of each perceptron.

    Args:
        view: The view of the edit.
        projections: Matrices, one for each block of interest.

    Returns:
        A record for each block, with 1 - cosine similarity of the mean outputs.
    """
    reads = [(p.hook_point, "hidden", "last") for p in projections]
    mean_outputs = zip(projections, means(view, view.forget, reads), means(view, reference(view), reads), strict=True)
    return [{"block": p.layer, "distance": 1 - float(torch.cosine_similarity(f, r, 0))} for p, f, r in mean_outputs]


@part
class Stamp(Edit):
    """Maps the matrix's inputs at forget rows to its mean output at refusals, and its inputs at retain rows to their old outputs."""

    layers: tuple[int, ...] = hp((), "blocks whose last matrix changes, counted from 0; none: the block farthest from refusals")
    positions: Literal["last", "said", "prompt"] = hp(
        "last", "mapped tokens: last: the end of the question; said: the end and the answer; prompt: the whole question"
    )
    rank: int = hp(0, "STAMP-LR: number of input directions that the change uses, 64 to 128; 0: STAMP, all directions", ge=0)
    keep: int = hp(0, "k: main directions of the refusals' outputs in which forget outputs stay as they are", ge=0)
    share: float = hp(0.1, "share of the retain rows whose outputs are preserved, drawn once", ge=0, le=1)
    weight: float = hp(1.0, "weight of a forget token relative to a retain token, where not all can be fitted", gt=0)
    ridge: float = hp(1e-4, "lambda in units of the mean square of the inputs; 0: the pseudo-inverse", ge=0)
    form: Literal["residual", "full"] = hp(
        "residual", "residual: change the matrix; full: replace it by one that is 0 outside the span of the rows"
    )
    reads = frozenset({"forget", "retain", "alternate_answers"})
    requires = frozenset({Categorical, OneSequence, Prompted})

    def apply(self, view: View) -> None:
        projections = spots(view, self.layers) if self.layers else self._chosen(view)
        indices = torch.randperm(len(view.retain), generator=view.rng())[: round(self.share * len(view.retain))].tolist()
        forget = gathered(view, view.forget, [(p.hook_point, "input", self.positions) for p in projections])
        refused = gathered(view, reference(view), [(p.hook_point, "hidden", "last") for p in projections])
        retain = [x[:0] for x in forget]
        if indices:
            retain = gathered(view, view.retain.select(indices), [(p.hook_point, "input", "all") for p in projections])
        fits = []
        for p, x_f, x_r, a in zip(projections, forget, retain, refused, strict=True):
            x_f, x_r, a, w = (t.to(p.weight.device).double() for t in (x_f, x_r, a, p.weight))
            b = p.bias.double() if isinstance(p.bias, Tensor) else p.bias
            y = target(x_f @ w.T + b, a, self.keep) - b
            change = self._change(w, x_f, x_r, y, view.rng())
            remaining = (x_f @ (w + change).T - y).norm() / (x_f @ w.T - y).norm()
            moved = (x_r @ change.T).norm() / (x_r @ w.T).norm() if indices else 0.0
            fits.append({"block": p.layer, "left of the way": float(remaining), "retain moved": float(moved)})
            p.weight.copy_((w + change).to(p.weight))
        view.show("fit by block", fits)

    def _change(self, w: Tensor, x_f: Tensor, x_r: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The change of the matrix w, (outputs, inputs), that maps x_f, (positions, inputs), to y and keeps the outputs at x_r."""
        x, weights = torch.cat([x_f, x_r]), x_f.new_ones(len(x_f) + len(x_r))
        weights[: len(x_f)] = self.weight
        start = w if self.form == "residual" else torch.zeros_like(w)
        residual = torch.cat([y, x_r @ w.T]) - x @ start.T
        if self.rank:
            q = basis(x_f, x_r, self.rank, rng)
            return start + redirection(x @ q, residual, self.ridge, weights) @ q.T - w
        return start + redirection(x, residual, self.ridge, weights) - w

    def _chosen(self, view: View) -> list[Projection]:
        """The matrix of the block that is farthest from refusals."""
        candidates = spots(view)
        records = distances(view, candidates)
        view.show("distance from refusals by block", records)
        return [candidates[max(range(len(candidates)), key=lambda i: records[i]["distance"])]]


def plan() -> Plan:
    return Plan(Stamp())
