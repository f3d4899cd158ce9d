"""Chooses the hyperparameters of a case: every method has the same small grid, scored on a split that no result is reported on.

`python -m studies.tuning.tune --suite people --model micro` writes the whole grid to `people-micro.json` beside this file, and the chosen
settings to the presets of the package.

The goodness of a setting is the harmonic mean of closenesses to the retrained model, each from 0 to 1. One is the closeness of the utility
(more utility than the retrained model counts as equal). For language models the others are the closeness of the truth ratios on the forget
set (1 - the Kolmogorov-Smirnov distance; ROUGE where there are no wrong answers) and that of the extraction strength. For classifiers they
are those of the accuracy on forgotten items, of the accuracy on unseen items of forgotten classes, and of the AUC of the loss attack.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from scipy.stats import hmean

from expunge import catalog
from expunge.benchmarks import presets
from expunge.benchmarks.suite import Suite
from expunge.core.errors import UserError
from expunge.engine import receipt
from expunge.evaluation.audited_models import AuditedModel, examine
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.evaluation.prompting import asked_as
from expunge.io.models import Opened
from expunge.workflows import build_plan
from expunge.workflows.sweep import Sweep
from expunge.workflows.train import train
from expunge.workflows.unlearn import unlearn

PRESETS = Path(presets.__file__).parent  # the package ships only the chosen settings
GRID = {"lr": (1e-4, 3e-4, 1e-3, 3e-3), "epochs": (5, 15)}
FIXED = {"batch_size": 16}
STEPWISE = {"batch_size": 36, "steps": 60, "schedule": "constant"}  # all rows to forget in every step, as in `cases.updates`
# Settings of small models outside the grid: they have fewer blocks, other scales of activations, shorter answers.
SPECIAL: dict[str, dict[str, Any]] = {
    "rmu": {"layer": 2, "steps": 0},
    "adaptive_rmu": {"layer": 2, "steps": 0},
    "srmu": {"layer": 2, "steps": 0},
    "llmu": {"steps": 0},
    "altpo": {"length": 40},
    "icu": {"unseen": True},
    "kl": {"include_prompt": False},
    "wga": {"weight_decay": 0.01},
    "pop": {"batch_size": 36, "epochs": 30},
    "kfade": {"batch_size": 36},
    **{n: {**STEPWISE} for n in ("sam", "random_smoothing")},
    **{n: {**STEPWISE, "batch_mean": True} for n in ("gradient_penalty", "curvature", "wagle")},
    "weight_averaging": {**STEPWISE, "start": 40, "every": 4, "batch_mean": True},
    "gradient_projection": {**STEPWISE, "epochs": 0, "warmup": 0},
}
ALL_ROWS = {"batch_size": (36,), "schedule": ("constant",)}
# Methods whose learning rates and weights have another scale have as many settings, in grids of their own.
GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "rmu": {"lr": (1e-2,), "epochs": (15,), "retain_weight": (1.0, 10.0), "coefficient": (6.5, 20.0, 60.0, 200.0)},
    "adaptive_rmu": {"lr": (1e-3, 1e-2), "epochs": (5, 15), "retain_weight": (10.0, 1200.0)},
    "srmu": {"lr": (1e-2,), "epochs": (15,), "retain_weight": (1.0, 10.0), "length": (6.5, 20.0, 60.0, 200.0)},
    "eru": {"lr": (1e-4, 3e-4, 1e-3, 3e-3), "epochs": (15,), "forget_weight": (0.125, 1.0), **ALL_ROWS, "unbiased": (False,)},
    "simnpo": {"lr": (1e-4, 3e-4, 1e-3, 3e-3), "epochs": (15,), "forget_weight": (0.125, 1.0)},
    "sam": {"lr": (3e-4, 1e-3), "beta": (0.1, 1.0), "rho": (0.1, 1.0)},
    "random_smoothing": {"lr": (3e-4, 1e-3), "beta": (0.1, 1.0), "sigma": (1e-3, 1e-2)},
    "gradient_penalty": {"lr": (3e-4, 1e-3), "beta": (0.1, 1.0), "kappa": (0.01, 0.1)},
    "curvature": {"lr": (3e-4, 1e-3), "beta": (0.1, 1.0), "kappa": (1.0, 10.0)},
    "weight_averaging": {"lr": (1e-4, 3e-4, 1e-3, 3e-3), "beta": (0.1, 1.0)},
    "wagle": {"lr": (3e-4, 1e-3), "beta": (0.1, 1.0), "fraction": (0.5, 0.95)},
    "gradient_projection": {"lr": (3e-4, 1e-3, 3e-3, 1e-2), "when": ("conflict", "always")},
    "task_vector": {"lr": (3e-4, 1e-3), "epochs": (1, 3), "scale": (1.0, 3.0)},
    "pop": {"lr": (3e-4, 1e-3), "retain_weight": (0.3, 1.0, 3.0, 10.0)},
    "kfade": {"epsilon": (0.005, 0.02, 0.1, 0.5), "share": (0.01, 0.1)},
    "lunar": {"layers": ((0,), (1,), (2,)), "fit": ("trained", "closed"), "c": (2.0, 8.0)},
    "stamp": {"layers": ((1,), (0, 1, 2)), "positions": ("last", "said"), "weight": (1.0, 10.0)},
}
# TOFU with the `tiny` model, where a setting takes a minute: every method has the same three epochs and four settings.
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
THREE = {"batch_size": 16, "epochs": 3}
TOFU: dict[str, dict[str, tuple[Any, ...]]] = {
    "sam": {"lr": (3e-4, 1e-3), "rho": (0.01, 0.1)},
    "random_smoothing": {"lr": (3e-4, 1e-3), "sigma": (1e-3, 1e-2)},
    "gradient_penalty": {"lr": (3e-4, 1e-3), "kappa": (0.01, 0.1), "batch_mean": (True,)},
    "curvature": {"lr": (3e-4, 1e-3), "kappa": (1.0, 10.0), "batch_mean": (True,)},
    "weight_averaging": {"lr": RATES, "start": (20,), "every": (4,), "batch_mean": (True,)},
    "wagle": {"lr": (3e-4, 1e-3), "fraction": (0.5, 0.95), "batch_mean": (True,)},
    "guard_attribution": {"lr": RATES, "batch_mean": (True,)},
    "eru": {"lr": RATES, "unbiased": (False,)},
    "gradient_projection": {"lr": (3e-4, 1e-3), "when": ("conflict", "always")},
    "pop": {"lr": (3e-4, 1e-3), "retain_weight": (1.0, 10.0)},
    "kfade": {"epsilon": (0.005, 0.02, 0.1, 0.5), "share": (0.05,)},
    "srmu": {"lr": (1e-2,), "layer": (2,), "steps": (0,), "retain_weight": (1.0, 10.0), "length": (6.5, 60.0)},
    "rmu": {"lr": (1e-2,), "layer": (2,), "steps": (0,), "retain_weight": (1.0, 10.0), "coefficient": (6.5, 60.0)},
    "icu": {"lr": RATES, "unseen": (True,)},
    "in_context": {"lr": RATES, "epochs": (1,), "facts": ("retain",)},  # an epoch is one pass over the rows that contexts are made of
    "lunar": {"layers": ((1,), (2,)), "c": (2.0, 8.0)},
    "stamp": {"layers": ((1,), (0, 1, 2, 3)), "weight": (1.0, 10.0)},
}
# Classifiers: learning rates have another scale, and one-shot edits have strengths instead. Each method has about eight settings.
IMAGES: dict[str, dict[str, tuple[Any, ...]]] = {
    "ga": {"lr": (1e-4, 3e-4, 1e-3, 3e-3), "epochs": (2, 5)},
    "neggrad": {"lr": (1e-3, 3e-3, 1e-2, 3e-2), "epochs": (5, 20)},
    "neggrad_plus": {"lr": (1e-2, 3e-2), "alpha": (0.95, 0.99), "epochs": (5, 10), "momentum": (0.9,)},
    "gda": {"lr": (1e-3, 1e-2, 3e-2, 1e-1), "rounds": (2, 4)},
    "random_labels": {"lr": (3e-3, 1e-2, 3e-2, 1e-1), "epochs": (6, 12), "batch_size": (32,)},
    "salun": {"lr": (3e-3, 1e-2, 3e-2, 1e-1), "epochs": (6, 12), "batch_size": (32,)},
    "bad_teacher": {"lr": (3e-4, 1e-3, 3e-3, 1e-2), "epochs": (1, 3), "batch_size": (32,)},
    "scrub": {"lr": (5e-4, 2e-3, 5e-3), "weight_decay": (0.0, 0.1)},
    "l1_sparse": {"lr": (3e-2, 1e-1), "alpha": (1e-2, 3e-2), "epochs": (5,), "l1_epochs": (3, 5)},
    "boundary": {"lr": (1e-4, 1e-3), "bound": (0.2, 0.4), "epochs": (3, 10)},
    "unsir": {"lr": (1e-4, 3e-4, 1e-3, 3e-3), "copies": (8, 80), "training": (False,)},
    "ssd": {"alpha": (4.0, 6.0, 8.0, 16.0), "batch_size": (1, 32)},
    "fisher": {"alpha": (3e-7, 1e-6, 3e-6, 1e-5), "head": (1.0, 10.0)},
    "influence": {"alpha": (1.0, 4.0, 16.0), "damping": (0.01, 0.1, 1.0), "samples": (300,)},
    "iau": {"lr": (5e-4, 1e-3, 1.5e-3, 2e-3, 2.5e-3, 3e-3, 4e-3, 6e-3), "steps": (1,)},
    "trw": {"lr": (1e-3, 3e-3, 1e-2), "beta": (0.0, 1.0, 10.0), "batch_size": (32,)},
    "cupid": {"lr": (3e-3, 1e-2, 3e-2, 1e-1), "batch_size": (32, 128)},
    "k_fpf": {"lr": (1e-3, 1e-2, 3e-2), "epochs": (3, 6)},
    "graddiff": {"lr": (1e-4, 3e-4, 1e-3, 3e-3), "epochs": (2, 5)},
    "npo": {"lr": (3e-4, 1e-3, 3e-3, 1e-2), "epochs": (2, 5)},
}
# Recommenders: vectors of users and items learn at higher rates than whole networks.
TASTES: dict[str, dict[str, tuple[Any, ...]]] = {
    "ga": {"lr": (3e-3, 1e-2, 3e-2, 5e-2), "epochs": (5, 10)},
    "graddiff": {"lr": (3e-3, 1e-2, 3e-2, 5e-2), "epochs": (10, 20)},
    "npo": {"lr": (3e-3, 1e-2, 3e-2, 5e-2), "epochs": (5, 15)},
    "finetune": {"lr": (3e-3, 1e-2, 3e-2, 1e-1), "epochs": (2, 5)},
    "mmrecun": {"lr": (1e-3, 3e-3, 1e-2, 3e-2), "alpha": (0.1, 0.3), "weight_decay": (1e-3,), "cut": (10,)},
    "ifru": {"curvature": ("all", "remaining"), "damping": (0.01, 0.1, 1.0, 10.0)},
}
# Models that see: the few methods of its demo, whose runs take seconds.
SIGHTS = {name: {"lr": (3e-4, 1e-3, 3e-3), "epochs": (3, 5)} for name in ("ga", "graddiff", "kl", "idk", "npo")}
SUITES: dict[str, tuple[dict[str, dict[str, tuple[Any, ...]]], dict[str, Any]]] = {  # own grids and fixed values of a benchmark's methods
    "tofu": (TOFU, THREE),
    "taste": (TASTES, {"batch_size": 64}),
    "fiubench": (SIGHTS, {"batch_size": 16}),
}
CONTROLS = ("retrain", "random_weights", "input_filter")  # have no settings to choose
VALIDATION_SEED = 1
ROWS = 100  # rows of each set of TOFU that are scored


def settings(method: str, suite: str = "people", images: bool = False) -> Iterator[dict[str, Any]]:
    """The settings of a method's grid, with the hyperparameters that the method has.

    Args:
        method: The name of the method.
        suite: The benchmark.
        images: Whether the model is a classifier.
    """
    if images:
        grid = IMAGES.get(method, GRID)
        yield from (dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values()))
        return
    known = {k.name for k in build_plan.hyperparameters(method)}
    grids, common = SUITES.get(suite, (GRIDS, {**FIXED, **SPECIAL.get(method, {})}))
    own = grids.get(method, {"lr": RATES} if suite == "tofu" else GRID)
    grid = {k: v for k, v in own.items() if k in known}
    fixed = {k: v for k, v in common.items() if k in known}
    for values in itertools.product(*grid.values()):
        yield {**fixed, **dict(zip(grid, values, strict=True))}


def goodness(model: AuditedModel, retrained: AuditedModel) -> float:
    """How close a model is to the retrained one, from 0 to 1: the harmonic mean of the closenesses that the modality's profile names."""
    return float(hmean([max(closeness, 1e-6) for closeness in retrained.profile.likeness(model, retrained)]))


