"""Many models of one shape, each trained on its own subset of the same rows: what shadow-model attacks and datamodels are made of."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from expunge.core.errors import UserError
from expunge.core.modality import Modality, ModelOutput, Weights
from expunge.core.parts import Guard, Objective, Part
from expunge.core.plan import Plan, Plans, as_plans
from expunge.core.random import seed_of
from expunge.core.rows import Rows, Sets
from expunge.engine import adapters
from expunge.engine.context import RunView
from expunge.engine.distributed.process_group import processes
from expunge.engine.estimators.per_example_grads import own_weights, vectorises
from expunge.engine.gradient import evaluate
from expunge.engine.loop import new_state, run
from expunge.engine.run_state import Cost, RunState, device_of, evaluating
from expunge.engine.schedule import lr_at, optimizer_of, sample, total_steps
from expunge.engine.weights import put, weights_of

AT_ONCE = 32  # models that take a step together


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Models by their weights.

    model: a module of their shape, in whose place they answer. weights: by name, (models, *shape). seen: (models, rows) of bool, which rows
    each of them knows.
    """

    model: nn.Module
    weights: Weights
    seen: Tensor

    def __len__(self) -> int:
        return len(self.seen)

    def __getitem__(self, k: int) -> Weights:
        """The weights of one model."""
        return {n: w[k] for n, w in self.weights.items()}

    def pieces(self, size: int = AT_ONCE) -> Iterator[Ensemble]:
        """The same models, some at a time."""
        for i in range(0, len(self), size):
            yield Ensemble(self.model, {n: w[i : i + size] for n, w in self.weights.items()}, self.seen[i : i + size])


def alone(model: nn.Module) -> Ensemble:
    """A pool of one model, of whose rows nothing is known."""
    return Ensemble(model, {n: w[None] for n, w in weights_of(model).items()}, torch.zeros(1, 0, dtype=torch.bool))


def joined(pools: Iterable[Ensemble]) -> Ensemble:
    """The models of several pools, in one. Errors: UserError where there is none."""
    every = list(pools)
    if not every:
        raise UserError("a pool has one model at least")
    return Ensemble(
        every[0].model, {n: torch.cat([p.weights[n] for p in every]) for n in every[0].weights}, torch.cat([p.seen for p in every])
    )


