"""The nouns of every method. Nothing here knows a method, a metric or a modality by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from expunge.core.hyperparameters import hp, part, snake
from expunge.core.modality import Modality, Weights
from expunge.core.rows import Sets
from expunge.core.view import State, Step, View

Weight = float | Callable[[int], float]  # a term's weight may depend on the epoch
GradCall = Callable[..., tuple[Tensor, list[Tensor]]]  # (*roles) -> value, gradient


class Part(ABC):
    """What every piece of a plan is: `begin` makes its state at the untouched weights, `after` moves it, in between nobody can."""

    @property
    def reads(self) -> frozenset[str]:
        """Sets of rows that it looks at: forget, retain, or what a selector gives."""
        return frozenset()

    @property
    def requires(self) -> frozenset[Any]:
        """Capabilities that the modality must have (protocols of `expunge.core.capabilities`)."""
        return frozenset()

    @property
    def needs(self) -> frozenset[str]:
        """What it uses that costs: a `Need`, or the name of an earlier stage whose model it asks."""
        return frozenset()

    @property
    def hook_points(self) -> tuple[str, ...]:
        """Paths of modules whose input and output the shared forward pass must keep."""
        return ()

    def prepare(self, model: nn.Module, modality: Modality, seed: int) -> None:
        """Give the model the shape that the part works on (vectors for new tokens): before anything else, in a resumed run too."""

    def begin(self, view: View) -> State:
        return {}

    def after(self, step: Step) -> State:
        """The next state; once an optimizer step. Returns, never mutates."""
        return step.state

    def end(self, view: View) -> None:
        """The stage is over: the last chance to set the weights (averaging)."""


class Objective(Part):
    """Something to minimize."""

    @property
    def role(self) -> str:
        """The name by which updates ask for its gradient: forget, retain, or its own word."""
        return "forget"

    @abstractmethod
    def loss(self, step: Step) -> Tensor:
        """A scalar; pure. Rows are averaged by `step.mean` and by nothing else."""

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
    """An objective with its weight, which the command line calls by the term's role: `forget_weight`, `retain_weight` ..."""

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
    """`grads()` is the gradient of all present terms, `grads("forget")` that of one role. Each call is one fresh evaluation."""

    call: GradCall
    hvp: Callable[..., list[Tensor]]
    params: list[Tensor]
    roles: frozenset[str]

    def __call__(self, *roles: str) -> tuple[Tensor, list[Tensor]]:
        return self.call(*(roles or sorted(self.roles)))


class Update(Part):
    """Another way of getting from gradients to steps."""

    @abstractmethod
    def wrap(self, grads: Grads, step: Step) -> GradCall:
        """A new way to get gradients. The first update of a plan is next to the loss, the last one next to the optimizer."""

    def holds(self, step: Step) -> list[Tensor] | None:
        """True where the optimizer must leave a weight alone in this step, decay and momentum included."""
        return None

    def roles(self) -> frozenset[str]:
        """Roles that it asks for by name; the run refuses to start where the objective has none of that name."""
        return frozenset()


class Selector(Part):
    """Which rows, with which weights, labels and answers. An epoch selector is given the start sets, never its last pick.

    A selector of `run` picks before the first stage; its sets replace those of the request in all stages.
    """

    when: ClassVar[Literal["run", "start", "epoch", "step"]] = "start"

    @property
    def gives(self) -> frozenset[str]:
        """Names of the sets that it makes or changes."""
        return frozenset()

    @abstractmethod
    def pick(self, sets: Sets, view: View) -> Sets: ...


class Stop(Part):
    """A reason to end the stage, asked before the first epoch and after each."""

    @abstractmethod
    def stop(self, view: View) -> str | None: ...


class Edit(Part):
    """A one-shot change of the weights, over whole sets."""

    @abstractmethod
    def apply(self, view: View) -> None: ...


class Guard(Part):
    """A decorator of the modality at inference time; the weights stay as they are. Always the last stage."""

    @abstractmethod
    def wrap(self, modality: Modality, view: View) -> Modality:
        """The guarded modality: its `generate` and `forward` answer in the guard's way; `unguarded` is the modality given."""


class ByDesign(Part):
    """Exact unlearning with a stored artifact of its own (SISA, DeltaGrad): training makes a store, and rows are taken out of it.

    A store is nested plain data with tensors and rows, so that a checkpoint can hold it; it keeps whatever forgetting needs, rows included.
    """

    @abstractmethod
    def fit(self, view: View) -> Mapping[str, Any]:
        """The store, made from the rows of the set `retain` with the view's model as the starting point."""

    @abstractmethod
    def forget(self, store: Mapping[str, Any], ids: frozenset[str], view: View) -> Mapping[str, Any]:
        """The store without some rows. Raises: UserError where the store does not know them."""

    @abstractmethod
    def weights(self, store: Mapping[str, Any], view: View) -> Weights:
        """The weights of the model that a store stands for."""


def title(part_: Part) -> str:
    """The name of a part in logs: its class in snake case."""
    return snake(type(part_).__name__)
