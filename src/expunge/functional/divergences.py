"""f-divergences in variational form: D(P || Q) = sup over v of E_P[g(v)] - E_Q[f(g(v))], with an activation g and a conjugate f."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor
from torch.nn.functional import softplus

Name = Literal["tv", "kl", "js", "pearson"]


class Divergence(NamedTuple):
    """An activation, whose range is where the conjugate is finite, and the conjugate."""

    activation: Callable[[Tensor], Tensor]
    conjugate: Callable[[Tensor], Tensor]

    def penalty(self, v: Tensor) -> Tensor:
        """The loss of a row drawn from Q: the conjugate of the activation."""
        return self.conjugate(self.activation(v))


def _identity(v: Tensor) -> Tensor:
    return v


DIVERGENCES: dict[Name, Divergence] = {
    "tv": Divergence(lambda v: v.tanh() / 2, _identity),
    "kl": Divergence(_identity, lambda u: (u - 1).exp()),
    "js": Divergence(lambda v: math.log(2) - softplus(-v), lambda u: -(2 - u.exp()).log()),
    "pearson": Divergence(_identity, lambda u: u.square() / 4 + u),
}
