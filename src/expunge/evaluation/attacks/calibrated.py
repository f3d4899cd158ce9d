"""Calibrated loss: was the knowledge removed, or are its words merely made improbable? A bias of the output layer is trained for them.
All weights stay as they are; only how probable each token is by itself can be mended, so what stays lost is not in the model.

Threat model: the attacker holds the weights, and rows of every kind; a guard around the weights is taken off
Equation: b minimizes NLL(forget) + beta NLL(adjacent) + alpha NLL(retain) of the logits z + b; b starts at N(0, 0.1^2)
Source: Beyond Data Filtering: Knowledge Localization for Capability Removal in LLMs, 2025, arXiv 2512.05648
Scores: those of the forget set with the bias; and for each set forget_loss, retain_loss, ... before and after, in nats a token
Needs: forget, retain; a language model whose head is a linear layer
Range and ideal: the loss of a model that never saw the rows, after the same calibration
Differs: a step draws `batch_size` rows of each set with replacement; AdamW without weight decay, which the sheet leaves open; a loss is the
    mean over batches of the mean over their tokens, on the rows of the audit: `--attacked-set` adds rows that no model was trained on
Status: not shown
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Categorical, offers
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality
from expunge.core.rows import Rows
from expunge.engine.run_state import evaluating
from expunge.evaluation.attack import Attack, Scene
from expunge.evaluation.measure import Missing
from expunge.evaluation.observe import Records
from expunge.functional.head_bias import bias_gradient, cross_entropy

READ = 32  # rows of a batch whose loss is one number of the mean


@part
class Calibrated(Attack):
    """Train a bias of the head alone, and look again."""

    alpha: float = hp(100.0, "weight of the rows to retain", ge=0)
    beta: float = hp(1.0, "weight of adjacent rows, a set `adjacent`, where there is one", ge=0)
    steps: int = hp(200, "steps of the bias", ge=1)
    lr: float = hp(1e-2, "learning rate at the start", gt=0)
    last_lr: float = hp(1e-3, "learning rate at the end, to which it falls on a line", gt=0)
    batch_size: int = hp(32, "rows of each set in a step", ge=1)
    seed: int = hp(0, "seed of the bias and of the batches", ge=0)

    def about(self, records: Records, modality: Modality) -> Records:
        if not offers(modality, Categorical):
            raise Missing("the model has no classes whose bias could be trained")
        return records

    def run(self, scene: Scene) -> None:
        model, modality = scene.bare(merged=True), scene.weights_modality
        head = model.get_submodule(modality.head(model))
        if not isinstance(head, nn.Linear):
            scene.lacks("the last layer of the model is not linear, so it has no bias that could be trained")
            return
        if not scene.sets.get("retain"):
            scene.lacks("a bias that is trained on rows to forget alone says nothing of the rest: give rows to retain")
            return
        weights = {"forget": 1.0, "retain": self.alpha, "adjacent": self.beta}
        rows = {n: modality.rows(n, scene.sets[n]) for n in weights if scene.sets.get(n)}
        asked = {n: modality.rows(n, records) for n, records in {**scene.asked, "retain": scene.sets["retain"]}.items()}
        before = losses(model, modality, asked)
        bias = calibrated_bias(model, modality, rows, weights, self)
        head.bias = nn.Parameter(bias if head.bias is None else head.bias.detach() + bias)
        after = losses(model, modality, asked)
        numbers = {f"{n}_loss": value for n, value in after.items()} | {f"{n}_loss_before": value for n, value in before.items()}
        scene.look(scene.scores(model), way="calibrated", **numbers)


def calibrated_bias(model: nn.Module, modality: Modality, rows: Mapping[str, Rows], weights: Mapping[str, float], how: Any) -> Tensor:
    """The bias that is added to the logits of the head, (classes,).

    Args:
        rows: of each set; weights: of the losses of the sets.
        how: steps, learning rates, batch size and seed, by the names of `Calibrated`.
    """
    rng = torch.Generator().manual_seed(how.seed)
    bias: Tensor | None = None
    optimizer: torch.optim.Optimizer | None = None
    with evaluating(model), torch.no_grad():
        for step in range(how.steps):
            gradient: Tensor | None = None
            for name, of_set in rows.items():
                places = torch.randint(len(of_set), (min(how.batch_size, len(of_set)),), generator=rng).tolist()
                logits, labels = labeled_logits(model, modality, of_set.select(places))
                if bias is None:
                    bias = torch.randn(logits.shape[-1], generator=rng).to(logits) * 0.1
                    optimizer = torch.optim.AdamW([bias], lr=how.lr, weight_decay=0.0)
                part_gradient = weights[name] * bias_gradient(logits, labels, bias)
                gradient = part_gradient if gradient is None else gradient + part_gradient
            if bias is None or optimizer is None:
                raise Missing("there are no rows to train the bias on")
            bias.grad = gradient
            optimizer.param_groups[0]["lr"] = how.lr + (how.last_lr - how.lr) * step / max(1, how.steps - 1)
            optimizer.step()
    if bias is None:
        raise Missing("there are no rows to train the bias on")
    bias.grad = None
    return bias


def labeled_logits(model: nn.Module, modality: Modality, rows: Rows) -> tuple[Tensor, Tensor]:
    """The logits at the labels of rows, (labels, classes), in float32, and the labels, (labels,)."""
    (output,) = modality.forward(model, [rows])
    logits = output.logits.values.float()  # type: ignore[attr-defined]
    return logits, torch.tensor([token for answer in rows["answer"] for token in answer], device=logits.device)


@torch.no_grad()
def losses(model: nn.Module, modality: Modality, sets: Mapping[str, Rows]) -> dict[str, float]:
    """The loss of each set in nats: the mean over batches of the mean over their tokens."""
    values = {}
    with evaluating(model):
        for name, rows in sets.items():
            means = list[float]()
            for at in range(0, len(rows), READ):
                logits, labels = labeled_logits(model, modality, rows.select(range(at, min(at + READ, len(rows)))))
                means.append(float(cross_entropy(logits, labels, torch.zeros_like(logits[0]))))
            values[name] = sum(means) / len(means)
    return values


def plan() -> Calibrated:
    return Calibrated()
