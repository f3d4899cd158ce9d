"""A modality that exists only in the tests: points of a curve, whose rows have a loss and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from expunge import catalog
from expunge.benchmarks.suite import SetSpec, Suite
from expunge.core.capabilities import Displayable
from expunge.core.errors import UserError
from expunge.core.modality import ModelOutput, Patch, Weights
from expunge.core.request import ids_of
from expunge.core.rows import Packed, Rows
from expunge.modalities.common.network import Network
from expunge.modalities.common.packed import call

NAME = "curve"
SIZES = {"curve-nano": 32}
TRAINING: dict[str, dict[str, Any]] = {"curve-nano": {"epochs": 60, "lr": 2e-2, "batch_size": 16, "warmup": 0}}


class Curve(nn.Module):
    """A perceptron from a number to a number."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)[:, 0]


@dataclass
class Fit:
    """Squared errors."""

    error: Tensor  # (rows,)

    @property
    def loss(self) -> Packed:
        return Packed(self.error.square(), torch.arange(len(self.error)), len(self.error))


@dataclass
class Curves(Network):
    """Rows are points (x, y)."""

    name: str = NAME
    capabilities: frozenset[Any] = frozenset({Displayable})

    def rows(self, name: str, records: Sequence[Mapping[str, Any]], source: str = "") -> Rows:
        for i, record in enumerate(records, 1):
            if not {"x", "y"} <= record.keys():
                raise UserError(f"{source or name}, row {i}: a point has x and y, and this row has {', '.join(record)}")
        points = [[float(r["x"]), float(r["y"])] for r in records]
        return Rows(name, ids_of(points), {"x": [x for x, _ in points], "y": [y for _, y in points]})

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]:
        like = next(model.parameters())
        fits = []
        for rows in groups:
            x, y = (torch.tensor(list(rows[c]), dtype=like.dtype) for c in "xy")
            fits.append(Fit(call(model, weights, x[:, None]) - y))
        return fits

    def counts(self, rows: Rows) -> Mapping[str, float]:
        return dict.fromkeys(("rows", "labels", "tokens"), float(len(rows)))

    def fresh(self, model: nn.Module, seed: int) -> Weights:
        return dict(curve(model.width, seed).state_dict())

    def questions(self, rows: Rows) -> list[str]:
        return [f"y at {x:.2f}" for x in rows["x"]]

    def answer_texts(self, rows: Rows) -> list[str]:
        return [f"{y:.2f}" for y in rows["y"]]

    def pictures(self, rows: Rows) -> Tensor | None:
        return None

    def save(self, model: nn.Module, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"architectures": ["CurveRegressor"], "width": model.width}))
        save_model(model, str(folder / "model.safetensors"))

    def about(self) -> dict[str, Any]:
        return {"modality": self.name}


def curve(width: int, seed: int) -> Curve:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Curve(width).eval()


def points(low: float, high: float, count: int, seed: int) -> list[dict[str, float]]:
    """Noisy points of a wave, so that only who saw a point fits it."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(count, generator=g) * (high - low) + low
    y = torch.sin(3 * x) + 0.3 * torch.randn(count, generator=g)
    return [{"x": float(a), "y": float(b)} for a, b in zip(x, y, strict=True)]


def _loader() -> ModuleType:
    module = ModuleType("curve_loader")

    def load(path: str, prompt_format: str = "", **options: Any) -> tuple[nn.Module, Curves]:
        model = Curve(json.loads((Path(path) / "config.json").read_text())["width"])
        load_model(model, str(Path(path) / "model.safetensors"))
        return model.eval(), Curves()

    module.claims = lambda architecture: 3 if architecture == "CurveRegressor" else 0
    module.load = load
    module.FILE_COLUMNS = ()
    return module


def _models() -> ModuleType:
    module = ModuleType("curves", "Perceptrons for curves.\n\nSource: our own\nStatus: faithful")
    module.SIZES, module.TRAINING = SIZES, TRAINING
    module.start = lambda size, records, seed=0, **more: (curve(SIZES[size], seed), Curves())
    return module


def _benchmark() -> ModuleType:
    module = ModuleType("waves", "Points of a wave, some to be forgotten.\n\nSource: our own\nStatus: faithful")

    def load(data: str = "", split: str = "", seed: int = 0, **sizes: int) -> Suite:
        forget, retain = points(1.0, 1.5, 8, seed), points(-2.0, 1.0, 48, seed + 1)
        sets = {"forget": forget, "retain": retain, "holdout": points(1.0, 1.5, 8, seed + 2), "edges": points(-2.0, -1.5, 8, seed + 3)}
        train = {"full": [*forget, *retain], "forget": forget, "retain": retain}
        return Suite("waves", sets, train, specs={"edges": SetSpec("general", metrics=("losses",))})

    module.load, module.MODEL = load, "curve-nano"
    return module


@contextmanager
def registered() -> Iterator[None]:
    """Meanwhile the toy is known by name, as an installed plug-in would be."""
    entries = {"modalities": (NAME, _loader()), "models": ("curves", _models()), "benchmarks": ("waves", _benchmark())}
    for kind, (name, module) in entries.items():
        catalog.register(kind, name, module)
    try:
        yield
    finally:
        for kind, (name, _) in entries.items():
            catalog.unregister(kind, name)
