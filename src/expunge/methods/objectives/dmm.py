"""Datamodel matching (DMM): predict the outputs of a model retrained without the rows by data attribution, and fine-tune towards them.

Steps against a loss do not know where retraining would have ended on each row, so they stop too early or too late. This method first
estimates the end. A pool of models is trained on random halves of all rows. Least squares on their outputs tells how much each row moves
each score, and the effects of the rows to forget are subtracted. `target oracles` matches models that were really retrained: the upper
bound by which to judge the prediction.

Equation: L = mean |s(x) - h(x)|^2 over classes, rows to forget and some retain rows; h = f_ref - m sum_{i in forget} beta_i (DM-Direct),
  beta from the ridge regression of the outputs of a pool of models on the rows that each was trained on; oracles: h is their mean; with
  `loss ce` cross-entropy to softmax h
Source: Georgiev et al. 2025, arXiv 2410.23232; settings of the benchmark EasyDUB, arXiv 2602.16400
Needs: forget, retain (together all rows that the model was trained on), and how it was trained: the settings of the stage `pool`
Cost: a thousand trainings on half of the rows, in which small models take their steps 32 at once (or none, with `attributions`), and one
  forward and backward of forget and matched retain rows a step; an interrupted run starts its pool again
Differs: ridge regression in closed form, where the authors tune a lasso; the optional pull to the old weights is left out; the pool trains
  by AdamW, as the method `retrain` does, where the paper trains its own networks by SGD. `lr` and `epochs` set both stages: match.lr and
  pool.lr set one. A pool with fewer models than rows underestimates the effects
Status: undecided
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor

from expunge.core.capabilities import Categorical
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import ModelOutput
from expunge.core.needs import Need
from expunge.core.parts import Objective, Selector
from expunge.core.plan import Plan, Train
from expunge.core.request import content
from expunge.core.rows import Rows, Sets
from expunge.core.view import Step, View
from expunge.engine import checkpoint
from expunge.engine.ensemble import ask, subsets, train_in
from expunge.functional.datamodels import estimator, without
from expunge.methods.edits.random_weights import Reinitialize
from expunge.methods.terms import NLL

POOL = (
    Plan(Reinitialize(), name="blank"),
    Plan(NLL("retain"), train=Train(epochs=24, lr=1e-3, batch_size=32, warmup=1, anchor="retain"), name="pool"),
)
MATCH = Train(epochs=5, lr=5e-4, batch_size=512, optimizer="adam", schedule="constant", lr_decay=0.95, anchor="match")


@part
class MatchSample(Selector):
    """The rows on which the model is matched: the rows to forget, repeated, and some retain rows, drawn once."""

    forget_multiplier: float = hp(1.0, "how often each row to forget is matched; a fraction takes the first rows", gt=0)
    retain_multiplier: float = hp(3.0, "matched retain rows, as a multiple of the rows to forget", ge=0)
    reads = frozenset({"forget", "retain"})
    gives = frozenset({"match"})

    def pick(self, sets: Sets, view: View) -> Sets:
        n = len(view.forget)
        repeated = [i % n for i in range(round(self.forget_multiplier * n))]
        drawn = torch.randperm(len(view.retain), generator=view.rng())[: round(self.retain_multiplier * n)].tolist()
        return {**sets, "match": view.forget.select(repeated).concat(view.retain.select(drawn)).rename("match")}


@part
class Datamodel(Selector):
    """Predict the logits of a retrained model: the logits of this model minus the effects of the rows to forget."""

    models: int = hp(1000, "models of the pool, each trained on a share of all rows", ge=2)
    share: float = hp(0.5, "share of all rows that each model of the pool is trained on", gt=0, lt=1)
    ridge: float = hp(100.0, "penalty of squared effects: variance of a score over seeds / variance of a row's effect on it", ge=0)
    multiplier: float = hp(1.0, "how many times the effects are subtracted", ge=0)
    attributions: str = hp("", "folder of effects that `expunge.parallel.ensembles.attribute` estimated before; replaces the pool")
    inner: tuple[Plan, ...] = POOL
    reads = frozenset({"forget", "retain", "match"})
    requires = frozenset({Categorical})
    gives = frozenset({"match"})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.rows("match")
        start = [logits for batch in view.batches("match", 256) for logits in view.now(batch).logits.split()]
        effects = load_effects(self.attributions, view.forget, rows) if self.attributions else self._estimate(view, rows)
        target = without(torch.cat(start), effects, self.multiplier)
        return {**sets, "match": rows.add(target=list(torch.split(target, [len(logits) for logits in start])))}

    def _estimate(self, view: View, matched: Rows) -> Tensor:
        """Summed effect of the rows to forget on the logits of the matched rows, (1, labels, classes)."""
        rows = view.forget.concat(view.retain).rename("retain")
        membership = subsets(len(rows), self.models, self.share, int(torch.randint(2**31, (1,), generator=view.rng())))
        weights = estimator(membership, self.ridge)[: len(view.forget)].sum(0)
        return mixture(view, self.inner, rows, membership, weights, matched, lambda output: output.logits.values)[None]


@part
class Oracles(Selector):
    """Use the mean output of models that were retrained on the retain rows as the target."""

    models: int = hp(10, "retrained models", ge=1)
    probabilities: bool = False
    inner: tuple[Plan, ...] = POOL
    reads = frozenset({"retain", "match"})
    requires = frozenset({Categorical})
    gives = frozenset({"match"})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows, matched = view.retain, view.rows("match")

        def read(output: ModelOutput) -> Tensor:
            return output.log_probs.values.exp() if self.probabilities else output.logits.values

        membership = torch.ones(self.models, len(rows), dtype=torch.bool)
        weights = torch.full((self.models,), 1 / self.models, dtype=torch.float64)
        mean = mixture(view, self.inner, rows, membership, weights, matched, read)
        lengths = [int(view.modality.counts(matched.select([i]))["labels"]) for i in range(len(matched))]
        return {**sets, "match": matched.add(target=list(torch.split(mean.log() if self.probabilities else mean, lengths)))}


def mixture(
    view: View,
    plan: tuple[Plan, ...],
    rows: Rows,
    membership: Tensor,
    weights: Tensor,
    matched: Rows,
    read: Callable[[ModelOutput], Tensor],
) -> Tensor:
    """Train a pool of models and sum their outputs with weights. Only one piece of the pool is in memory at a time.

    Args:
        plan: how each model is trained; adapters are switched off.
        membership: (models, rows) of bool, the rows that each model is trained on.
        weights: (models,), the weight of each model in the sum.
        matched: the rows that the models answer.
        read: the tensor to sum, from the output of one model, (labels, ...).

    Returns:
        The weighted sum, (labels, ...).
    """
    without_lora = tuple(replace(p, train=replace(p.train, lora=0)) for p in plan)
    sums = []
    for piece in train_in(view, without_lora, rows, membership):
        piece_weights, weights = weights[: len(piece)], weights[len(piece) :]
        outputs = ask(piece, view.modality, matched, read)
        sums.append(torch.einsum("m,m...->...", piece_weights.to(outputs.device), outputs.double()))
    return torch.stack(sums).sum(0).to(outputs.dtype)


def load_effects(folder: str, forget: Rows, matched: Rows) -> Tensor:
    """Read the effects of the rows to forget on the logits of the matched rows from a folder.

    Args:
        folder: what `expunge.parallel.ensembles.attribute` wrote.
        forget: the rows whose effects are read.
        matched: the rows that the effects act on.

    Returns:
        Effects, (forget rows, matched rows, classes).

    Raises:
        UserError: when the folder holds no attributions, or none for some of the rows.
    """
    attributions = checkpoint.load(Path(folder).expanduser())
    if attributions is None:
        raise UserError(
            f"there are no attributions in {folder}: write them with expunge.parallel.ensembles.attribute, or leave `attributions` empty"
        )
    positions = [{row_id: i for i, row_id in enumerate(attributions[name])} for name in ("rows", "asked")]
    for rows, position, kind in zip((forget, matched), positions, ("effects of", "effects on"), strict=True):
        if missing := [i for i in rows.ids if content(i) not in position]:
            raise UserError(
                f"the attributions in {folder} contain no {kind} {len(missing)} of {len(rows)} rows of {rows.name!r}: "
                "estimate them anew with all rows"
            )
    sources, targets = ([position[content(i)] for i in rows.ids] for rows, position in zip((forget, matched), positions, strict=True))
    effects: Tensor = attributions["effects"][sources][:, targets]
    return effects.float()


@part
class Match(Objective):
    """Distance of the model's output from the target: mean squared difference of logits, or cross-entropy."""

    by: Literal["mse", "ce"] = "mse"
    reads = frozenset({"match"})
    requires = frozenset({Categorical})
    needs = frozenset({Need.SAME_LABELS})

    def loss(self, step: Step) -> Tensor:
        rows = step.rows("match")
        output = step.now(rows)
        target = torch.cat(list(rows["target"])).to(output.logits.values.device)
        if self.by == "mse":
            return step.mean(output.logits.map(lambda logits: (logits - target).square().mean(-1)), rows)
        return -step.mean(output.log_probs.map(lambda logp: (target.softmax(-1) * logp).sum(-1)), rows)


def plan(
    target: Annotated[Literal["datamodel", "oracles"], "prediction of a datamodel, or mean of retrained models"] = "datamodel",
    loss: Annotated[Literal["mse", "ce"], "squared difference of logits, or cross-entropy"] = "mse",
) -> Plan:
    selector = Datamodel() if target == "datamodel" else Oracles(probabilities=loss == "ce")
    return Plan(Match(loss), train=MATCH, selectors=(MatchSample(), selector), name="match")
