"""Methods on MovieLens-small, three seeds: `python -m studies.movielens --data ML-LATEST-SMALL` writes `results/movielens/`.

A twentieth of the users is to be forgotten. A seed draws these users, the unseen ratings and all weights. Settings are chosen on seed 100,
which no table shows, by the mean distance of three recalls from the retrained model's; they stand in `settings.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from expunge.benchmarks import movielens
from expunge.engine import receipt
from studies.proofs.claim import Arm
from studies.recommenders import Recommenders

OUT = Path(__file__).parents[1] / "results" / "movielens"
SIZE, SPLIT = "bpr_mf-nano", "user05"
SEEDS, TUNED = (0, 1, 2), 100
TRAINING = {"epochs": 10, "lr": 1e-2, "batch_size": 1024}
AUDITED = {"retain": 4000}  # rows of the set; of the others all
BY = "recommendation_gap"
RATES = (1e-3, 3e-3, 1e-2)
SHARDS = {**TRAINING, "shards": 5, "optimizer": "adam", "schedule": "constant"}
# sisa and receraser have as many epochs; of receraser's, two are of the attention.
ARMS: dict[str, Arm] = {
    "mmrecun": Arm("mmrecun", "mmrecun", {"batch_size": 1024, "cut": 10, "epochs": 10}, {"lr": RATES}),
    "ga": Arm("ga", "ga", {"batch_size": 1024, "epochs": 5}, {"lr": RATES}),
    "amun": Arm("amun", "amun", {"batch_size": 1024, "epochs": 2}, {"lr": (1e-3, 1e-2)}),
    "scif": Arm("scif", "scif", {"iterations": 30, "tolerance": 1e-2, "draws": 1}, {"damping": (1.0, 10.0)}),
    "alteraser": Arm("alteraser", "alteraser", {"draws": 1, "rounds": 1, "ridge": 0.5, "damping": 0.1}),
    "sisa": Arm("sisa", "sisa", {**SHARDS, "slices": 1}),
    "receraser": Arm("receraser", "receraser", {**SHARDS, "epochs": 8, "aggregation_epochs": 2, "rounds": 10}),
}


def models(data: str, seed: int) -> Recommenders:
    """The original and the retrained recommender of a seed."""
    return Recommenders(movielens.load(data, SPLIT, seed, **AUDITED), SIZE, seed, TRAINING)


def chosen(data: str) -> dict[str, Any]:
    """The settings of each arm, chosen on a seed of their own where there are several."""
    tried = {name: arm.settings() for name, arm in ARMS.items()}
    of_seed = models(data, TUNED)
    record: dict[str, Any] = {}
    for name, options in tried.items():
        gaps = [of_seed.after(ARMS[name].method, o)[BY] for o in options] if len(options) > 1 else [0.0]
        best = min(range(len(gaps)), key=gaps.__getitem__)
        record[name] = {"settings": options[best], "looks": len(options), **({"tried": gaps} if len(options) > 1 else {})}
        say(f"settings of {name}: {record[name]}")
    return record


def measured(data: str, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Scores of all models of a seed, by name."""
    of_seed = models(data, seed)
    scores = {
        "original": {**of_seed.scores(of_seed.opened()), "cost": 0.0},
        "retrained": {**of_seed.scores(of_seed.opened("retain")), "cost": 1.0},
        "random weights": {**of_seed.random(), "cost": 0.0},
    }
    for name, arm in ARMS.items():
        scores[name] = dict(of_seed.after(arm.method, settings[name]["settings"]))
        say(f"seed {seed}: {name} {scores[name]}")
    return {name: {n: round(v, 5) for n, v in of_model.items()} for name, of_model in scores.items()}


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.movielens", description=__doc__)
    parser.add_argument("--data", required=True, help="the folder of ml-latest-small")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="which seeds; settings that were chosen before are kept")
    options = parser.parse_args()
    data, file = options.data, OUT / "settings.json"
    about = {
        "command": "python -m studies.movielens --data ML-LATEST-SMALL",
        "model": SIZE,
        "split": SPLIT,
        "training": TRAINING,
        "versions": receipt.versions(),
        "machine": receipt.machine(),
    }
    OUT.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        receipt.write(file, {**about, "seed": TUNED, "by": BY, "arms": chosen(data)})
    settings = json.loads(file.read_text())["arms"]
    for seed in options.seeds:
        receipt.write(OUT / f"seed{seed}.json", {**about, "seed": seed, "scores": measured(data, seed, settings)})


if __name__ == "__main__":
    main()
