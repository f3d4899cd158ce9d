"""The head that denoises one token at a time, given what the network knows of its place. Source: MAR, NOVA and LINA (arXiv 2601.22630)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from expunge.functional.flow_matching import TIMES, frequencies

FREQUENCIES = 128  # of the time


def perceptron(inputs: int, width: int) -> nn.Sequential:
    """Linear, SiLU, linear."""
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width))


class FlowBlock(nn.Module):
    """x <- x + gate * LN(MLP((1 + scale) LN(x) + shift)), where scale, shift and gate are linear in the condition.

    Args:
        width: of a token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 3 * width)
        self.mlp = perceptron(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x and condition: (..., width). Returns: the same shape."""
        scale, shift, gate = self.modulation(F.silu(condition)).chunk(3, -1)
        branch: Tensor = self.norm(self.mlp((1 + scale) * F.layer_norm(x, x.shape[-1:]) + shift))
        added: Tensor = x + gate * branch
        return added


class FlowHead(nn.Module):
    """Predict the velocity of noisy tokens.

    Args:
        values: numbers of a token.
        states: width of what the network knows of a token's place.
        width: of the blocks.
        blocks: how many.
    """

    def __init__(self, values: int, states: int, width: int, blocks: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(values, width)
        self.of_states, self.of_time = perceptron(states, width), perceptron(2 * FREQUENCIES, width)
        self.blocks = nn.ModuleList(FlowBlock(width) for _ in range(blocks))
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, values)

    def forward(self, x: Tensor, sigma: Tensor, states: Tensor) -> Tensor:
        """The velocity.

        Args:
            x: noisy tokens, (..., values).
            sigma: their noise levels from 0 to 1, (...).
            states: what is known of their places, (..., states).

        Returns:
            (..., values)
        """
        condition = self.of_states(states) + self.of_time(frequencies(TIMES * sigma, FREQUENCIES))
        hidden = self.embedding(x)
        for block in self.blocks:
            hidden = block(hidden, condition)
        scale, shift = self.modulation(F.silu(condition)).chunk(2, -1)
        predicted: Tensor = self.out((1 + scale) * F.layer_norm(hidden, hidden.shape[-1:]) + shift)
        return predicted
