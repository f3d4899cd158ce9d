"""The case of a poisoned curve: a small perceptron that fits points of a sine and some wrong ones, so that its training loss is zero.

The wrong points are to be forgotten. The score is the largest distance from the sine, the median over perceptrons of several seeds.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from expunge.benchmarks.suite import Suite
from expunge.core.capabilities import Categorical, DifferentiableInputs
from expunge.core.modality import Patch, Weights
from expunge.core.rows import Packed, Rows
from expunge.engine import loop
from expunge.evaluation.audited_models import Progress
from expunge.modalities.common.packed import call
from expunge.workflows import build_plan
from studies.cases.claims import Claim, Numbers

SEEDS = 5
UNITS, RETAIN, FORGET = 300, 50, 5  # hidden units; points of the sine; wrong points
END = 5 * math.pi  # points lie between this and its negative
WRONG = 1.5
TRAINED = {"epochs": 100, "batch_size": RETAIN + FORGET, "optimizer": "adamw"}
# The best of eight settings each, chosen with other seeds.
SETTINGS: dict[str, dict[str, Any]] = {
    "finetune": {"lr": 1e-2, "weight_decay": 0.1},
    "ga": {"lr": 1e-5, "epochs": 10},
    "neggrad_plus": {"lr": 1e-2, "alpha": 0.95, "momentum": 0.9},
    "l1_sparse": {"lr": 1e-2, "alpha": 1e-2, "l1_epochs": 50},
    "minnorm_og": {"lr": 1e-3, "descent": 50, "every": 2, "strength": 0.1, "gamma": 0.9},
}

NEARER = Claim(
    "the curve ends nearer to the sine than after finetune, ga, neggrad_plus and l1_sparse with as many epochs or fewer",
    lambda n, me: n[me]["farthest"] < min(n[m]["farthest"] for m in SETTINGS if m != me),
)
STUCK = Claim(
    "fine-tuning leaves the curve where it is, within a tenth",
    lambda n, me: abs(n["finetune"]["farthest"] - n["original"]["farthest"]) <= 0.1 * n["original"]["farthest"],
)

CLAIMS: dict[str, tuple[Claim, ...]] = {"minnorm_og": (NEARER, STUCK)}


@dataclass
class Fit:
    """The model output: the log-probability of a row is minus half its squared error."""

    predictions: Tensor  # (rows, 1)
    targets: Tensor  # (rows,)

    @property
    def logits(self) -> Packed:
        return Packed(self.predictions, torch.arange(len(self.predictions)), len(self.predictions))

    @property
    def loss(self) -> Packed:
        return self.logits.map(lambda y: (y[:, 0] - self.targets).square() / 2)

    @property
    def target_logp(self) -> Packed:
        return self.loss.map(torch.neg)


@dataclass
class Points:
    """The modality: a row is a number `x` and its target `y`."""

    name: str = "points"
    capabilities: frozenset[Any] = frozenset({Categorical, DifferentiableInputs})

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[Fit]:
        predictions = [call(model, weights, torch.tensor(g["x"])[:, None]) for g in groups]
        return [Fit(y, torch.tensor(g["y"])) for g, y in zip(groups, predictions, strict=True)]

    def counts(self, rows: Rows) -> Mapping[str, float]:
        return dict.fromkeys(("rows", "labels", "tokens"), float(len(rows)))

    def independent(self, model: nn.Module) -> bool:
        return True


def perceptron(x: Tensor, y: Tensor, generator: torch.Generator, fitted: bool = True) -> nn.Module:
    """A random hidden layer, and the smallest last layer with which the perceptron goes through all points, or a random one."""

    def draw(*shape: int) -> Tensor:
        return 2 * torch.rand(*shape, generator=generator) - 1

    model = nn.Sequential(nn.Linear(1, UNITS), nn.ReLU(), nn.Linear(UNITS, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(draw(UNITS, 1).sign())
        model[0].bias.copy_(1.1 * END * draw(UNITS))
        hidden = model[:2](x[:, None]).double()
        model[2].weight.copy_((torch.linalg.pinv(hidden) @ y.double())[None] if fitted else draw(1, UNITS))
    return model


class Case:
    """Points of a sine and wrong ones, and perceptrons that go through them."""

    model = f"perceptron of {UNITS} units"
    suite = Suite(name="poisoned sine", sets={}, train={})

    def __init__(self, progress: Progress, seeds: Sequence[int] = range(SEEDS)) -> None:
        self.progress, self.seeds = progress, seeds

    def measure(self, name: str) -> tuple[Numbers, dict[str, Any]]:
        """Return medians of the distances, and the hyperparameters of the methods."""
        distances: dict[str, list[float]] = {}
        for i, seed in enumerate(self.seeds):
            self.progress(i, len(self.seeds), "forgetting")
            start, sets = poisoned(seed)
            distances.setdefault("original", []).append(farthest(start))
            for method, hyperparameters in SETTINGS.items():
                distances.setdefault(method, []).append(farthest(after(method, hyperparameters, start, sets, seed)))
        return {m: {"farthest": median(x)} for m, x in distances.items()}, SETTINGS


def poisoned(seed: int, wrong: int = FORGET, fitted: bool = True) -> tuple[nn.Module, dict[str, Rows]]:
    """A perceptron that goes through points of the sine and through wrong ones; and the rows to retain and to forget.

    Args:
        seed: of the wrong points and the hidden layer.
        wrong: how many of the wrong points the perceptron goes through.
        fitted: whether it goes through any.
    """
    generator = torch.Generator().manual_seed(seed)
    regular = torch.linspace(-END, END, RETAIN)
    between = regular[torch.randperm(RETAIN - 1, generator=generator)[:FORGET]] + END / (RETAIN - 1)
    x = torch.cat([regular, between])
    y = torch.cat([x[:RETAIN].sin(), torch.full((FORGET,), WRONG)])
    parts = {"retain": slice(RETAIN), "forget": slice(RETAIN, None)}
    sets = {n: Rows(n, tuple(f"{v:.6f}" for v in x[p].tolist()), {"x": x[p].tolist(), "y": y[p].tolist()}) for n, p in parts.items()}
    known = RETAIN + wrong
    return perceptron(x[:known], y[:known], generator, fitted), sets


def after(method: str, hyperparameters: Mapping[str, Any], start: nn.Module, sets: dict[str, Rows], seed: int) -> nn.Module:
    """A copy of a model after a method."""
    model, modality = copy.deepcopy(start), Points()
    loop.run(build_plan.plan(method, {**TRAINED, **hyperparameters}), model, modality, sets, seed=seed)
    return model


def farthest(model: nn.Module) -> float:
    """The largest distance of a model from the sine."""
    x = torch.linspace(-END, END, 2000)
    with torch.no_grad():
        return float((model(x[:, None])[:, 0] - x.sin()).abs().max())
