"""The image world: handwritten digits with a small residual network; one class is forgotten, or a tenth of all images.

Costs are counts, not times: rows in forward passes plus twice the rows in backward passes, as a share of the cost of retraining.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import fmean
from typing import Any

from expunge.core.errors import UserError
from expunge.evaluation.audited_models import examine, random_init
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.io.models import Opened
from expunge.workflows.sweep import Sweep
from expunge.workflows.train import train
from expunge.workflows.unlearn import unlearn
from studies.proofs.claim import Arm, Claim, Scores, spent
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate

SIZE = "resnet-nano"
GAPS = ("forget_accuracy", "retain_accuracy", "test_accuracy", "mia_efficacy")  # SalUn, Table 1: UA, RA, TA and MIA
SHOWN = (*GAPS, "test_forget_accuracy", "zrf")
WANTS = ObservationSpec(gradient_norms=False)


class DigitsUnit:
    """One original and one retrained model on one draw of the digits."""

    def __init__(self, split: str, draw: int, seed: int) -> None:
        self.suite = Sweep("digits", (), model=SIZE, split=split, draw=draw).load_suite()
        self.results = [train(self.suite.train[rows], SIZE, labels=tuple(self.suite.labels), seed=seed) for rows in ("full", "retain")]
        self.models = [Opened(result.model, result.modality, str(result.folder)) for result in self.results]
        self.retraining = spent(self.results[1].receipt)
        self.beside: dict[str, Any] = {"random_init": random_init(self.models[0], self.suite.sets, None)}
        observed = examine(self.models[1].model, self.models[1].modality, self.suite.sets, name="retrained", wants=WANTS, **self.beside)
        self.target = {name: float(observed.scores[name]["value"]) for name in SHOWN if name in observed.scores}

    def measure(self, opened: Opened) -> dict[str, float]:
        """All scores of a model; `gap` is the mean distance from the retrained model in SalUn's four scores."""
        audited = examine(opened.model, opened.modality, self.suite.sets, name="model", wants=WANTS, **self.beside)
        scores = {name: float(audited.scores[name]["value"]) for name in SHOWN if name in audited.scores}
        return {**scores, "gap": fmean(abs(scores[name] - self.target[name]) for name in GAPS)}

    @cached_property
    def original(self) -> Scores:
        return {**self.measure(self.models[0]), "cost": 0.0}

    @cached_property
    def retrained(self) -> Scores:
        return {**self.target, "gap": 0.0, "cost": 1.0}

    @cached_property
    def random(self) -> Scores:
        blank = Opened(copy.deepcopy(self.models[0].model), self.models[0].modality, "")
        result = unlearn("random_weights", blank, self.suite.train["forget"], self.suite.train["retain"], allow_overlap=True)
        return self.measure(Opened(result.model, result.modality, ""))

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The scores at the end, and the cost as a share of retraining."""
        opened = Opened(copy.deepcopy(self.models[0].model), self.models[0].modality, "original")
        forget, retain = self.suite.train["forget"], self.suite.train["retain"]
        try:
            result = unlearn(arm.method, opened, forget, retain, allow_overlap=True, **settings)
        except UserError:  # these settings leave the weights as they are, which a run refuses to call unlearning
            return [self.original]
        cost = spent(result.receipt) / self.retraining
        return [{**self.measure(Opened(result.model, result.modality, arm.name)), "cost": cost}]


@dataclass(frozen=True)
class Digits:
    """Draws of the digits.

    Args:
        split: what is forgotten, as the benchmark names it.
    """

    split: str
    model: str = SIZE

    @property
    def name(self) -> str:
        return f"digits {self.split}"

    def unit(self, draw: int, seed: int) -> DigitsUnit:
        return DigitsUnit(self.split, draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """The original must be far from the retrained model, and other retrained models near; what is near as well cannot be beaten."""
        floor = floor_of(units)
        original, random = (fmean(getattr(unit, name)["gap"] for unit in units) for name in ("original", "random"))
        gates = [
            Gate(
                "the original is at least three times as far from the retrained model as another retrained model is",
                original,
                original >= 3 * floor,
            ),
            Gate("random weights are farther from the retrained model than the original", random, random > original),
        ]
        if claim.score == "gap":
            nearest = min(fmean(values) for values in rivals.values())
            gates.append(
                Gate("no rival is as near to the retrained model as another retrained model is", nearest, nearest >= floor + claim.matters)
            )
        if claim.score == "forget_accuracy":
            lowest = min(fmean(values) for values in rivals.values())
            gates.append(Gate("no rival forgets everything", lowest, lowest >= claim.matters))
        return gates


def floor_of(units: Sequence[DigitsUnit]) -> float:
    """The mean gap between retrained models, of one unit and the next on the same draw."""
    gaps = [
        fmean(abs(first.target[name] - second.target[name]) for name in GAPS)
        for first, second in pairwise(units)
        if first.suite.name == second.suite.name and first.suite.sets["forget"][0]["label"] == second.suite.sets["forget"][0]["label"]
    ]
    return fmean(gaps) if gaps else 0.0


# Values of the hyperparameters; about the same number of settings for each. Runs cost about a third of retraining at most, or they would be
# retraining; fine-tuning at most a sixth, as the papers fine-tune for 10 epochs where retraining takes 182. Two cost .6: ascent and
# descent in turn, and Fisher information for every class.
ARMS: dict[str, Arm] = {
    a.name: a
    for a in (
        Arm("finetune", "finetune", grid={"lr": (1e-3, 3e-3, 1e-2, 3e-2), "epochs": (1, 2)}),
        Arm("neggrad", "neggrad", grid={"lr": (1e-3, 3e-3, 1e-2, 3e-2), "epochs": (5, 20)}),
        Arm("neggrad_plus", "neggrad_plus", {"momentum": 0.9}, {"lr": (1e-2, 3e-2), "alpha": (0.95, 0.99), "epochs": (1, 2)}),
        Arm("gda", "gda", {"rounds": 1}, {"lr": (1e-3, 3e-3, 1e-2, 2e-2, 3e-2, 5e-2, 7e-2, 1e-1)}),
        Arm("random_labels", "random_labels", {"batch_size": 32}, {"lr": (3e-3, 1e-2, 3e-2, 1e-1), "epochs": (3, 6)}),
        Arm("salun", "salun", {"batch_size": 32}, {"lr": (3e-3, 1e-2, 3e-2, 1e-1), "epochs": (3, 6)}),
        Arm("bad_teacher", "bad_teacher", {"batch_size": 32}, {"lr": (3e-4, 1e-3, 3e-3, 1e-2), "epochs": (1, 3)}),
        Arm("scrub", "scrub", {"scale": "large"}, {"lr": (3e-3, 1e-2, 3e-2, 1e-1), "batch_size": (32, 128)}),
        Arm("l1_sparse", "l1_sparse", {"epochs": 3, "l1_epochs": 2}, {"lr": (1e-2, 3e-2), "alpha": (3e-3, 1e-2, 3e-2, 1e-1)}),
        Arm("boundary", "boundary", grid={"lr": (1e-4, 1e-3), "bound": (0.2, 0.4), "epochs": (3, 10)}),
        Arm("unsir", "unsir", {"training": False}, {"lr": (1e-4, 3e-4, 1e-3, 3e-3), "copies": (8, 80)}),
        Arm("ssd", "ssd", grid={"alpha": (4.0, 6.0, 8.0, 16.0), "batch_size": (1, 32)}),
        Arm("fisher", "fisher", grid={"alpha": (3e-7, 1e-6, 3e-6, 1e-5), "head": (1.0, 10.0)}),
        Arm("influence", "influence", {"samples": 300}, {"alpha": (1.0, 4.0, 16.0, 64.0), "damping": (0.1, 1.0)}),
        Arm("iau", "iau", {"steps": 1}, {"lr": (5e-4, 1e-3, 1.5e-3, 2e-3, 2.5e-3, 3e-3, 4e-3, 6e-3)}),
    )
}
CLASS, TENTH = Digits("class3"), Digits("random10")


def nearer(text: str, source: str, *rivals: str, matters: float = 0.01) -> Claim:
    """The method ends nearer to the retrained model than its rivals, in SalUn's four scores."""
    return Claim(text, source, "gap", rivals, "lower", matters)


