"""What a part sees: `RunView` (whole sets, no gradient) and `RunStep` (one micro-batch of one gradient evaluation)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from expunge.core.capabilities import DifferentiableInputs, Generates, Samples, require
from expunge.core.errors import UndeclaredNeed
from expunge.core.modality import Modality, ModelOutput, Patch, Weights
from expunge.core.needs import Need
from expunge.core.parts import Objective, Part
from expunge.core.plan import Plan, Plans, as_plans
from expunge.core.random import seed_of
from expunge.core.rows import Packed, Rows, Sets
from expunge.core.view import State
from expunge.engine.cached_reference import CachedReference
from expunge.engine.estimators import kfac
from expunge.engine.estimators.fisher import likelihoods, squared_gradients
from expunge.engine.estimators.per_example_grads import ROOM, input_gradient, row_gradients
from expunge.engine.run_state import RunState, device_of, evaluating
from expunge.engine.weights import put

EVERY_CAPABILITY = frozenset({DifferentiableInputs, Generates})  # those that a view asks for on behalf of a part


class RunView:
    """Whole sets, evaluation mode, no gradient; cut to what the part that looks has declared."""

    def __init__(self, run: RunState, sets: Sets, place: str = "", part: Part | None = None) -> None:
        self._run, self.sets, self.place = run, sets, place
        self._reads = part.reads if part else frozenset(sets)
        self._needs = part.needs if part else frozenset(Need)
        self._requires = part.requires if part else EVERY_CAPABILITY
        self._hook_points = part.hook_points if part else ()

    def at(self, name: str, part: Part) -> Self:
        """The same view as an inner part sees it: with its own place, state and permissions."""
        inner = copy.copy(self)
        inner.place = f"{self.place}/{name}"
        inner._reads, inner._needs, inner._hook_points = part.reads, part.needs, part.hook_points
        inner._requires = part.requires
        return inner

    @property
    def model(self) -> nn.Module:
        return self._run.model

    @property
    def modality(self) -> Modality:
        return self._run.modality

    @property
    def epoch(self) -> int:
        return self._run.epoch

    @property
    def epochs(self) -> int:
        """How many epochs this stage will have, unless something stops it."""
        return self._run.epochs

    @property
    def done(self) -> int:
        """Optimizer steps of this stage so far; in `after`, the one that was just made included."""
        return self._run.done

    @property
    def total(self) -> int:
        """How many optimizer steps this stage will have, if all epochs are as long as the first and nothing stops it."""
        return self._run.total

    @property
    def state(self) -> State:
        return self._run.state.get(self.place, {})

    @property
    def params(self) -> list[Tensor]:
        """The parameters that move in this stage, in the order of every list of gradients."""
        return [p for p in self.model.parameters() if p.requires_grad]

    @property
    def forget(self) -> Rows:
        return self.rows("forget")

    @property
    def retain(self) -> Rows:
        return self.rows("retain")

    def rows(self, name: str) -> Rows:
        """A set. Errors: UndeclaredNeed unless this very part reads it."""
        if name not in self._reads:
            raise UndeclaredNeed(f"{self.place} read the set {name!r} without declaring it in `reads`")
        return self._rows(name)

    def whole_set(self, name: str) -> Rows:
        """The whole set of the epoch, for selectors that a step shows only its batch of it."""
        self.rows(name)
        return self._run.sets[name]

    def _rows(self, name: str) -> Rows:
        return self.sets[name]

    def _check(self, need: str) -> None:
        if need not in self._needs:
            raise UndeclaredNeed(f"{self.place} used {str(need)!r} without declaring it in `needs`")

    def _check_capability(self, capability: type) -> None:
        if capability not in self._requires:
            raise UndeclaredNeed(f"{self.place} used {capability.__name__} without declaring it in `requires`")

    def warn(self, text: str) -> None:
        """Put a sentence among the warnings of the run: said at its end and kept in the receipt."""
        self._run.warnings.append(text)

    def show(self, name: str, records: Sequence[Mapping[str, float]]) -> None:
        """Put what was seen among the results of the run: kept in the receipt, drawn in the report over the first number of a record."""
        self._run.shown[name] = [dict(r) for r in records]

    def rng(self) -> torch.Generator:
        """A generator that is a function of seed, stage, epoch, step and place."""
        r = self._run
        return torch.Generator().manual_seed(seed_of(r.seed, r.stage, r.epoch, r.step, self.place))

    def now(self, rows: Rows, patch: Patch | None = None) -> ModelOutput:
        """What the model says about some rows."""
        return self.look(rows, patch)

    @torch.no_grad()
    def look(self, rows: Rows, patch: Patch | None = None) -> ModelOutput:
        """The same, also in the middle of a step: in evaluation mode, without a gradient, about any rows."""
        with evaluating(self.model):
            return self._run.forward([rows], self._hook_points, patch, why="view")[0]

    @torch.no_grad()
    def under(self, weights: Weights, rows: Rows) -> ModelOutput:
        """What the model says with other weights than its own: those of a teacher that a part keeps in its state."""
        with evaluating(self.model):
            return self._run.forward(
                [rows], self._hook_points, None, {n: w.to(device_of(self.model)) for n, w in weights.items()}, why="under"
            )[0]

    def other(self, stage: str) -> Callable[[Rows], ModelOutput]:
        """The same question to the weights that an earlier stage left."""
        self._check(stage)
        return lambda rows: self._frozen(stage, rows)

    @torch.no_grad()
    def _frozen(self, name: str, rows: Rows) -> ModelOutput:
        key, memo = (name, rows.name, rows.ids, self._hook_points), self._run.memo  # frozen weights: one answer serves the whole step
        if key not in memo:
            with evaluating(self.model):
                memo[key] = self._run.forward([rows], self._hook_points, None, self._run.models[name], why=name)[0]
        return memo[key]

    def reference(self, rows: Rows) -> ModelOutput:
        """The reference's answer: remembered numbers where those were declared and exist, else live."""
        if Need.REFERENCE in self._needs:
            return self._frozen("reference", rows)
        self._check(Need.REFERENCE_LOGP)
        known = self._run.reference_loss
        if rows.ids and f"{rows.name}/{rows.ids[0]}" not in known:
            return self._frozen("reference", rows)
        return CachedReference([known[f"{rows.name}/{i}"] for i in rows.ids])

    def generate(self, rows: Rows, limit: int, sample: bool = False, temperature: float = 1.0, with_logp: bool = False) -> Samples:
        """Answers that the model gives by itself, at most `limit` tokens; greedy unless `sample`."""
        self._check_capability(Generates)
        with evaluating(self.model), torch.no_grad():
            modality = require(self.modality, Generates)
            return modality.generate(self.model, rows, limit, self.rng() if sample else None, temperature, with_logp)

    def batches(self, name: str, size: int) -> Iterator[Rows]:
        rows = self.rows(name)
        for i in range(0, len(rows), size):
            yield rows.select(range(i, min(i + size, len(rows))))

    def grad(
        self, what: Objective | str, sets: Sets | None = None, batch_size: int = 32, vector: list[Tensor] | None = None
    ) -> list[Tensor]:
        """Gradient over whole sets at the weights of this moment, of an objective or (a string) of the plan's own terms of a role.

        vector: what the Hessian is multiplied by, where that product is wanted instead.
        """
        if isinstance(what, str):
            assert self._run.objective is not None
            objective, roles = self._run.objective, (what,)
        else:
            objective, roles = what, None
        wanted = frozenset[str]().union(*(t.objective.reads for t in objective.terms()))
        with evaluating(self.model):
            whole = sets or {n: self.sets[n] for n in wanted if n in self.sets}
            return self._run.engine.evaluate(self._run, objective, whole, batch_size, roles, vector=vector)[1]

    def example_grads(self, rows: Rows, loss: Callable[[ModelOutput], Tensor], batch_size: int = 32) -> Iterator[list[Tensor]]:
        """Gradients of each row alone, a batch of rows at a time, fewer where memory is short: tensors (rows, *shape) in the order of
        `params`.

        loss: answer -> (rows,), the loss of each row.
        """
        self._check(Need.EXAMPLE_GRADS)
        self._run.alone("gradients of single rows")
        batch_size = max(1, min(batch_size, ROOM // sum(p.numel() for p in self.params)))
        way = None
        for i in range(0, len(rows), batch_size):
            got: list[list[Tensor]] = []
            some = rows.select(range(i, min(i + batch_size, len(rows))))
            way = row_gradients(self.model, self._ask, some, lambda answer: [loss(answer)], got.append, batch_size, way)
            yield [torch.cat(pieces) for pieces in zip(*got, strict=True)]

    def fisher(self, rows: Rows, draws: int | None = 0, batch_size: int = 32) -> list[Tensor]:
        """Diagonal of the Fisher information, a mean over rows, in the order of `params`.

        draws: labels that are drawn a row from the model's own distribution; 0: every class, which is the exact expectation (of a row
        with several labels one draw); None: the given labels.
        """
        self._check(Need.FISHER)
        self._run.alone("the Fisher information")
        rng, more = self.rng(), 0

        def losses(answer: ModelOutput) -> Iterator[Tensor]:
            nonlocal more
            for more, one in enumerate(likelihoods(answer, draws, rng)):  # noqa: B007 - how many backward passes after the first
                yield one

        found = squared_gradients(self.model, self._ask, rows, losses, batch_size)
        self._run.cost.backward_tokens += more * self.modality.counts(rows)["tokens"]
        return found

    def kfac(self, rows: Rows, strategy: kfac.Strategy = "ekfac", draws: int = 1, batch_size: int = 32) -> dict[str, Tensor]:
        """Fisher information of single layers (those of `kfac.layers`) as Kronecker factors, a mean over labels; see `kfac.fit`.

        draws: labels that are drawn for each from the model's own distribution; 0: as in `fisher`.
        """
        self._check(Need.FISHER)
        self._run.alone("the Fisher information")
        rng, paths = self.rng(), [layer.path for layer in kfac.layers(self.model, self.modality)]
        return kfac.fit(
            self.model, self.modality, self._ask, rows, lambda answer: likelihoods(answer, draws, rng), paths, strategy, batch_size
        )

    def input_grad(self, x: Tensor, rows: Callable[[Tensor], Rows], loss: Callable[[ModelOutput], Tensor]) -> Tensor:
        """Gradient of a loss by an input. rows: input -> the rows that hold it (`port.moved`); loss: answer -> scalar."""
        self._check_capability(DifferentiableInputs)
        self._run.alone("gradients by an input")
        return input_gradient(self.model, self._ask, x, rows, loss)

    def _ask(self, rows: Rows) -> ModelOutput:
        return self._run.forward([rows], (), why="view")[0]

    def run(self, plan: Plan | Plans, sets: Sets, start: Weights | None = None, key: str = "") -> RunView:
        """Run a plan on a copy of the model (a teacher, a shard, an inner problem), with a seed of its own; the view of the result."""
        self._run.alone("copies of the model")
        model = copy.deepcopy(self.model)
        put(model, start or {})
        seed = seed_of(self._run.seed, self.place, self._run.epoch, key)
        inner = self._run.engine.run(as_plans(plan), model, self.modality, sets, seed=seed, accelerator=self._run.accelerator)
        self._run.cost.forward_tokens += inner.cost.forward_tokens
        self._run.cost.backward_tokens += inner.cost.backward_tokens
        return RunView(inner, sets)


class RunStep(RunView):
    """One micro-batch inside one gradient evaluation: answers are shared between parts, then forgotten."""

    def __init__(
        self,
        run: RunState,
        logical: Sets,
        micro: Sets,
        fuse: bool = True,
        hook_points: tuple[str, ...] = (),
        means: dict[Any, Tensor] | None = None,
    ) -> None:
        super().__init__(run, logical)
        self.batch = micro
        self._fuse, self._all_hook_points, self._means = fuse, hook_points, means
        self.recording = False
        self._counts = {n: run.modality.counts(r) for n, r in logical.items()}
        self._cache: dict[tuple[str, Patch | None], ModelOutput] = {}
        self._calls: dict[str, int] = {}
        self.notes: dict[str, Tensor] = {}

    def _rows(self, name: str) -> Rows:
        return self.batch[name]

    def now(self, rows: Rows, patch: Patch | None = None) -> ModelOutput:
        """The model's answer with its gradient; the first question runs every set of the evaluation in one forward."""
        if self.batch.get(rows.name) is not rows:
            return self._run.forward([rows], self._all_hook_points, patch)[0]
        key = (rows.name, patch)
        if key not in self._cache:
            names = list(self.batch) if patch is None and self._fuse else [rows.name]
            answers = self._run.forward([self.batch[n] for n in names], self._all_hook_points, patch)
            self._cache.update({(n, patch): a for n, a in zip(names, answers, strict=True)})
        return self._cache[key]

    def mean(self, x: Tensor | Packed, rows: Rows) -> Tensor:
        """Mean over the logical batch. Its gradient is this micro-batch's share; its value is that share too, or, where a part needs
        `BATCH_MEANS`, the whole mean.

        x: Tokens are averaged over all positions of the batch, a tensor (rows,) over rows; weights of rows are applied here.
        """
        kind, per_row = (x.kind, x.sum()) if isinstance(x, Packed) else ("rows", x)
        if rows.weight:
            per_row = per_row * per_row.new_tensor(rows.weight)
        share = per_row.sum() / self._counts[rows.name][kind]
        if self._means is None:
            return share
        key = (self.place, self._calls.setdefault(self.place, 0))
        self._calls[self.place] += 1
        if self.recording:
            self._means[key] = self._means.get(key, torch.zeros_like(share)) + share.detach()
            return share
        return share - share.detach() + self._means[key]

    def count(self, rows: Rows, kind: str = "labels") -> float:
        """How many rows, labels or tokens of this set the logical batch has."""
        return self._counts[rows.name][kind]

    def note(self, **means: Tensor) -> None:
        """Remember means (of `mean`) for `after`: it sees those of the step's first evaluation, summed over micro-batches."""
        self.notes.update({f"{self.place}:{k}": v.detach() for k, v in means.items()})

    def noted(self, name: str) -> Tensor:
        return self.notes[f"{self.place}:{name}"]
