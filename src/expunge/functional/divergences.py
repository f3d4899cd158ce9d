"""f-divergences in variational form: D(P || Q) is the largest E_P[g(v)] - E_Q[f(g(v))], with an activation g and a conjugate f."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor
from torch.nn.functional import softplus

Name = Literal["tv", "kl", "js", "pearson"]


class Divergence(NamedTuple):
    """Activation (its range is where the conjugate is finite) and conjugate."""

    activation: Callable[[Tensor], Tensor]
    conjugate: Callable[[Tensor], Tensor]

    def penalty(self, v: Tensor) -> Tensor:
        """What the rows under Q pay: the conjugate of the activation."""
        return self.conjugate(self.activation(v))


def _same(v: Tensor) -> Tensor:
    return v


DIVERGENCES: dict[Name, Divergence] = {
    "tv": Divergence(lambda v: v.tanh() / 2, _same),
    "kl": Divergence(_same, lambda u: (u - 1).exp()),
    "js": Divergence(lambda v: math.log(2) - softplus(-v), lambda u: -(2 - u.exp()).log()),
    "pearson": Divergence(_same, lambda u: u.square() / 4 + u),
}
