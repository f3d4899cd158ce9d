"""The kinds of parts that methods are made of. Nothing here knows a method, a metric or a modality by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality, Weights
from expunge.core.rows import Sets
from expunge.core.view import State, Step, View

Weight = float | Callable[[int], float]  # a term's weight may depend on the epoch
GradCall = Callable[..., tuple[Tensor, list[Tensor]]]  # (*roles) -> value, gradient


class Part(ABC):
    """The base of every part of a plan. `begin` makes its state at the initial weights, `after` replaces it; nothing else changes it."""

    @property
    def reads(self) -> frozenset[str]:
        """Sets of rows that the part reads: forget, retain, or a set that a selector gives."""
        return frozenset()

    @property
    def requires(self) -> frozenset[Any]:
        """Capabilities that the modality must have (protocols of `expunge.core.capabilities`)."""
        return frozenset()

    @property
    def needs(self) -> frozenset[str]:
        """What the part uses at a cost: a `Need`, or the name of an earlier stage whose model it evaluates."""
        return frozenset()

    @property
    def hook_points(self) -> tuple[str, ...]:
        """Paths of modules whose input and output the shared forward pass must keep."""
        return ()

    def prepare(self, model: nn.Module, modality: Modality, seed: int) -> None:
        """Give the model the shape that the part needs (vectors for new tokens). This runs before anything else, also in a resumed run."""

    def begin(self, view: View) -> State:
        return {}

    def after(self, step: Step) -> State:
        """The next state, once per optimizer step. Returns a new state and never mutates the old one."""
        return step.state

    def end(self, view: View) -> None:
        """Called after the last step of the stage: the last chance to set the weights (averaging)."""


class Objective(Part):
    """Something to minimize."""

    @property
    def role(self) -> str:
        """The name by which updates ask for its gradient: forget, retain, or a name of its own."""
        return "forget"

    @abstractmethod
    def loss(self, step: Step) -> Tensor:
        """The loss as a scalar, without side effects. Only `step.mean` may average over rows."""

    def terms(self) -> tuple[Term, ...]:
        return (Term(1.0, self),)

    def __add__(self, other: Objective) -> Sum:
        return Sum((*self.terms(), *other.terms()))

    def __rmul__(self, weight: Weight) -> Sum:
        return Sum(tuple(Term(_times(weight, t.weight), t.objective) for t in self.terms()))


def _times(a: Weight, b: Weight) -> Weight:
    if callable(a) or callable(b):
        return lambda epoch: (a(epoch) if callable(a) else a) * (b(epoch) if callable(b) else b)
    return a * b


@part
class Term:
    """An objective with its weight. The command line names the weight by the role: `forget_weight`, `retain_weight` ..."""

    weight: float | Callable[[int], float] = hp(1.0, "weight of this term in the loss")
    objective: Objective = None  # type: ignore[assignment]  # always given; a default must follow a default

    def alias(self, field: str) -> str:
        return f"{self.objective.role}_{field}"

    def at(self, epoch: int) -> float:
        return float(self.weight(epoch) if callable(self.weight) else self.weight)


@part
class Sum(Objective):
    """Weighted terms; the loop evaluates them one by one."""

    weighted: tuple[Term, ...]

    def terms(self) -> tuple[Term, ...]:
        return self.weighted

    def loss(self, step: Step) -> Tensor:
        raise TypeError("a sum has no loss of its own: the loop evaluates its terms")


@dataclass(frozen=True)
class Grads:
    """`grads()` is the gradient of all present terms, `grads("forget")` that of one role. Each call evaluates the model anew."""

    call: GradCall = field(repr=False)
    hvp: Callable[..., list[Tensor]] = field(repr=False)
    params: list[Tensor] = field(repr=False)
    roles: frozenset[str]

    def __call__(self, *roles: str) -> tuple[Tensor, list[Tensor]]:
        return self.call(*(roles or sorted(self.roles)))


class Update(Part):
    """A change of the gradients on their way to the optimizer."""

    @abstractmethod
    def wrap(self, grads: Grads, step: Step) -> GradCall:
        """A wrapped gradient function. The first update of a plan is next to the loss, the last one next to the optimizer."""

    def holds(self, step: Step) -> list[Tensor] | None:
        """Masks, one per parameter: True where the optimizer must not change a weight in this step, not even by decay or momentum."""
        return None

    def roles(self) -> frozenset[str]:
        """Roles that the update asks for by name. The run refuses to start if the objective lacks one of them."""
        return frozenset()


class Selector(Part):
    """A choice of rows, with their weights, labels and answers. An epoch selector gets the sets of the stage's start, never its last pick.

    A selector with `when = "run"` picks before the first stage. Its sets replace those of the request in all stages.
    """

    when: ClassVar[Literal["run", "start", "epoch", "step"]] = "start"

    @property
    def gives(self) -> frozenset[str]:
        """Names of the sets that the selector makes or changes."""
        return frozenset()

    @abstractmethod
    def pick(self, sets: Sets, view: View) -> Sets: ...


class Stop(Part):
    """A rule that ends the stage. The loop evaluates it before the first epoch and after each epoch."""

    @abstractmethod
    def stop(self, view: View) -> str | None: ...


class Edit(Part):
    """A direct change of the weights in one pass, computed from whole sets."""

    @abstractmethod
    def apply(self, view: View) -> None: ...


class Guard(Part):
    """A decorator of the modality at inference time. The weights do not change. A guard is always the last stage."""

    @abstractmethod
    def wrap(self, modality: Modality, view: View) -> Modality:
        """The guarded modality: its `generate` and `forward` apply the guard; `unguarded` is the original modality."""


class ByDesign(Part):
    """Exact unlearning with a stored artifact (SISA, DeltaGrad): training makes a store, and forgetting removes rows from it.

    A store is plain data, tensors and rows. It may hold a `guarantee` for the receipt, and the `answer` of an ensemble: mean or majority.
    """

    @abstractmethod
    def fit(self, view: View) -> Mapping[str, Any]:
        """The store, made from the rows of the set `retain` with the view's model as the starting point."""

    @abstractmethod
    def forget(self, store: Mapping[str, Any], ids: frozenset[str], view: View) -> Mapping[str, Any]:
        """The store without some rows. Raises: UserError if the store does not contain them."""

    @abstractmethod
    def weights(self, store: Mapping[str, Any], view: View) -> Weights | Sequence[Weights]:
        """The weights of the model that a store represents, or of each member of an ensemble."""
