"""Methods on drawn faces, three seeds: `python -m studies.faces` writes `results/faces/`.

What a small vision-language model knows of three people is to be forgotten, by rows that show their pictures; the model also knows them
by name and by what they look like. A seed draws the people, their lives and all weights. All methods have the same settings, which were not
tuned.
"""

from __future__ import annotations

import argparse
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

from expunge.benchmarks import fiubench
from expunge.engine import receipt
from expunge.evaluation.attack import AttackOutcome, chosen, intervene
from expunge.evaluation.audited_models import examine
from expunge.evaluation.observation import Observation
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.io.models import Opened, load
from expunge.workflows.train import train
from expunge.workflows.unlearn import unlearn

OUT = Path(__file__).parents[1] / "results" / "faces"
SPLIT = "forget5"
SIZES = {"people": 10, "holdout": 2, "pictures": 3, "retain": 4, "wrong": 2}
SEEDS = (0, 1, 2)
SETTINGS = {"batch_size": 16, "epochs": 5, "lr": 1e-3}
ARMS = {"GA": "ga", "GD": "graddiff", "KL": "kl", "PO": "idk"}  # the paper's names of our methods
SCORES = (
    "forget_keywords",
    *("door_picture", "door_name", "door_both", "door_other_picture", "door_caption", "door_other_words"),
    "door_noisy_picture",
    "retain_keywords",
    "fiu_utility",
    "fiu_min_k",
)
RELEARNING = {"relearn_doors:lr": 1e-3, "relearn_doors:steps": 10, "relearn_doors:k": 5}
WANTS = ObservationSpec(moments=False, gradient_norms=False)


class Seed:
    """The original and the retrained model of a seed, and what methods make of the original."""

    def __init__(self, seed: int) -> None:
        self.seed, self.suite = seed, fiubench.load(split=SPLIT, seed=seed, **SIZES)
        self.folders = {rows: self._trained(rows) for rows in ("full", "retain")}

    def _trained(self, rows: str) -> str:
        return str(train(self.suite.train[rows], fiubench.MODEL, vocabulary=self.suite.train["full"], seed=self.seed).folder)

    def opened(self, rows: str = "full") -> Opened:
        """A copy of the original (full) or of the retrained model (retain)."""
        return load(self.folders[rows])

    @cached_property
    def target(self) -> Observation:
        """What is observed in the retrained model."""
        opened = self.opened("retain")
        specs = {n: self.suite.spec(n) for n in self.suite.sets}
        sets = self.suite.sets
        return examine(opened.model, opened.modality, sets, name="retrained", role="retrained", specs=specs, wants=WANTS).observation

    def scores(self, opened: Opened) -> dict[str, float]:
        """Shares of keywords at all doors, utility and membership."""
        specs = {n: self.suite.spec(n) for n in self.suite.sets}
        audited = examine(opened.model, opened.modality, self.suite.sets, name="model", specs=specs, wants=WANTS, retrained=self.target)
        return {n: float(audited.scores[n]["value"]) for n in SCORES if n in audited.scores}

    def after(self, method: str) -> Opened:
        """The original after a method."""
        rows = self.suite.train
        refusals = [{"answer": r} for r in self.suite.refusals]
        result = unlearn(
            method,
            self.opened(),
            rows["forget"],
            rows["retain"],
            alternate_answers=refusals,
            allow_overlap=True,
            seed=self.seed,
            **SETTINGS,
        )
        return Opened(result.model, result.modality, method)

    def relearned(self, opened: Opened) -> dict[str, float]:
        """Shares of keywords by picture and by name, after relearning through either door."""
        ((name, attack),) = chosen(("relearn_doors",), RELEARNING).items()
        outcome: AttackOutcome = intervene(name, attack, opened.model, opened.modality, self.suite.sets)
        last = {t.way: t for t in outcome.tries}
        doors = ("door_picture", "door_name")
        return {f"{way}, {d}": float(t.scores[d]["value"]) for way, t in last.items() for d in doors if d in t.scores}


def measured(seed: int) -> dict[str, Any]:
    """Scores of all models of a seed, by name."""
    of_seed = Seed(seed)
    scores = {}
    for name, rows in (("original", "full"), ("retrained", "retain")):
        opened = of_seed.opened(rows)
        scores[name] = {**of_seed.scores(opened), **of_seed.relearned(opened)}
        say(f"seed {seed}: {name} {scores[name]}")
    for name, method in ARMS.items():
        opened = of_seed.after(method)
        scores[name] = {**of_seed.scores(opened), **of_seed.relearned(opened)}
        say(f"seed {seed}: {name} {scores[name]}")
    return {name: {n: round(v, 5) for n, v in of_model.items()} for name, of_model in scores.items()}


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.faces", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="which seeds")
    options = parser.parse_args()
    about = {
        "command": "python -m studies.faces",
        "model": fiubench.MODEL,
        "split": SPLIT,
        "sizes": SIZES,
        "settings": SETTINGS,
        "relearning": RELEARNING,
        "versions": receipt.versions(),
        "machine": receipt.machine(),
    }
    OUT.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        receipt.write(OUT / f"seed{seed}.json", {**about, "seed": seed, "scores": measured(seed)})


if __name__ == "__main__":
    main()
