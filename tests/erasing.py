"""Runs of methods that erase concepts, for their tests: the first batch of a plan, and the end of a run on the tiny world of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import denoisers
import worlds
from expunge.core.parts import Grads
from expunge.core.plan import Plan
from expunge.core.rows import Sets
from expunge.engine import loop
from expunge.engine.context import RunStep, RunView
from expunge.engine.gradient import evaluate
from expunge.engine.hooks import Hooks
from expunge.engine.run_state import RunState
from expunge.engine.schedule import sample
from expunge.engine.trainable import choose
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


def unlearned(name: str, options: Mapping[str, Any]) -> tuple[Any, Any]:
    """The model of the world of pictures after a method, and the modality that the run leaves."""
    world = worlds.pictures()
    run = loop.run(build_plan.plan(name, options), world.model(), world.modality, world.sets)
    return run.model.eval(), run.modality


def prediction(model: nn.Module, modality: Any, caption: str) -> Tensor:
    """What a model predicts under a caption for noisy pictures of the world, (draws, channels, height, width)."""
    rows = worlds.pictures().sets["holdout"].select(range(4))
    output: Any = modality.forward(model, [modality.recaption(rows, [caption])])[0]
    predicted: Tensor = output.prediction.values.detach()
    return predicted


def before(caption: str) -> Tensor:
    """What the model of the world predicts under a caption."""
    return prediction(worlds.pictures().model(), worlds.pictures().modality, caption)


def away(caption: str) -> Tensor:
    """What leads away from a caption, as seen from the empty prompt, by the model of the world."""
    return 2 * before("") - before(caption)


def share(model: nn.Module, modality: Any, caption: str, target: Tensor) -> float:
    """The squared distance of the prediction under a caption from a target, over that of the model before."""
    return mean_square(prediction(model, modality, caption), target) / mean_square(before(caption), target)


def gap(model: nn.Module, modality: Any, caption: str, other: str) -> float:
    """The squared distance of the predictions under two captions, over that of the model before."""
    now = mean_square(prediction(model, modality, caption), prediction(model, modality, other))
    return now / mean_square(before(caption), before(other))
