"""Ensembles: many models of one architecture, each trained on its own subset of the same rows, for shadow-model attacks and datamodels."""

from __future__ import annotations

import copy
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
from expunge.engine.estimators.per_example_grads import own_weights, vectorizes
from expunge.engine.gradient import evaluate
from expunge.engine.loop import new_state, run
from expunge.engine.run_state import Cost, RunState, device_of, evaluating
from expunge.engine.schedule import lr_at, optimizer_of, sample, steps_of, total_steps
from expunge.engine.trainable import choose
from expunge.engine.weights import put, weights_of
from expunge.functional.brief import brief

AT_ONCE = 32  # models that take a step together


@brief("model", "trained_on")
@dataclass(frozen=True, eq=False)
class Ensemble:
    """Models of one architecture, stored as stacked weights.

    Args:
        model: a module of their architecture, through which they run.
        weights: by name, (models, *shape).
        trained_on: (models, rows) of bool, the rows that each model was trained on.
    """

    model: nn.Module
    weights: Weights
    trained_on: Tensor

    def __len__(self) -> int:
        return len(self.trained_on)

    def __getitem__(self, k: int) -> Weights:
        """The weights of one model."""
        return {n: w[k] for n, w in self.weights.items()}

    def pieces(self, size: int = AT_ONCE) -> Iterator[Ensemble]:
        """Yield the same models in smaller ensembles of at most `size`."""
        for i in range(0, len(self), size):
            yield Ensemble(self.model, {n: w[i : i + size] for n, w in self.weights.items()}, self.trained_on[i : i + size])


def alone(model: nn.Module) -> Ensemble:
    """An ensemble of one model, whose training rows are unknown."""
    return Ensemble(model, {n: w[None] for n, w in weights_of(model).items()}, torch.zeros(1, 0, dtype=torch.bool))


def joined(pools: Iterable[Ensemble]) -> Ensemble:
    """Join the models of several ensembles.

    Raises:
        UserError: when there is no ensemble.
    """
    ensembles = list(pools)
    if not ensembles:
        raise UserError("an ensemble needs at least one model, and this one has none")
    first = ensembles[0]
    weights = {n: torch.cat([e.weights[n] for e in ensembles]) for n in first.weights}
    return Ensemble(first.model, weights, torch.cat([e.trained_on for e in ensembles]))


