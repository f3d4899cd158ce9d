"""The case of a stream: digits arrive two classes at a time, and a small network remembers only the last two, unless it is repaired.

Costs are rows in forward passes plus twice the rows in backward passes, in excess of plain training, as a share of plain training.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from expunge.benchmarks import digits
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.evaluation.audited_models import Progress
from expunge.methods.terms import NLL
from expunge.methods.updates.k_fpf import FPF, Buffer
from expunge.workflows.train import start
from studies.cases.accuracy import accuracy
from studies.cases.claims import Claim, Numbers, pooled

TASKS = 5  # of two classes each
SEEDS = 1
BUFFER = 200  # rows of earlier tasks that are kept
# Learning rates were chosen on another draw of the unseen images, the steps of a repair by its cost beside replay.
TRAIN = Train(epochs=20, lr=0.02, batch_size=64, optimizer="sgd", schedule="constant", anchor="task")
REPAIR = {"steps": 60, "lr": 0.1}

REMEMBERS = Claim(
    "at the end of the stream accuracy on unseen images of all classes is higher than after plain training, by 0.2 or more",
    lambda n, me: n[me]["accuracy"] >= n["plain"]["accuracy"] + 0.2,
)
ON_A_PAR = Claim(
    "it is at most 0.05 lower than after replay of kept rows at every step",
    lambda n, me: n[me]["accuracy"] >= n["replay"]["accuracy"] - 0.05,
)
CHEAPER = Claim("repairs cost at most half of what replay costs", lambda n, me: n[me]["cost"] <= 0.5 * n["replay"]["cost"])
RAISES = Claim(
    "one repair at the end raises the accuracy of plain training and of replay",
    lambda n, me: all(n[f"{m}, repaired"]["accuracy"] > n[m]["accuracy"] for m in ("plain", "replay")),
)
ENOUGH = Claim(
    "to repair norms and the last layer is at most 0.05 worse than to repair all",
    lambda n, me: n[me]["accuracy"] >= n["all repaired"]["accuracy"] - 0.05,
)

CLAIMS: dict[str, tuple[Claim, ...]] = {"k_fpf": (REMEMBERS, ON_A_PAR, CHEAPER, RAISES, ENOUGH)}


class Case:
    """Digits in five tasks, and an untrained network."""

    model = "resnet-nano"

    def __init__(self, progress: Progress, draw: int = 0) -> None:
        self.suite, self.progress = digits.load(seed=draw), progress
        records = sorted([*self.suite.train["forget"], *self.suite.train["retain"]], key=lambda r: r["label"])
        random_init = start(self.model, records, labels=tuple(self.suite.labels))
        self.random_init, self.modality = random_init.model, random_init.modality
        tasks = [[r for r in records if r["label"] * TASKS // 10 == t] for t in range(TASKS)]
        self.tasks = [self.modality.rows("task", task) for task in tasks]
        self.past = [self.modality.rows("retain", [r for task in tasks[: t + 1] for r in task]) for t in range(TASKS)]
        self.unseen = self.modality.rows("holdout", self.suite.sets["holdout"])

    def measure(self, name: str) -> tuple[Numbers, dict[str, Any]]:
        """Return mean accuracies and costs of ways to learn the stream, and the settings of repairs."""
        repair = replace(FPF().repair, train=replace(FPF().repair.train, **REPAIR))
        partial_repair, full_repair = FPF(k=1, repair=repair), FPF(k=1, modules="all", repair=repair)
        ways: dict[str, tuple[bool, FPF | None, FPF | None]] = {  # replay rows? repair after each task, after the last
            "plain": (False, None, None),
            "replay": (True, None, None),
            "plain, repaired": (False, None, partial_repair),
            "replay, repaired": (True, None, partial_repair),
            "all repaired": (False, full_repair, full_repair),
            name: (False, partial_repair, partial_repair),
        }
        runs = {way: [self.learned(way, seed, *options) for seed in range(SEEDS)] for way, options in ways.items()}
        means = {way: pooled(scores) for way, scores in runs.items()}
        plain = means["plain"]["cost"]
        return {way: {**s, "cost": (s["cost"] - plain) / plain} for way, s in means.items()}, {"k": TASKS, "size": BUFFER, **REPAIR}

    def learned(self, way: str, seed: int, replay: bool, each: FPF | None, last: FPF | None) -> Mapping[str, float]:
        """Accuracies after the stream, and its cost. replay: of kept rows in every step. each, last: repair after each task, the last."""
        self.progress(seed, SEEDS, f"{way}: learning")
        model, cost = copy.deepcopy(self.random_init), 0.0
        for t, (task, past) in enumerate(zip(self.tasks, self.past, strict=True)):
            repaired = last if t == TASKS - 1 else each
            selectors, updates = ((Buffer(size=BUFFER),), (repaired,)) if repaired else ((), ())
            plan = Plan(NLL("task"), train=TRAIN, selectors=selectors, updates=updates)
            if replay and t:
                task, plan = self._replayed(t, seed), replace(plan, train=replace(TRAIN, batch_size=2 * TRAIN.batch_size))
            result = loop.run((plan,), model, self.modality, {"task": task, "retain": past}, seed=seed)
            cost += result.cost.forward_tokens + 2 * result.cost.backward_tokens
        return {
            "accuracy": accuracy(model, self.modality, self.unseen),
            "last": accuracy(model, self.modality, self.tasks[-1]),
            "cost": cost,
        }

    def _replayed(self, t: int, seed: int) -> Rows:
        """A task and equally many rows of earlier tasks; each batch mixes both, so that the norm layers see both."""
        task, past = self.tasks[t], self.past[t - 1]
        kept = torch.randperm(len(past), generator=torch.Generator().manual_seed(seed))[:BUFFER]
        return task.concat(past.select(kept.repeat(-(-len(task) // len(kept)))[: len(task)].tolist()))
