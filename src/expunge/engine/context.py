"""A run as parts see it: `RunView` (whole sets, no gradient) and `RunStep` (one micro-batch of one gradient evaluation)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Denoises, DifferentiableInputs, Generates, HoldsRows, Samples, offers, require
from expunge.core.errors import UndeclaredNeed, UserError
from expunge.core.modality import Modality, ModelOutput, Patch, Weights
from expunge.core.needs import Need
from expunge.core.parts import Objective, Part
from expunge.core.plan import Plan, Plans, as_plans
from expunge.core.random import seed_of
from expunge.core.rows import Packed, Rows, Sets
from expunge.core.view import State
from expunge.engine import adapters
from expunge.engine.cached_reference import CachedReference
from expunge.engine.estimators import kfac
from expunge.engine.estimators.fisher import likelihoods, squared_gradients
from expunge.engine.estimators.per_example_grads import ROOM, input_gradient, row_gradients
from expunge.engine.run_state import RunState, device_of, evaluating
from expunge.engine.trainable import learns
from expunge.engine.weights import put, swapped, weights_of

EVERY_CAPABILITY = frozenset({Denoises, DifferentiableInputs, Generates})  # the capabilities that a view uses on behalf of a part


class RunView:
    """Whole sets, evaluation mode, no gradient; restricted to what the part declares."""

    def __init__(self, run: RunState, sets: Sets, place: str = "", part: Part | None = None) -> None:
        self._run, self.sets, self.place = run, sets, place
        self._reads = part.reads if part else frozenset(sets)
        self._needs = part.needs if part else frozenset(Need)
        self._requires = part.requires if part else EVERY_CAPABILITY
        self._hook_points = part.hook_points if part else ()

    def at(self, name: str, part: Part) -> Self:
        """The same view for an inner part, with the part's own place, state and permissions."""
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
        """The number of epochs of this stage, unless something stops it."""
        return self._run.epochs

    @property
    def done(self) -> int:
        """Optimizer steps of this stage so far; in `after`, the current one included."""
        return self._run.done

    @property
    def total(self) -> int:
        """Optimizer steps of this stage in all, if all epochs are as long as the first and nothing stops it."""
        return self._run.total

    @property
    def state(self) -> State:
        return self._run.state.get(self.place, {})

    @property
    def params(self) -> list[Tensor]:
        """The trainable parameters of this stage, in the order of every list of gradients.

        Raises:
            UserError: for a model that no gradient can change.
        """
        if not learns(self.model):
            raise UserError(
                f"a {type(self.model).__name__} has no weights that gradients could change, and this method changes weights by gradients: "
                "make it with a by-design method (expunge train --method), and take rows out of the store that this leaves"
            )
        return [p for p in self.model.parameters() if p.requires_grad]

    @property
    def forget(self) -> Rows:
        return self.rows("forget")

    @property
    def retain(self) -> Rows:
        return self.rows("retain")

    def rows(self, name: str) -> Rows:
        """The rows of a set.

        Raises:
            UndeclaredNeed: if this part does not declare the set.
        """
        if name not in self._reads:
            raise UndeclaredNeed(f"{self.place} read the set {name!r} without declaring it in `reads`")
        return self._rows(name)

    def whole_set(self, name: str) -> Rows:
        """The whole set of the epoch. A step shows only its batch of the set, and some selectors need all of it."""
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
        """Add a sentence to the warnings of the run, which are shown at its end and kept in the receipt."""
        self._run.warnings.append(text)

    def show(self, name: str, records: Sequence[Mapping[str, float]]) -> None:
        """Add results to the run. The receipt keeps them, and the report plots them over the first number of each record."""
        self._run.shown[name] = [dict(r) for r in records]

    def rng(self) -> torch.Generator:
        """A generator seeded by the seed, stage, epoch, step and place."""
        r = self._run
        return torch.Generator().manual_seed(seed_of(r.seed, r.stage, r.epoch, r.step, self.place))

    def now(self, rows: Rows, patch: Patch | None = None) -> ModelOutput:
        """The model's output for some rows."""
        return self.look(rows, patch)

    @torch.no_grad()
    def look(self, rows: Rows, patch: Patch | None = None) -> ModelOutput:
        """The model's output for any rows, in evaluation mode and without a gradient, also within a step."""
        with evaluating(self.model):
            return self._run.forward([rows], self._hook_points, patch, why="view")[0]

    @torch.no_grad()
    def under(self, weights: Weights, rows: Rows) -> ModelOutput:
        """The model's output with other weights, such as those of a teacher in a part's state."""
        with evaluating(self.model):
            return self._run.forward(
                [rows], self._hook_points, None, {n: w.to(device_of(self.model)) for n, w in weights.items()}, why="under"
            )[0]

    def other(self, stage: str) -> Callable[[Rows], ModelOutput]:
        """A function from rows to the output of the model that an earlier stage left."""
        self._check(stage)
        return lambda rows: self._frozen(stage, rows)

    @torch.no_grad()
    def _frozen(self, name: str, rows: Rows) -> ModelOutput:
        key, memo = (name, rows.name, rows.ids, self._hook_points), self._run.memo  # frozen weights: one output serves the whole step
        if key not in memo:
            with evaluating(self.model):
                memo[key] = self._run.forward([rows], self._hook_points, None, self._run.models[name], why=name)[0]
        return memo[key]

    def reference(self, rows: Rows) -> ModelOutput:
        """The reference model's output: cached losses if the part declared only those and they exist, otherwise a live evaluation."""
        if Need.REFERENCE in self._needs:
            return self._frozen("reference", rows)
        self._check(Need.REFERENCE_LOGP)
        losses = self._run.reference_loss
        if rows.ids and f"{rows.name}/{rows.ids[0]}" not in losses:
            return self._frozen("reference", rows)
        return CachedReference([losses[f"{rows.name}/{i}"] for i in rows.ids])

    def generate(self, rows: Rows, limit: int, sample: bool = False, temperature: float = 1.0, with_logp: bool = False) -> Samples:
        """Answers that the model generates, at most `limit` tokens each; greedy unless `sample` is set."""
        self._check_capability(Generates)
        run, modality = self._run, require(self.modality, Generates)
        with evaluating(self.model), torch.no_grad(), run.autocast():
            samples = modality.generate(self.model, rows, limit, self.rng() if sample else None, temperature, with_logp)
        read = modality.counts(rows)
        run.cost.forward_tokens += read["tokens"] - read["labels"] + sum(map(len, samples.ids)) + sum(samples.ended)
        return samples

    def sample(self, captions: Sequence[str], seeds: Sequence[int], reference: bool = False, **how: Any) -> tuple[Tensor, Tensor]:
        """Latents that the model samples for captions, one for each seed, and the index of the time of each, in evaluation mode.

        Args:
            reference: sample from the reference model.
            how: steps, guidance and until, as `Denoises.sample` takes them.
        """
        self._check_capability(Denoises)
        if reference:
            self._check(Need.REFERENCE)
        run, modality = self._run, require(self.modality, Denoises)
        run.alone("samples")

        def count(module: nn.Module, args: tuple[Any, ...]) -> None:
            run.cost.forward_tokens += len(args[0])

        handle = self.model.register_forward_pre_hook(count)
        try:
            with evaluating(self.model), torch.no_grad(), run.autocast(), swapped(self.model, run.models["reference"] if reference else {}):
                return modality.sample(self.model, captions, seeds, **how)
        finally:
            handle.remove()

    def batches(self, name: str, size: int) -> Iterator[Rows]:
        """Yield the rows of a set in order, `size` at a time."""
        rows = self.rows(name)
        for i in range(0, len(rows), size):
            yield rows.select(range(i, min(i + size, len(rows))))

    def grad(
        self, target: Objective | str, sets: Sets | None = None, batch_size: int = 32, vector: list[Tensor] | None = None
    ) -> list[Tensor]:
        """The gradient over whole sets at the current weights.

        Args:
            target: an objective, or the role of terms of the plan's own objective.
            sets: sets to evaluate on; default: those of this view.
            vector: if given, the result is the Hessian's product with this vector instead of the gradient.

        Returns:
            One tensor for each parameter, in the order of `params`.
        """
        if isinstance(target, str):
            assert self._run.objective is not None
            objective, roles = self._run.objective, (target,)
        else:
            objective, roles = target, None
        names_read = frozenset[str]().union(*(t.objective.reads for t in objective.terms()))
        with evaluating(self.model):
            whole_sets = sets or {n: self.sets[n] for n in names_read if n in self.sets}
            return self._run.engine.evaluate(self._run, objective, whole_sets, batch_size, roles, vector=vector)[1]

    def example_grads(self, rows: Rows, loss: Callable[[ModelOutput], Tensor], batch_size: int = 32) -> Iterator[list[Tensor]]:
        """Yield the gradient of each row, batch by batch.

        Args:
            loss: a function from the output to the loss of each row, (rows,).
            batch_size: largest number of rows at a time; fewer if their gradients would take too much memory.

        Yields:
            For each batch, tensors (rows, *shape) in the order of `params`.
        """
        self._check(Need.EXAMPLE_GRADS)
        self._run.alone("gradients of single rows")
        batch_size = max(1, min(batch_size, ROOM // sum(p.numel() for p in self.params)))
        way = None
        for i in range(0, len(rows), batch_size):
            gradients: list[list[Tensor]] = []
            batch = rows.select(range(i, min(i + batch_size, len(rows))))
            way = row_gradients(self.model, self._ask, batch, lambda output: [loss(output)], gradients.append, batch_size, way)
            yield [torch.cat(pieces) for pieces in zip(*gradients, strict=True)]

    def fisher(self, rows: Rows, draws: int | None = 0, batch_size: int = 32) -> list[Tensor]:
        """The diagonal of the Fisher information, a mean over rows, in the order of `params`.

        Args:
            draws: number of labels drawn per row from the model's own distribution. 0 takes every class, which is the exact expectation
                (rows with several labels then have them drawn once). None takes the rows' own labels.
        """
        self._check(Need.FISHER)
        self._run.alone("the Fisher information")
        rng, extra_passes = self.rng(), 0

        def losses(output: ModelOutput) -> Iterator[Tensor]:
            nonlocal extra_passes
            for extra_passes, likelihood in enumerate(likelihoods(output, draws, rng)):  # noqa: B007 - backward passes after the first
                yield likelihood

        diagonal = squared_gradients(self.model, self._ask, rows, losses, batch_size)
        self._run.cost.backward_tokens += extra_passes * self.modality.counts(rows)["tokens"]
        return diagonal

    def kfac(self, rows: Rows, strategy: kfac.Strategy = "ekfac", draws: int = 1, batch_size: int = 32) -> dict[str, Tensor]:
        """The Fisher information of the layers of `kfac.layers` as Kronecker factors, a mean over labels; see `kfac.fit`.

        Args:
            draws: how often each label is drawn from the model's own distribution; 0: as in `fisher`.
        """
        self._check(Need.FISHER)
        self._run.alone("the Fisher information")
        rng, paths = self.rng(), [layer.path for layer in kfac.layers(self.model, self.modality)]
        return kfac.fit(
            self.model, self.modality, self._ask, rows, lambda output: likelihoods(output, draws, rng), paths, strategy, batch_size
        )

    def input_grad(
        self, x: Tensor, rows: Callable[[Tensor], Rows], loss: Callable[[ModelOutput], Tensor], training: int | None = None
    ) -> Tensor:
        """The gradient of a loss with respect to an input, of the shape of `x`.

        Args:
            x: the input.
            rows: a function from an input to the rows that hold it, such as `modality.moved`.
            loss: a function from the output to a scalar.
            training: a seed, for training mode; None: evaluation mode.
        """
        if Denoises not in self._requires:  # whose inputs are latents and states of captions
            self._check_capability(DifferentiableInputs)
        self._run.alone("gradients by an input")
        return input_gradient(self.model, self._ask, x, rows, loss, training)

    def _ask(self, rows: Rows) -> ModelOutput:
        return self._run.forward([rows], (), why="view")[0]

    def run(
        self,
        plan: Plan | Plans,
        sets: Sets,
        start: Weights | None = None,
        key: str = "",
        model: nn.Module | None = None,
        alone: bool = False,
    ) -> RunView:
        """Run a plan on a copy of the model (a teacher, a shard, an inner problem), with a seed of its own.

        Args:
            sets: rows by name; one set, if `alone` is set.
            start: weights by name that the copy starts from; default: those of the model.
            key: distinguishes the seeds of several runs at the same place and epoch.
            model: another model to run it on, in place, such as one made from several.
            alone: the run is as if there were no rows but these: a graph has no other edges, and negatives avoid no other rows.

        Returns:
            A view of the finished run. In a by-design method an adapter is merged into the weights.
        """
        self._run.alone("copies of the model")
        model = copy.deepcopy(self.model) if model is None else model
        put(model, start or {})
        modality = self.modality
        if alone and offers(modality, HoldsRows):
            ((name, rows),) = sets.items()
            modality, rows = require(modality, HoldsRows).alone(rows)
            require(modality, HoldsRows).add_rows(model, rows)
            sets = {name: rows}
        place = f"{self.place}/{key}"
        if ended := self._run.finished.get(place) if self._run.keep else None:
            put(model, ended["weights"])
            return RunView(replace(self._run, model=model, modality=modality, keep=None, state=ended["state"], done=ended["done"]), sets)
        seed = seed_of(self._run.seed, self.place, self._run.epoch, key)
        inner = self._run.inner(as_plans(plan), model, modality, sets, key, seed)
        if self._run.keep:
            inner.model = adapters.merged(inner.model)
            self._run.keep(place, {"weights": weights_of(inner.model), "state": inner.state, "done": inner.done})
        return RunView(inner, sets)


class RunStep(RunView):
    """One micro-batch of one gradient evaluation. Parts share its outputs, which are dropped afterwards."""

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
        """The model's output with its gradient. The first call runs all sets of the evaluation in one forward pass."""
        if self.batch.get(rows.name) is not rows:
            return self._run.forward([rows], self._all_hook_points, patch)[0]
        key = (rows.name, patch)
        if key not in self._cache:
            names = list(self.batch) if patch is None and self._fuse else [rows.name]
            outputs = self._run.forward([self.batch[n] for n in names], self._all_hook_points, patch)
            self._cache.update({(n, patch): output for n, output in zip(names, outputs, strict=True)})
        return self._cache[key]

    def mean(self, x: Tensor | Packed, rows: Rows) -> Tensor:
        """The mean over the logical batch, with row weights.

        The gradient is this micro-batch's share. The value is that share too, or the whole mean if a part needs `BATCH_MEANS`.

        Args:
            x: packed values, averaged over all positions of the batch, or a tensor (rows,), averaged over rows.
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
        """The number of rows, labels or tokens of this set in the logical batch."""
        return self._counts[rows.name][kind]

    def note(self, **means: Tensor) -> None:
        """Keep means (of `mean`) for `after`, which gets those of the step's first evaluation, summed over micro-batches."""
        self.notes.update({f"{self.place}:{k}": v.detach() for k, v in means.items()})

    def noted(self, name: str) -> Tensor:
        """The mean that this part noted under a name."""
        return self.notes[f"{self.place}:{name}"]
