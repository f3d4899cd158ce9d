"""Representation misdirection (RMU): steer one block's output on the rows to forget to a fixed random vector, and hold it on the rest.

Few weights move: the last matrix of three blocks. What the blocks above make of a random vector is noise.

Equation: L = mean |h(x_forget) - c u|^2 / d + alpha mean |h(x_retain) - h_ref(x_retain)|^2 / d; u = r / |r|, r uniform in [0, 1)^d;
  means over the answer's tokens of each row, then over rows
Source: Li et al. 2024, arXiv 2403.03218; masked form: OpenUnlearning, arXiv 2506.12618
Needs: forget, retain; the reference's hidden states (only the weights that move are kept twice)
Cost: one forward and backward of forget and retain rows, and one reference forward of the retain rows a step
Differs: one forget corpus; answer tokens by default, with `positions all` every token but no padding, where the authors' code averages over
  padding too; more than one pass over a short corpus; weights are found by name, not by place
Status: reproduced
"""

from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from expunge.core.hyperparameters import hp, part
from expunge.core.modality import ModelOutput
from expunge.core.needs import Need
from expunge.core.parts import Objective
from expunge.core.plan import Plan, Train
from expunge.core.rows import Packed, Rows
from expunge.core.view import State, Step, View

Positions = Literal["answers", "all"]
LAST = "down_proj|c_proj|fc2|dense_4h_to_h|output.dense"  # what families call the last matrix of a block's perceptron


def direction(width: int, generator: torch.Generator) -> Tensor:
    """A random unit vector without negative entries, (width,)."""
    drawn = torch.rand(width, generator=generator)
    return normalize(drawn, dim=0)


def hidden(answer: ModelOutput, hook_point: str, positions: Positions) -> Packed:
    return answer.hidden(hook_point, answers=positions == "answers")


def distance(step: Step, rows: Rows, new: Packed, aim: Tensor) -> Tensor:
    """Mean squared difference to a vector, (width,), or to vectors, (positions, width): of each row, then of rows; or of all tokens."""
    exact = aim.to(new.values.device, torch.promote_types(aim.dtype, torch.float32))
    apart = new.map(lambda h: (h - exact).square().mean(-1))
    return step.mean(apart if apart.kind == "tokens" else apart.mean(), rows)


@part
class Misdirect(Objective):
    """Draw a block's output on forget rows to a random vector of fixed length."""

    layer: int = 7
    positions: Positions = "answers"
    coefficient: float = hp(6.5, "length of the vector that the output is drawn to", ge=0)
    reads = frozenset({"forget"})

    @property
    def hook_points(self) -> tuple[str, ...]:
        return (f"block:{self.layer}",)

    def begin(self, view: View) -> State:
        width = view.now(view.forget.select([0])).hidden(self.hook_points[0]).values.shape[-1]
        return {"target": self.coefficient * direction(width, view.rng())}

    def loss(self, step: Step) -> Tensor:
        return distance(step, step.forget, hidden(step.now(step.forget), self.hook_points[0], self.positions), step.state["target"])


@part
class Hold(Objective):
    """Keep a block's output on retain rows as the reference's."""

    layer: int = 7
    positions: Positions = "answers"
    reads = frozenset({"retain"})
    needs = frozenset({Need.REFERENCE})
    role = "retain"

    @property
    def hook_points(self) -> tuple[str, ...]:
        return (f"block:{self.layer}",)

    def loss(self, step: Step) -> Tensor:
        old = hidden(step.reference(step.retain), self.hook_points[0], self.positions)
        return distance(step, step.retain, hidden(step.now(step.retain), self.hook_points[0], self.positions), old.values)


def moving(layer: int) -> str:
    """A regex of the weights that move: the last matrix of the perceptrons of this block and the two below, biases not."""
    blocks = "|".join(map(str, range(max(0, layer - 2), layer + 1)))
    return rf"\.({blocks})\.(mlp\.)?({LAST})\.(?!bias)"


def plan(
    layer: Annotated[int, "block whose output is steered, counted from 0"] = 7,
    positions: Annotated[Positions, "tokens that count: those of the answers, or all"] = "answers",
) -> Plan:
    train = Train(epochs=0, steps=150, lr=5e-5, batch_size=4, schedule="constant")
    return Plan(Misdirect(layer, positions) + 1200.0 * Hold(layer, positions), train=train, trainable=moving(layer))