def subsets(rows: int, models: int, share: float = 0.5, seed: int = 0, paired: bool = False) -> Tensor:
    """Draw a random subset of the rows for each model, of equal size for all.

    The subset of a model depends on its place alone, so a larger ensemble begins with a smaller one.

    Args:
        share: share of the rows that each model sees.
        paired: every second model sees exactly the rows that the model before it does not. With a share of one half, every row is seen by
            half of the models.

    Returns:
        (models, rows) of bool, the rows that each model sees.
    """
    trained_on = torch.zeros(models, rows, dtype=torch.bool)
    for k in range(models):
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed_of(seed, "subset", k // 2 if paired else k)))
        size = round(share * rows)
        trained_on[k, order[size:] if paired and k % 2 else order[:size]] = True
    return trained_on


def train(
    plan: Plan | Plans,
    model: nn.Module,
    modality: Modality,
    rows: Rows,
    trained_on: Tensor,
    seeds: Sequence[int],
    accelerator: Accelerator | None = None,
    cost: Cost | None = None,
) -> Ensemble:
    """Run a plan on a copy of the model for each subset of the rows, with one seed for each copy. Equal to that many calls of `run`.

    When the last stage is plain training and the model can be vectorized, models with equally many rows take their steps together. The
    results then agree up to rounding, unless there is dropout.

    Args:
        plan: reads no set but the one named by `rows`.
        trained_on: (models, rows) of bool, the rows of each model.
        seeds: one for each model.
        cost: the cost of training is added to it.

    Raises:
        UserError: when a model sees no rows, or when training fails.
    """
    stages, accelerator, cost = as_plans(plan), accelerator or processes(), cost or Cost()
    if not len(trained_on) or not trained_on.any(1).all():
        raise UserError("an ensemble has models, and each of them sees some rows: give it more rows, or a larger share of them")
    last, scratch, start = stages[-1], copy.deepcopy(model), weights_of(model)
    together = _plain(last, rows.name) and _even(modality, rows) and _vectorizes(model, modality, rows)
    trained = []
    for membership, seed in zip(trained_on, seeds, strict=True):
        sets = {rows.name: rows.select(_places(membership))}
        done = _run(stages[:-1] if together else stages, scratch, start, modality, sets, seed, accelerator)
        if bad := next((r["ended"] for r in done.log if str(r.get("ended")).startswith("not finite")), None):
            raise UserError(f"training a model of the ensemble failed, its loss was {bad}: lower the learning rate")
        cost.forward_tokens += done.cost.forward_tokens
        cost.backward_tokens += done.cost.backward_tokens
        trained.append(_weights(done))
    weights = _stacked(trained)
    if together:
        for size in sorted(set(trained_on.sum(1).tolist())):
            for models in (trained_on.sum(1) == size).nonzero()[:, 0].split(AT_ONCE):
                state = new_state(scratch.to(accelerator.device), modality, accelerator, stage=len(stages) - 1, cost=cost)
                initial = {n: w[models] for n, w in weights.items()}
                for n, w in _in_step(state, last, rows, trained_on[models], [seeds[k] for k in models], initial).items():
                    weights[n][models] = w
    return Ensemble(model, weights, trained_on)


def train_in(view: RunView, plan: Plan | Plans, rows: Rows, membership: Tensor, key: str = "") -> Iterator[Ensemble]:
    """Run a plan on copies of the model that a part works on, one copy and one seed for each row of `membership`.

    The function yields the ensemble in pieces, so that the caller need not keep all of it. An adapter is removed first: the copies are
    trained as the plan says.

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
    """Unlearn rows from each model of an ensemble, by any method that changes weights.

    Args:
        forget: (models, rows) of bool, the rows that each model forgets. It retains all other rows that it has seen.
        seeds: one for each model.

    Raises:
        UserError: when a model never saw a row that it is to forget, forgets nothing, or retains nothing; or when the method is a guard.
    """
    stages, accelerator = as_plans(plan), accelerator or processes()
    retained = pool.trained_on & ~forget
    if (forget & ~pool.trained_on).any() or not forget.any(1).all() or not retained.any(1).all():
        raise UserError("a model can forget rows that it has seen, some and not all of them: check the sets of the ensemble")
    if isinstance(stages[-1].action, Guard):
        raise UserError(
            "a guard leaves the weights as they are, so it makes no ensemble of models that have forgotten: use a method that trains"
        )
    unlearned, scratch = [], copy.deepcopy(pool.model)
    reads = frozenset[str]().union(*(p.sets_read() for p in stages))
    answers = {"alternate_answers": modality.answers(modality.refusals())} if "alternate_answers" in reads else {}
    for k, seed in enumerate(seeds):
        sets = {n: rows.select(_places(members[k])).rename(n) for n, members in (("forget", forget), ("retain", retained))} | answers
        unlearned.append(_weights(_run(stages, scratch, pool[k], modality, sets, seed, accelerator)))
    return Ensemble(pool.model, _stacked(unlearned), retained)


@torch.no_grad()
def ask(pool: Ensemble, modality: Modality, rows: Rows, read: Callable[[ModelOutput], Tensor], batch_size: int = 256) -> Tensor:
    """Run each model on the same rows, in evaluation mode, and read a tensor from each output.

    Args:
        read: maps an output to a tensor (rows or labels, ...); the batches are joined along its first dimension.

    Returns:
        A tensor (models, rows or labels, ...).
    """
    model, together, results = pool.model, _vectorizes(pool.model, modality, rows), []
    with evaluating(model):
        for piece in pool.pieces():
            weights = {n: w.to(device_of(model)) for n, w in piece.weights.items()}
            piece_results = []
            for i in range(0, len(rows), batch_size):
                batch = rows.select(range(i, min(i + batch_size, len(rows))))
                if together:
                    with own_weights(model, weights):
                        outputs = modality.forward(model, [batch] * len(piece))
                else:
                    by_model = ({n: w[k] for n, w in weights.items()} for k in range(len(piece)))
                    outputs = [modality.forward(model, [batch], weights=weights_of_one)[0] for weights_of_one in by_model]
                piece_results.append(torch.stack([read(output) for output in outputs]))
            results.append(torch.cat(piece_results, 1))
    return torch.cat(results)


def logits(pool: Ensemble, modality: Modality, rows: Rows) -> Tensor:
    """The logits of each model, (models, labels, classes)."""
    return ask(pool, modality, rows, lambda output: output.logits.values)


def _places(membership: Tensor) -> list[int]:
    return membership.nonzero()[:, 0].tolist()


def _stacked(weights: Sequence[Weights]) -> Weights:
    return {n: torch.stack([w[n] for w in weights]) for n in weights[0]}


def _run(
    stages: Plans, scratch: nn.Module, start: Weights, modality: Modality, sets: Sets, seed: int, accelerator: Accelerator
) -> RunState:
    """Run stages from the given weights, in a module that the next model reuses. An adapter needs a module of its own."""
    model = copy.deepcopy(scratch) if any(s.train.lora for s in stages) else scratch
    put(model, start)
    return run(stages, model, modality, sets, seed=seed, accelerator=accelerator)


def _weights(done: RunState) -> Weights:
    """The weights after a run, with an adapter merged."""
    return weights_of(adapters.merged(done.model))


def _plain(plan: Plan, name: str) -> bool:
    """Whether a stage is training that reads only batches of one set. Such steps of many models can be taken as one step."""
    t = plan.train
    extras = (
        plan.updates or plan.selectors or plan.stop_rules or t.micro_batch_size or t.max_grad_norm or t.lora or t.gradient_checkpointing
    )
    simple = isinstance(plan.action, Objective) and plan.start == "last" and t.anchor == name and not extras
    return simple and all(_bare(term.objective, name) for term in plan.terms())


def _bare(objective: Objective, name: str) -> bool:
    kind = type(objective)
    return (
        objective.reads == {name}
        and not (objective.needs or objective.hook_points)
        and (kind.begin, kind.after) == (Part.begin, Part.after)
    )


def _even(modality: Modality, rows: Rows) -> bool:
    """Whether all rows have the same counts, so that the mean over the rows of several models is the mean of their means."""
    return len({tuple(modality.counts(rows.select([i])).values()) for i in range(len(rows))}) == 1


def _vectorizes(model: nn.Module, modality: Modality, rows: Rows) -> bool:
    """Whether one forward pass can run several models with different weights."""
    with evaluating(model), torch.enable_grad():
        return len(rows) > 1 and vectorizes(model, lambda batch: modality.forward(model, [batch])[0], rows, dict(model.named_parameters()))


def _in_step(r: RunState, plan: Plan, rows: Rows, trained_on: Tensor, seeds: Sequence[int], start: Weights) -> Weights:
    """Train models with equally many rows together, from weights (models, *shape). The steps are those of `loop.run`."""
    train = plan.train
    assert isinstance(plan.action, Objective)
    # The objective averages over the rows of all models, which divides each gradient by their number.
    objective = len(trained_on) * plan.action
    choose(r.model.train(), plan.trainable)
    moving = [n for n, p in r.model.named_parameters() if p.requires_grad]
    weights = {n: w.to(device_of(r.model)).requires_grad_(n in moving) for n, w in start.items()}
    places = [Rows(rows.name, tuple(map(str, _places(s))), {}) for s in trained_on]
    per_epoch = steps_of(len(places[0]), train.batch_size, r.modality.independent(r.model))
    optimizer = optimizer_of(train, [weights[n] for n in moving])
    r.precision = train.precision
    for step in range(total_steps(train, per_epoch)):
        r.epoch, r.step = divmod(step, per_epoch)
        batch = list[int]()
        for model_rows, seed in zip(places, seeds, strict=True):
            r.seed = seed
            batch += map(int, sample({rows.name: model_rows}, train, r)[rows.name].ids)
        with own_weights(r.model, weights):
            evaluate(r, objective, {rows.name: rows.select(batch)}, moves=True)
        for group in optimizer.param_groups:
            group["lr"] = lr_at(train, step, per_epoch)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if not all(w.isfinite().all() for w in weights.values()):
        raise UserError("training a model of the ensemble failed, its weights are not finite: lower the learning rate")
    return {n: w.detach() for n, w in weights.items()}
