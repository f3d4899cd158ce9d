"""The world of tastes: recommenders of users whose taste is one of a few groups of items, some of whom are forgotten.

A draw of the data draws interactions, features and the users to forget. Originals differ in their initial weights and the order of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from statistics import fmean
from typing import Any

from expunge import catalog
from expunge.core.errors import UserError
from expunge.modalities.ranking.network import features_in
from studies.proofs.claim import Arm, Claim, Scores
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate
from studies.recommenders import Recommenders

GAP = "recommendation_gap"
RECALLS = ("forget_recall", "retain_recall", "test_recall")
AUCS = ("label_auc", "label_auc_or", "label_auc_and")
SHORT, MASKED = "short retraining", "masked features"
EPOCHS = 60  # of originals and retrained models


class TasteUnit:
    """One original and one retrained recommender on one draw."""

    def __init__(self, world: Tastes, draw: int, seed: int) -> None:
        self.draw = draw
        suite = catalog.load(world.benchmark, "benchmarks").load(split=world.split, seed=draw)
        self.models = Recommenders(suite, world.model, seed, {"epochs": EPOCHS}, features=world.features)

    @cached_property
    def original(self) -> Scores:
        return {**self.models.scores(self.models.opened()), "cost": 0.0}

    @cached_property
    def retrained(self) -> Scores:
        return {**self.models.scores(self.models.opened("retain")), "cost": 1.0}

    @cached_property
    def random(self) -> Scores:
        return self.models.random()

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The scores at the end."""
        try:
            return [self.models.after(arm.method, settings)]
        except UserError:  # these settings leave the weights as they are, which a run refuses to call unlearning
            return [self.original]


class RemovedItemsUnit(TasteUnit):
    """A retrained recommender that reads features of items, some of which are removed altogether."""

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """Scores of the retrained model as it is, or with the features of removed items masked: each as the mean of all items."""
        opened = self.models.opened("retain")
        if arm.name == MASKED:
            suite = self.models.suite.train
            kept = {r["item"] for r in suite["retain"]}
            number: Any = opened.modality.vocabulary.item_numbers  # type: ignore[attr-defined]
            removed = sorted({number[r["item"]] for r in suite["forget"]} - {number[i] for i in kept})
            for vectors in features_in(opened.model):
                vectors[removed] = vectors.mean(0)
        return [{**self.models.scores(opened), "cost": 0.0}]


