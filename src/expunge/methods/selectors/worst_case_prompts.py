"""Worst-case forget prompts: of all prompts with pictures, take those that a method of erasure fails on most.

Random prompts say little about a method, because most of them are forgotten well. Before any method, `--select worst_case_prompts` replaces
the rows to forget by those of as many prompts that the model still draws after it has unlearned them. The folder `selected/` of the run
holds the selected rows and the remaining rows: audit with these.

Equation: min over w of sum_i w_i l_i(theta(w)) + gamma |w|^2, 0 <= w_i <= 1, sum_i w_i = m; l_i the mean loss of denoising pictures of
  prompt i, theta(w) reached from the model by steps -inner_lr sign(w_i grad of the method's loss of prompt i): these do not move with w,
  where it is positive, so w <- P(w - outer_lr (l(theta(w)) + 2 gamma w)), P the projection; w begins as m / P everywhere, the m largest
  are taken
Source: Fan et al. 2024, arXiv 2403.07362 (the part on prompts)
Needs: forget, retain: together the pictures of all prompts, of which as many prompts are taken as forget has
Cost: once, in every round: `inner` steps of the method for each prompt, and a forward of all rows; a copy of the model in the meantime
Differs: a true sign step, which the paper has and the authors' code lacks (lower_step sgd: as the code); a loss belongs to the prompt that
  it is of, where the code mixes two orders of prompts up; losses are means over the pictures and draws of a prompt, so that outer_lr is
  one over their standard deviation unless it is given; times lie evenly and the noise of a row is fixed; the prompts of a round come in an
  order that is drawn anew in each pass, not in one that is fixed
Status: faithful
"""

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from expunge import catalog
from expunge.core.capabilities import Denoises
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, override, part
from expunge.core.parts import Selector
from expunge.core.plan import Plan, Plans, as_plans
from expunge.core.rows import Rows, Sets
from expunge.core.view import View
from expunge.functional import simplex
from expunge.methods.objectives import finetune
from expunge.methods.selectors.worst_case import Sign

AT_ONCE = 64  # rows in one forward pass


@part
class WorstCasePrompts(Selector):
    """Replace the forget set by the rows of the prompts that are hardest to forget, and the retain set by the rest."""

    when: ClassVar[Literal["run", "start", "epoch", "step"]] = "run"
    size: int = hp(0, "number of prompts to forget; 0: as many as the given forget rows have", ge=0)
    easiest: bool = hp(False, "take the prompts that are easiest to forget instead")
    lower: str = hp("esd", "method that unlearns in each round, with its hyperparameters: 'esd sampling_steps=10'")
    lower_step: Literal["sign", "sgd"] = hp("sign", "sgd: plain steps with momentum 0.9 and decay 5e-4, as the authors' code takes them")
    outer: int = hp(10, "number of rounds; each unlearns from the original model and then updates the selection", ge=1)
    outer_lr: float = hp(0.0, "step size of the selection; 0: one over the standard deviation of the prompts' losses", ge=0)
    gamma: float = hp(1e-4, "weight of the squared length of the selection weights", ge=0)
    inner: int = hp(10, "steps for each prompt in a round; 0: no unlearning", ge=0)
    inner_lr: float = hp(1e-5, "step size of every model weight", ge=0)
    reads = frozenset({"forget", "retain"})
    requires = frozenset({Denoises})
    gives = frozenset({"forget", "retain"})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.forget.concat(view.retain)
        numbers = {caption: k for k, caption in enumerate(dict.fromkeys(rows["caption"]))}
        prompt = torch.tensor([numbers[c] for c in rows["caption"]])
        count, size = len(numbers), self.size or len(set(view.forget["caption"]))
        if size >= count:
            raise UserError(f"{size} of {count} prompts are to be forgotten, so nothing would be left to retain: give a smaller size")
        w = torch.full((count,), size / count, dtype=torch.double)
        for k in range(self.outer):
            losses = self._losses(view, rows, prompt, w, f"round {k}")
            step = self.outer_lr or 1 / max(float(losses.std()), 1e-12)
            w = simplex.capped(w + (step if self.easiest else -step) * (losses + 2 * self.gamma * w), size)
        selected = torch.isin(prompt, w.topk(size).indices)
        chosen = {"forget": rows.select(selected.nonzero()[:, 0].tolist()), "retain": rows.select((~selected).nonzero()[:, 0].tolist())}
        return {**sets, **{n: r.rename(n) for n, r in chosen.items()}}

    def _losses(self, view: View, rows: Rows, prompt: Tensor, w: Tensor, key: str) -> Tensor:
        """Mean loss of each prompt, (count,), after the model has unlearned the prompts by their weights."""
        plans = self._unlearning()
        one_each = [int((prompt == k).nonzero()[0]) for k in range(len(w))]
        given = {
            "forget": replace(rows.select(one_each).rename("forget"), weight=tuple(w.tolist())),
            "retain": replace(rows.rename("retain"), weight=tuple((1 - w)[prompt].tolist())),
        }
        wanted = frozenset[str]().union(*(p.sets_read() for p in plans)) | {"forget"}
        if wanted > given.keys():
            raise UserError(f"the method {self.lower!r} needs more than forget and retain rows, so it cannot unlearn here")
        unlearned = view.run(plans, {n: given[n] for n in wanted}, key=key)
        pieces = [range(first, min(first + AT_ONCE, len(rows))) for first in range(0, len(rows), AT_ONCE)]
        losses = torch.cat([unlearned.now(rows.select(piece)).loss.mean().cpu().double() for piece in pieces])
        return torch.zeros_like(w).index_add(0, prompt, losses) / torch.bincount(prompt, minlength=len(w))

    def _unlearning(self) -> Plans:
        """The plan of a round: the method, a prompt at a time, with steps that are all of one size."""
        name, *options = self.lower.split()
        plans: Plans = as_plans(catalog.load(name, "methods").plan())
        sign = self.lower_step == "sign"
        steps = {"momentum": 0.0, "weight_decay": 0.0} if sign else {"momentum": 0.9, "weight_decay": 5e-4}
        settings = {"epochs": self.inner, "steps": 0, "batch_size": 1, "lr": self.inner_lr, "optimizer": "sgd", "schedule": "constant"}
        settings |= {"warmup": 0.0, "max_grad_norm": 0.0}
        whole = tuple(override(p, dict(o.partition("=")[::2] for o in options)) for p in plans)
        return tuple(
            replace(p, train=replace(p.train, **settings, **steps), updates=(*p.updates, *((Sign(),) if sign else ()))) for p in whole
        )


def plan() -> Plan:
    return replace(finetune.plan(), selectors=(WorstCasePrompts(),))
