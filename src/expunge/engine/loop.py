"""The only training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from expunge.core.errors import Interrupted, UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality, Weights
from expunge.core.needs import Need
from expunge.core.parts import ByDesign, Edit, GradCall, Grads, Guard, Objective, Part, Stop, Update
from expunge.core.plan import Plan, Plans
from expunge.core.request import content
from expunge.core.rows import Rows, Sets
from expunge.engine import adapters, checkpoint
from expunge.engine.context import RunStep, RunView
from expunge.engine.distributed import sharding
from expunge.engine.distributed.process_group import processes
from expunge.engine.gradient import evaluate, global_norm
from expunge.engine.run_state import Cost, RunState, device_of, evaluating
from expunge.engine.schedule import anchor_of, lr_at, optimizer_of, sample, total_steps
from expunge.engine.validate import check, taken
from expunge.engine.weights import put, trainable, weights_of

# of the run; the rest is weights, optimizer and sets
SAVED = ("picked", "stage", "epoch", "step", "state", "models", "reference_loss", "warnings", "shown")


def _nothing(*_: object) -> None:
    return None


@dataclass
class Hooks:
    """What the world around a run hears and may ask for."""

    log: Callable[[Mapping[str, Any]], None] = _nothing  # one record a step, and one where a stage ends
    progress: Callable[[int, int, str], None] = _nothing  # optimizer steps done, steps in all (an estimate), what is going on
    save: Callable[[dict[str, Any]], None] | None = None  # takes a checkpoint
    every: float = 30.0  # seconds between checkpoints; 0: after each step
    interrupted: Callable[[], bool] = lambda: False  # asked after each step
    watch: Callable[[RunView], Mapping[str, float]] | None = None  # scores after each epoch
    best: str = ""  # the watched score whose best epoch is kept
    good: Callable[[float], float] = float  # how good a value of that score is; as it stands: high is good


@part
class Clip(Update):
    """Scale the gradient down to a largest norm."""

    norm: float = hp(1.0, "largest norm of the whole gradient", gt=0)

    def wrap(self, grads: Grads, step: RunStep) -> GradCall:
        def clipped(*roles: str) -> tuple[Tensor, list[Tensor]]:
            value, got = grads(*roles)
            scale = (self.norm / (global_norm(got) + 1e-6)).clamp_max(1.0)
            return value, [g * scale for g in got]

        return clipped


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
        plans: the stages, one after the other.
        sets: rows by name, as the request brings them.
        seed: of everything random; default: that of the first stage.
        resume: a checkpoint to go on from.
        store: what an earlier by-design run made; the rows to forget are taken out of it.

    Returns:
        The state of the run at its end. `model` is the result (an adapter wraps it), `modality` is decorated by a guard, `store` is what a
        by-design method made.

    Raises:
        UserError: before the start, where plan and request do not fit.
        Interrupted: after a checkpoint, where the user asked to stop.
    """
    check(plans, sets, modality, known=store is not None)
    seed = plans[0].train.seed if seed is None else seed
    accelerator = accelerator or processes()
    prepare(plans, model, modality, seed)
    model = adapters.insert(model.to(accelerator.device), plans, seed)
    r = new_state(model, modality, accelerator, seed, store=store)
    if sharding.requested(accelerator):
        adapters.choose(model, plans[0].trainable)
        r.sharded = sharding.Sharded(model, modality)
    wanted = [{p.start, p.reference, *p.needed()} for p in plans]
    if any("original" in w for w in wanted):
        r.models["original"] = weights_of(model)
    if resume:
        resume = sharding.spread(resume, model)
        put(model, resume["weights"])
        for name in SAVED:
            setattr(r, name, resume[name])
        r.cost, r.log = Cost(**resume["cost"]), list(resume["ended"])
        r.started -= r.cost.seconds
    else:
        r.picked = _picked(r, plans, sets)
    sets, hooks = {**sets, **r.picked}, hooks or Hooks()
    if not r.process_group.first:
        hooks = replace(hooks, log=_nothing, progress=_nothing)
    for i, plan in enumerate(plans):
        if i < r.stage:
            continue
        mine = resume if resume and resume["stage"] == i else None
        r.stage = i
        if plan.start != "last" and not mine:
            put(model, r.models[plan.start])
        _Stage(r, plan, sets, hooks).run(mine)
        if plan.name and any(plan.name in w for w in wanted[i + 1 :]):
            r.models[plan.name] = weights_of(r.model)
    if r.sharded:
        r.model, r.sharded = r.sharded.join(), None
    r.cost.seconds = time.monotonic() - r.started
    return r


