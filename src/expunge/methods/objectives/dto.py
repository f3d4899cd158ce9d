"""Direct token optimization (DTO): unlearn the few labels of an answer that the rest of the answer depends on, and hold all other labels.

The method needs only the rows to forget and the model itself: no retain set and no other answers. It is a reconstruction, since the paper
does not give the perturbation, the role of the labels after the cut, or its constants.

Equation: an answer of T labels is cut at q = T - max(1, ceil(rho T)); delta_i = mean over draws of l(x with x_i replaced) - l(x), i <= q,
  l: mean NLL of the labels after q at the start; T*: the ceil(kappa q) labels of largest delta, N*: the others;
  L = mean_{i in T*} log p(x_i) + lambda mean_{t in N*} KL(p_ref(. | x_<t) || p(. | x_<t)); means of each row, then over rows
Source: Lee, Liu and Xiong 2025, arXiv 2510.00125; the score's perturbation as in Stoehr et al. 2024, arXiv 2403.19851
Needs: forget; the reference's distributions
Cost: once, draws x q forwards of each row; then a forward and backward of the forget rows and a reference forward a step
Differs: reconstructed: replacements are drawn uniformly from all classes that decode to some text, the same ones at every place of a row;
  labels after the cut are held; lambda 1, kappa 0.3, rho 0.5, 4 draws; an answer of one label is a target as a whole. For the variant with
  orthogonal gradients add `--update gradient_projection`; to choose among the question's words as well, give rows of whole texts
Status: not shown
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

BATCH_SIZE = 64  # perturbed rows in one forward


def prefix_length(length: int, suffix: float) -> int:
    """Number of labels before the suffix of an answer; the suffix has at least one label.

    Args:
        length: number of labels of the answer.
        suffix: share of the labels that form the suffix.
    """
    return length - max(1, math.ceil(suffix * length))


@part
class Targets(Selector):
    """Mark the labels to unlearn, before the first step."""

    choose: Literal["delta", "random", "likely", "unlikely", "all"] = hp("delta", "score by which labels are ranked")
    perturb: Literal["random", "top", "end"] = hp("random", "replacement of a label: any class, the likeliest other one, or the last label")
    share: float = hp(0.3, "share of the labels before the suffix that are unlearned", gt=0, le=1)
    suffix: float = hp(0.5, "share of an answer, at its end, whose loss tells how much depends on a label", gt=0, lt=1)
    draws: int = hp(4, "replacements per label", ge=1)
    role: Literal["hold", "ignore", "score"] = hp("hold", "labels after the cut: held, ignored, or ranked too, by the labels after them")
    reads = frozenset({"forget"})
    requires = frozenset({Categorical})
    gives = frozenset({"forget"})

    def pick(self, sets: Sets, view: View) -> Sets:
        targets, held = [], []
        for i in range(len(view.forget)):
            row = view.forget.select([i])
            output = view.now(row)
            logp = output.target_logp.values
            q = len(logp) - 1 if self.role == "score" else prefix_length(len(logp), self.suffix)
            scores = self._scores(view, row, output.labels, output.log_probs.values, q) if q > 0 else logp.new_zeros(0)
            target_mask = torch.zeros(len(logp), dtype=torch.bool)
            if q < 1 or self.choose == "all":
                target_mask[:] = True
            else:
                target_mask[torch.argsort(scores.cpu(), descending=True, stable=True)[: math.ceil(self.share * q)]] = True
            held_mask = ~target_mask
            if self.role == "ignore":
                held_mask[q:] = False
            targets.append(target_mask.tolist())
            held.append(held_mask.tolist())
        return {**sets, "forget": view.forget.add(target=targets, held=held)}

    def _scores(self, view: View, row: Rows, labels: Tensor, log_probs: Tensor, q: int) -> Tensor:
        """Scores of the first q labels of a row, (q,); the labels with the largest scores become targets.

        Args:
            labels: (labels,), the classes of the answer.
            log_probs: (labels, classes), the model's log-probabilities at these labels.
            q: number of labels to rank.
        """
        logp = log_probs.gather(-1, labels[:, None])[:, 0]
        if self.choose == "random":
            return torch.rand(q, generator=view.rng())
        if self.choose in ("likely", "unlikely"):
            return logp[:q] if self.choose == "likely" else -logp[:q]
        classes = labels.tolist()
        replacements = self._replacements(view, labels, log_probs, q)
        perturbed = [(i, [*classes[:i], new, *classes[i + 1 :]]) for i in range(q) for new in replacements[i]]
        starts = [i + 1 if self.role == "score" else q for i in range(q)]
        delta = torch.stack([logp[start:].mean() for start in starts]).cpu()
        for k in range(0, len(perturbed), BATCH_SIZE):
            batch = perturbed[k : k + BATCH_SIZE]
            end_labels = int(view.modality.ended(row)[0])  # `relabel` appends the end of an answer itself
            answers = [answer[: len(answer) - end_labels] for _, answer in batch]
            rows = view.modality.relabel(row.select([0] * len(batch)), answers, "changed")
            for (i, _), perturbed_logp in zip(batch, view.now(rows).target_logp.split(), strict=True):
                delta[i] -= perturbed_logp[starts[i] :].mean().cpu() / len(replacements[i])
        return delta

    def _replacements(self, view: View, labels: Tensor, log_probs: Tensor, q: int) -> list[list[int]]:
        """Replacement classes for each of the first q labels."""
        if self.perturb == "end":
            return [[int(labels[-1])]] * q
        if self.perturb == "top":
            top_two = log_probs[:q].topk(2).indices
            return [[int(c[1] if c[0] == y else c[0])] for c, y in zip(top_two, labels, strict=False)]
        drawn = torch.randperm(log_probs.shape[-1], generator=view.rng())
        with_text = [c for c in drawn[: 8 * (self.draws + 1)].tolist() if view.modality.decode([[c]])[0]] or drawn.tolist()
        return [[c for c in with_text if c != y][: self.draws] for y in labels[:q].tolist()]


def marked(packed: Packed, rows: Rows, column: str) -> Packed:
    """The positions that a column of the rows marks.

    Args:
        packed: values at the labels of the rows.
        column: name of a column with one bool per label of each row.
    """
    mask = torch.tensor([flag for flags in rows[column] for flag in flags], device=packed.values.device)
    return Packed(packed.values[mask], packed.row[mask], packed.rows, packed.kind)


@part
class TargetAscent(Objective):
    """Mean log-likelihood of the labels of a row that are marked as targets, minimized."""

    reads = frozenset({"forget"})
    requires = frozenset({Categorical})
    needs = frozenset({Need.SAME_LABELS})

    def loss(self, step: Step) -> Tensor:
        rows = step.forget
        return step.mean(marked(step.now(rows).target_logp, rows, "target").mean(), rows)


@part
class Rest(Objective):
    """KL(reference || model) at the labels of a forget row that are marked as held."""

    reads = frozenset({"forget"})
    requires = frozenset({Categorical})
    needs = frozenset({Need.REFERENCE, Need.SAME_LABELS})
    role = "retain"

    def loss(self, step: Step) -> Tensor:
        rows = step.forget
        reference, current = step.reference(rows).log_probs, step.now(rows).log_probs
        return step.mean(marked(reference.map(lambda logp: kl(logp, current.values)), rows, "held").mean(), rows)


def plan() -> Plan:
    return Plan(TargetAscent() + Rest(), train=Train(epochs=5, lr=1e-5, batch_size=32, weight_decay=0.01, warmup=1), selectors=(Targets(),))
