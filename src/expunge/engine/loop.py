"""The training loop, the only one of the package."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from expunge.core.capabilities import Redraws, offers
from expunge.core.errors import Interrupted
from expunge.core.modality import Modality
from expunge.core.needs import Need
from expunge.core.parts import ByDesign, Edit, Grads, Guard, Objective, Part, Stop
from expunge.core.plan import Plan, Plans
from expunge.core.rows import Sets
from expunge.engine import adapters, by_design, checkpoint, committee
from expunge.engine.cached_reference import cache_reference
from expunge.engine.clip import Clip
from expunge.engine.context import RunStep, RunView
from expunge.engine.device import check_trainable
from expunge.engine.distributed import sharding
from expunge.engine.distributed.process_group import processes
from expunge.engine.gradient import evaluate, global_norm
from expunge.engine.hooks import Hooks, nothing
from expunge.engine.picking import picked_before
from expunge.engine.run_state import Cost, Progress, RunState
from expunge.engine.schedule import anchor_of, check_statistics, descend, lr_at, optimizer_of, sample, steps_of, total_steps
from expunge.engine.trainable import choose
from expunge.engine.validate import check, check_weights
from expunge.engine.watching import keep_best, watch
from expunge.engine.weights import put, trainable, weights_of

# Attributes of the run's state in a checkpoint, besides weights, optimizer and sets.
SAVED = ("picked", "stage", "epoch", "step", "state", "models", "reference_loss", "warnings", "shown", "finished")


def run(
    plans: Plans,
    model: nn.Module,
    modality: Modality,
    sets: Sets,
    *,
    seed: int | None = None,
    accelerator: Accelerator | None = None,
    hooks: Hooks | None = None,
    resume: Mapping[str, Any] | None = None,
    store: Mapping[str, Any] | None = None,
) -> RunState:
    """Run a method on a model, in place.

    Args:
        plans: the stages, in order.
        sets: rows by name, as in the request.
        seed: seed of everything random; default: that of the first stage.
        hooks: callbacks of the run.
        resume: a checkpoint to continue from.
        store: the store of an earlier by-design run, from which the rows to forget are removed.

    Returns:
        The state of the run at its end. `model` is the result (wrapped by an adapter, if there is one), `modality` is decorated by a
        guard, if there is one, and `store` is the store of a by-design method.

    Raises:
        UserError: before the start, if plans and request do not fit.
        Interrupted: after a checkpoint, if the user asked to stop.
    """
    check(plans, sets, modality, known=store is not None)
    seed = plans[0].train.seed if seed is None else seed
    accelerator = accelerator or processes()
    model = adapters.unwrapped(model)
    if store is not None:
        model, modality = committee.single(model, modality)
    prepare(plans, model, modality, seed)
    model = adapters.insert(model.to(accelerator.device), plans, seed)
    check_trainable(model, plans)
    r = new_state(model, modality, accelerator, seed, store=store)
    if sharding.requested(accelerator):
        choose(model, plans[0].trainable)
        r.sharded = sharding.Sharded(model, modality)
    models_used = [{p.start, p.reference, *p.needed()} for p in plans]  # by stage; other needs are in these sets too
    if any("original" in names for names in models_used):
        r.models["original"] = weights_of(model)
    if resume:
        resume = sharding.spread(resume, model)
        put(model, resume["weights"])
        for name in SAVED:
            setattr(r, name, resume[name])
        r.cost, r.log = Cost(**resume["cost"]), list(resume["ended"])
        r.started -= r.cost.seconds
    else:
        r.picked = picked_before(r, plans, sets)
    sets, hooks = {**sets, **r.picked}, hooks or Hooks()
    if not r.process_group.first:
        hooks = replace(hooks, log=nothing, epoch=nothing, progress=nothing)
    for i, plan in enumerate(plans):
        if i < r.stage:
            continue
        stage_checkpoint = resume if resume and resume["stage"] == i else None
        r.stage = i
        if plan.start != "last" and not stage_checkpoint:
            put(model, r.models[plan.start])
        _Stage(r, plan, sets, hooks).run(stage_checkpoint)
        if plan.name and any(plan.name in names for names in models_used[i + 1 :]):
            r.models[plan.name] = weights_of(r.model)
    if r.sharded:
        r.model, r.sharded = r.sharded.join(), None
    r.cost.seconds = time.monotonic() - r.started
    return r


class _Engine:
    """The `Engine` of a run: the gradient evaluation and the loop itself."""

    evaluate = staticmethod(evaluate)

    @staticmethod
    def run(plans: Plans, model: nn.Module, modality: Modality, sets: Sets, progress: Progress | None = None, **options: Any) -> RunState:
        return run(plans, model, modality, sets, hooks=Hooks(progress=progress or nothing), **options)


def new_state(model: nn.Module, modality: Modality, accelerator: Accelerator, seed: int = 0, **fields: Any) -> RunState:
    """The state of a run before its first stage. `fields` sets further fields of `RunState`."""
    return RunState(model, modality, accelerator, seed, _Engine(), **fields)


def prepare(plans: Plans, model: nn.Module, modality: Modality, seed: int) -> None:
    """Call `prepare` of every part, so that the model has the shape that the parts need."""
    for plan in plans:
        for p in plan.parts().values():
            p.prepare(model, modality, seed)


class _Stage:
    """The execution of one plan."""

    def __init__(self, run: RunState, plan: Plan, sets: Sets, hooks: Hooks) -> None:
        self.r, self.plan, self.hooks, self.train = run, plan, hooks, plan.train
        self.updates = (*plan.updates, *((Clip(plan.train.max_grad_norm),) if plan.train.max_grad_norm else ()))
        names_read = {"forget"} if isinstance(plan.action, ByDesign) and run.store is not None else plan.sets_read()
        self.chosen: Sets = {n: sets[n] for n in sorted(names_read)}  # and no other set: training must not see the holdout set
        self.view = RunView(run, self.chosen)
        self.parts: dict[str, Part] = plan.parts()
        self.current: Sets | None = None
        self.optimizer: Any = None
        self.done, self.saved = 0, time.monotonic()

    def run(self, resume: Mapping[str, Any] | None) -> None:
        r, plan = self.r, self.plan
        r.precision = self.train.precision
        r.objective = plan.action if isinstance(plan.action, Objective) else None
        r.progress = self.hooks.progress if isinstance(plan.action, (ByDesign, Guard)) else None
        choose(r.model, plan.trainable)
        if resume is None:
            r.epoch = r.step = 0
            self._begin()
        else:
            self.view.sets = self.chosen = resume["chosen"]
        if isinstance(plan.action, Edit):
            with torch.no_grad():
                plan.action.apply(self.view.at("do", plan.action))
        elif isinstance(plan.action, ByDesign):
            r.keep = self._keep if self.hooks.save else nothing
            by_design.run(r, plan.action, self.view.at("do", plan.action), self.chosen)
        elif isinstance(plan.action, Guard):
            r.modality = plan.action.wrap(r.modality, self.view.at("do", plan.action))
        else:
            self._train(resume)

    def _begin(self) -> None:
        r, plan = self.r, self.plan
        self.view.sets = self.chosen = r.sets = self._pick("start", self.chosen, self.view)
        check_weights(plan, self.chosen)
        picked_each_step = frozenset[str]().union(*(s.gives for s in plan.selectors if s.when == "step"))
        if offers(r.modality, Redraws):  # no loss of a row that is known now is that of a row in a step
            picked_each_step |= self.chosen.keys()
        reference_users = [p for p in self.parts.values() if Need.REFERENCE_LOGP in p.needs]
        source = None if plan.reference == "start" else r.models[plan.reference]
        r.models.pop("reference", None)
        if Need.REFERENCE in plan.needed() or any(p.reads & picked_each_step for p in reference_users):
            names = trainable(r.model)
            r.models["reference"] = weights_of(r.model, names) if source is None else {n: w for n, w in source.items() if n in names}
        cacheable = frozenset[str]().union(*(p.reads - picked_each_step for p in reference_users))
        r.reference_loss = cache_reference(r, self.chosen, cacheable, source, min(32, self.train.micro_batch_size or 32))
        r.state = {f"/{n}": p.begin(self.view.at(n, p)) for n, p in self.parts.items()}

    def _pick(self, when: str, sets: Sets, view: RunView) -> Sets:
        for i, selector in enumerate(self.plan.selectors):
            if selector.when == when:
                selector_view = view.at(f"select{i}", selector)
                selector_view.sets = sets
                sets = {**selector.pick(sets, selector_view)}
        return sets

    def _train(self, resume: Mapping[str, Any] | None) -> None:
        r, plan, train = self.r, self.plan, self.train
        model, params = r.model, self.view.params
        if train.gradient_checkpointing:
            adapters.recompute(model)
        if not (independent := r.modality.independent(model.train())):
            r.warnings += check_statistics(train, self.chosen, frozenset[str]().union(*(t.objective.reads for t in plan.terms())))
        self.optimizer = optimizer_of(train, params)
        self.per_epoch = steps_of(len(self.chosen[train.anchor]), train.batch_size, independent)
        self.done, self.this_epoch = 0, self.per_epoch
        r.total = total_steps(train, self.per_epoch)
        r.done, r.epochs = 0, math.ceil(r.total / self.per_epoch)
        if resume:
            self.optimizer.load_state_dict(checkpoint.to_device(resume["optimizer"], params[0].device))
            self.current, self.done = resume["current"], resume["done"]
            r.done = self.done
        else:
            self._save(force=True)
        model.train()
        while (reason := self._epoch()) is None:
            pass
        model.eval()
        keep_best(r, self.hooks)
        with torch.no_grad():
            for name, p in self.parts.items():
                p.end(self.view.at(name, p))
        self.hooks.log({"stage": r.stage, "epoch": r.epoch, "ended": reason})
        r.log.append({"stage": r.stage, "epoch": r.epoch, "ended": reason})

    def _epoch(self) -> str | None:
        """One pass over the anchor set. Returns the reason once the stage is over, else None."""
        r, train = self.r, self.train
        if self.current is None:
            self.view.sets = self.chosen
            picked = self._pick("epoch", self.chosen, self.view)
            stops = {n: p for n, p in self.parts.items() if isinstance(p, Stop)}
            reason = next((s for n, p in stops.items() if (s := p.stop(self.view.at(n, p)))), None)
            if reason or not len(picked[anchor_of(train, picked)]):
                return reason or f"no rows left to {anchor_of(train, picked)}"
            if self._progress() >= total_steps(train, self.per_epoch):
                return "done"
            self.current = picked
        self.view.sets = r.sets = self.current
        rows = len(self.current[anchor_of(train, self.current)])
        self.this_epoch = steps_of(rows, train.batch_size, r.modality.independent(r.model))
        for _ in range(r.step, self.this_epoch):
            if train.steps and self.done >= train.steps:
                break
            if failure := self._step():
                return failure
            r.step += 1
            self.done += 1
            r.cost.steps += 1
            self._save()
        r.epoch, r.step, self.current = r.epoch + 1, 0, None
        watch(r, self.hooks, self.chosen, self.done)
        return None

    def _progress(self) -> float:
        """Steps done, on a scale where every epoch has as many steps as the stage's anchor set gives."""
        r = self.r
        return self.done if self.train.steps else r.epoch * self.per_epoch + r.step * self.per_epoch / self.this_epoch

    def _step(self) -> str | None:
        """One optimizer step. Returns the reason if there cannot be one, else None."""
        r, plan, train = self.r, self.plan, self.train
        objective = plan.action
        assert isinstance(objective, Objective)
        r.memo.clear()
        logical = self._pick("step", sample(self.view.sets, train, r), self.view)
        roles = frozenset(t.objective.role for t in objective.terms() if t.objective.reads <= logical.keys() and t.at(r.epoch))
        notes, values, evaluated = dict[str, Tensor](), dict[str, float](), set[str]()

        def call(*some_roles: str) -> tuple[Tensor, list[Tensor]]:
            moves = evaluated.isdisjoint(some_roles)  # an update may ask for one role at a time: the rows of each move the buffers once
            evaluated.update(some_roles)
            return evaluate(r, objective, logical, train.micro_batch_size, some_roles, train.fuse, notes, moves=moves, values=values)

        def hvp(v: list[Tensor], *some_roles: str) -> list[Tensor]:
            return evaluate(r, objective, logical, train.micro_batch_size, some_roles or tuple(roles), train.fuse, None, v)[1]

        params = self.view.params
        grads, step = Grads(call, hvp, params, roles), RunStep(r, logical, logical)
        for i, update in enumerate(self.updates):
            grads = Grads(update.wrap(grads, step.at(f"update{i}", update)), hvp, params, roles)
        loss, gradients = grads()
        norm = float(global_norm(gradients))
        if not (math.isfinite(float(loss)) and math.isfinite(norm)):
            place = f"epoch {r.epoch + 1}, step {r.step + 1}"
            r.warnings.append(f"the loss or its gradient was not finite at {place} (loss {float(loss):.4g}); kept the weights before it")
            return f"not finite at {place}"
        lr = lr_at(train, self._progress(), self.per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        hold_masks = [h for i, u in enumerate(self.updates) if (h := u.holds(step.at(f"update{i}", u))) is not None]
        descend(self.optimizer, params, gradients, hold_masks)
        step.notes, r.done = notes, self.done + 1
        r.state = {**r.state, **{f"/{n}": p.after(step.at(n, p)) for n, p in self.parts.items()}}
        record = {
            "stage": r.stage,
            "epoch": r.epoch,
            "step": r.step,
            "done": self.done + 1,
            "loss": float(loss),
            "lr": lr,
            "grad_norm": norm,
            "terms": values,
        }
        r.log.append(record)
        self.hooks.log(record)
        self.hooks.progress(self.done + 1, total_steps(train, self.per_epoch), plan.name or f"stage {r.stage + 1}")
        return None

    def _keep(self, place: str, ended: Any) -> None:
        self.r.finished[place] = ended
        self._save()

    def _save(self, force: bool = False) -> None:
        r, hooks = self.r, self.hooks
        interrupted, due = r.process_group.any(hooks.interrupted(), time.monotonic() - self.saved >= hooks.every)
        if hooks.save and (force or interrupted or due):
            state = {
                **{n: getattr(r, n) for n in SAVED},
                "weights": weights_of(r.model),
                "optimizer": self.optimizer and self.optimizer.state_dict(),
                "chosen": self.chosen,
                "current": self.current,
                "done": self.done,
                "cost": {**vars(r.cost), "seconds": time.monotonic() - r.started},
                "ended": [record for record in r.log if "ended" in record],
            }
            state = sharding.gathered(state) if r.sharded else state
            # the other processes wait: a launcher that ends all of them must not end this one in the middle of writing
            r.process_group.agree(partial(hooks.save, state))
            self.saved = time.monotonic()
        if interrupted:
            raise Interrupted