@dataclass(frozen=True)
class Tastes:
    """Draws of tastes.

    Args:
        model: a built-in recommender.
        benchmark: with generated tastes.
        split: of the benchmark.
    """

    model: str
    benchmark: str = "taste"
    split: str = "user10"
    features: bool = False

    @property
    def name(self) -> str:
        return f"{self.benchmark} {self.split}, {self.model}"

    def unit(self, draw: int, seed: int) -> TasteUnit:
        return (RemovedItemsUnit if self.split.startswith("item") else TasteUnit)(self, draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """The original must know what is forgotten, unlike the retrained model, and that must recommend well, unlike random weights."""
        known, unknown = (fmean(getattr(u, n)["forget_recall"] for u in units) for n in ("original", "retrained"))
        useful, lost = (fmean(getattr(u, n)["test_recall"] for u in units) for n in ("retrained", "random"))
        gates = [
            Gate("the original recommends forgotten items at least twice as often as the retrained model", known, known >= 2 * unknown),
            Gate("the retrained model recommends unseen items at least twice as often as random weights", useful, useful >= 2 * lost),
        ]
        if claim.score == GAP:
            pairs = [(a, b) for a, b in combinations(units, 2) if a.draw == b.draw]
            floor = fmean(fmean(abs(a.retrained[n] - b.retrained[n]) for n in RECALLS) for a, b in pairs) if pairs else 0.0
            original = fmean(u.original[GAP] for u in units)
            nearest = min(fmean(values) for name, values in rivals.items() if name != "retrained")
            gates += [
                Gate(
                    "the original is at least three times as far from the retrained model as another retrained model is",
                    original,
                    original >= 3 * floor,
                ),
                Gate("no rival is as near to the retrained model as another retrained model is", nearest, nearest > floor),
            ]
        if claim.score in AUCS:
            better = fmean(u.retrained[claim.score] - u.original[claim.score] for u in units)
            gates.append(Gate("the retrained model tells likes from dislikes better than the original", better, better >= claim.matters))
        return gates


def usual(size: str, **others: Any) -> dict[str, Any]:
    """How a recommender of a built-in size is trained, with other epochs or rates."""
    module = next(m for n in catalog.names("models") if size in getattr(m := catalog.load(n, "models"), "SIZES", ()))
    return {**module.TRAINING[size], **others}


BATCH = {"batch_size": 64}
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
SHARDS = {"shards": 5, "batch_size": 256, "optimizer": "adam", "schedule": "constant"}
# Values of the hyperparameters, eight settings each; four of those with shards, which cost more.
ARMS: dict[str, Arm] = {
    "mmrecun": Arm("mmrecun", "mmrecun", {**BATCH, "cut": 10, "weight_decay": 1e-3}, {"lr": RATES, "alpha": (0.3, 0.5)}),
    "ga": Arm("ga", "ga", BATCH, {"lr": (3e-3, 1e-2, 3e-2, 1e-1), "epochs": (5, 20)}),
    "amun": Arm("amun", "amun", BATCH, {"lr": RATES, "epochs": (5, 20)}),
    "finetune": Arm("finetune", "finetune", BATCH, {"lr": RATES, "epochs": (5, 20)}),
    "scif": Arm(
        "scif",
        "scif",
        {"iterations": 30, "tolerance": 1e-2, "draws": 1},
        {"damping": (1.0, 10.0, 30.0, 100.0), "residual_correction": ("off", "newton")},
    ),
    "alteraser": Arm("alteraser", "alteraser", {"draws": 1}, {"rounds": (1, 3), "ridge": (0.1, 0.5), "damping": (1e-3, 0.1)}),
    "ifru": Arm(
        "ifru",
        "ifru",
        {"iterations": 30, "tolerance": 1e-2, "draws": 1},
        {"damping": (0.1, 1.0, 10.0, 100.0), "curvature": ("all", "remaining")},
    ),
    "sisa": Arm("sisa", "sisa", {**SHARDS, "slices": 1, "epochs": 60}, {"lr": (3e-3, 1e-2, 3e-2, 1e-1)}),
    "receraser": Arm("receraser", "receraser", {**SHARDS, "epochs": 50, "aggregation_epochs": 10}, {"lr": (3e-3, 1e-2, 3e-2, 1e-1)}),
    "ultrare": Arm("ultrare", "ultrare", {**SHARDS, "epochs": 60}, {"lr": (3e-3, 1e-2, 3e-2, 1e-1)}),
    "exposure": Arm("exposure", "retrain"),
    MASKED: Arm(MASKED, "retrain"),
    SHORT: Arm(SHORT, "retrain", usual("wmf-nano"), {"epochs": (6, 12, 18, 24)}),
}
CHEAP = Claim("it costs less than half of retraining", "", "cost", ("retrained",), "lower", 0.5)


def fraction(forgets: str, keeps: str, cheap: str) -> tuple[Claim, ...]:
    """What papers claim of methods that take a fraction of retraining: they forget, keep what is useful, and are cheap.

    Args:
        forgets, keeps, cheap: where the paper says so.
    """
    return (
        Claim("recalls are nearer to retraining than the original's", forgets, GAP, ("original",), "lower", 0.1),
        Claim(
            "unseen items are recommended as often as by the retrained model",
            keeps,
            "test_recall",
            ("retrained",),
            "higher",
            0.0,
            margin=0.03,
        ),
        replace(CHEAP, source=cheap),
        Claim(
            "recalls are nearer to retraining than those of a retraining that is stopped at the same cost or later",
            "our own, harder than what the paper claims",
            GAP,
            (SHORT,),
            "lower",
            0.01,
        ),
    )


CLAIMS: dict[str, tuple[Tastes, tuple[Claim, ...]]] = {
    "mmrecun": (
        Tastes("vbpr-nano"),
        (
            Claim(
                "recalls of forgotten, kept and unseen items are nearer to retraining than after amun and scif",
                "Sinha et al. 2024, the tables of recall beside Gold",
                GAP,
                ("amun", "scif"),
                "lower",
                0.01,
            ),
            Claim(
                "recalls of forgotten, kept and unseen items are nearer to retraining than after gradient ascent",
                "our own, after Sinha et al. 2024: bounded gradients leave the rest as it is",
                GAP,
                ("ga",),
                "lower",
                0.01,
            ),
        ),
    ),
    "amun": (
        Tastes("bpr_mf-nano"),
        (
            Claim(
                "recalls of forgotten, kept and unseen items are nearer to retraining than after further training without the rows",
                "Graves et al. 2021, the comparison with naive retraining on the remaining data",
                GAP,
                ("finetune",),
                "lower",
                0.01,
            ),
        ),
    ),
    "scif": (
        Tastes("wmf-nano"),
        fraction(
            "Li et al. 2023, completeness by the membership oracle",
            "Li et al. 2023, the tables of NDCG and hit rate beside Retrain",
            "Li et al. 2023, running time beside Retrain",
        ),
    ),
    "alteraser": (
        Tastes("wmf-nano"),
        fraction(
            "Liu et al. 2022, consistency with the retrained model",
            "Liu et al. 2022, accuracy beside the retrained model",
            "Liu et al. 2022, time beside retraining",
        ),
    ),
    "ifru": (
        Tastes("lightgcn-nano", "ifru", "flip10", features=True),
        (
            Claim(
                "without the polluted rows, likes score above dislikes more often than before, and than after scif",
                "Zhang et al. 2023, AUC of users or items that the polluted rows touched",
                "label_auc_or",
                ("original", "scif"),
                "higher",
                0.005,
            ),
            replace(CHEAP, source="Zhang et al. 2023, time beside retraining"),
        ),
    ),
    "receraser": (
        Tastes("bpr_mf-nano", split="user05"),
        (
            Claim(
                "unseen items are recommended earlier than after sisa, at equal cost",
                "Chen et al. 2022, the tables of NDCG beside SISA",
                "test_ndcg",
                ("sisa",),
                "higher",
                0.02,
            ),
            Claim(
                "unseen items are recommended more often than after sisa, at equal cost",
                "Chen et al. 2022, the tables of recall beside SISA",
                "test_recall",
                ("sisa",),
                "higher",
                0.02,
            ),
        ),
    ),
    "ultrare": (
        Tastes("bpr_mf-nano", split="user05"),
        (
            Claim(
                "unseen items are recommended earlier than after receraser",
                "Li et al. 2023, the tables of NDCG beside RecEraser",
                "test_ndcg",
                ("receraser",),
                "higher",
                0.01,
            ),
            Claim(
                "unseen items are recommended earlier than after sisa",
                "Li et al. 2023, the tables of NDCG beside SISA",
                "test_ndcg",
                ("sisa",),
                "higher",
                0.02,
            ),
            Claim("it costs less than receraser", "Li et al. 2023, running time", "cost", ("receraser",), "lower", 0.1),
        ),
    ),
    "exposure": (
        Tastes("vbpr-nano", split="item05", features=True),
        (
            Claim(
                "a removed item comes back through its features: it is recommended to users of items that look like it, more"
                " often than with its features masked",
                "our own, after Sinha et al. 2024: features of removed items stay in the model",
                "exposure_alike",
                (MASKED,),
                "higher",
                0.05,
            ),
        ),
    ),
}