def subsets(rows: int, models: int, share: float = 0.5, seed: int = 0, paired: bool = False) -> Tensor:
    """Who sees what, (models, rows) of bool: each model a random share of the rows, as many as every other.

    A model's subset is a function of its place, so that a larger pool begins with a smaller one. paired: every second model sees what the
    one before it does not; with a share of one half, every row is known to half of the models.
    """
    seen = torch.zeros(models, rows, dtype=torch.bool)
    for k in range(models):
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed_of(seed, "subset", k // 2 if paired else k)))
        size = round(share * rows)
        seen[k, order[size:] if paired and k % 2 else order[:size]] = True
    return seen


def train(
    plan: Plan | Plans,
    model: nn.Module,
    modality: Modality,
    rows: Rows,
    seen: Tensor,
    seeds: Sequence[int],
    accelerator: Accelerator | None = None,
    cost: Cost | None = None,
) -> Ensemble:
    """Models that a plan makes of a copy each, of the rows that each may see and with a seed of its own; equal to so many calls of `run`.

    plan: reads no set but the one that `rows` is called. seen: (models, rows) of bool. cost: what it comes to is added here.
    Where the last stage is plain training and the model can be vectorised, models that see as many rows take their steps together: the same
    numbers to rounding, unless there is dropout. Errors: UserError where a model sees nothing, or where training fails.
    """
    stages, accelerator, cost = as_plans(plan), accelerator or processes(), cost or Cost()
    if not len(seen) or not seen.any(1).all():
        raise UserError("a pool has models, and each of them sees some rows: give it more rows, or a larger share of them")
    last, scratch, start = stages[-1], copy.deepcopy(model), weights_of(model)
    together = _plain(last, rows.name) and _even(modality, rows) and _vectorised(model, modality, rows)
    made = []
    for mine, seed in zip(seen, seeds, strict=True):
        done = _run(
            stages[:-1] if together else stages, scratch, start, modality, {rows.name: rows.select(_places(mine))}, seed, accelerator
        )
        if bad := next((r["ended"] for r in done.log if str(r.get("ended")).startswith("not finite")), None):
            raise UserError(f"training a model of the pool failed, its loss was {bad}: lower the learning rate")
        cost.forward_tokens += done.cost.forward_tokens
        cost.backward_tokens += done.cost.backward_tokens
        made.append(_weights(done))
    weights = _stacked(made)
    if together:
        for size in sorted(set(seen.sum(1).tolist())):
            for some in (seen.sum(1) == size).nonzero()[:, 0].split(AT_ONCE):
                at = new_state(scratch.to(accelerator.device), modality, accelerator, stage=len(stages) - 1, cost=cost)
                first = {n: w[some] for n, w in weights.items()}
                for n, w in _in_step(at, last, rows, seen[some], [seeds[k] for k in some], first).items():
                    weights[n][some] = w
    return Ensemble(model, weights, seen)


def train_in(view: RunView, plan: Plan | Plans, rows: Rows, membership: Tensor, key: str = "") -> Iterator[Ensemble]:
    """Run a plan on copies of the model that a part sees, one for each row of `membership`, with seeds of their own.

    Pieces of the ensemble come one at a time, so that not all of them need be kept. An adapter is left out: the copies are trained as the
    plan says.

    Args:
        membership: (models, rows) of bool, the rows that each copy is trained on.
    """
    run = view._run
    run.alone("copies of the model")
    whole: Any = run.model
    model = copy.deepcopy(whole).unload() if adapters.is_adapted(whole) else whole
    seeds = [seed_of(run.seed, view.place, run.epoch, key, k) for k in range(len(membership))]
    for i in range(0, len(membership), AT_ONCE):
        part = slice(i, i + AT_ONCE)
        yield train(plan, model, run.modality, rows, membership[part], seeds[part], run.accelerator, run.cost)


def unlearn(
    plan: Plan | Plans,
    pool: Ensemble,
    modality: Modality,
    rows: Rows,
    forget: Tensor,
    seeds: Sequence[int],
    accelerator: Accelerator | None = None,
) -> Ensemble:
    """The same models after each has forgotten rows of its own, by any method that changes weights.

    forget: (models, rows) of bool; what a model retains is all else that it has seen.
    Errors: UserError where a model never saw what it is to forget, or has nothing else.
    """
    stages, accelerator = as_plans(plan), accelerator or processes()
    kept = pool.seen & ~forget
    if (forget & ~pool.seen).any() or not forget.any(1).all() or not kept.any(1).all():
        raise UserError("a model can forget rows that it has seen, some and not all of them: check the sets of the pool")
    if isinstance(stages[-1].action, Guard):
        raise UserError("a guard leaves the weights as they are, so there is no pool of models that have forgotten")
    made, scratch = [], copy.deepcopy(pool.model)
    reads = frozenset[str]().union(*(p.sets_read() for p in stages))
    answers = {"alternate_answers": modality.answers(modality.refusals())} if "alternate_answers" in reads else {}
    for k, seed in enumerate(seeds):
        sets = {n: rows.select(_places(s[k])).rename(n) for n, s in (("forget", forget), ("retain", kept))} | answers
        made.append(_weights(_run(stages, scratch, pool[k], modality, sets, seed, accelerator)))
    return Ensemble(pool.model, _stacked(made), kept)


@torch.no_grad()
def ask(pool: Ensemble, modality: Modality, rows: Rows, read: Callable[[ModelOutput], Tensor], batch_size: int = 256) -> Tensor:
    """Something read from each model's answer to the same rows, in evaluation mode, (models, ...).

    read: answer -> (rows or labels, ...), which batches of rows are joined along.
    """
    model, together, found = pool.model, _vectorised(pool.model, modality, rows), []
    with evaluating(model):
        for some in pool.pieces():
            weights = {n: w.to(device_of(model)) for n, w in some.weights.items()}
            read_ = []
            for i in range(0, len(rows), batch_size):
                asked = rows.select(range(i, min(i + batch_size, len(rows))))
                if together:
                    with own_weights(model, weights):
                        answers = modality.forward(model, [asked] * len(some))
                else:
                    answers = [modality.forward(model, [asked], weights={n: w[k] for n, w in weights.items()})[0] for k in range(len(some))]
                read_.append(torch.stack([read(a) for a in answers]))
            found.append(torch.cat(read_, 1))
    return torch.cat(found)


def logits(pool: Ensemble, modality: Modality, rows: Rows) -> Tensor:
    """What each model says before the softmax, (models, labels, classes)."""
    return ask(pool, modality, rows, lambda answer: answer.logits.values)


def _places(seen: Tensor) -> list[int]:
    return seen.nonzero()[:, 0].tolist()


def _stacked(made: Sequence[Weights]) -> Weights:
    return {n: torch.stack([w[n] for w in made]) for n in made[0]}


def _run(
    stages: Plans, scratch: nn.Module, start: Weights, modality: Modality, sets: Sets, seed: int, accelerator: Accelerator
) -> RunState:
    """Some stages from some weights, in a module that is used again for the next model; an adapter needs one of its own."""
    mine = copy.deepcopy(scratch) if any(s.train.lora for s in stages) else scratch
    put(mine, start)
    return run(stages, mine, modality, sets, seed=seed, accelerator=accelerator)


def _weights(done: RunState) -> Weights:
    """What a run made, an adapter as part of the weights."""
    result: Any = done.model
    return weights_of(result.merge_and_unload() if adapters.is_adapted(result) else result)


def _plain(plan: Plan, name: str) -> bool:
    """Whether a stage is training that looks at nothing but a batch of one set: such steps of many models are one step of all."""
    t = plan.train
    more = plan.updates or plan.selectors or plan.stop_rules or t.micro_batch_size or t.max_grad_norm or t.lora or t.gradient_checkpointing
    simple = isinstance(plan.action, Objective) and plan.start == "last" and t.anchor == name and not more
    return simple and all(_bare(term.objective, name) for term in plan.terms())


def _bare(objective: Objective, name: str) -> bool:
    kind = type(objective)
    return (
        objective.reads == {name}
        and not (objective.needs or objective.hook_points)
        and (kind.begin, kind.after) == (Part.begin, Part.after)
    )


def _even(modality: Modality, rows: Rows) -> bool:
    """Whether all rows count the same, so that the mean over several models' rows is the mean of their means."""
    return len({tuple(modality.counts(rows.select([i])).values()) for i in range(len(rows))}) == 1


def _vectorised(model: nn.Module, modality: Modality, rows: Rows) -> bool:
    """Whether one forward can serve models of several weights."""
    with evaluating(model), torch.enable_grad():
        return len(rows) > 1 and vectorises(model, lambda some: modality.forward(model, [some])[0], rows, dict(model.named_parameters()))


def _in_step(r: RunState, plan: Plan, rows: Rows, seen: Tensor, seeds: Sequence[int], start: Weights) -> Weights:
    """Plain training of models that see as many rows each, from some weights (models, *shape): the steps of `loop.run`, for all at once."""
    train = plan.train
    assert isinstance(plan.action, Objective)
    objective = len(seen) * plan.action  # a mean over the rows of all models gives each a share of its own
    adapters.choose(r.model.train(), plan.trainable)
    moving = [n for n, p in r.model.named_parameters() if p.requires_grad]
    weights = {n: w.to(device_of(r.model)).requires_grad_(n in moving) for n, w in start.items()}
    places = [Rows(rows.name, tuple(map(str, _places(s))), {}) for s in seen]
    per_epoch = math.ceil(len(places[0]) / train.batch_size)
    optimizer = optimizer_of(train, [weights[n] for n in moving])
    r.precision = train.precision
    for done in range(total_steps(train, per_epoch)):
        r.epoch, r.step = divmod(done, per_epoch)
        batch = list[int]()
        for mine, seed in zip(places, seeds, strict=True):
            r.seed = seed
            batch += map(int, sample({rows.name: mine}, train, r)[rows.name].ids)
        with own_weights(r.model, weights):
            evaluate(r, objective, {rows.name: rows.select(batch)}, moves=True)
        for group in optimizer.param_groups:
            group["lr"] = lr_at(train, done, per_epoch)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if not all(w.isfinite().all() for w in weights.values()):
        raise UserError("training a model of the pool failed, its weights are not finite: lower the learning rate")
    return {n: w.detach() for n, w in weights.items()}
