"""Low-influence filtering: leave out forget rows that hardly influenced the model, and forget the others with any method.

Rows that left no trace need no removal, and a request with fewer rows costs less. The selector works before any method:
`--select low_influence`.

Equation: keep the rows of largest s(z), all but the share `drop`; gradient: s = |grad l(z)|, l the mean NLL of a row's labels; influence: s
  = |(G + mu I)^-1 grad l(z)|, the change of weights (times n) that leaving z out makes, G = mean_i grad l_i grad l_i^T over `samples` rows,
  mu = damping x mean eigenvalue of G; at the start, in evaluation mode
Source: Kleiman et al. 2025, arXiv 2512.05254
Needs: forget; with `drop_retain`, or where shares refer to the whole training set, retain
Cost: once, a forward and backward of each scored row, which fewer steps must earn back; influence: `samples` gradients in memory
Differs: thresholds and settings are our own, because there is no public code; the mean eigenvalue is over the eigenvalues of G that can
  differ from zero, as many as the smaller of samples and weights, not over all weights; no retain row is left out unless asked for, because
  scoring them pays only where an epoch is a pass over them; a class is never left out as a whole; the third score, LESS, is missing here. A
  row that the model knows by heart also has a small gradient, and rows that are harmless one by one may matter together: rows that are left
  out stay in the model, and the receipt counts them as requested. A method of several stages scores the rows again in each stage
Status: shown
"""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import ModelOutput
from expunge.core.needs import Need
from expunge.core.parts import Selector
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows, Sets
from expunge.core.view import View
from expunge.methods.terms import NLL, Ascent

Score = Literal["gradient", "influence", "random"]


def losses(output: ModelOutput) -> Tensor:
    """Mean loss of each row's labels, (rows,)."""
    return output.loss.mean()


def gradients(view: View, rows: Rows) -> Iterator[Tensor]:
    """Gradients of rows, batch by batch, as matrices (batch rows, weights) in float32 or wider."""
    for grads in view.example_grads(rows, losses):
        flat = torch.cat([g.flatten(1) for g in grads], 1)
        yield flat.to(torch.promote_types(flat.dtype, torch.float32))


def change(sample: Tensor, damping: float) -> Callable[[Tensor], Tensor]:
    """A function that multiplies gradients by the inverse of the sample's damped curvature.

    The function inverts the matrix of inner products, (samples, samples), because there are fewer rows than weights.

    Args:
        sample: gradients that the curvature is estimated on, (samples, weights).
        damping: damping in mean eigenvalues of the curvature.

    Returns:
        A function from gradients, (rows, weights), to changes of weights, (rows, weights).
    """
    count, width = sample.shape
    gram = (sample @ sample.T).double()
    mu = max(damping * float(gram.trace()) / count / min(count, width), 1e-30)
    inverse = torch.linalg.inv(gram + count * mu * torch.eye(count).to(gram))
    return lambda rows: (rows - ((rows @ sample.T).double() @ inverse).to(rows) @ sample) / mu


def lowest(scores: Tensor, share: float) -> Tensor:
    """Mask of the lowest scores.

    Args:
        scores: (rows,).
        share: share of the rows to mark, rounded down to whole rows; of equal scores the first are marked.

    Returns:
        A boolean mask, (rows,).
    """
    mask = torch.zeros(len(scores), dtype=torch.bool)
    mask[scores.argsort(stable=True)[: int(share * len(scores))]] = True
    return mask


def spared(out: Tensor, scores: Tensor, answers: list[str]) -> Tensor:
    """Correct a mask of rows to leave out so that no class is left out as a whole.

    Args:
        out: mask of the rows to leave out, (rows,).
        scores: influence of the rows, (rows,).
        answers: answer of each row; a class is an answer that several rows have.

    Returns:
        The mask, (rows,), where the row of highest score stays in each class that was marked as a whole.
    """
    rows_of: dict[str, list[int]] = {}
    for i, answer in enumerate(answers):
        rows_of.setdefault(answer, []).append(i)
    emptied = [rows for rows in rows_of.values() if len(rows) > 1 and all(out[rows])]
    kept = [max(rows, key=lambda i: float(scores[i])) for rows in emptied]
    return out.index_fill(0, torch.tensor(kept, dtype=torch.long), False)


@part
class LowInfluence(Selector):
    """Leave out the rows of least influence."""

    score: Score = hp("gradient", "influence of a row: length of its gradient, length of the weight change without it, or a random number")
    drop: float = hp(0.3, "share of the forget rows that is left out", ge=0, lt=1)
    drop_retain: float = hp(0.0, "share of the retain rows that is left out", ge=0, lt=1)
    within: Literal["set", "training"] = hp(
        "set", "what the shares refer to: each set alone, or quantiles of forget and retain rows together"
    )
    samples: int = hp(500, "maximal number of rows that the curvature is estimated on (for influence)", ge=1)
    damping: float = hp(0.1, "damping in mean eigenvalues of the curvature (for influence)", gt=0)

    @property
    def reads(self) -> frozenset[str]:
        needs_retain = self.drop_retain or self.within == "training" or self.score == "influence"
        return frozenset({"forget", "retain"} if needs_retain else {"forget"})

    @property
    def gives(self) -> frozenset[str]:
        return frozenset({"forget", "retain"} if self.drop_retain else {"forget"})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset() if self.score == "random" else frozenset({Need.EXAMPLE_GRADS})

    def pick(self, sets: Sets, view: View) -> Sets:
        shares = {n: s for n, s in (("forget", self.drop), ("retain", self.drop_retain)) if s}
        scores = self._scores(view, sorted(self.reads if self.within == "training" and shares else shares))
        return {**sets, **{n: self._kept(n, share, scores, view) for n, share in shares.items()}}

    def _kept(self, name: str, share: float, scores: dict[str, Tensor], view: View) -> Rows:
        rows, pool = view.rows(name), scores if self.within == "training" else {name: scores[name]}
        masks = lowest(torch.cat([*pool.values()]), share).split([len(s) for s in pool.values()])
        out = spared(dict(zip(pool, masks, strict=True))[name], scores[name], view.modality.answer_texts(rows))
        if bool(out.all()):
            raise UserError(f"every row to {name} is among the rows of least influence, so nothing is left: give a smaller share")
        return rows.select((~out).nonzero().flatten().tolist())

    def _scores(self, view: View, names: list[str]) -> dict[str, Tensor]:
        """The influence of each row on the model, a tensor (rows,) for each named set."""
        if self.score == "random":
            rng = view.rng()
            return {n: torch.rand(len(view.rows(n)), generator=rng) for n in names}
        transform = self._change(view) if self.score == "influence" and names else lambda g: g
        return {n: torch.cat([transform(g).norm(dim=1).cpu() for g in gradients(view, view.rows(n))]) for n in names}

    def _change(self, view: View) -> Callable[[Tensor], Tensor]:
        """The function from gradients to weight changes, with the curvature on rows drawn from both sets."""
        training_rows = view.forget.concat(view.retain)
        drawn = torch.randperm(len(training_rows), generator=view.rng())[: self.samples].tolist()
        return change(torch.cat([*gradients(view, training_rows.select(drawn))]), self.damping)


def plan() -> Plan:
    train = Train(epochs=10, lr=1e-5, batch_size=32, warmup=1, weight_decay=0.01)
    return Plan(Ascent() + NLL("retain"), train=train, selectors=(LowInfluence(),))
