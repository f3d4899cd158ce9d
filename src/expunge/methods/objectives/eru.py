"""Elastic robust unlearning (ERU): NPO whose margin follows how far a row has moved, trained while the feature of refusal is cut out.

A fixed reference stops early on some rows and late on others; an elastic one does neither. And what is forgotten only as long as the model
knows that it must refuse comes back once that feature is gone, so half of the steps are made without it. A reconstruction from the two
methods that the paper builds on, since its loss was not published.

Equation: L = -(2/beta) mean_i log sigmoid(beta (-l_i - m_i)) + NLL(retain), l_i: mean log-probability of row i's labels;
  m_i = gamma + alpha z_i, a constant; z_i = (l_ref,i - l_i - mu) / sigma, cut at +-3, mu and sigma: moving averages of mean and deviation;
  in a step, with probability p, the forget rows see h <- h - r r' h before every block of the last three quarters; r: the unit vector along
  mean h(forget prompts) - mean h(retain prompts), h at a prompt's last position
Source: Sui et al. 2025 (NeurIPS; no arXiv number known); elastic margin: alpha-DPO, Wu et al. 2024, arXiv 2410.10148; ablation: ReFAT,
  Yu et al. 2024, arXiv 2409.20089
Needs: forget, retain; the reference's log-probs of the forget rows; prompts
Cost: one forward and backward of forget and retain rows a step, apart where the feature is cut out; a forward of 64 prompts every 4 steps
Differs: reconstructed; the losing half of alpha-DPO alone; averages are those of the steps before, and z is 0 as long as no row has moved;
  rows to forget stand for prompts that the model should refuse, retain rows for
  others; the ablation, all positions, 32 rows a side, every 4 steps, p = 0.5 as in ReFAT
Status: reproduced
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize

from expunge.core.capabilities import Categorical, Prompted
from expunge.core.hyperparameters import hp, part
from expunge.core.needs import Need
from expunge.core.parts import Objective
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows
from expunge.core.view import State, Step, View
from expunge.methods.terms import NLL

EVERY_BLOCK = "block:*"
CUT = 3.0  # deviations at most


@dataclass(frozen=True, eq=False)
class Ablate:
    """A patch: takes a direction out of what modules read. directions: unit vectors, (width,), one a module."""

    modules: tuple[nn.Module, ...]
    directions: tuple[Tensor, ...]

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        def without(direction: Tensor) -> Any:
            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                if args:
                    return (removed(args[0], direction), *args[1:]), kwargs
                first = next(iter(kwargs))
                return args, {**kwargs, first: removed(kwargs[first], direction)}

            return hook

        with ExitStack() as stack:
            for module, direction in zip(self.modules, self.directions, strict=True):
                stack.callback(module.register_forward_pre_hook(without(direction), with_kwargs=True).remove)
            yield


def removed(hidden: Tensor, direction: Tensor) -> Tensor:
    """Hidden states, (..., width), without their component along a unit vector, (width,)."""
    along = direction.to(hidden)
    return hidden - (hidden @ along)[..., None] * along


def last_asked(view: View, rows: Rows, hook_point: str) -> Tensor:
    """What a module reads at the last position of each prompt, (rows, width)."""
    answer = view.look(rows)
    read = answer.input(hook_point)
    ends = read.lengths.cumsum(0)
    at = torch.maximum(ends - answer.target_logp.lengths - 1, ends - read.lengths)
    return read.values[at]


@part
class Elastic(Objective):
    """The forget term: NPO without a fixed reference, on a model that cannot find its refusals half of the time."""

    beta: float = hp(2.5, "inverse temperature", gt=0)
    gamma: float = hp(0.0, "margin, in nats a label, of a row that has moved as far as rows do on average")
    alpha: float = hp(0.05, "how much the margin of a row grows by each deviation that it has moved farther; 0: SimNPO", ge=0)
    inertia: float = hp(0.9, "share of the moving averages that stays at each step", ge=0, lt=1)
    ablated: float = hp(0.5, "probability that a step is made with the feature of refusal cut out; 0: never", ge=0, le=1)
    refresh: int = hp(4, "steps after which the feature is measured again", ge=1)
    prompts: int = hp(32, "rows of each set that it is measured on", ge=1)
    depth: float = hp(0.25, "share of the blocks, from the first, that keep the feature", ge=0, lt=1)
    reads = frozenset({"forget", "retain"})
    requires = frozenset({Categorical, Prompted})
    needs = frozenset({Need.REFERENCE_LOGP})
    hook_points = (EVERY_BLOCK,)

    def begin(self, view: View) -> State:
        zero = torch.zeros((), device=view.params[0].device)
        return {"mean": zero, "deviation": zero, **self._directions(view)}

    def loss(self, step: Step) -> Tensor:
        rows = step.forget
        likely = step.now(rows, self._patch(step)).target_logp.mean()
        moved = (step.reference(rows).target_logp.mean() - likely).detach()
        step.note(mean=step.mean(moved, rows), square=step.mean(moved.square(), rows))
        margin = self.gamma + self.alpha * self._apart(moved, step.state)
        return -(2 / self.beta) * step.mean(logsigmoid(self.beta * (-likely - margin)), rows)

    def after(self, step: Step) -> State:
        if f"{step.place}:mean" not in step.notes:  # not asked in this step
            return step.state
        mean, square, keep = step.noted("mean"), step.noted("square"), self.inertia
        deviation = (square - mean.square()).clamp_min(0).sqrt()
        moments = {n: keep * step.state[n].to(x) + (1 - keep) * x for n, x in (("mean", mean), ("deviation", deviation))}
        found = self._directions(step) if self.ablated and step.done % self.refresh == 0 else {}
        return {**step.state, **moments, **found}

    def _apart(self, moved: Tensor, state: State) -> Tensor:
        """How many deviations farther each row has moved than rows do, (rows,); none has until some have."""
        mean, deviation = (state[n].to(moved) for n in ("mean", "deviation"))
        return ((moved - mean) / deviation.clamp_min(1e-6)).clamp(-CUT, CUT) * (deviation > 0)

    def _directions(self, view: View) -> State:
        """Unit vectors by block, from forget prompts to retain prompts reversed: what the model feels where it should refuse."""
        blocks = view.modality.blocks(view.model)
        drawn = [self._drawn(view, name) for name in ("forget", "retain")]
        found = {}
        for hook_point in blocks[int(self.depth * len(blocks)) :]:
            mine, others = (last_asked(view, rows, hook_point).double().mean(0) for rows in drawn)
            found[hook_point] = normalize(mine - others, dim=0).float()
        return found

    def _drawn(self, view: View, name: str) -> Rows:
        rows = view.whole_set(name)
        return rows.select(torch.randperm(len(rows), generator=view.rng())[: self.prompts].tolist())

    def _patch(self, step: Step) -> Ablate | None:
        """The same for all micro-batches of a step and all its evaluations."""
        if float(torch.rand((), generator=step.rng())) >= self.ablated:
            return None
        found = {n: v for n, v in step.state.items() if n.startswith("block:")}
        return Ablate(tuple(step.modality.module(step.model, hook_point) for hook_point in found), tuple(found.values()))


def plan() -> Plan:
    return Plan(Elastic() + NLL("retain"), train=Train(epochs=5, lr=1e-5, batch_size=32, weight_decay=0.01, warmup=1))