CLAIMS: dict[str, tuple[Digits, tuple[Claim, ...]]] = {
    "salun": (
        TENTH,
        (
            nearer(
                "the average gap to retraining is smaller than after fine-tuning, random labels, ascent, influence and l1-sparsity",
                "Fan et al. 2024, Table 1 (a tenth of CIFAR-10, drawn at random)",
                "finetune",
                "random_labels",
                "neggrad",
                "influence",
                "l1_sparse",
                matters=0.005,
            ),
        ),
    ),
    "l1_sparse": (
        CLASS,
        (
            nearer(
                "sparsity brings fine-tuning nearer to retraining",
                "Jia et al. 2023, the comparison of FT with and without sparsity",
                "finetune",
            ),
        ),
    ),
    "scrub": (
        CLASS,
        (
            nearer(
                "a class is forgotten nearer to retraining than with fine-tuning and a bad teacher",
                "Kurmanji et al. 2023, the comparison of forget, retain and test errors",
                "finetune",
                "bad_teacher",
            ),
        ),
    ),
    "neggrad_plus": (
        CLASS,
        (
            nearer(
                "descent on the retain rows beside ascent ends nearer to retraining than either alone",
                "Kurmanji et al. 2023, where it is the strongest simple baseline",
                "finetune",
                "neggrad",
            ),
        ),
    ),
    "random_labels": (
        CLASS,
        (
            nearer(
                "relabeling forgets a class where fine-tuning does not",
                "Golatkar et al. 2020 and Fan et al. 2024, class-wise forgetting",
                "finetune",
            ),
        ),
    ),
    "gda": (
        CLASS,
        (
            nearer(
                "descent after ascent ends nearer to retraining than ascent alone",
                "Georgiev et al. 2024, the comparison by KLoM, here by the average gap",
                "neggrad",
            ),
        ),
    ),
    "neggrad": (
        CLASS,
        (
            Claim(
                "ascent forgets a class where fine-tuning does not",
                "Golatkar et al. 2020, error on the forgotten class",
                "forget_accuracy",
                ("finetune",),
                "lower",
                0.1,
            ),
        ),
    ),
    "bad_teacher": (
        CLASS,
        (
            Claim(
                "what it says of the forgotten class resembles random weights more than after fine-tuning and random labels, by ZRF",
                "Chundawat et al. 2023, ZRF in the tables of class-wise forgetting",
                "zrf",
                ("finetune", "random_labels"),
                "higher",
                0.01,
            ),
            nearer(
                "accuracies end near those of retraining, nearer than after fine-tuning",
                "Chundawat et al. 2023, accuracies in the same tables",
                "finetune",
            ),
        ),
    ),
    "unsir": (
        CLASS,
        (
            nearer(
                "one impair and one repair epoch end nearer to retraining than fine-tuning",
                "Tarun et al. 2023, the tables of class-wise forgetting",
                "finetune",
            ),
        ),
    ),
    "ssd": (
        CLASS,
        (
            nearer(
                "dampening ends nearer to retraining than fine-tuning and a bad teacher",
                "Foster et al. 2024, the tables of class-wise forgetting",
                "finetune",
                "bad_teacher",
            ),
            Claim(
                "it costs less than a bad teacher, unsir and random labels",
                "Foster et al. 2024, the time of each method",
                "cost",
                ("bad_teacher", "unsir", "random_labels"),
                "lower",
                0.0,
            ),
        ),
    ),
    "fisher": (
        CLASS,
        (
            nearer(
                "noise by the Fisher information ends nearer to retraining than fine-tuning",
                "Golatkar et al. 2020, readouts beside those of retraining",
                "finetune",
            ),
        ),
    ),
    "influence": (
        CLASS,
        (
            nearer(
                "an influence step ends nearer to retraining than fine-tuning",
                "Jia et al. 2023 and Fan et al. 2024, class-wise forgetting",
                "finetune",
            ),
        ),
    ),
    "iau": (
        CLASS,
        (
            Claim(
                "it costs less than Fisher forgetting and an influence step",
                "the seconds of the paper's table (CIFAR-10, LeNet-5: 13 s against 1,294 s of Fisher forgetting)",
                "cost",
                ("fisher", "influence"),
                "lower",
                0.0,
            ),
            nearer("it ends nearer to retraining than Fisher forgetting", "the average rank of the paper's table", "fisher"),
        ),
    ),
    "boundary": (
        CLASS,
        (
            nearer(
                "moving the boundary ends nearer to retraining than fine-tuning, ascent and random labels",
                "Chen et al. 2023, accuracies beside those of retraining",
                "finetune",
                "neggrad",
                "random_labels",
            ),
        ),
    ),
}
