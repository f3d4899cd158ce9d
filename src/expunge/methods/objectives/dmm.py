"""Datamodel matching (DMM): predict what a model retrained without the rows would say, by data attribution, and fine-tune towards that.

Steps against a loss do not know where retraining would have ended at each row, and stop too early or too late. Here the end is estimated
first. A pool of models is trained on random halves of all rows; by least squares it says how much each row moves each score, and the rows
to forget are subtracted. `target oracles` matches models that were retrained in fact: the upper bound, to judge the prediction by.

Equation: L = mean |s(x) - h(x)|^2 over classes, rows to forget and some retain rows; h = f_ref - m sum_{i in forget} beta_i (DM-Direct),
  beta from the ridge regression of what a pool of models says on who was trained on what; oracles: h is their mean; with `loss ce`
  cross-entropy to softmax h
Source: Georgiev et al. 2025, arXiv 2410.23232; settings of the benchmark EasyDUB, arXiv 2602.16400
Needs: forget, retain (together all that the model was trained on), and how it was trained: the settings of the stage `pool`
Cost: a thousand trainings on half of the rows, which small models share in steps of 32 at once (or none, with `attributions`), and one
  forward and backward of forget and matched retain rows a step; an interrupted run begins its pool anew
Differs: ridge regression in closed form, where the authors tune a lasso; the optional pull to the old weights is left out; the pool trains
  by AdamW, as the method `retrain` does, where the paper trains its own networks by SGD. `lr` and `epochs` set both stages: say match.lr
  and pool.lr to set one. Fewer models than rows find too small effects
Status: faithful
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
from expunge.core.parts import Objective, Selector
from expunge.core.plan import Plan, Train
from expunge.core.request import content
from expunge.core.rows import Rows, Sets
from expunge.core.view import Step, View
from expunge.engine import checkpoint
from expunge.engine.ensemble import ask, subsets, train_in
from expunge.functional.datamodels import estimator, without
from expunge.methods.edits.random_weights import Reinitialise
from expunge.methods.terms import NLL

POOL = (
    Plan(Reinitialise(), name="blank"),
    Plan(NLL("retain"), train=Train(epochs=24, lr=1e-3, batch_size=32, warmup=1, anchor="retain"), name="pool"),
)
MATCH = Train(epochs=5, lr=5e-4, batch_size=512, optimizer="adam", schedule="constant", lr_decay=0.95, anchor="match")


@part
class MatchSample(Selector):
    """The rows on which the model is matched: those to forget, some times over, and some retain rows, drawn once."""

    forget_multiplier: float = hp(1.0, "how often each row to forget is matched; a fraction takes the first ones", gt=0)
    retain_multiplier: float = hp(3.0, "matched retain rows, as a multiple of the rows to forget", ge=0)
    reads = frozenset({"forget", "retain"})
    gives = frozenset({"match"})

    def pick(self, sets: Sets, view: View) -> Sets:
        n = len(view.forget)
        again = [i % n for i in range(round(self.forget_multiplier * n))]
        drawn = torch.randperm(len(view.retain), generator=view.rng())[: round(self.retain_multiplier * n)].tolist()
        return {**sets, "match": view.forget.select(again).concat(view.retain.select(drawn)).rename("match")}


@part
class Datamodel(Selector):
    """Aim at what a retrained model is predicted to say: what this one says, less the effects of the rows to forget."""

    models: int = hp(1000, "models of the pool, each trained on a part of all rows", ge=2)
    share: float = hp(0.5, "that part", gt=0, lt=1)
    ridge: float = hp(100.0, "penalty of squared effects: the variance of a score by seed over that of a row's effect on it", ge=0)
    multiplier: float = hp(1.0, "how many times the effects are subtracted", ge=0)
    attributions: str = hp("", "folder of effects that were estimated before (`expunge.parallel.ensembles.attribute`), instead of a pool")
    inner: tuple[Plan, ...] = POOL
    reads = frozenset({"forget", "retain", "match"})
    requires = frozenset({Categorical})
    gives = frozenset({"match"})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.rows("match")
        start = [scores for some in view.batches("match", 256) for scores in view.now(some).logits.split()]
        change = known(self.attributions, view.forget, rows) if self.attributions else self._estimated(view, rows)
        target = without(torch.cat(start), change, self.multiplier)
        return {**sets, "match": rows.add(target=list(torch.split(target, [len(s) for s in start])))}

    def _estimated(self, view: View, asked: Rows) -> Tensor:
        rows = view.forget.concat(view.retain).rename("retain")
        seen = subsets(len(rows), self.models, self.share, int(torch.randint(2**31, (1,), generator=view.rng())))
        mine = estimator(seen, self.ridge)[: len(view.forget)].sum(0)
        return mixture(view, self.inner, rows, seen, mine, asked, lambda answer: answer.logits.values)[None]


@part
class Oracles(Selector):
    """Aim at the mean of what models say that were retrained on the retain rows."""

    models: int = hp(10, "retrained models", ge=1)
    probabilities: bool = False
    inner: tuple[Plan, ...] = POOL
    reads = frozenset({"retain", "match"})
    requires = frozenset({Categorical})
    gives = frozenset({"match"})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows, asked = view.retain, view.rows("match")

        def read(answer: ModelOutput) -> Tensor:
            return answer.log_probs.values.exp() if self.probabilities else answer.logits.values

        seen = torch.ones(self.models, len(rows), dtype=torch.bool)
        mean = mixture(view, self.inner, rows, seen, torch.full((self.models,), 1 / self.models, dtype=torch.float64), asked, read)
        sizes = [int(view.modality.counts(asked.select([i]))["labels"]) for i in range(len(asked))]
        return {**sets, "match": asked.add(target=list(torch.split(mean.log() if self.probabilities else mean, sizes)))}


def mixture(
    view: View, plan: tuple[Plan, ...], rows: Rows, seen: Tensor, weights: Tensor, asked: Rows, read: Callable[[ModelOutput], Tensor]
) -> Tensor:
    """Weighted sum over the models of a pool of what is read from their answers, (labels, ...); no more than a piece of it is held at once.

    seen: (models, rows). weights: (models,).
    """
    whole = tuple(replace(p, train=replace(p.train, lora=0)) for p in plan)
    sums = []
    for piece in train_in(view, whole, rows, seen):
        mine, weights = weights[: len(piece)], weights[len(piece) :]
        said = ask(piece, view.modality, asked, read)
        sums.append(torch.einsum("m,m...->...", mine.to(said.device), said.double()))
    return torch.stack(sums).sum(0).to(said.dtype)


def known(folder: str, forget: Rows, asked: Rows) -> Tensor:
    """Effects of the rows to forget on what is said about others, (forget, asked, classes), from a folder. Errors: UserError."""
    made = checkpoint.load(Path(folder).expanduser())
    if made is None:
        raise UserError(f"there are no attributions in {folder}: write them with expunge.pools.attribute, or leave attributions out")
    places = [{i: at for at, i in enumerate(made[name])} for name in ("rows", "asked")]
    for rows, place, what in zip((forget, asked), places, ("effects of", "effects on"), strict=True):
        if lack := [i for i in rows.ids if content(i) not in place]:
            raise UserError(f"the attributions in {folder} know no {what} {len(lack)} of {len(rows)} rows of {rows.name!r}")
    mine, theirs = ([place[content(i)] for i in rows.ids] for rows, place in zip((forget, asked), places, strict=True))
    effects: Tensor = made["effects"][mine][:, theirs]
    return effects.float()


@part
class Match(Objective):
    """Distance of what the model says from the target: mean squared difference of scores, or cross-entropy."""

    by: Literal["mse", "ce"] = "mse"
    reads = frozenset({"match"})
    requires = frozenset({Categorical})

    def loss(self, step: Step) -> Tensor:
        rows = step.rows("match")
        now = step.now(rows)
        target = torch.cat(list(rows["target"])).to(now.logits.values.device)
        if self.by == "mse":
            return step.mean(now.logits.map(lambda s: (s - target).square().mean(-1)), rows)
        return -step.mean(now.log_probs.map(lambda d: (target.softmax(-1) * d).sum(-1)), rows)


def plan(
    target: Annotated[Literal["datamodel", "oracles"], "predicted by a datamodel, or the mean of retrained models"] = "datamodel",
    loss: Annotated[Literal["mse", "ce"], "squared difference of scores, or cross-entropy"] = "mse",
) -> Plan:
    aim = Datamodel() if target == "datamodel" else Oracles(probabilities=loss == "ce")
    return Plan(Match(loss), train=MATCH, selectors=(MatchSample(), aim), name="match")
