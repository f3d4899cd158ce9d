"""Representation misdirection (RMU): steer one block's output on the forget rows to a fixed random vector, and hold it on the rest.

Few weights move: the last matrix of three blocks. The blocks above turn a random vector into noise.

Equation: L = mean |h(x_forget) - c u|^2 / d + alpha mean |h(x_retain) - h_ref(x_retain)|^2 / d; u = r / |r|, r uniform in [0, 1)^d;
  means over the answer's tokens of each row, then over rows
Source: Li et al. 2024, arXiv 2403.03218; masked form: OpenUnlearning, arXiv 2506.12618
Needs: forget, retain; the reference's hidden states (only the weights that move are kept twice)
Cost: one forward and backward of forget and retain rows, and one reference forward of the retain rows a step
Differs: one forget corpus; answer tokens by default, with `positions all` every token except padding, while the authors' code averages over
  padding too; more than one pass over a short corpus; weights are found by name, not by index, and in a mixture those of all experts move
Status: not shown
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
LAST = "down_proj|c_proj|fc2|dense_4h_to_h|output.dense"  # names of the last matrix of a block's perceptron, by model family


def direction(width: int, generator: torch.Generator) -> Tensor:
    """A random unit vector without negative entries, (width,)."""
    return normalize(torch.rand(width, generator=generator), dim=0)


def hidden(output: ModelOutput, hook_point: str, positions: Positions) -> Packed:
    """Output of a module at the answers' tokens or at all tokens, (positions, width)."""
    return output.hidden(hook_point, answers=positions == "answers")


def distance(step: Step, rows: Rows, states: Packed, target: Tensor) -> Tensor:
    """Mean squared difference between hidden states and a target.

    Args:
        step: The step whose batch holds the rows.
        rows: The rows that the states belong to.
        states: Hidden states, (positions, width).
        target: One vector, (width,), or a vector for each position, (positions, width).

    Returns:
        A scalar. At the answers' tokens it is a mean over the tokens of each row, then over rows; otherwise a mean over all tokens.
    """
    exact = target.to(states.values.device, torch.promote_types(target.dtype, torch.float32))
    squared = states.map(lambda h: (h - exact).square().mean(-1))
    return step.mean(squared.mean() if squared.kind == "labels" else squared, rows)


@part
class Misdirect(Objective):
    """Steers a block's output on forget rows to a random vector of fixed length."""

    layer: int = 7
    positions: Positions = "answers"
    coefficient: float = hp(6.5, "length of the vector that the output is steered to", ge=0)
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
    """Keeps a block's output on retain rows equal to the reference's."""

    layer: int = 7
    positions: Positions = "answers"
    reads = frozenset({"retain"})
    needs = frozenset({Need.REFERENCE})
    role = "retain"

    @property
    def hook_points(self) -> tuple[str, ...]:
        return (f"block:{self.layer}",)

    def loss(self, step: Step) -> Tensor:
        reference = hidden(step.reference(step.retain), self.hook_points[0], self.positions)
        return distance(step, step.retain, hidden(step.now(step.retain), self.hook_points[0], self.positions), reference.values)


def moving(layer: int) -> str:
    """A regex of the weights that train: the last perceptron matrix, without bias, of this block and the two blocks below."""
    blocks = "|".join(f"block:{i}" for i in range(max(0, layer - 2), layer + 1))
    linear = rf"((mlp\.)?({LAST})|layer\.\d\.DenseReluDense\.wo)\.(?!bias)"  # the latter in T5
    return rf"^({blocks})\.({linear}|mlp\.experts\.down_proj$)"  # of a mixture, those of all experts


def plan(
    layer: Annotated[int, "block whose output is steered, counted from 0"] = 7,
    positions: Annotated[Positions, "tokens that count: those of the answers, or all"] = "answers",
) -> Plan:
    train = Train(epochs=0, steps=150, lr=5e-5, batch_size=4, schedule="constant")
    return Plan(Misdirect(layer, positions) + 1200.0 * Hold(layer, positions), train=train, trainable=moving(layer))