def with_other_forget_rows(suite: Suite, rows: int) -> Suite:
    """The same suite with other rows to forget: the first retain rows that have wrong answers. For suites that cannot be drawn again.

    Args:
        suite: The benchmark.
        rows: Number of rows to forget.
    """
    forget, retain = suite.sets["retain"][:rows], suite.sets["retain"][rows : 2 * rows]
    forgotten = {(r["question"], r["answer"]) for r in forget}
    rest = [r for r in suite.train["retain"] if (r["question"], r["answer"]) not in forgotten]
    return replace(suite, sets={**suite.sets, "forget": forget, "retain": retain}, train={**suite.train, "forget": forget, "retain": rest})


def _wants(suite: str) -> ObservationSpec:
    """What is observed. TOFU has no generation: a model that knows TOFU alone has no words for world facts, so utility would be 0."""
    return ObservationSpec(generations=suite != "tofu", moments=False, gradient_norms=False)


def tune(sweep: Sweep, methods: list[str], path: Path) -> None:
    """Add the methods one by one to the file of a case. Entries of other methods stay."""
    suite = sweep.load_suite()
    vocabulary = [*suite.train["full"], *(r for n in suite.sets if suite.spec(n).role == "general" for r in suite.sets[n])]
    options: dict[str, Any] = {"vocabulary": vocabulary, "labels": tuple(suite.labels), "prompt_format": suite.prompt_format, **sweep.train}
    original, never_saw = (train(suite.train[name], sweep.model, **options) for name in ("full", "retain"))
    sets = {n: rows for n, rows in suite.sets.items() if suite.labels or suite.spec(n).role != "unseen"}
    specs = {n: suite.spec(n) for n in sets}
    if sweep.suite == "tofu":
        sets = {n: rows[:ROWS] for n, rows in sets.items()}
    retrained = examine(
        never_saw.model, never_saw.modality, sets, name="retrained", role="retrained", specs=specs, wants=_wants(sweep.suite)
    )
    if sweep.suite == "tofu":
        suite = with_other_forget_rows(suite, len(suite.sets["forget"]))
        sets = {**sets, "forget": suite.sets["forget"][:ROWS], "retain": suite.sets["retain"][:ROWS]}
    for method in methods:
        tried = []
        for hyperparameters in settings(method, sweep.suite, images=bool(suite.labels)):
            opened = Opened(copy.deepcopy(original.model), original.modality, "original")
            outcome = _try(opened, method, hyperparameters, suite, sets, retrained, _wants(sweep.suite))
            tried.append({"hyperparameters": hyperparameters, **outcome})
            print(method, json.dumps(tried[-1]), flush=True)
        best: Mapping[str, Any] = max(tried, key=lambda t: t["goodness"])
        record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}  # read now: other processes may have written
        grid = {"lr": RATES} if sweep.suite == "tofu" else GRID
        name = f"{suite.name}, other authors forgotten, {ROWS} rows of each set, without ROUGE" if sweep.suite == "tofu" else suite.name
        description = {"suite": name, "seed": VALIDATION_SEED, "grid": {k: list(v) for k, v in grid.items()}}
        record["tuning"] = {**description, **record.get("tuning", {})}
        record["methods"] = dict(sorted({**record.get("methods", {}), method: best["hyperparameters"]}.items()))
        record["tuning"].setdefault("tried", {})[method] = tried
        receipt.write(path, record)
        receipt.write(PRESETS / path.name, chosen_settings(record))


