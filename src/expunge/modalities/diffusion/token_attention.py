"""Attention over the tokens of a picture, linear or softmax, with gates of keys and values and a convolution for locality.

Source: LINA (arXiv 2601.22630). Condition tokens come first, then the tokens of the picture, row by row.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.functional.linear_attention import division, positive, subtraction

Attention = Literal["division", "subtraction", "softmax"]
KERNEL = 5  # side of the convolution


class KeyValueGate(nn.Module):
    """A learned factor of the key and one of the value for each head and token. They begin at 1 and do not depend on the input.

    Args:
        heads: of the attention.
        tokens: of the sequence, condition included.
    """

    def __init__(self, heads: int, tokens: int) -> None:
        super().__init__()
        self.key = nn.Parameter(torch.ones(1, heads, tokens, 1))
        self.value = nn.Parameter(torch.ones(1, heads, tokens, 1))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.key)
        nn.init.ones_(self.value)

    def forward(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (features, for linear attention) and values, each (batch, heads, tokens, width)."""
        return key * self.key, value * self.value


class Locality(nn.Module):
    """A depth-wise convolution over the tokens of the picture; condition tokens get zero.

    Args:
        width: of the tokens.
        grid: tokens along a side of the picture.
    """

    def __init__(self, width: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.convolution = nn.Conv2d(width, width, KERNEL, padding=KERNEL // 2, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, condition + grid^2 tokens, width). Returns: the same shape."""
        batch, _, width = x.shape
        picture = x[:, -(self.grid**2) :].transpose(1, 2).reshape(batch, width, self.grid, self.grid)
        local = self.convolution(picture).flatten(2).transpose(1, 2)
        return F.pad(local, (0, 0, x.shape[1] - local.shape[1], 0))


class TokenAttention(nn.Module):
    """Attention of every token to every token.

    Args:
        width: of the tokens.
        heads: of the attention.
        kind: division or subtraction (linear in the tokens), or softmax.
        gated: tokens that get gates; 0: no gates.
        grid: side of the convolution's picture; 0: no convolution.
    """

    def __init__(self, width: int, heads: int, kind: Attention = "division", gated: int = 0, grid: int = 0) -> None:
        super().__init__()
        self.heads, self.kind = heads, kind
        self.qkv = nn.Linear(width, 3 * width)
        self.gate = KeyValueGate(heads, gated) if gated else None
        self.locality = Locality(width, grid) if grid else None
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, tokens, width). Returns: the same shape."""
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # each (batch, heads, tokens, width of a head)
        if self.kind != "softmax":
            q, k = (positive(q), positive(k)) if self.kind == "division" else (q.relu(), k.relu())
        if self.gate is not None:
            k, v = self.gate(k, v)
        mixed = self._mixed(q, k, v).transpose(1, 2).flatten(2)
        if self.locality is not None:
            mixed = mixed + self.locality(x)
        out: Tensor = self.out(mixed)
        return out

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.kind == "softmax":
            return F.scaled_dot_product_attention(q, k, v)
        return division(q, k, v) if self.kind == "division" else subtraction(q, k, v)


class TokenBlock(nn.Module):
    """x <- x + LN(attention(x)); x <- x + LN(MLP(x)): the normalization is of what is added. Arguments: of `TokenAttention`.

    Args:
        ratio: width of the hidden layer over that of the tokens.
    """

    def __init__(self, width: int, heads: int, kind: Attention = "division", gated: int = 0, grid: int = 0, ratio: int = 4) -> None:
        super().__init__()
        self.attention = TokenAttention(width, heads, kind, gated, grid)
        self.after_attention = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))
        self.after_mlp = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, tokens, width). Returns: the same shape."""
        x = x + self.after_attention(self.attention(x))
        added: Tensor = self.after_mlp(self.mlp(x))
        return x + added
