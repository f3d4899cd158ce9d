"""Linear models with a strongly convex loss: fitting them, taking rows out of them, and how far off that can be.

Rows have unit length at most. Each class has a weight vector of its own, fitted to targets of 1 and -1 (one class against the rest).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Loss = Literal["logistic", "squared"]
CURVATURE: dict[Loss, float] = {"logistic": 0.25, "squared": 1.0}  # the largest second derivative of the loss by the score
CHANGE: dict[Loss, float] = {"logistic": 1 / (6 * math.sqrt(3)), "squared": 0.0}  # the Lipschitz constant of that derivative
TOLERANCE = 1e-10  # of the norm of the gradient
ROUNDS = 100  # Newton steps at most


def derivatives(scores: Tensor, targets: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
    """Value, first and second derivative of the loss by the score, each (rows,).

    logistic: log(1 + exp(-y z)); squared: (z - y)^2 / 2.
    """
    if loss == "squared":
        return (scores - targets).square() / 2, scores - targets, torch.ones_like(scores)
    p = scores.sigmoid()
    return -logsigmoid(targets * scores), -targets * (-targets * scores).sigmoid(), p * (1 - p)


def gradient(x: Tensor, targets: Tensor, w: Tensor, loss: Loss, decay: float, noise: Tensor) -> Tensor:
    """The gradient of sum_i loss(x_i w, y_i) + decay n/2 |w|^2 + noise w, (width,)."""
    return x.T @ derivatives(x @ w, targets, loss)[1] + decay * len(x) * w + noise


def hessian(x: Tensor, targets: Tensor, w: Tensor, loss: Loss, decay: float) -> Tensor:
    """The Hessian of the same function, (width, width)."""
    curvature = derivatives(x @ w, targets, loss)[2]
    return x.T @ (curvature[:, None] * x) + decay * len(x) * torch.eye(x.shape[1]).to(x)


def fit(x: Tensor, targets: Tensor, loss: Loss, decay: float, noise: Tensor) -> Tensor:
    """The minimum of sum_i loss(x_i w, y_i) + decay n/2 |w|^2 + noise w, by Newton's method.

    Args:
        x: rows, (rows, width), in double precision.
        targets: 1 or -1, (rows,).
        decay: lambda, above 0.
        noise: (width,).

    Returns:
        The weights, (width,), where the norm of the gradient is below 1e-10 or as small as rounding allows.
    """

    def value(w: Tensor) -> float:
        return float(derivatives(x @ w, targets, loss)[0].sum() + decay * len(x) / 2 * (w @ w) + noise @ w)

    w = torch.zeros_like(noise)
    for _ in range(ROUNDS):
        g = gradient(x, targets, w, loss, decay, noise)
        if float(g.norm()) <= TOLERANCE:
            break
        step, length, before = torch.linalg.solve(hessian(x, targets, w, loss, decay), g), 1.0, value(w)
        while value(w - length * step) > before + 1e-12 * abs(before) and length > 1e-8:
            length /= 2
        moved = w - length * step
        if torch.equal(moved, w):
            break
        w = moved
    return w


class Removal(NamedTuple):
    """Weights after rows were taken out, and a bound of the gradient that is left there."""

    weights: Tensor  # (width,)
    bound: float


def remove(
    rest: tuple[Tensor, Tensor], gone: tuple[Tensor, Tensor], w: Tensor, loss: Loss, decay: float, norm: float | None = None
) -> Removal:
    """A Newton step that takes rows out of a fitted linear model.

    w + H^-1 g, g = m decay w + sum over the rows gone of the loss's gradient, H the Hessian over the rows left; the gradient there is at
    most gamma |X| |H^-1 g| |X H^-1 g|, where gamma is `CHANGE` and |X| the largest singular value of the rows left.

    Source: Guo et al. 2020, arXiv 1911.03030.

    Args:
        rest: rows and targets that are left.
        gone: rows and targets that leave.
        w: the weights, (width,).
        decay: lambda.
        norm: |X|; None: computed, exactly, since an estimate from below would be no bound.
    """
    x, targets = rest
    g = decay * len(gone[0]) * w + gone[0].T @ derivatives(gone[0] @ w, gone[1], loss)[1]
    step = torch.linalg.solve(hessian(x, targets, w, loss, decay), g)
    size = largest_singular_value(x) if norm is None else norm
    return Removal(w + step, CHANGE[loss] * size * float(step.norm()) * float((x @ step).norm()))


def largest_singular_value(x: Tensor) -> float:
    """Of rows, (rows, width)."""
    return math.sqrt(max(0.0, float(torch.linalg.eigvalsh(x.T @ x)[-1])))


def budget(sigma: float, epsilon: float, delta: float) -> float:
    """The sum of gradient norms that noise of this deviation hides: sigma epsilon / sqrt(2 ln(1.5 / delta))."""
    return sigma * epsilon / math.sqrt(2 * math.log(1.5 / delta))


class Geometry(NamedTuple):
    """What is known of (1/n) sum_i loss(x_i w, y_i) + decay/2 |w|^2 over a ball, for all classes together."""

    convexity: float  # m: the least curvature
    smoothness: float  # M: the largest
    radius: float  # of the ball of each class, in which the minimum lies
    lipschitz: float  # L: the longest gradient of a row
    diameter: float  # D: of the product of the balls

    @property
    def rate(self) -> float:
        """The step size 2 / (m + M)."""
        return 2 / (self.convexity + self.smoothness)

    @property
    def contraction(self) -> float:
        """rho = (M - m) / (M + m): the factor by which a step shortens the distance to the minimum."""
        return (self.smoothness - self.convexity) / (self.smoothness + self.convexity)

    def distance(self, steps: int, rows: int) -> float:
        """Invariant of a stream of updates with so many steps each: how far the state can be from the minimum."""
        left = self.contraction**steps
        return left * 2 * self.lipschitz / (self.convexity * rows * (1 - left))

    def first_steps(self, steps: int, rows: int) -> int:
        """Steps of the first training, after which the invariant holds."""
        more = math.log(self.diameter * self.convexity * rows / (2 * self.lipschitz)) / -math.log(self.contraction)
        return steps + max(0, math.ceil(more))

    def deviation(self, steps: int, rows: int, epsilon: float, delta: float) -> float:
        """Standard deviation of the noise under which unlearned and retrained states, twice `distance` apart, cannot be told apart."""
        spread = math.sqrt(math.log(1 / delta) + epsilon) - math.sqrt(math.log(1 / delta))
        return math.sqrt(2) * 2 * self.distance(steps, rows) / spread


def geometry(loss: Loss, decay: float, classes: int) -> Geometry:
    """The geometry for rows of unit length at most. The value at 0 bounds the minimum: decay/2 |w|^2 is at most the loss there."""
    radius = math.sqrt(2 * (math.log(2) if loss == "logistic" else 0.5) / decay)
    slope = 1.0 if loss == "logistic" else 1.0 + radius
    lipschitz, diameter = math.sqrt(classes) * (slope + decay * radius), math.sqrt(classes) * 2 * radius
    return Geometry(decay, decay + CURVATURE[loss], radius, lipschitz, diameter)


def descend(x: Tensor, targets: Tensor, w: Tensor, loss: Loss, decay: float, steps: int, shape: Geometry) -> Tensor:
    """Projected gradient descent on the mean loss, for all classes.

    Args:
        x: (rows, width).
        targets: (rows, classes).
        w: where to start, (width, classes).

    Returns:
        The weights, (width, classes).
    """
    for _ in range(steps):
        w = w - shape.rate * (x.T @ derivatives(x @ w, targets, loss)[1] / len(x) + decay * w)
        w = w * (shape.radius / w.norm(dim=0).clamp_min(shape.radius))
    return w
