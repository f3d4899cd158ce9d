"""LUNAR: redirect what one block makes of the questions to forget to where the model says that it cannot answer.

One matrix changes, and replies stay fluent and of a chosen kind: a refusal, in place of whatever else a damaged model would say.

Equation: r_l = mean_u h_l(u) - mean_f h_l(f), h_l the output of block l at the end of a question, u questions that are refused, f those to
  forget; W <- argmin_W' sum_i |W' z_i - W z_i - c r_l [i is of f]|^2, z_i what goes into the last matrix W of the block's perceptron
  at each token of the questions to forget and to retain; closed, with lambda |W' - W|^2: W' = W + c r_l g^T,
  g = (Z Z^T + lambda I)^-1 Z_f 1
Source: Shen et al. 2025, arXiv 2502.07218
Needs: forget and retain (questions alone), alternate answers: questions that the model refuses, with its refusals; where they have no questions,
  a hundred about what does not exist
Cost: one forward of all questions; with `choose replies` two of the rows to forget for each block, too; the fit never runs the model.
  As many numbers as question tokens times the width of z
Differs: what comes first in a question of both sets (start of sequence, header of the template) counts as to retain alone, where the
  authors give the same z two targets (`parity`); a block is chosen by probabilities of a refusal and of the true answer, where they compare
  generated texts; ridge and weight decay draw to other places, W and 0; where a norm follows the perceptron the shift passes through it
Status: faithful
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Categorical, Prompted
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Patch
from expunge.core.parts import Edit
from expunge.core.plan import Plan
from expunge.core.rows import Rows
from expunge.core.view import View
from expunge.methods.projections import Projection, gathered, means, redirection, reference, shared, spots

Record = Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Shift:
    """A vector that is added to all that a module says."""

    module: nn.Module
    by: Tensor

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        handle = self.module.register_forward_hook(self._shifted)
        try:
            yield
        finally:
            handle.remove()

    def _shifted(self, module: nn.Module, args: Any, out: Any) -> Any:
        return (out[0] + self.by, *out[1:]) if isinstance(out, tuple) else out + self.by


def directions(view: View, places: Sequence[Projection], known: Rows) -> list[Tensor]:
    """From the questions to forget to those that are refused: differences of mean outputs of blocks, each (width,), in 64 bits."""
    ends = [(s.block, "hidden", "last") for s in places]
    there, here = means(view, known, ends), means(view, view.forget, ends)
    return [a - b for a, b in zip(there, here, strict=True)]


def replies(view: View, places: Sequence[Projection], moves: Sequence[Tensor], known: Rows) -> list[Record]:
    """What questions to forget are answered where a move is added to the output of one block: a record a block, with the mean probability
    a label of a refusal and of the true answer, and their difference.
    """
    said = known["answer_text"]
    refused = view.modality.relabel(view.forget, [said[i % len(said)] for i in range(len(view.forget))], "refused")

    def likely(rows: Rows, patch: Patch) -> float:
        batches = (view.now(rows.select(range(i, min(i + 16, len(rows)))), patch) for i in range(0, len(rows), 16))
        return float(torch.cat([a.target_logp.mean().exp() for a in batches]).mean())

    records = []
    for s, move in zip(places, moves, strict=True):
        patch = Shift(view.modality.module(view.model, s.block), move.to(s.weight))
        refusal, answer = likely(refused, patch), likely(view.forget, patch)
        records.append({"block": s.layer, "refusal": refusal, "true answer": answer, "score": refusal - answer})
    return records


@part
class Redirect(Edit):
    """Fit the last matrix of a block to a shift on questions to forget and to itself on questions to retain."""

    c: float = hp(2.0, "length of the shift, in differences of means", ge=0)
    layers: tuple[int, ...] = hp((), "blocks whose last matrix changes, counted from 0; none: one is chosen")
    choose: Literal["depth", "replies"] = hp("depth", "the block two thirds of the way up, or the one whose shift brings most refusals")
    fit: Literal["trained", "closed"] = hp("trained", "by AdamW on pairs of input and target, or at once, with a change of rank one")
    ridge: float = hp(1e-4, "closed: lambda in units of the inputs' mean square; 0: the pseudo-inverse", ge=0)
    lr: float = hp(1e-2, "trained: learning rate of the first epoch", ge=0)
    lr_decay: float = hp(0.9, "trained: factor of the learning rate after every epoch", gt=0, le=1)
    epochs: int = hp(20, "trained: passes over the pairs", ge=1)
    batch_size: int = hp(64, "trained: pairs in a step", ge=1)
    weight_decay: float = hp(0.01, "trained: weight decay", ge=0)
    rank: int = hp(0, "trained: rank of the change, made of two factors; 0: the matrix itself", ge=0)
    parity: bool = hp(False, "shift also what begins questions of both sets alike, as released")
    reads = frozenset({"forget", "retain", "alternate_answers"})
    requires = frozenset({Categorical, Prompted})

    def apply(self, view: View) -> None:
        known, forget, retain = reference(view), view.forget, view.retain
        places = self._chosen(view, known)
        moves = [self.c * r for r in directions(view, places, known)]
        inputs = [(s.hook_point, "input", "prompt") for s in places]
        begun = [0] * len(forget) if self.parity else shared(forget, retain)
        pairs = zip(gathered(view, forget, inputs, begun), gathered(view, retain, inputs), strict=True)
        for s, move, (mine, rest) in zip(places, moves, pairs, strict=True):
            z, marks = torch.cat([mine, rest]).to(s.weight.device), torch.zeros(len(mine) + len(rest), 1, device=s.weight.device)
            marks[: len(mine)] = 1.0
            if self.fit == "closed":
                change = torch.outer(move.to(z.device), redirection(z, marks, self.ridge)[0])
            else:
                change = self._trained(s.weight, z, marks * move.to(z), view.rng())
            s.weight.copy_(s.weight + change.to(s.weight))

    def _chosen(self, view: View, known: Rows) -> list[Projection]:
        if self.layers:
            return spots(view, self.layers)
        if self.choose == "depth":
            return spots(view, [int(0.6875 * len(view.modality.blocks(view.model)))])  # 22 of 32
        places = spots(view)
        records = replies(view, places, [self.c * r for r in directions(view, places, known)], known)
        view.show("replies by shifted block", records)
        return [places[max(range(len(places)), key=lambda i: records[i]["score"])]]

    def _trained(self, weight: Tensor, z: Tensor, change: Tensor, rng: torch.Generator) -> Tensor:
        """The change of a matrix after some epochs on pairs of inputs, (tokens, inputs), and changes of its output, (tokens, outputs).

        The loss is a mean of squares, whose gradient needs no model.
        """
        start, z, change = weight.float(), z.float(), change.float()
        if self.rank:
            down = 0.01 * torch.randn(self.rank, start.shape[1], generator=rng).to(start)
            factors = [0.01 * torch.randn(start.shape[0], self.rank, generator=rng).to(start), down]
        else:
            factors = [start.clone()]
        optimizer = torch.optim.AdamW(factors, lr=self.lr, weight_decay=self.weight_decay)
        for epoch in range(self.epochs):
            optimizer.param_groups[0]["lr"] = self.lr * self.lr_decay**epoch
            for some in torch.randperm(len(z), generator=rng).split(self.batch_size):
                x, aim = z[some], change[some]
                made = factors[0] @ factors[1] if self.rank else factors[0] - start
                slope = (2 / aim.numel()) * (x @ made.T - aim).T @ x
                for p, g in zip(factors, [slope @ factors[1].T, factors[0].T @ slope] if self.rank else [slope], strict=True):
                    p.grad = g
                optimizer.step()
        return factors[0] @ factors[1] if self.rank else factors[0] - start


def plan() -> Plan:
    return Plan(Redirect())
