"""A plan: one stage of a method, with its training settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from expunge.core.hyperparameters import Count, hp, part
from expunge.core.parts import ByDesign, Edit, Guard, Objective, Part, Selector, Stop, Sum, Term, Update


@part
class Train:
    """The training settings of a stage."""

    stage_settings: ClassVar[bool] = True

    epochs: int = hp(5, "passes over the anchor set", ge=0)
    steps: int = hp(0, "optimizer steps at most; 0: the epochs decide", ge=0)
    batch_size: int = hp(32, "rows of the anchor set in one optimizer step", gt=0)
    micro_batch_size: int = hp(0, "rows in one forward; 0: the whole batch. Changes memory, not the result", ge=0)
    lr: float = hp(1e-5, "peak learning rate", ge=0, allow_inf_nan=False)
    schedule: Literal["linear", "constant", "cosine"] = hp("linear", "how the learning rate falls after the warm-up")
    warmup: float = hp(0.0, "epochs of linear warm-up", ge=0, allow_inf_nan=False)
    lr_milestones: tuple[Count, ...] = hp((), "epochs after which the learning rate falls to a tenth, counted from 1")
    lr_decay: float = hp(1.0, "factor of the learning rate after every epoch", gt=0, le=1)
    optimizer: Literal["adamw", "adam", "sgd", "adagrad"] = hp("adamw", "optimizer")
    momentum: float = hp(0.0, "momentum of sgd", ge=0, lt=1)
    weight_decay: float = hp(0.0, "weight decay", ge=0, allow_inf_nan=False)
    max_grad_norm: float = hp(0.0, "largest norm of the whole gradient; 0: no clipping", ge=0)
    precision: Literal["float32", "bf16"] = hp("float32", "bf16: mixed precision, weights stay as loaded")
    gradient_checkpointing: bool = hp(False, "recompute activations in the backward pass: less memory, more time")
    lora: int = hp(0, "rank of a LoRA adapter that is trained instead of the weights; 0: the weights", ge=0)
    lora_alpha: float = hp(0.0, "LoRA scale; 0: twice the rank", ge=0)
    lora_dropout: float = hp(0.0, "LoRA dropout", ge=0, lt=1)
    lora_targets: str = hp("all-linear", "modules that get an adapter: all-linear, names separated by commas, or a regex")
    anchor: str = hp("forget", "the set that an epoch is one pass over; of an epoch that lacks it, forget or retain")
    pairing: Literal["random", "aligned"] = hp("random", "how the rows of other sets join a batch: drawn, or by the same place")
    fuse: bool = hp(True, "one forward for all sets of a step, where rows are independent")
    seed: int = hp(0, "seed of everything that is random", ge=0)


@part
class Plan:
    """One stage: its action, its rows and its training settings. A method is a Plan or a tuple of Plans."""

    stage_owner: ClassVar[bool] = True

    action: Objective | Edit | Guard | ByDesign
    train: Train = Train()
    updates: tuple[Update, ...] = ()
    selectors: tuple[Selector, ...] = ()
    stop_rules: tuple[Stop, ...] = ()
    trainable: str = hp(".*", "regex of the parameters that move")
    name: str = ""
    start: str = "last"  # last, original, or the name of an earlier stage
    reference: str = "start"  # weights at the start of this stage, original, or the name of an earlier stage

    @property
    def idle(self) -> frozenset[str]:
        """Settings of `train` that have no effect: an edit or a guard has a seed but no steps."""
        return frozenset() if isinstance(self.action, Objective) else frozenset(Train.__dataclass_fields__) - {"seed"}

    def terms(self) -> tuple[Term, ...]:
        return self.action.terms() if isinstance(self.action, Objective) else ()

    def parts(self) -> dict[str, Part]:
        """All parts by place, nested parts included. Places are keys of the state and of the seeds, so their names must not change."""
        action: dict[str, Part] = {f"term{i}": t.objective for i, t in enumerate(self.terms())} or {"do": self.action}
        placed: dict[str, Part] = {
            **{f"select{i}": s for i, s in enumerate(self.selectors)},
            **action,
            **{f"update{i}": u for i, u in enumerate(self.updates)},
            **{f"until{i}": u for i, u in enumerate(self.stop_rules)},
        }
        return {place: p for outer, holder in placed.items() for place, p in _held(outer, holder)}

    def required(self) -> frozenset[Any]:
        """The capabilities that the parts require together."""
        return frozenset[Any]().union(*(p.requires for p in self.parts().values()))

    def needed(self) -> frozenset[str]:
        """The needs of all parts together."""
        return frozenset[str]().union(*(p.needs for p in self.parts().values()))

    def sets_read(self) -> frozenset[str]:
        """Sets that the request must provide: those that parts read and no selector gives."""
        reads = frozenset[str]().union(*(p.reads for p in self.parts().values()))
        anchor = {self.train.anchor} if isinstance(self.action, Objective) else frozenset[str]()
        selected = frozenset[str]().union(*(s.gives - s.reads for s in self.selectors))
        return (reads | anchor) - selected


def _held(place: str, holder: Part) -> Iterator[tuple[str, Part]]:
    """Yield a part and the parts in its fields; a nested place ends with the name of its field."""
    yield place, holder
    for name, value in vars(holder).items():
        if isinstance(value, Part) and not isinstance(value, Sum):
            yield from _held(f"{place}/{name}", value)


Plans = tuple[Plan, ...]


def as_plans(plan: Plan | Plans) -> Plans:
    return plan if isinstance(plan, tuple) else (plan,)
