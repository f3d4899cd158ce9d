"""Direct token optimisation (DTO): unlearn the few labels of an answer that the rest of it hangs on, and hold all the others.

It asks for nothing but the rows to forget and the model itself: no retain set, no other answers. A reconstruction, since the paper does not
give the perturbation, the part that the labels after the cut play, or its constants.

Equation: an answer of T labels is cut at q = T - max(1, ceil(rho T)); delta_i = mean over draws of l(x with x_i replaced) - l(x), i <= q,
  l: mean NLL of the labels after q at the start; T*: the ceil(kappa q) labels of largest delta, N*: the others;
  L = mean_{i in T*} log p(x_i) + lambda mean_{t in N*} KL(p_ref(. | x_<t) || p(. | x_<t)); means of each row, then over rows
Source: Lee, Liu and Xiong 2025, arXiv 2510.00125; the score's perturbation as in Stoehr et al. 2024, arXiv 2403.19851
Needs: forget; the reference's distributions
Cost: once, draws x q forwards of each row; then a forward and backward of the forget rows and a reference forward a step
Differs: reconstructed: replacements are drawn evenly from all classes that say something, the same ones at every place of a row; labels
  after the cut are held; lambda 1, kappa 0.3, rho 0.5, 4 draws; an answer of one label is a target as a whole. For the variant with
  orthogonal gradients add `--update gradient_projection`; to choose among the question's words, too, give rows of whole texts
Status: faithful
"""

import math
from typing import Literal

import torch
from torch import Tensor

from expunge.core.capabilities import Categorical
from expunge.core.hyperparameters import hp, part
from expunge.core.needs import Need
from expunge.core.parts import Objective, Selector
from expunge.core.plan import Plan, Train
from expunge.core.rows import Packed, Rows, Sets
from expunge.core.view import Step, View
from expunge.functional.packed import kl

BATCH = 64  # perturbed rows in one forward


def cut(length: int, suffix: float) -> int:
    """How many labels stand before the suffix, of which there is at least one."""
    return length - max(1, math.ceil(suffix * length))


@part
class Targets(Selector):
    """Mark the labels to unlearn, before the first step."""

    choose: Literal["delta", "random", "likely", "unlikely", "all"] = hp("delta", "what labels are ranked by")
    perturb: Literal["random", "top", "end"] = hp("random", "what replaces a label: any, the likeliest other one, or the last one")
    share: float = hp(0.3, "share of the labels before the suffix that are unlearned", gt=0, le=1)
    suffix: float = hp(0.5, "share of an answer whose loss tells how much hangs on a label", gt=0, lt=1)
    draws: int = hp(4, "replacements a label", ge=1)
    role: Literal["hold", "ignore", "score"] = hp("hold", "labels after the cut: held, left alone, or ranked, too, by what follows")
    reads = frozenset({"forget"})
    requires = frozenset({Categorical})
    gives = frozenset({"forget"})

    def pick(self, sets: Sets, view: View) -> Sets:
        targets, held = [], []
        for i in range(len(view.forget)):
            row = view.forget.select([i])
            answer = view.now(row)
            logp = answer.target_logp.values
            q = len(logp) - 1 if self.role == "score" else cut(len(logp), self.suffix)
            score = self._score(view, row, answer.labels, answer.log_probs.values, q) if q > 0 else logp.new_zeros(0)
            mine = torch.zeros(len(logp), dtype=torch.bool)
            if q < 1 or self.choose == "all":
                mine[:] = True
            else:
                mine[torch.argsort(score.cpu(), descending=True, stable=True)[: math.ceil(self.share * q)]] = True
            rest = ~mine
            if self.role == "ignore":
                rest[q:] = False
            targets.append(mine.tolist())
            held.append(rest.tolist())
        return {**sets, "forget": view.forget.add(target=targets, held=held)}

    def _score(self, view: View, row: Rows, labels: Tensor, dist: Tensor, q: int) -> Tensor:
        """What the first q labels of a row are ranked by, (q,)."""
        logp = dist.gather(-1, labels[:, None])[:q, 0]
        if self.choose == "random":
            return torch.rand(q, generator=view.rng())
        if self.choose in ("likely", "unlikely"):
            return logp if self.choose == "likely" else -logp
        words = labels.tolist()
        others = self._others(view, labels, dist, q)
        changed = [(i, [*words[:i], other, *words[i + 1 :]]) for i in range(q) for other in others[i]]
        starts = [i + 1 if self.role == "score" else q for i in range(q)]
        whole = dist.gather(-1, labels[:, None])[:, 0]
        delta = torch.stack([whole[start:].mean() for start in starts]).cpu()
        for at in range(0, len(changed), BATCH):
            some = changed[at : at + BATCH]
            drop = int(view.modality.ended(row)[0])  # the end is put back with the answer
            rows = view.modality.relabel(row.select([0] * len(some)), [w[: len(w) - drop] for _, w in some], "changed")
            for (i, _), now in zip(some, view.now(rows).target_logp.split(), strict=True):
                delta[i] -= now[starts[i] :].mean().cpu() / len(others[i])
        return delta

    def _others(self, view: View, labels: Tensor, dist: Tensor, q: int) -> list[list[int]]:
        """Replacements at each place, none of them the label itself."""
        if self.perturb == "end":
            return [[int(labels[-1])]] * q
        if self.perturb == "top":
            best = dist[:q].topk(2).indices
            return [[int(b[1] if b[0] == y else b[0])] for b, y in zip(best, labels, strict=False)]
        drawn = torch.randperm(dist.shape[-1], generator=view.rng())
        heard = [c for c in drawn[: 8 * (self.draws + 1)].tolist() if view.modality.decode([[c]])[0]] or drawn.tolist()
        return [[c for c in heard if c != y][: self.draws] for y in labels[:q].tolist()]


def marked(x: Packed, rows: Rows, column: str) -> Packed:
    """The positions that a column of the rows marks."""
    keep = torch.tensor([flag for flags in rows[column] for flag in flags], device=x.values.device)
    return Packed(x.values[keep], x.row[keep], x.rows, x.kind)


@part
class TargetAscent(Objective):
    """Mean log-likelihood of the marked labels of a row, minimised."""

    reads = frozenset({"forget"})
    requires = frozenset({Categorical})

    def loss(self, step: Step) -> Tensor:
        rows = step.forget
        return step.mean(marked(step.now(rows).target_logp, rows, "target").mean(), rows)


@part
class Rest(Objective):
    """KL(reference || model) at the labels of a forget row that are held."""

    reads = frozenset({"forget"})
    requires = frozenset({Categorical})
    needs = frozenset({Need.REFERENCE})
    role = "retain"

    def loss(self, step: Step) -> Tensor:
        rows = step.forget
        old, new = step.reference(rows).log_probs, step.now(rows).log_probs
        return step.mean(marked(old.map(lambda o: kl(o, new.values)), rows, "held").mean(), rows)


def plan() -> Plan:
    return Plan(TargetAscent() + Rest(), train=Train(epochs=5, lr=1e-5, batch_size=32, weight_decay=0.01, warmup=1), selectors=(Targets(),))
