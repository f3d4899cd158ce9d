"""Methods on drawn faces, three seeds: `python -m studies.faces` writes `results/faces/`.

What a small vision-language model knows of three people is to be forgotten, by rows that show their pictures; the model also knows them
by name and by what they look like. A seed draws the people, their lives and all weights. Settings are chosen on seed 100, which no table
shows: those whose keywords at the door of the request come nearest to the retrained model's, among those that keep three quarters of the
kept ones, where any does. They stand in `settings.json`.
"""

from __future__ import annotations

import argparse
import json
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
from studies.proofs.claim import Arm

OUT = Path(__file__).parents[1] / "results" / "faces"
SPLIT = "forget5"
SEEDS, TUNED = (0, 1, 2), 100
FORGOTTEN, KEPT, KEEP = "forget_keywords", "retain_keywords", 0.75
COMMON = {"batch_size": 16, "epochs": 5}
RATES = (3e-4, 1e-3)
ARMS: dict[str, Arm] = {
    "GA": Arm("GA", "ga", COMMON, {"lr": RATES}),
    "GD": Arm("GD", "graddiff", COMMON, {"lr": RATES}),
    "KL": Arm("KL", "kl", COMMON, {"lr": RATES}),
    "PO": Arm("PO", "idk", COMMON, {"lr": RATES}),
    "NPO": Arm("NPO", "npo", COMMON, {"lr": RATES}),
}
SCORES = (
    FORGOTTEN,
    *("door_picture", "door_name", "door_both", "door_other_picture", "door_caption", "door_other_words"),
    KEPT,
    "fiu_utility",
    "fiu_min_k",
)
RELEARNING = {"relearn_doors:lr": 1e-3, "relearn_doors:steps": 10, "relearn_doors:k": 5}
WANTS = ObservationSpec(moments=False, gradient_norms=False)


class Seed:
    """The original and the retrained model of a seed, and what methods make of the original."""

    def __init__(self, seed: int) -> None:
        self.seed, self.suite = seed, fiubench.load(split=SPLIT, seed=seed)
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

    def after(self, arm: Arm, settings: dict[str, Any]) -> Opened:
        """The original after a method."""
        rows = self.suite.train
        refusals = [{"answer": r} for r in self.suite.refusals]
        result = unlearn(
            arm.method,
            self.opened(),
            rows["forget"],
            rows["retain"],
            alternate_answers=refusals,
            allow_overlap=True,
            seed=self.seed,
            **settings,
        )
        return Opened(result.model, result.modality, arm.name)

    def relearned(self, opened: Opened) -> dict[str, float]:
        """Shares of keywords by picture and by name, after relearning through either door."""
        ((name, attack),) = chosen(("relearn_doors",), RELEARNING).items()
        outcome: AttackOutcome = intervene(name, attack, opened.model, opened.modality, self.suite.sets)
        last = {t.way: t for t in outcome.tries}
        doors = ("door_picture", "door_name")
        return {f"{way}, {d}": float(t.scores[d]["value"]) for way, t in last.items() for d in doors if d in t.scores}


def chosen_settings() -> dict[str, Any]:
    """The settings of each arm, chosen on a seed of their own."""
    of_seed, record = Seed(TUNED), dict[str, Any]()
    original, retrained = of_seed.scores(of_seed.opened()), of_seed.scores(of_seed.opened("retain"))
    for name, arm in ARMS.items():
        options = arm.settings()
        tried = [of_seed.scores(of_seed.after(arm, o)) for o in options]
        enough = KEEP * original[KEPT]
        order = sorted(range(len(options)), key=lambda i: (tried[i][KEPT] < enough, abs(tried[i][FORGOTTEN] - retrained[FORGOTTEN])))
        shown = [{n: round(t[n], 4) for n in (FORGOTTEN, KEPT)} for t in tried]
        record[name] = {"method": arm.method, "settings": options[order[0]], "looks": len(options), "tried": shown}
        say(f"settings of {name}: {record[name]}")
    return record


def measured(seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Scores of all models of a seed, by name."""
    of_seed = Seed(seed)
    scores = {}
    for name, rows in (("original", "full"), ("retrained", "retain")):
        opened = of_seed.opened(rows)
        scores[name] = {**of_seed.scores(opened), **of_seed.relearned(opened)}
        say(f"seed {seed}: {name} {scores[name]}")
    for name, arm in ARMS.items():
        opened = of_seed.after(arm, settings[name]["settings"])
        scores[name] = {**of_seed.scores(opened), **of_seed.relearned(opened)}
        say(f"seed {seed}: {name} {scores[name]}")
    return {name: {n: round(v, 5) for n, v in of_model.items()} for name, of_model in scores.items()}


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.faces", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="which seeds; settings that were chosen before are kept")
    options = parser.parse_args()
    file = OUT / "settings.json"
    about = {
        "command": "python -m studies.faces",
        "model": fiubench.MODEL,
        "split": SPLIT,
        "versions": receipt.versions(),
        "machine": receipt.machine(),
    }
    OUT.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        receipt.write(file, {**about, "seed": TUNED, "by": FORGOTTEN, "relearning": RELEARNING, "arms": chosen_settings()})
    settings = json.loads(file.read_text(encoding="utf-8"))["arms"]
    for seed in options.seeds:
        receipt.write(OUT / f"seed{seed}.json", {**about, "seed": seed, "scores": measured(seed, settings)})


if __name__ == "__main__":
    main()