class _Engine:
    """The `Engine` of a run: one gradient evaluation, and this loop itself."""

    evaluate = staticmethod(evaluate)

    @staticmethod
    def run(plans: Plans, model: nn.Module, modality: Modality, sets: Sets, **more: Any) -> RunState:
        return run(plans, model, modality, sets, **more)


def new_state(model: nn.Module, modality: Modality, accelerator: Accelerator, seed: int = 0, **more: Any) -> RunState:
    """The state of a run that has not begun."""
    return RunState(model, modality, accelerator, seed, _Engine(), **more)


def prepare(plans: Plans, model: nn.Module, modality: Modality, seed: int) -> None:
    """Let every part give the model the shape that it works on."""
    for plan in plans:
        for p in plan.parts().values():
            p.prepare(model, modality, seed)


def _picked(run: RunState, plans: Plans, sets: Sets) -> Sets:
    """What selectors make of the request before the first stage."""
    given = sets
    for plan in plans:
        for i, selector in enumerate(plan.selectors):
            if selector.when == "run":
                sets = {**selector.pick(sets, RunView(run, sets).at(f"select{i}", selector))}
    return {n: r for n, r in sets.items() if r is not given.get(n)}


class _Stage:
    """One plan being run."""

    def __init__(self, run: RunState, plan: Plan, sets: Sets, hooks: Hooks) -> None:
        self.r, self.plan, self.hooks, self.train = run, plan, hooks, plan.train
        self.updates = (*plan.updates, *((Clip(plan.train.max_grad_norm),) if plan.train.max_grad_norm else ()))
        wanted = {"forget"} if isinstance(plan.action, ByDesign) and run.store is not None else plan.sets_read()
        self.chosen: Sets = {n: sets[n] for n in sorted(wanted)}  # and nothing else: a holdout set is none of training's business
        self.view = RunView(run, self.chosen)
        self.parts: dict[str, Part] = plan.parts()
        self.current: Sets | None = None
        self.saved = time.monotonic()

    def run(self, resume: Mapping[str, Any] | None) -> None:
        r, plan = self.r, self.plan
        r.precision = self.train.precision
        r.objective = plan.action if isinstance(plan.action, Objective) else None
        adapters.choose(r.model, plan.trainable)
        if resume is None:
            r.epoch = r.step = 0
            self._begin()
        else:
            self.view.sets = self.chosen = resume["chosen"]
        if isinstance(plan.action, Edit):
            with torch.no_grad():
                plan.action.apply(self.view.at("do", plan.action))
        elif isinstance(plan.action, ByDesign):
            self._by_design(plan.action)
        elif isinstance(plan.action, Guard):
            r.modality = plan.action.wrap(r.modality, self.view.at("do", plan.action))
        else:
            self._train(resume)

    def _by_design(self, action: ByDesign) -> None:
        """Make the store, or take the rows to forget out of the one that there is; the model is then what the store stands for."""
        r, view = self.r, self.view.at("do", action)
        known = r.store
        if known is None:
            r.store = action.fit(view)
        else:
            r.store = action.forget(known, frozenset(content(i) for i in self.chosen["forget"].ids), view)
        put(r.model, action.weights(r.store, view))

    def _begin(self) -> None:
        r, plan = self.r, self.plan
        self.view.sets = self.chosen = r.sets = taken(plan, self._pick("start", self.chosen, self.view))
        late = frozenset[str]().union(*(s.gives for s in plan.selectors if s.when == "step"))
        asks = [p for p in self.parts.values() if Need.REFERENCE_LOGP in p.needs]
        source = None if plan.reference == "start" else r.models[plan.reference]
        r.models.pop("reference", None)
        if Need.REFERENCE in plan.needed() or any(p.reads & late for p in asks):
            names = trainable(r.model)
            r.models["reference"] = weights_of(r.model, names) if source is None else {n: w for n, w in source.items() if n in names}
        known = frozenset[str]().union(*(p.reads - late for p in asks))
        r.reference_loss = cache_reference(r, self.chosen, known, source, min(32, self.train.micro_batch_size or 32))
        r.state = {f"/{n}": p.begin(self.view.at(n, p)) for n, p in self.parts.items()}

    def _pick(self, when: str, sets: Sets, view: RunView) -> Sets:
        for i, selector in enumerate(self.plan.selectors):
            if selector.when == when:
                mine = view.at(f"select{i}", selector)
                mine.sets = sets
                sets = {**selector.pick(sets, mine)}
        return sets

    def _train(self, resume: Mapping[str, Any] | None) -> None:
        r, train = self.r, self.train
        model, params = r.model, self.view.params
        if train.gradient_checkpointing:
            adapters.recompute(model)
        if train.micro_batch_size == 1 and not r.modality.independent(model.train()):
            raise UserError("one row has no batch statistics, and this model normalises by them: give --micro-batch-size 2 or more")
        self.optimizer = optimizer_of(train, params)
        self.per_epoch = math.ceil(len(self.chosen[train.anchor]) / train.batch_size)
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
        self._keep_best()
        with torch.no_grad():
            for name, p in self.parts.items():
                p.end(self.view.at(name, p))
        self.hooks.log({"stage": r.stage, "epoch": r.epoch, "ended": reason})
        r.log.append({"stage": r.stage, "epoch": r.epoch, "ended": reason})

    def _epoch(self) -> str | None:
        """One pass over the anchor set; a reason once the stage is over."""
        r, train = self.r, self.train
        if self.current is None:
            self.view.sets = self.chosen
            picked = self._pick("epoch", self.chosen, self.view)
            stops = {n: p for n, p in self.parts.items() if isinstance(p, Stop)}
            why = next((w for n, p in stops.items() if (w := p.stop(self.view.at(n, p)))), None)
            if why or not len(picked[anchor_of(train, picked)]):
                return why or f"no rows left to {anchor_of(train, picked)}"
            if self._progress() >= total_steps(train, self.per_epoch):
                return "done"
            self.current = picked
        self.view.sets = r.sets = self.current
        self.this_epoch = math.ceil(len(self.current[anchor_of(train, self.current)]) / train.batch_size)
        for _ in range(r.step, self.this_epoch):
            if train.steps and self.done >= train.steps:
                break
            if trouble := self._step():
                return trouble
            r.step += 1
            self.done += 1
            r.cost.steps += 1
            self._save()
        r.epoch, r.step, self.current = r.epoch + 1, 0, None
        self._watch()
        return None

    def _progress(self) -> float:
        """Steps done, as if every epoch had as many as the first anchor set gives: epochs of unequal length count as one each."""
        r = self.r
        return self.done if self.train.steps else r.epoch * self.per_epoch + r.step * self.per_epoch / self.this_epoch

    def _step(self) -> str | None:
        """One optimizer step, or why there cannot be one."""
        r, plan, train = self.r, self.plan, self.train
        objective = plan.action
        assert isinstance(objective, Objective)
        r.memo.clear()
        logical = self._pick("step", sample(self.view.sets, train, r), self.view)
        roles = frozenset(t.objective.role for t in objective.terms() if t.objective.reads <= logical.keys() and t.at(r.epoch))
        notes, values, asked = dict[str, Tensor](), dict[str, float](), set[str]()

        def call(*which: str) -> tuple[Tensor, list[Tensor]]:
            moves = asked.isdisjoint(which)  # an update may ask for one role at a time: the rows of each move the buffers once
            asked.update(which)
            return evaluate(r, objective, logical, train.micro_batch_size, which, train.fuse, notes, moves=moves, values=values)

        def hvp(v: list[Tensor], *which: str) -> list[Tensor]:
            return evaluate(r, objective, logical, train.micro_batch_size, which or tuple(roles), train.fuse, None, v)[1]

        params = self.view.params
        grads, whole = Grads(call, hvp, params, roles), RunStep(r, logical, logical)
        for i, update in enumerate(self.updates):
            grads = Grads(update.wrap(grads, whole.at(f"update{i}", update)), hvp, params, roles)
        loss, got = grads()
        norm = float(global_norm(got))
        if not (math.isfinite(float(loss)) and math.isfinite(norm)):
            place = f"epoch {r.epoch + 1}, step {r.step + 1}"
            r.warnings.append(f"the loss or its gradient was not finite at {place} (loss {float(loss):.4g}); kept the weights before it")
            return f"not finite at {place}"
        lr = lr_at(train, self._progress(), self.per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        for p, g in zip(params, got, strict=True):
            p.grad = g
        held = [h for i, u in enumerate(self.updates) if (h := u.holds(whole.at(f"update{i}", u))) is not None]
        before = [p.detach().clone() for p in params] if held else []
        self.optimizer.step()
        with torch.no_grad():
            for masks in held:
                for p, old, mask in zip(params, before, masks, strict=True):
                    p.copy_(torch.where(mask, old, p))
        self.optimizer.zero_grad(set_to_none=True)
        whole.notes, r.done = notes, self.done + 1
        r.state = {**r.state, **{f"/{n}": p.after(whole.at(n, p)) for n, p in self.parts.items()}}
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

    def _watch(self) -> None:
        """Score the model after an epoch, and remember the weights of the best one."""
        r, hooks = self.r, self.hooks
        if hooks.watch is None:
            return
        with evaluating(r.model), torch.no_grad():
            scores = dict(hooks.watch(RunView(r, self.chosen)))
        record = {"stage": r.stage, "epoch": r.epoch, "done": self.done, "scores": scores}
        r.log.append(record)
        hooks.log(record)
        if hooks.best:
            now = torch.tensor(hooks.good(scores.get(hooks.best, math.nan)), dtype=torch.float64).nan_to_num(-math.inf)  # none: the worst
            if "best" not in r.models or now > r.models["best"]["$score"]:
                r.models["best"] = {**weights_of(r.model, trainable(r.model)), "$score": now, "$epoch": torch.tensor(r.epoch)}

    def _keep_best(self) -> None:
        if best := self.r.models.pop("best", None):
            put(self.r.model, {n: w for n, w in best.items() if not n.startswith("$")})
            self.r.warnings.append(f"kept the weights of epoch {int(best['$epoch'])} of {self.r.epoch}, the best by {self.hooks.best}")

    def _save(self, force: bool = False) -> None:
        r, hooks = self.r, self.hooks
        asked, due = r.process_group.any(hooks.interrupted(), time.monotonic() - self.saved >= hooks.every)
        if hooks.save and (force or asked or due):
            state = {
                **{n: getattr(r, n) for n in SAVED},
                "weights": weights_of(r.model),
                "optimizer": self.optimizer.state_dict(),
                "chosen": self.chosen,
                "current": self.current,
                "done": self.done,
                "cost": {**vars(r.cost), "seconds": time.monotonic() - r.started},
                "ended": [record for record in r.log if "ended" in record],
            }
            state = sharding.gathered(state) if r.sharded else state
            r.process_group.agree(
                partial(hooks.save, state)
            )  # the others wait, so that a launcher that ends them all ends nothing half written
            self.saved = time.monotonic()
        if asked:
            raise Interrupted


def cache_reference(
    run: RunState, sets: Sets, names: frozenset[str], weights: Weights | None = None, batch_size: int = 32
) -> dict[str, Tensor]:
    """Reference log-probs, once a row, at the untouched weights (or at others): what saves the second model."""
    out: dict[str, Tensor] = {}
    with evaluating(run.model), torch.no_grad():
        for name in sorted(names & sets.keys()):
            rows = sets[name]
            order = sorted(range(len(rows)), key=lambda i: -run.modality.counts(rows.select([i]))["tokens"])
            pieces = [order[at : at + batch_size] for at in range(0, len(rows), batch_size)]
            mine: dict[str, Tensor] = {}
            for k in run.process_group.deal(len(pieces), together=run.sharded is not None):
                some: Rows = rows.select(pieces[k])
                loss = run.forward([some], (), None, weights, why="remember")[0].loss
                mine.update(zip([f"{name}/{i}" for i in some.ids], loss.split(), strict=True))
            for found in run.process_group.exchange(mine):
                out.update({n: t.to(device_of(run.model)) for n, t in found.items()})
    return out
