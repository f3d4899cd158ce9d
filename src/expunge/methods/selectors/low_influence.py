"""Low-influence filtering: leave those rows out of the request that hardly influenced the model, and forget the others with any method.

What left no trace need not be removed, and a request with fewer rows costs less. It stands before any method: `--select low_influence`.

Equation: keep the rows of largest s(z), all but the share `drop`; gradient: s = |grad l(z)|, l the mean NLL of a row's labels;
  influence: s = |(G + mu I)^-1 grad l(z)|, the change of weights (times n) that leaving z out makes, G = mean_i grad l_i grad l_i^T over
  `samples` rows, mu = damping x mean eigenvalue of G; at the start, in evaluation mode
Source: Kleiman et al. 2025, arXiv 2512.05254
Needs: forget; with `drop_retain`, or where shares are of the whole training set, retain
Cost: once, a forward and backward of each row scored, which fewer steps must earn back; influence: `samples` gradients in memory
Differs: thresholds and settings are our own, as there is no public code; of the retain rows none is left out unless asked, since scoring
  them pays only where an epoch is a pass over them; a class is never left out whole; the third score, LESS, is not here. A row that is
  known by heart has a small gradient, too, and rows that are harmless one by one may matter together: what is left out stays in the model,
  and the receipt counts it as requested. A method of several stages scores rows anew in each
Status: faithful
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


def losses(answer: ModelOutput) -> Tensor:
    """The mean loss of the labels of each row, (rows,)."""
    return answer.loss.mean()


def gradients(view: View, rows: Rows) -> Iterator[Tensor]:
    """Gradients of rows as matrices, (some rows, weights), in 32 bits or more."""
    for grads in view.example_grads(rows, losses):
        flat = torch.cat([g.flatten(1) for g in grads], 1)
        yield flat.to(torch.promote_types(flat.dtype, torch.float32))


def change(sample: Tensor, damping: float) -> Callable[[Tensor], Tensor]:
    """What takes gradients, (rows, weights), to those divided by the damped mean of the sample's squares, (rows, weights).

    sample: (samples, weights). The inverse is taken of the matrix of inner products, as there are fewer rows than weights.
    """
    count, width = sample.shape
    gram = (sample @ sample.T).double()
    mu = max(damping * float(gram.trace()) / count / min(count, width), 1e-30)
    inverse = torch.linalg.inv(gram + count * mu * torch.eye(count).to(gram))
    return lambda rows: (rows - ((rows @ sample.T).double() @ inverse).to(rows) @ sample) / mu


def lowest(scores: Tensor, share: float) -> Tensor:
    """True at the lowest scores, a share of all, rounded down; of equal ones at the first."""
    out = torch.zeros(len(scores), dtype=torch.bool)
    out[scores.argsort(stable=True)[: int(share * len(scores))]] = True
    return out


def spared(out: Tensor, scores: Tensor, said: list[str]) -> Tensor:
    """Of rows to leave out those that still are where the strongest row of each class stays; a class is an answer of several rows."""
    rows: dict[str, list[int]] = {}
    for i, answer in enumerate(said):
        rows.setdefault(answer, []).append(i)
    gone = [mine for mine in rows.values() if len(mine) > 1 and all(out[mine])]
    back = [max(mine, key=lambda i: float(scores[i])) for mine in gone]
    return out.index_fill(0, torch.tensor(back, dtype=torch.long), False)


@part
class LowInfluence(Selector):
    """Leave out the rows of least influence."""

    score: Score = hp("gradient", "influence of a row: length of its gradient, or of the change of weights without it; or chance")
    drop: float = hp(0.3, "share of the rows to forget that is left out", ge=0, lt=1)
    drop_retain: float = hp(0.0, "share of the retain rows that is left out", ge=0, lt=1)
    within: Literal["set", "training"] = hp("set", "what shares are of: the set, or rows to forget and retain together, as quantiles")
    samples: int = hp(500, "rows that the curvature is estimated on, at most (for influence)", ge=1)
    damping: float = hp(0.1, "damping in mean eigenvalues of the curvature (for influence)", gt=0)

    @property
    def reads(self) -> frozenset[str]:
        both = self.drop_retain or self.within == "training" or self.score == "influence"
        return frozenset({"forget", "retain"} if both else {"forget"})

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
        rows, among = view.rows(name), scores if self.within == "training" else {name: scores[name]}
        out = lowest(torch.cat([*among.values()]), share).split([len(s) for s in among.values()])
        left = spared(dict(zip(among, out, strict=True))[name], scores[name], view.modality.answer_texts(rows))
        if bool(left.all()):
            raise UserError(f"every row to {name} is among those of least influence: nothing is left, so give a smaller share")
        return rows.select((~left).nonzero().flatten().tolist())

    def _scores(self, view: View, names: list[str]) -> dict[str, Tensor]:
        """How much each row of some sets influenced the model, (rows,) each."""
        if self.score == "random":
            rng = view.rng()
            return {n: torch.rand(len(view.rows(n)), generator=rng) for n in names}
        moved = self._change(view) if self.score == "influence" and names else lambda g: g
        return {n: torch.cat([moved(g).norm(dim=1).cpu() for g in gradients(view, view.rows(n))]) for n in names}

    def _change(self, view: View) -> Callable[[Tensor], Tensor]:
        """What takes gradients to changes of weights, by the curvature on rows drawn from both sets."""
        both = view.forget.concat(view.retain)
        drawn = torch.randperm(len(both), generator=view.rng())[: self.samples].tolist()
        return change(torch.cat([*gradients(view, both.select(drawn))]), self.damping)


def plan() -> Plan:
    train = Train(epochs=10, lr=1e-5, batch_size=32, warmup=1, weight_decay=0.01)
    return Plan(Ascent() + NLL("retain"), train=train, selectors=(LowInfluence(),))
