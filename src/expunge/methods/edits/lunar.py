"""LUNAR: redirect one block's output on the forget questions to where the model says that it cannot answer.

One matrix changes. Replies stay fluent and become refusals, while other damage to the model could produce any reply.

Equation: r_l = mean_u h_l(u) - mean_f h_l(f), h_l the output of block l at the end of a question, u questions that are refused, f those to
  forget; W <- argmin_W' sum_i |W' z_i - W z_i - c r_l [i is of f]|^2, z_i the input of the last matrix W of the block's perceptron
  at each token of the questions to forget and to retain; closed, with lambda |W' - W|^2: W' = W + c r_l g^T,
  g = (Z Z^T + lambda I)^-1 Z_f 1
Source: Shen et al. 2025, arXiv 2502.07218
Needs: forget and retain (questions alone), alternate answers: questions that the model refuses, with its refusals; where they have no
  questions, a hundred invented ones about things that do not exist
Cost: one forward of all questions; `choose replies` adds two forwards of the forget rows for each block; the fit never runs the model.
  As many numbers as question tokens times the width of z
Differs: a common beginning of questions of both sets (start of sequence, header of the template) counts as to retain alone, while the
  authors give the same z two targets (`parity`); a block is chosen by probabilities of a refusal and of the true answer, while they compare
  generated texts; ridge pulls the matrix toward W, weight decay toward 0; where a norm follows the perceptron the shift passes through it
Status: not shown
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Categorical, OneSequence, Prompted
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
    """A patch that adds a vector to the output of a module."""

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


def directions(view: View, projections: Sequence[Projection], refusals: Rows) -> list[Tensor]:
    """Directions from the forget questions to the refused questions.

    Args:
        view: The view of the edit.
        projections: Matrices, one for each block of interest.
        refusals: Questions that the model refuses.

    Returns:
        For each block the difference of its mean outputs at the end of a question, (width,), in float64.
    """
    reads = [(p.block, "hidden", "last") for p in projections]
    refused, forget = means(view, refusals, reads), means(view, view.forget, reads)
    return [a - b for a, b in zip(refused, forget, strict=True)]


def replies(view: View, projections: Sequence[Projection], shifts: Sequence[Tensor], refusals: Rows) -> list[Record]:
    """How likely refusals and true answers to the forget questions are while a shift is added to the output of one block.

    Args:
        view: The view of the edit.
        projections: Matrices, one for each block to try.
        shifts: For each block the vector that is added to its output, (width,).
        refusals: Questions that the model refuses, with their refusals.

    Returns:
        A record for each block: the geometric mean probability per label of a refusal and of the true answer, each averaged over rows, and
        their difference.
    """
    texts = refusals["answer_text"]
    refused = view.modality.relabel(view.forget, [texts[i % len(texts)] for i in range(len(view.forget))], "refused")

    def probability(rows: Rows, patch: Patch) -> float:
        outputs = (view.now(rows.select(range(i, min(i + 16, len(rows)))), patch) for i in range(0, len(rows), 16))
        return float(torch.cat([output.target_logp.mean().exp() for output in outputs]).mean())

    records = []
    for p, shift in zip(projections, shifts, strict=True):
        patch = Shift(view.modality.module(view.model, p.block), shift.to(p.weight))
        refusal, answer = probability(refused, patch), probability(view.forget, patch)
        records.append({"block": p.layer, "refusal": refusal, "true answer": answer, "score": refusal - answer})
    return records


@part
class Redirect(Edit):
    """Fits the last matrix of a block to shifted outputs on forget questions and to its own outputs on retain questions."""

    c: float = hp(2.0, "length of the shift, in units of the difference of means", ge=0)
    layers: tuple[int, ...] = hp((), "blocks whose last matrix changes, counted from 0; none: one is chosen")
    choose: Literal["depth", "replies"] = hp(
        "depth", "depth: the block two thirds of the way up; replies: the block whose shift favors refusals most"
    )
    fit: Literal["trained", "closed"] = hp(
        "trained", "trained: by AdamW on pairs of input and target; closed: in closed form, with a change of rank one"
    )
    ridge: float = hp(1e-4, "closed: lambda in units of the mean square of the inputs; 0: the pseudo-inverse", ge=0)
    lr: float = hp(1e-2, "trained: learning rate of the first epoch", ge=0)
    lr_decay: float = hp(0.9, "trained: factor on the learning rate after every epoch", gt=0, le=1)
    epochs: int = hp(20, "trained: passes over the pairs", ge=1)
    batch_size: int = hp(64, "trained: pairs per step", ge=1)
    weight_decay: float = hp(0.01, "trained: weight decay", ge=0)
    rank: int = hp(0, "trained: rank of the change, a product of two factors; 0: train the matrix itself", ge=0)
    parity: bool = hp(False, "also shift the common beginning of questions of both sets, as released")
    reads = frozenset({"forget", "retain", "alternate_answers"})
    requires = frozenset({Categorical, OneSequence, Prompted})

    def apply(self, view: View) -> None:
        refusals, forget, retain = reference(view), view.forget, view.retain
        projections = self._chosen(view, refusals)
        shifts = [self.c * r for r in directions(view, projections, refusals)]
        reads = [(p.hook_point, "input", "prompt") for p in projections]
        skip = [0] * len(forget) if self.parity else shared(forget, retain)
        inputs = zip(gathered(view, forget, reads, skip), gathered(view, retain, reads), strict=True)
        for p, shift, (z_forget, z_retain) in zip(projections, shifts, inputs, strict=True):
            z = torch.cat([z_forget, z_retain]).to(p.weight.device)
            is_forget = torch.zeros(len(z), 1, device=p.weight.device)
            is_forget[: len(z_forget)] = 1.0
            if self.fit == "closed":
                change = torch.outer(shift.to(z.device), redirection(z, is_forget, self.ridge)[0])
            else:
                change = self._trained(p.weight, z, is_forget * shift.to(z), view.rng())
            p.weight.copy_(p.weight + change.to(p.weight))

    def _chosen(self, view: View, refusals: Rows) -> list[Projection]:
        """The matrices that change."""
        if self.layers:
            return spots(view, self.layers)
        if self.choose == "depth":
            return spots(view, [int(0.6875 * len(view.modality.blocks(view.model)))])  # block 22 of 32
        candidates = spots(view)
        records = replies(view, candidates, [self.c * r for r in directions(view, candidates, refusals)], refusals)
        view.show("replies by shifted block", records)
        return [candidates[max(range(len(candidates)), key=lambda i: records[i]["score"])]]

    def _trained(self, weight: Tensor, z: Tensor, change: Tensor, rng: torch.Generator) -> Tensor:
        """The change of a matrix after training on pairs of inputs z, (tokens, inputs), and output changes, (tokens, outputs).

        The loss is a mean of squares, so its gradient needs no forward pass of the model.
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
            for indices in torch.randperm(len(z), generator=rng).split(self.batch_size):
                x, target = z[indices], change[indices]
                current = factors[0] @ factors[1] if self.rank else factors[0] - start
                gradient = (2 / target.numel()) * (x @ current.T - target).T @ x
                gradients = [gradient @ factors[1].T, factors[0].T @ gradient] if self.rank else [gradient]
                for factor, g in zip(factors, gradients, strict=True):
                    factor.grad = g
                optimizer.step()
        return factors[0] @ factors[1] if self.rank else factors[0] - start


def plan() -> Plan:
    return Plan(Redirect())
