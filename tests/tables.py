"""A model that is a table of logits. Losses and their gradients can be written by hand, in float64 and without a language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import worlds
from expunge.core.capabilities import Categorical, DifferentiableInputs, Generates, Prompted
from expunge.core.modality import ModelOutput, Patch, Weights
from expunge.core.needs import Need
from expunge.core.parts import Objective, Update
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows, Sets
from expunge.engine import loop
from expunge.engine.cached_reference import cache_reference
from expunge.engine.gradient import evaluate
from expunge.modalities.common.packed import Layout, cut


class Table(nn.Module):
    """Logits (prompts, positions, classes). They do not depend on earlier tokens of the answer."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores.clone())


@dataclass
class TableModality:
    """A row has the index of a prompt and the classes of its answer."""

    name: str = "table"
    capabilities: frozenset[Any] = frozenset({Categorical, Generates, Prompted, DifferentiableInputs})
    forwards: list[list[str]] = field(default_factory=list)

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]:
        self.forwards.append([g.name for g in groups])
        scores = (weights or {"scores": model.scores})["scores"]
        rows = [r for g in groups for r in zip(g["prompt"], g["answer"], strict=True)]
        positions = torch.tensor([(i, p, t, y) for i, (p, answer) in enumerate(rows) for t, y in enumerate(answer)])
        row, prompt, place, label = positions.T.contiguous()
        return cut(scores[prompt, place], Layout(label, row, torch.arange(len(row)), row, torch.arange(len(row))), {}, groups)

    def counts(self, rows: Rows) -> Mapping[str, float]:
        labels = sum(map(len, rows["answer"]))
        return {"rows": len(rows), "labels": labels, "tokens": labels}

    def independent(self, model: nn.Module) -> bool:
        return True


def rows(name: str, prompts: Sequence[int], answers: Sequence[Sequence[int]]) -> Rows:
    """Rows from prompt indices and answers."""
    return Rows(name, tuple(f"{p}~{a}" for p, a in zip(prompts, answers, strict=True)), {"prompt": list(prompts), "answer": list(answers)})


def ask(
    objective: Objective, sets: Sets, scores: Tensor, reference: Tensor | None = None, micro_batch_size: int = 0, **stages: Tensor
) -> tuple[float, Tensor]:
    """The value of an objective and its gradient with respect to the table. The reference model is another table, by default the same.

    stages: tables of earlier stages, by name.
    """
    model, modality = Table(scores), TableModality()
    frozen = {"reference": scores if reference is None else reference, **stages}
    run = loop.new_state(model, modality, worlds.accelerator(), models={name: {"scores": table} for name, table in frozen.items()})
    if any(Need.REFERENCE_LOGP in t.objective.needs for t in objective.terms()):
        cached = {n: r for n, r in sets.items() if n in ("forget", "retain")}
        run.reference_loss = cache_reference(run, cached, frozenset(cached), run.models["reference"])
    value, grads = evaluate(run, objective, sets, micro_batch_size)
    return float(value), grads[0]


def under(objective: Objective, *updates: Update, sets: Sets, scores: Tensor, **train: Any) -> Tensor:
    """The gradient that reaches the optimizer under updates: the change by one SGD step on all rows with learning rate 1."""
    model = Table(scores)
    settings = {"epochs": 1, "batch_size": 3, "lr": 1.0, "schedule": "constant", "optimizer": "sgd", "pairing": "aligned", **train}
    loop.run((Plan(objective, train=Train(**settings), updates=updates),), model, TableModality(), sets)
    return scores - model.scores.detach()


def scores(prompts: int = 4, places: int = 5, classes: int = 6, seed: int = 0) -> Tensor:
    """Random logits (prompts, places, classes) with standard deviation 2."""
    return 2 * torch.randn(prompts, places, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(seed: int = 0) -> Sets:
    """Three rows per set, with answers of unequal lengths. Sets share no prompts: forget has 0 to 2, substitute 3 to 5, retain 6 to 8."""
    generator = torch.Generator().manual_seed(seed)
    sets = {}
    for k, (name, lengths) in enumerate({"forget": (3, 1, 5), "substitute": (2, 4, 2), "retain": (5, 2, 4)}.items()):
        answers = [torch.randint(6, (n,), generator=generator).tolist() for n in lengths]
        sets[name] = rows(name, range(3 * k, 3 * k + 3), answers)
    return sets


def logps(scores: Tensor, rows: Rows) -> list[Tensor]:
    """Log-probabilities of the labels of each row, computed by hand."""
    return [
        torch.stack([scores[p, t, y] - scores[p, t].logsumexp(0) for t, y in enumerate(answer)])
        for p, answer in zip(rows["prompt"], rows["answer"], strict=True)
    ]


def slope(loss: Tensor, table: Tensor) -> Tensor:
    """The gradient of a hand-written loss with respect to the table."""
    return torch.autograd.grad(loss, table)[0]
