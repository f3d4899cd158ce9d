"""The nouns of every method. Nothing here knows a method, a metric or a modality by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from expunge.core.hyperparameters import knob, part, snake

if TYPE_CHECKING:
    from expunge.engine.context import Step, View

State = Mapping[str, Tensor]
Weights = dict[str, Tensor]
Weight = float | Callable[[int], float]  # a term's weight may depend on the epoch
GradCall = Callable[..., tuple[Tensor, list[Tensor]]]  # (*roles) -> value, gradient


class Need(StrEnum):
    """What costs something besides rows. A model that an earlier stage left is a need by the stage's name."""

    REFERENCE_LOGP = "reference_logp"  # numbers of rows that exist before step 1: remembered, no second model
    REFERENCE = "reference"  # anything, also about rows made on the way: the trainable tensors are kept twice
    BATCH_MEANS = "batch_means"  # the loss is not linear in `step.mean`: accumulation pays one more forward
    GENERATE = "generate"  # answers in the model's own words
    PROMPTS = "prompts"  # rows that ask in words
    INPUTS = "inputs"  # rows whose input is numbers that can be moved: `port.inputs`, `port.moved`
    EXAMPLE_GRADS = "example_grads"
    FISHER = "fisher"


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of one named set. Columns are the port's business (and selectors'); ids and weights are everybody's."""

    name: str
    ids: tuple[str, ...]
    cols: Mapping[str, Sequence[Any]]
    weight: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, col: str) -> Sequence[Any]:
        return self.cols[col]

    def take(self, idx: Iterable[int]) -> Rows:
        """The rows at these places, in this order; places may repeat."""
        at = list(idx)
        cols = {k: [v[i] for i in at] for k, v in self.cols.items()}
        return Rows(self.name, tuple(self.ids[i] for i in at), cols, tuple(self.weight[i] for i in at) if self.weight else ())

    def add(self, **cols: Sequence[Any]) -> Rows:
        """The same rows with more columns."""
        return replace(self, cols={**self.cols, **cols})

    def named(self, name: str) -> Rows:
        return replace(self, name=name)

    def join(self, other: Rows) -> Rows:
        """These rows and then others, with the columns that both have."""
        weights = [r.weight or (1.0,) * len(r) for r in (self, other)] if self.weight or other.weight else [(), ()]
        cols = {k: [*v, *other.cols[k]] for k, v in self.cols.items() if k in other.cols}
        return Rows(self.name, self.ids + other.ids, cols, weights[0] + weights[1])


Sets = Mapping[str, Rows]


@dataclass(frozen=True, eq=False)
class Tokens:
    """Values at the positions that count, packed: no padding, no mask, so the company of a row cannot change its shape."""

    values: Tensor  # (positions, ...)
    row: Tensor  # (positions,) which row a position belongs to
    rows: int
    kind: str = "labels"  # the port's count that a mean over the logical batch is divided by

    def sum(self) -> Tensor:
        """Sum of each row, (rows, ...)."""
        return self.values.new_zeros(self.rows, *self.values.shape[1:]).index_add(0, self.row, self.values)

    def mean(self) -> Tensor:
        """Mean of each row over its own positions, (rows, ...)."""
        return self.sum() / self.lengths.clamp_min(1).view(-1, *[1] * (self.values.dim() - 1))

    @property
    def lengths(self) -> Tensor:
        """Positions of each row, (rows,)."""
        return torch.bincount(self.row, minlength=self.rows)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Tokens:
        return replace(self, values=fn(self.values))

    def split(self) -> list[Tensor]:
        """The values of each row."""
        return list(torch.split(self.values, self.lengths.tolist()))


class Answer(Protocol):
    """What a model says about some rows; shapes depend on these rows alone."""

    @property
    def logp(self) -> Tokens: ...  # log-probability of each label
    @property
    def scores(self) -> Tokens: ...  # (labels, classes), before the softmax
    @property
    def dist(self) -> Tokens: ...  # (labels, classes), log-probabilities
    @property
    def labels(self) -> Tensor: ...  # (labels,) the class that each label position should say
    def hidden(self, tap: str, answers: bool = False) -> Tokens: ...  # output of a tapped module, at all tokens or at the answer's own
    def input(self, tap: str, answers: bool = False) -> Tokens: ...  # its input


class Patch(Protocol):
    """A hashable change of the forward (units off, say); part of the key under which answers are shared."""

    def on(self, model: nn.Module) -> AbstractContextManager[Any]: ...
    def __hash__(self) -> int: ...


