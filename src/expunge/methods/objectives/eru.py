"""Elastic robust unlearning (ERU): NPO whose margin follows how far a row has moved, trained in part without the refusal feature.

A fixed reference stops early on some rows and late on others; an elastic reference avoids both. Forgetting that lasts only while the model
knows that it must refuse is undone once this feature is gone, so half of the steps are made without the feature. This is a reconstruction
from the two methods that the paper builds on, since its loss was not published.

Equation: L = -(2/beta) mean_i log sigmoid(beta (-l_i - m_i)) + NLL(retain), l_i: mean log-probability of row i's labels; m_i = gamma +
  alpha z_i, a constant; z_i = (l_ref,i - l_i - mu) / sigma, cut at +-3, mu and sigma: moving averages of mean and deviation; in a step,
  with probability p, the forget rows see h <- h - r r' h before every block of the last three quarters; r: the unit vector along mean
  h(forget prompts) - mean h(retain prompts), h at a prompt's last position
Source: Sui et al. 2025 (NeurIPS; no arXiv number known); elastic margin: alpha-DPO, Wu et al. 2024, arXiv 2410.10148; ablation: ReFAT, Yu
  et al. 2024, arXiv 2409.20089
Needs: forget, retain; the reference's log-probs of the forget rows; prompts
Cost: one forward and backward of forget and retain rows a step, in separate forwards where the feature is ablated; a forward of 64 prompts
  every 4 steps
Differs: reconstructed; the losing half of alpha-DPO alone; the averages are those of the steps before, and z is 0 until some row has moved;
  rows to forget stand for prompts that the model should refuse, retain rows for other prompts; the ablation, all positions, 32 rows a side,
  every 4 steps, p = 0.5 as in ReFAT. The deviation is the unbiased one, as in alpha-DPO (`unbiased false`: that of the population), and 0
  for a batch of one row
Status: not shown
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize

from expunge.core.capabilities import Categorical, OneSequence, Prompted
from expunge.core.hyperparameters import hp, part
from expunge.core.needs import Need
from expunge.core.parts import Objective
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows
from expunge.core.view import State, Step, View
from expunge.methods.terms import NLL

EVERY_BLOCK = "block:*"
MAX_DEVIATIONS = 3.0  # limit of a row's standardized shift


@dataclass(frozen=True, eq=False)
class Ablate:
    """A patch that removes a direction from the input of modules.

    Attributes:
        modules: the modules whose input changes.
        directions: unit vectors, (width,), one per module.
    """

    modules: tuple[nn.Module, ...]
    directions: tuple[Tensor, ...]

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """Apply the patch within a `with` block."""

        def hook_without(direction: Tensor) -> Any:
            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                if args:
                    return (without_component(args[0], direction), *args[1:]), kwargs
                first = next(iter(kwargs))
                return args, {**kwargs, first: without_component(kwargs[first], direction)}

            return hook

        with ExitStack() as stack:
            for module, direction in zip(self.modules, self.directions, strict=True):
                stack.callback(module.register_forward_pre_hook(hook_without(direction), with_kwargs=True).remove)
            yield


def without_component(hidden: Tensor, direction: Tensor) -> Tensor:
    """Hidden states, (..., width), without their component along a unit vector, (width,)."""
    unit = direction.to(hidden)
    return hidden - (hidden @ unit)[..., None] * unit


def last_prompt_inputs(view: View, rows: Rows, hook_point: str) -> Tensor:
    """Input of a module at the last position of each prompt, (rows, width)."""
    output = view.look(rows)
    inputs = output.input(hook_point)
    ends = inputs.lengths.cumsum(0)
    last_positions = torch.maximum(ends - output.target_logp.lengths - 1, ends - inputs.lengths)
    return inputs.values[last_positions]


@part
class Elastic(Objective):
    """The forget term: NPO without a fixed reference, on a model whose refusal feature is ablated half of the time."""

    beta: float = hp(2.5, "inverse temperature", gt=0)
    gamma: float = hp(0.0, "margin, in nats per label, of a row that has moved by the average shift")
    alpha: float = hp(0.05, "growth of a row's margin per standard deviation above the average shift; 0: SimNPO", ge=0)
    inertia: float = hp(0.9, "share of the moving averages that each step keeps", ge=0, lt=1)
    unbiased: bool = hp(True, "deviation of a batch over one less than its rows, as in alpha-DPO; off: over its rows")
    ablated: float = hp(0.5, "probability that a step is made with the refusal feature ablated; 0: never", ge=0, le=1)
    refresh: int = hp(4, "steps after which the refusal feature is measured again", ge=1)
    prompts: int = hp(32, "rows of each set on which the refusal feature is measured", ge=1)
    depth: float = hp(0.25, "share of the blocks, from the first, that keep the refusal feature", ge=0, lt=1)
    reads = frozenset({"forget", "retain"})
    requires = frozenset({Categorical, OneSequence, Prompted})
    needs = frozenset({Need.REFERENCE_LOGP})
    hook_points = (EVERY_BLOCK,)

    def begin(self, view: View) -> State:
        zero = torch.zeros((), device=view.params[0].device)
        return {"mean": zero, "deviation": zero, **self._directions(view)}

    def loss(self, step: Step) -> Tensor:
        rows = step.forget
        mean_logp = step.now(rows, self._patch(step)).target_logp.mean()
        shift = (step.reference(rows).target_logp.mean() - mean_logp).detach()
        step.note(mean=step.mean(shift, rows), square=step.mean(shift.square(), rows))
        margin = self.gamma + self.alpha * self._standardized(shift, step.state)
        return -(2 / self.beta) * step.mean(logsigmoid(self.beta * (-mean_logp - margin)), rows)

    def after(self, step: Step) -> State:
        if f"{step.place}:mean" not in step.notes:  # this step did not evaluate the term
            return step.state
        mean, square, count = step.noted("mean"), step.noted("square"), step.count(step.forget, "rows")
        unbiased = count / (count - 1) if self.unbiased and count > 1 else 1.0
        deviation = (unbiased * (square - mean.square()).clamp_min(0)).sqrt()
        moments = {
            name: self.inertia * step.state[name].to(new) + (1 - self.inertia) * new
            for name, new in (("mean", mean), ("deviation", deviation))
        }
        directions = self._directions(step) if self.ablated and step.done % self.refresh == 0 else {}
        return {**step.state, **moments, **directions}

    def _standardized(self, shift: Tensor, state: State) -> Tensor:
        """Shift of each row in standard deviations from the average shift, (rows,); 0 until some row has moved."""
        mean, deviation = (state[name].to(shift) for name in ("mean", "deviation"))
        return ((shift - mean) / deviation.clamp_min(1e-6)).clamp(-MAX_DEVIATIONS, MAX_DEVIATIONS) * (deviation > 0)

    def _directions(self, view: View) -> State:
        """The refusal feature by block: unit vectors from the mean of retain prompts to the mean of forget prompts."""
        blocks = view.modality.blocks(view.model)
        samples = [self._sample(view, name) for name in ("forget", "retain")]
        directions = {}
        for hook_point in blocks[int(self.depth * len(blocks)) :]:
            forget, retain = (last_prompt_inputs(view, rows, hook_point).double().mean(0) for rows in samples)
            directions[hook_point] = normalize(forget - retain, dim=0).float()
        return directions

    def _sample(self, view: View, name: str) -> Rows:
        rows = view.whole_set(name)
        return rows.select(torch.randperm(len(rows), generator=view.rng())[: self.prompts].tolist())

    def _patch(self, step: Step) -> Ablate | None:
        """The ablation, or none; the same for all micro-batches and evaluations of a step."""
        if float(torch.rand((), generator=step.rng())) >= self.ablated:
            return None
        directions = {name: tensor for name, tensor in step.state.items() if name.startswith("block:")}
        return Ablate(tuple(step.modality.module(step.model, hook_point) for hook_point in directions), tuple(directions.values()))


def plan() -> Plan:
    return Plan(Elastic() + NLL("retain"), train=Train(epochs=5, lr=1e-5, batch_size=32, weight_decay=0.01, warmup=1))
