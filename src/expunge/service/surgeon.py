"""Who says how a model is repaired: a list that is tried in order, or a model whose plan is checked. No generated code is ever run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from expunge.core.errors import UserError
from expunge.engine.writers import Writer, asking
from expunge.functional.brief import brief
from expunge.workflows import build_plan

Setting = bool | int | float | str | list[int]
MOST = 12  # hyperparameters of a plan
INSTRUCTION = """A language model must forget some questions and answers. Reply with one JSON object and nothing else, of the form
{"method": one of "stamp", "lunar", "npo", "hyperparameters": {NAME: VALUE, ...}}. The model has %d blocks, and %d rows are to go."""
TOKENS = 512  # of what a model says


@brief("method", "hyperparameters")
class Repair(BaseModel):
    """A method of the catalog with its hyperparameters, which were checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    method: Literal["stamp", "lunar", "npo"]
    hyperparameters: Annotated[dict[str, Setting], Field(max_length=MOST)] = {}


class Surgeon(Protocol):
    """Says what is tried, the best first."""

    def __call__(self, blocks: int, rows: int) -> Iterator[Repair]: ...


class ListedSurgeon:
    """`stamp` at positions and layers in order, then `lunar`, then `npo` with an adapter.

    Args:
        training: hyperparameters of `npo`.
    """

    def __init__(self, training: Mapping[str, Setting] | None = None) -> None:
        self.training = dict(training or {"lr": 1e-3, "epochs": 20, "lora": 8})

    def __call__(self, blocks: int, rows: int) -> Iterator[Repair]:
        """The repairs. blocks: of the model; rows: to be forgotten."""
        for position in ("last", "said"):
            yield Repair(method="stamp", hyperparameters={"layers": [*range(blocks)], "positions": position})
        yield Repair(method="lunar")
        yield Repair(method="npo", hyperparameters=self.training)


@brief("writer", "otherwise")
class ModelSurgeon:
    """A chat model that is asked for the first repair; those of another surgeon follow.

    Args:
        writer: gives the answer to a chat. It is told how many rows there are, and none of them.
        otherwise: what is tried where its repair is none or does not help.
    """

    def __init__(self, writer: Writer, otherwise: Surgeon) -> None:
        self.writer, self.otherwise = writer, otherwise

    def __call__(self, blocks: int, rows: int) -> Iterator[Repair]:
        """The repairs. blocks: of the model; rows: to be forgotten."""
        proposed = repair_in(self.writer.write([asking(INSTRUCTION % (blocks, rows))], TOKENS)[0])
        if proposed is not None:
            yield proposed
        yield from self.otherwise(blocks, rows)


def repair_in(text: str) -> Repair | None:
    """The repair in what a model said; None where it is none that the catalog knows."""
    try:
        repair = Repair.model_validate_json(text.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip())
        build_plan.plan(repair.method, dict(repair.hyperparameters))
    except (ValidationError, UserError, TypeError, ValueError):
        return None
    return repair


def settings_of(repair: Repair) -> dict[str, Any]:
    """The hyperparameters as `unlearn` takes them."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in repair.hyperparameters.items()}