class Modality(Protocol):
    """The port: everything that depends on what a row is. Parts speak to it and to nothing behind it."""

    name: str
    offers: frozenset[Need]  # what parts may ask of it; a method that needs more is refused

    def rows(self, name: str, records: Sequence[Mapping[str, Any]], source: str = "") -> Rows: ...  # errors: UserError that names the row
    def answers(self, texts: Sequence[Any], name: str = "substitutes") -> Rows: ...  # answers by themselves, one a row
    def refusals(self) -> list[str]: ...  # ways to say that one does not know, where the request brings none
    def question(self, rows: Rows) -> list[str]: ...  # for people to read
    def said(self, rows: Rows) -> list[str]: ...  # the answers, for people to read
    def ended(self, rows: Rows) -> list[bool]: ...  # whether the last label only ends the answer
    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        taps: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[Answer]: ...
    def counts(self, rows: Rows) -> Mapping[str, float]: ...  # rows, labels, tokens: denominators known without a forward
    def independent(self, model: nn.Module) -> bool: ...  # False (batch norm in training): rows of one forward influence each other
    def relabel(self, rows: Rows, answers: Sequence[Any], name: str) -> Rows: ...
    def blocks(self, model: nn.Module) -> tuple[str, ...]: ...  # taps of the model's blocks, first to last
    def module(self, model: nn.Module, tap: str) -> nn.Module: ...  # what a tap names
    def head(self, model: nn.Module) -> str: ...  # path of the last linear layer: its input is what the model makes of a row
    def fresh(self, model: nn.Module, seed: int) -> Weights: ...  # the weights of an untrained model of the same shape
    def generate(
        self, model: nn.Module, rows: Rows, limit: int, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> list[list[int]]: ...
    def decode(self, answers: Sequence[Sequence[int]]) -> list[str]: ...
    def save(self, model: nn.Module, folder: Path) -> None: ...
    def about(self) -> dict[str, Any]: ...  # what a receipt says of the way from rows to numbers


class Part(ABC):
    """What every piece of a plan is: `begin` makes its state at the untouched weights, `after` moves it, in between nobody can."""

    @property
    def reads(self) -> frozenset[str]:
        """Sets of rows that it looks at: forget, retain, or what a selector gives."""
        return frozenset()

    @property
    def needs(self) -> frozenset[str]:
        """What it uses that costs: a `Need`, or the name of an earlier stage whose model it asks."""
        return frozenset()

    @property
    def taps(self) -> tuple[str, ...]:
        """Paths of modules whose input and output the shared forward must remember."""
        return ()

    def prepare(self, model: nn.Module, port: Modality, seed: int) -> None:
        """Give the model the shape that the part works on (room for inputs of its own): before anything else, in a resumed run too."""

    def begin(self, view: View) -> State:
        return {}

    def after(self, step: Step) -> State:
        """The next state; once an optimizer step. Returns, never mutates."""
        return step.state

    def end(self, view: View) -> None:
        """The stage is over: the last chance to set the weights (averaging)."""


class Objective(Part):
    """Something to minimise."""

    @property
    def role(self) -> str:
        """What updates call its gradient by: forget, retain, or its own word."""
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

    weight: float | Callable[[int], float] = knob(1.0, "weight of this term in the loss")
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

    What a selector of `run` picks, before the first stage, is to all stages what the request brought.
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
    """A wrapper at inference time; the weights stay as they are. Always the last stage."""

    @abstractmethod
    def wrap(self, model: nn.Module, view: View) -> nn.Module: ...


class ByDesign(Part):
    """Exact unlearning with an artefact of its own (SISA, DeltaGrad)."""

    @abstractmethod
    def fit(self, view: View) -> Any: ...

    @abstractmethod
    def forget(self, made: Any, ids: frozenset[str], view: View) -> Any: ...

    @abstractmethod
    def model(self, made: Any, view: View) -> nn.Module: ...


@part
class Train:
    """How a stage is trained."""

    stage_settings: ClassVar[bool] = True

    epochs: int = knob(5, "passes over the anchor set", ge=0)
    steps: int = knob(0, "optimizer steps at most; 0: the epochs decide", ge=0)
    batch: int = knob(32, "rows of the anchor set in one optimizer step", gt=0)
    micro: int = knob(0, "rows in one forward; 0: the whole batch. Changes memory, not the result", ge=0)
    lr: float = knob(1e-5, "peak learning rate", ge=0)
    schedule: Literal["linear", "constant", "cosine"] = knob("linear", "how the learning rate falls after the warm-up")
    warmup: float = knob(0.0, "epochs of linear warm-up", ge=0)
    drops: tuple[int, ...] = knob((), "epochs after which the learning rate falls to a tenth, counted from 1")
    lr_decay: float = knob(1.0, "factor of the learning rate after every epoch", gt=0, le=1)
    optimizer: Literal["adamw", "adam", "sgd"] = knob("adamw", "optimizer")
    momentum: float = knob(0.0, "momentum of sgd", ge=0, lt=1)
    decay: float = knob(0.0, "weight decay", ge=0)
    clip: float = knob(0.0, "largest norm of the whole gradient; 0: no clipping", ge=0)
    precision: Literal["float32", "bf16"] = knob("float32", "bf16: mixed precision, weights stay as loaded")
    checkpointing: bool = knob(False, "recompute activations in the backward pass: less memory, more time")
    lora: int = knob(0, "rank of a LoRA adapter that is trained instead of the weights; 0: the weights", ge=0)
    lora_alpha: float = knob(0.0, "LoRA scale; 0: twice the rank", ge=0)
    lora_dropout: float = knob(0.0, "LoRA dropout", ge=0, lt=1)
    lora_targets: str = knob("all-linear", "regex of the modules that get an adapter, or all-linear")
    anchor: str = knob("forget", "the set that an epoch is one pass over; of an epoch that lacks it, forget or retain")
    pairing: Literal["random", "aligned"] = knob("random", "how the rows of other sets join a batch: drawn, or by the same place")
    fuse: bool = knob(True, "one forward for all sets of a step, where rows are independent")
    seed: int = knob(0, "seed of everything that is random", ge=0)


@part
class Plan:
    """One stage: what to do, on which rows, how. A method is a Plan or a tuple of Plans."""

    stage_owner: ClassVar[bool] = True

    do: Objective | Edit | Guard
    train: Train = Train()
    updates: tuple[Update, ...] = ()
    selectors: tuple[Selector, ...] = ()
    until: tuple[Stop, ...] = ()
    trains: str = knob(".*", "regex of the parameters that move")
    name: str = ""
    start: str = "last"  # last, original, or the name of an earlier stage
    reference: str = "start"  # weights at the start of this stage, original, or the name of an earlier stage

    @property
    def idle(self) -> frozenset[str]:
        """Settings of `train` that change nothing: an edit or a guard has a seed and no steps."""
        return frozenset() if isinstance(self.do, Objective) else frozenset(Train.__dataclass_fields__) - {"seed"}

    def terms(self) -> tuple[Term, ...]:
        return self.do.terms() if isinstance(self.do, Objective) else ()

    def parts(self) -> dict[str, Part]:
        """Every part by its place, parts that others hold included; places, not types, key the state."""
        do: dict[str, Part] = {f"term{i}": t.objective for i, t in enumerate(self.terms())} or {"do": self.do}
        placed: dict[str, Part] = {
            **{f"select{i}": s for i, s in enumerate(self.selectors)},
            **do,
            **{f"update{i}": u for i, u in enumerate(self.updates)},
            **{f"until{i}": u for i, u in enumerate(self.until)},
        }
        return {place: p for outer, holder in placed.items() for place, p in _held(outer, holder)}

    def needed(self) -> frozenset[str]:
        """The needs of all parts."""
        return frozenset[str]().union(*(p.needs for p in self.parts().values()))

    def sets_read(self) -> frozenset[str]:
        """Sets that the request must bring: what is read and no selector gives."""
        reads = frozenset[str]().union(*(p.reads for p in self.parts().values()))
        anchor = {self.train.anchor} if isinstance(self.do, Objective) else frozenset[str]()
        given = frozenset[str]().union(*(s.gives - s.reads for s in self.selectors))
        return (reads | anchor) - given


def _held(place: str, holder: Part) -> Iterator[tuple[str, Part]]:
    """A part, and the parts in its fields, by the names of those fields."""
    yield place, holder
    for name, value in vars(holder).items():
        if isinstance(value, Part) and not isinstance(value, Sum):
            yield from _held(f"{place}/{name}", value)


Plans = tuple[Plan, ...]


def as_plans(plan: Plan | Plans) -> Plans:
    return plan if isinstance(plan, tuple) else (plan,)


def title(part_: Part) -> str:
    """How a part is called in logs: its class in snake case, and the set where there is just one."""
    return snake(type(part_).__name__)


Batches = Iterator[Rows]
