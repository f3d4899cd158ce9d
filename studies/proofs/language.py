"""Claims about language models, and the methods that are compared; the world is that of the people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expunge.workflows import build_plan
from studies.proofs.claim import Arm, Claim
from studies.proofs.people import FORGETTING, RELEARNED, SAID, People

# Every batch holds all rows to forget; a constant rate gives all runs of a rate one path.
TOGETHER = {"batch_size": 36, "schedule": "constant", "warmup": 0, "epochs": 60, "steps": 0}
RATES = {"lr": (1e-4, 3e-4, 1e-3, 3e-3)}
SLOW: dict[str, Any] = {"epochs": 240}  # for methods that hardly move a model that is nearly sure of its answers


def arm(method: str, name: str = "", grid: Mapping[str, Sequence[Any]] = RATES, bare: bool = False, **fixed: Any) -> Arm:
    """A method with batches of all rows to forget."""
    known = {k.name for k in build_plan.hyperparameters(method)}
    return Arm(name or method, method, {**{k: v for k, v in TOGETHER.items() if k in known}, **fixed}, grid, bare)


def bare(method: str, **fixed: Any) -> Arm:
    """What a method is built on: the same objective without its updates."""
    return arm(method, f"{method}, without its update", bare=True, **fixed)


ARMS: dict[str, Arm] = {
    a.name: a
    for a in (
        arm("ga"),
        arm("graddiff"),
        arm("kl"),
        arm("npo"),
        arm("simnpo", forget_weight=1.0, grid={"lr": (1e-3, 3e-3), "beta": (0.3, 1.0)}),
        arm("idk"),
        arm("dpo"),
        arm("idk_ap"),
        arm("wga"),
        arm("satimp", **SLOW, grid={"lr": (1e-3, 1e-2), "b1": (1.0, 5.0)}),
        arm("undial", **SLOW),
        arm("ceu"),
        arm("me"),
        arm("llmu"),
        arm("pdu"),
        arm("whp"),
        arm("flat"),
        arm("rmu", layer=1, lr=1e-2, grid={"retain_weight": (1.0, 10.0), "coefficient": (20.0, 60.0)}),
        arm("adaptive_rmu", layer=1, grid={"lr": (1e-3, 1e-2), "retain_weight": (10.0, 1200.0)}),
        arm("pop", grid={"lr": (3e-4, 1e-3), "retain_weight": (1.0, 10.0)}),
        arm("dto"),
        arm("kfade", grid={"epsilon": (0.02, 0.05, 0.1, 0.5)}),
        arm("sam", grid={"lr": (3e-4, 1e-3), "rho": (0.1, 1.0)}),
        arm("random_smoothing", grid={"lr": (3e-4, 1e-3), "sigma": (1e-3, 1e-2)}),
        arm("gradient_penalty", batch_mean=True, grid={"lr": (3e-4, 1e-3), "kappa": (0.01, 0.1)}),
        arm("curvature", batch_mean=True, grid={"lr": (3e-4, 1e-3), "kappa": (1.0, 10.0)}),
        arm("gradient_projection", grid={"lr": (3e-4, 1e-3, 3e-3, 1e-2)}),
        arm("weight_averaging", start=8, every=2, batch_mean=True),
        arm("eru", unbiased=False, grid={"lr": (3e-4, 1e-3), "forget_weight": (0.125, 1.0)}),
        arm("eru", "eru, nothing ablated", unbiased=False, ablated=0.0, grid={"lr": (3e-4, 1e-3), "forget_weight": (0.125, 1.0)}),
        arm("icu", unseen=True),
        arm("npo", "npo, no retain rows", retain_weight=0.0),
        arm("srmu", layer=1, lr=1e-2, grid={"retain_weight": (1.0, 10.0), "length": (20.0, 60.0)}),
        arm("npo", "relearn"),
        bare("weight_averaging", batch_mean=True),
        bare("sam"),
        bare("random_smoothing"),
        bare("gradient_penalty", batch_mean=True),
        bare("curvature", batch_mean=True),
        bare("gradient_projection"),
        arm("wagle", batch_mean=True, grid={"lr": (3e-4, 1e-3), "fraction": (0.5, 0.95)}),
        arm("wagle", "wagle, random mask", batch_mean=True, score="random", grid={"lr": (3e-4, 1e-3), "fraction": (0.5, 0.95)}),
    )
}
WORLD = People()
SPOKEN = People("people, by what is said", level=SAID)


def keeps(text: str, source: str, *rivals: str, matters: float = 0.02) -> tuple[People, tuple[Claim, ...]]:
    """At equal forgetting the method keeps more utility than its rivals."""
    return WORLD, (Claim(text, source, "model_utility", rivals or ("ga",), "higher", matters, FORGETTING),)


def says_less(text: str, source: str, *rivals: str) -> tuple[People, tuple[Claim, ...]]:
    """Where the models say as little of the forgotten answers, the method keeps more utility than its rivals."""
    return SPOKEN, (Claim(text, source, "model_utility", rivals or ("ga",), "higher", 0.02, SAID),)


def resists(method: str, source: str) -> tuple[People, tuple[Claim, ...]]:
    """At equal forgetting, relearning brings back less of the rows that the attacker does not have."""
    text = "at equal forgetting, relearning on a quarter of the rows brings back less of the others than without it"
    return WORLD, (Claim(text, source, RELEARNED, (f"{method}, without its update",), "lower", 0.02, FORGETTING),)


MORE = "at equal forgetting it keeps more of the model's utility than gradient ascent"
LESS = "where it says as little of the forgotten answers, it keeps more of the model's utility than gradient ascent"
CLAIMS: dict[str, tuple[People, tuple[Claim, ...]]] = {
    "graddiff": keeps(MORE, "Maini et al. 2024 (TOFU), forget quality against model utility"),
    "kl": keeps(MORE, "Maini et al. 2024 (TOFU), forget quality against model utility"),
    "idk": says_less(LESS, "Maini et al. 2024 (TOFU), forget quality against model utility"),
    "dpo": says_less(LESS, "Zhang et al. 2024 (NPO), where it is a baseline on TOFU"),
    "npo": keeps(MORE, "Zhang et al. 2024, forget quality against model utility on TOFU"),
    "simnpo": keeps("at equal forgetting it keeps more utility than NPO", "Fan et al. 2024, the table of TOFU", "npo"),
    "idk_ap": says_less(LESS, "Yuan et al. 2024, the tables of TOFU"),
    "me": keeps(MORE, "Yuan et al. 2024, the tables of TOFU"),
    "wga": keeps(MORE, "Wang et al. 2025, the table of TOFU"),
    "satimp": keeps(
        "at equal forgetting it keeps more utility than gradient ascent and NPO", "Yang et al. 2025, the tables of TOFU", "ga", "npo"
    ),
    "undial": keeps(MORE, "Dong et al. 2024, memorization against the scores of general tasks"),
    "ceu": keeps(MORE, "Yang 2025, the table of TOFU"),
    "llmu": keeps(MORE, "Yao et al. 2023, the tables of harmful answers, gradient ascent against random mismatch"),
    "pdu": keeps(MORE, "Entesari et al. 2025, the tables of TOFU"),
    "whp": keeps(MORE, "Shi et al. 2024 (MUSE), the table: knowledge of the retain set beside that of gradient ascent"),
    "flat": keeps(MORE, "Wang et al. 2025, the table of TOFU"),
    "rmu": keeps(MORE, "Li et al. 2024 (WMDP), where it keeps more than the baselines"),
    "adaptive_rmu": keeps(MORE, "Dang et al. 2025, the table of WMDP"),
    "pop": keeps(MORE, "Lee et al. 2024, retention on 13 benchmarks beside unlikelihood, which is gradient ascent"),
    "dto": keeps(MORE, "Lee, Liu and Xiong 2025, the tables of TOFU and MUSE"),
    "kfade": (
        WORLD,
        (
            Claim(
                "at equal suppression the answers to the retain rows stay nearer to the original's, by KL, than with graddiff",
                "McKinney et al. 2026, KL on retained text",
                "retain_kl",
                ("graddiff",),
                "lower",
                0.01,
                FORGETTING,
            ),
        ),
    ),
    "sam": resists("sam", "Fan et al. 2025, relearning on WMDP with 20 to 60 rows"),
    "random_smoothing": resists("random_smoothing", "Fan et al. 2025, relearning on WMDP"),
    "gradient_penalty": resists("gradient_penalty", "Fan et al. 2025, relearning on WMDP"),
    "curvature": resists("curvature", "Fan et al. 2025, relearning on WMDP"),
    "relearn": (
        WORLD,
        (
            Claim(
                "after NPO, relearning on a quarter of the rows brings the others back further than it teaches them to the retrained model",
                "Fan et al. 2025 and Hu et al. 2024, relearning of models that have forgotten beside models that never knew",
                RELEARNED,
                ("retrained",),
                "higher",
                0.05,
                FORGETTING,
            ),
        ),
    ),
    "weight_averaging": resists("weight_averaging", "Fan et al. 2025, relearning on WMDP"),
    "eru": (
        WORLD,
        (
            Claim(
                "at equal forgetting, relearning on a quarter of the rows brings back less of the others than without ablation",
                "Sui et al. 2025, what is kept of the unlearning after fine-tuning on 1,000 samples",
                RELEARNED,
                ("eru, nothing ablated",),
                "lower",
                0.02,
                FORGETTING,
            ),
        ),
    ),
    "icu": keeps(
        "at equal forgetting it keeps more utility than gradient ascent and NPO without retain rows",
        "Tang et al. 2024, the tables of nine tasks and dialogues",
        "ga",
        "npo, no retain rows",
    ),
    "srmu": keeps("at equal forgetting it keeps more utility than RMU", "the results of the paper on MMLU at equal WMDP", "rmu"),
    "gradient_projection": keeps(
        "at equal forgetting it keeps more of the model's utility than the same objective without projection",
        "Yu et al. 2020, for two objectives that conflict; here as in the released code for unlearning",
        "gradient_projection, without its update",
    ),
    "wagle": keeps(
        "at equal forgetting its mask keeps more utility than a random one", "Jia et al. 2024, the tables of TOFU", "wagle, random mask"
    ),
}