def chosen_settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a tuning file that the package ships."""
    return {key: record[key] for key in ("methods", "relearn") if key in record}


def _try(
    opened: Opened, method: str, hyperparameters: Mapping[str, Any], suite: Any, sets: Any, retrained: AuditedModel, wants: ObservationSpec
) -> dict[str, Any]:
    """Goodness and scores of one setting, or the reason why it is refused."""
    specs = {n: suite.spec(n) for n in sets}
    answers = suite.alternate_answers
    rows = {"alternate_answers": answers, "holdout": None if suite.labels else suite.sets.get("holdout")}
    try:
        result = unlearn(method, opened, suite.train["forget"], suite.train["retain"], allow_overlap=True, **rows, **hyperparameters)
    except UserError as error:
        return {"goodness": 0.0, "why": str(error)}
    audited = examine(
        result.model, result.modality, asked_as(method, sets), name=method, specs=specs, retrained=retrained.observation, wants=wants
    )
    shown = ("model_utility", "forget_quality", "retain_rouge", "forget_rouge", "forget_probability", "extraction_strength")
    shown += ("forget_accuracy", "test_forget_accuracy", "forget_recall", "retain_recall", "test_recall")
    return {
        "goodness": round(goodness(audited, retrained), 4),
        **{n: round(audited.scores[n]["value"], 6) for n in shown if n in audited.scores},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="people")
    parser.add_argument("--model", default="micro")
    parser.add_argument("--split", default="")
    parser.add_argument("--methods", default="")
    parser.add_argument("--data", default="", help="path of the benchmark's data")
    parser.add_argument("--holdout", default="")
    parser.add_argument("--train", action="append", default=[], metavar="NAME=VALUE", help="how the models are trained")
    args = parser.parse_args()
    methods = args.methods.split(",") if args.methods else [n for n in catalog.names() if n not in CONTROLS]
    # Tuning uses another draw of the people. Where a benchmark cannot be drawn again, it uses another split.
    sweep = Sweep(
        args.suite,
        tuple(methods),
        data=args.data,
        model=args.model,
        split=args.split,
        holdout=args.holdout,
        train=dict(t.split("=", 1) for t in args.train),
        variants={"extraction_strength": "definition"} if args.suite == "tofu" else {},  # as all of its settings were tried
        draw=VALIDATION_SEED,
    )
    tune(sweep, methods, Path(__file__).parent / f"{args.suite}-{args.model}.json")


if __name__ == "__main__":
    main()
