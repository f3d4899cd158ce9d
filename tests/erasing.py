"""Runs of methods that erase concepts, for their tests: the first batch of a plan, and the end of a run on the tiny world of pictures."""

from __future__ import annotations

import copy
import functools
import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

import denoisers
import worlds
from expunge.core.parts import Grads
from expunge.core.plan import Plan, Train
from expunge.core.rows import Sets
from expunge.engine import checkpoint, loop
from expunge.engine.context import RunStep, RunView
from expunge.engine.gradient import evaluate
from expunge.engine.hooks import Hooks
from expunge.engine.run_state import RunState
from expunge.engine.schedule import sample
from expunge.engine.trainable import choose
from expunge.methods.terms import NLL
from expunge.modalities import diffusion as modalities
from expunge.modalities.diffusion.modality import Diffusion
from expunge.workflows import build_plan


class First:
    """A run before its first step, on an untrained model.

    Args:
        plan: of one stage.
        prompts: whether the rows to forget are prompts alone.
        move: changes the weights after the run has taken its reference.
    """

    def __init__(self, plan: Plan, prompts: bool = False, move: float = 0.0) -> None:
        self.model, self.modality = denoisers.built()
        self.model.double()
        self.plan = plan
        records = denoisers.records(1)
        forget = [{"caption": r["caption"]} for r in records[:2]] if prompts else records[:2]
        sets = {"forget": self.modality.rows("forget", forget), "retain": self.modality.rows("retain", records[2:])}
        self.run: RunState = loop.new_state(self.model, self.modality, worlds.accelerator())
        stage = loop._Stage(self.run, plan, sets, Hooks())
        choose(self.model, plan.trainable)
        self.run.objective = plan.action  # type: ignore[assignment]
        stage._begin()
        if move:
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for p in self.model.parameters():
                    if p.requires_grad:
                        p.add_(move * torch.randn(p.shape, generator=generator, dtype=p.dtype))
        self.batch: Sets = stage._pick("step", sample(stage.view.sets, plan.train, self.run), stage.view)

    def loss(self, objective: Any = None) -> tuple[float, list[Tensor]]:
        """Value and gradient of the plan's objective, or of another one."""
        value, gradient = evaluate(self.run, objective or self.plan.action, self.batch)
        return float(value), gradient

    def updated(self) -> tuple[Tensor, list[Tensor]]:
        """Value and gradient of the first step after the updates of the plan."""
        action: Any = self.plan.action
        names = frozenset(t.objective.role for t in action.terms())
        params = [p for p in self.model.parameters() if p.requires_grad]

        def call(*roles: str) -> tuple[Tensor, list[Tensor]]:
            return evaluate(self.run, action, self.batch, roles=roles)

        grads = Grads(call, lambda *_: [], params, names)
        self.run.total = self.plan.train.steps
        step = RunStep(self.run, self.batch, self.batch)
        for i, update in enumerate(self.plan.updates):
            grads = Grads(update.wrap(grads, step.at(f"update{i}", update)), lambda *_: [], params, names)
        return grads()

    def run_view(self) -> RunView:
        """A view of the run that may do everything."""
        return RunView(self.run, self.run.sets)

    def predicted(self, name: str, captions: list[str]) -> Tensor:
        """What the model predicts for the rows of a set under other captions, (draws, channels, height, width)."""
        output: Any = self.modality.forward(self.model, [self.modality.recaption(self.batch[name], captions)])[0]
        prediction: Tensor = output.prediction.values.detach()
        return prediction


def mean_square(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean())


@functools.cache
def trained() -> tuple[nn.Module, Diffusion]:
    """A model that draws the pictures of the world, trained once and kept on disk for as long as nothing that it depends on changes."""
    world = worlds.pictures()
    model, modality = world.model(), world.modality
    source = hashlib.sha256(Path(denoisers.__file__).read_bytes() + Path(__file__).read_bytes())
    for file in sorted(Path(str(modalities.__file__)).parent.glob("*.py")):
        source.update(file.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"expunge-worlds-{os.getuid()}" / f"trained-pictures-{source.hexdigest()[:16]}"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        weights: Any = checkpoint.load(folder)
        if weights is None:
            train = Train(epochs=500, lr=5e-3, batch_size=18, anchor="retain", optimizer="adam", warmup=20)
            loop.run((Plan(NLL("retain"), train=train),), model, modality, {"retain": modality.rows("retain", denoisers.records())})
            weights = loop.weights_of(model)
            checkpoint.save(weights, folder)
    loop.put(model, weights)
    return model.eval(), modality  # type: ignore[return-value]


def unlearned(name: str, options: Mapping[str, Any], taught: bool = False) -> tuple[Any, Any]:
    """The model of the world of pictures after a method, and the modality that the run leaves. taught: the one that draws them."""
    world = worlds.pictures()
    model, modality = (copy.deepcopy(trained()[0]), trained()[1]) if taught else (world.model(), world.modality)
    run = loop.run(build_plan.plan(name, options), model, modality, world.sets)
    return run.model.eval(), run.modality


def shares(model: nn.Module, modality: Any, red_as: str = "red") -> dict[str, float]:
    """For each color the share of pictures that show the color of their caption; for red the share that shows another one, if wanted."""
    return {c: denoisers.share(model, modality, c, red_as if c == "red" else c) for c in denoisers.COLORS}
