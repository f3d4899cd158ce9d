"""Methods on drawn scenes, three seeds: `python -m studies.pictures` writes `results/pictures/`.

A small model that draws is to forget a stamp on some of the pictures that it was trained on. A seed draws the pictures and decides all
trainings; all originals come from one base model, which has never seen these scenes. What the models draw is named by classifiers. The
settings of the methods were chosen on other seeds (`TUNED_ON`), which are not reported: those of `esd` on all of them, those of the others
on the first. Then models that have forgotten are trained further: by whoever holds pictures of the stamp (MemoRa), and by whoever holds
harmless ones. At last, prompts that are hard to forget are compared with random ones. `--only METHOD ...` measures these methods and the
attacks on them again, and leaves the rest of the files.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from expunge.benchmarks import presets, scenes
from expunge.engine import receipt
from expunge.evaluation.attack import AttackOutcome, beside, chosen, intervene
from expunge.evaluation.audited_models import AuditedModel, examine
from expunge.evaluation.observation import Observation
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.evaluation.profiles.diffusion import drawn
from expunge.io.models import Opened, load
from expunge.workflows.train import train
from expunge.workflows.unlearn import unlearn

OUT = Path(__file__).parents[1] / "results" / "pictures"
MODEL, SPLIT, CONCEPT = "unet-base", "stamp", "stamped"
SEEDS = (1, 2, 3)
TUNED_ON = (0, 10, 11)
SIZES = {"forget": 24, "retain": 30, "prompts": 12}  # rows of a set that are audited
WANTS = ObservationSpec(moments=False, gradient_norms=False)
SCORES = ("ua", "ira", "cra", "kept_drawn", "frechet", "sample_shift")
ORIGINAL, RETRAINED = "original", "retrained"
ARMS: dict[str, dict[str, Any]] = {  # of each method what the presets do not hold, because it belongs to this concept
    "esd": {"concept": CONCEPT},
    "uce": {"concept": CONCEPT},
    "concept_ablation": {"concept": CONCEPT},
    "fmn": {"concept": CONCEPT},
    "spm": {"concept": CONCEPT},
    "advunlearn": {"concept": CONCEPT},
    "resalign": {},
    "erasediff": {},
    "salun": {"form": "captions"},
    "graddiff": {},
}
ATTACKED = {"memora": (RETRAINED, "esd", "uce", "advunlearn", "resalign"), "finetune_benign": ("esd", "resalign")}
ATTACKS: dict[str, dict[str, Any]] = {
    "memora": {"lr": 1e-2, "steps": 50, "looks": (4, 6, 8, 10, 20, 50), "guidance": 3.0, "inversion": 20, "start_step": 6, "between": 4},
    "finetune_benign": {"lr": 1e-3, "steps": 60, "every": 20, "k": 50},
}
HARD: dict[str, Any] = {
    "size": 9,
    "lower": "esd sampling_steps=10",
    "outer": 3,
    "inner": 2,
    "inner_lr": 1e-4,
}  # settings of `worst_case_prompts`
FEW: dict[str, Any] = {"steps": 3, "eta": 1.0}  # so that some of the prompts are still drawn afterwards, whichever they are
RANDOM = 2  # random sets of as many prompts
SHOWN = 6  # prompts of a set in a grid, with the concept and without it
Pictures = NDArray[np.uint8]
Records = Sequence[Mapping[str, Any]]


class Seed:
    """The original and the retrained model of a seed, and what methods make of the original."""

    def __init__(self, seed: int) -> None:
        self.seed, self.suite = seed, scenes.load(split=SPLIT, seed=seed)
        self.sets = {n: some(self.suite.sets[n], limit) for n, limit in SIZES.items()}
        self.specs = {n: self.suite.spec(n) for n in self.sets}
        self.folders = {rows: self._trained(rows) for rows in ("full", "retain")}

    def _trained(self, rows: str) -> str:
        return str(train(self.suite.train[rows], MODEL, seed=self.seed).folder)

    def opened(self, rows: str = "full") -> Opened:
        """A copy of the original (full) or of the retrained model (retain)."""
        return load(self.folders[rows])

    def examined(self, opened: Opened, name: str, original: Observation | None = None) -> AuditedModel:
        """The model with what it draws, and its scores."""
        return examine(opened.model, opened.modality, self.sets, name=name, specs=self.specs, wants=WANTS, original=original)

    @cached_property
    def first(self) -> Observation:
        """What is observed in the original."""
        return self.examined(self.opened(), ORIGINAL).observation

    def settings(self, method: str) -> dict[str, Any]:
        """Settings of a method: those of the presets, and the concept."""
        return {**presets.hyperparameters(scenes.NAME, MODEL, method), **ARMS.get(method, {})}

    def after(self, method: str, forget: Records = (), retain: Records = (), **settings: Any) -> Opened:
        """The original after a method. forget, retain: default: those of the suite; settings: in place of `settings`."""
        rows = self.suite.train
        given: tuple[Any, Any] = (forget or rows["forget"], retain or rows["retain"])
        result = unlearn(method, self.opened(), *given, allow_overlap=True, seed=self.seed, **(settings or self.settings(method)))
        return Opened(result.model, result.modality, method)

    def attacked(self, name: str, opened: Opened, original: AttackOutcome) -> AttackOutcome:
        """The outcome of an attack, with the numbers that compare it with the same attack on the original."""
        ((_, attack),) = chosen((name,), {f"{name}:{k}": v for k, v in ATTACKS[name].items()}).items()
        outcome = intervene(name, attack, opened.model, opened.modality, {**self.suite.train, **self.sets}, specs=self.specs)
        return beside(name, replace(outcome, original=original.before), original, None)

    def prompts(self) -> dict[str, Any]:
        """Shares of pictures that show all that their prompts name, for hard and random prompts, before and after they are forgotten."""
        one_each = list({r["caption"]: r for r in self.suite.train["retain"]}.values())
        size: int = HARD["size"]
        settings = {k: v for k, v in self.settings("esd").items() if k != "concept"} | FEW
        hard = unlearn(
            "esd",
            self.opened(),
            one_each[:size],
            one_each[size:],
            select=("worst_case_prompts",),
            seed=self.seed,
            **{**settings, **HARD},
        )
        chosen_captions = list(dict.fromkeys(hard.selected["forget"]["caption"]))
        result = {"hard": self.drawn_share(Opened(hard.model, hard.modality, "hard"), chosen_captions)}
        result["hard before"] = self.drawn_share(self.opened(), chosen_captions)
        rng = np.random.default_rng(self.seed)
        for key in ("random", "random before"):
            result[key] = 0.0
        for _ in range(RANDOM):
            picked = set(rng.permutation(len(one_each))[:size].tolist())
            forget, retain = ([r for k, r in enumerate(one_each) if (k in picked) == wanted] for wanted in (True, False))
            captions = [str(r["caption"]) for r in forget]
            result["random"] += self.drawn_share(self.after("esd", forget, retain, **settings), captions) / RANDOM
            result["random before"] += self.drawn_share(self.opened(), captions) / RANDOM
        return {**result, "hard prompts": chosen_captions}

    @staticmethod
    def drawn_share(opened: Opened, captions: list[str]) -> float:
        """The share of pictures that show all that their prompts name."""
        pictures = drawn(opened.model, opened.modality, captions)
        judge = scenes.judge()
        expected = judge.expected([c for c in captions for _ in range(pictures.shape[1])])
        classes = judge.judged(pictures.reshape(-1, *pictures.shape[2:])).classes
        return float(np.all([classes[d] == expected[d] for d in judge.domains], 0).mean())


def some(records: Records, limit: int) -> list[dict[str, Any]]:
    """At most `limit` records, two of a caption where there are so many, with captions that are evenly spread."""
    of_caption: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        of_caption.setdefault(str(record["caption"]), []).append(dict(record))
    pairs = [rows[:2] for rows in of_caption.values()]
    count = max(1, limit // len(pairs[0]))
    return [r for k in np.unique(np.linspace(0, len(pairs) - 1, count).round().astype(int)) for r in pairs[k]]


def curve(outcome: AttackOutcome) -> list[list[float]]:
    """[steps, share of pictures that show the concept] at each look of the main way."""
    return [[t.at["steps"], round(float(t.scores["forget_drawn"]["value"]), 4)] for t in outcome.cases("", "forget_drawn").values()]


def numbers(outcome: AttackOutcome) -> dict[str, Any]:
    """What a file keeps of an attack."""
    summary = {n: round(float(v), 4) for t in outcome.tries if t.way == "recovery curve" for n, v in t.at.items()}
    last = {t.case: round(float(t.scores["forget_drawn"]["value"]), 4) for t in outcome.tries if t.way == "automemora"}
    return {
        "curve": curve(outcome),
        **summary,
        **({"automemora": last} if last else {}),
        **({"missing": m} if (m := outcome.missing) else {}),
    }


def row_of(observation: Observation) -> list[Pictures]:
    """The first picture for some prompts with the concept and for some without it, (height, width, channels) each."""
    rows: list[Pictures] = []
    for name in ("forget", "prompts"):
        samples = observation.sets[name].samples
        assert samples is not None
        rows += [samples[k, 0].transpose(1, 2, 0) for k in np.linspace(0, len(samples) - 1, SHOWN).round().astype(int)]
    return rows


def grid(rows: Mapping[str, Sequence[Pictures]], file: Path, scale: int = 3) -> None:
    """Write one line of pictures for each model. file: PNG; scale: pixels along the side of a pixel."""
    side = next(iter(rows.values()))[0].shape[0] + 1
    canvas = np.full((side * len(rows), side * len(next(iter(rows.values()))), 3), 255, np.uint8)
    for i, pictures in enumerate(rows.values()):
        for k, picture in enumerate(pictures):
            canvas[i * side : i * side + side - 1, k * side : k * side + side - 1] = picture
    Image.fromarray(canvas.repeat(scale, 0).repeat(scale, 1)).save(file, optimize=True)


def lines(file: Path, names: Sequence[str], scale: int = 3) -> dict[str, list[Pictures]]:
    """The pictures that `grid` wrote, of each model. file: PNG; names: of the models, from the top."""
    canvas: Pictures = np.asarray(Image.open(file).convert("RGB"))[::scale, ::scale]
    side, rest = divmod(len(canvas), max(1, len(names)))
    if rest or canvas.shape[1] % side:
        raise ValueError(f"{file} does not have a line for each of {len(names)} models. Measure the whole seed again.")
    tops, lefts = range(0, len(canvas), side), range(0, canvas.shape[1], side)
    return {n: [canvas[i : i + side - 1, k : k + side - 1] for k in lefts] for n, i in zip(names, tops, strict=True)}


def renewed(record: Mapping[str, Any], about: Mapping[str, Any], only: Sequence[str]) -> dict[str, Any]:
    """A record with the new settings of the methods that are measured again, and with what they were measured with."""
    settings = {**record["settings"], **{m: about["settings"][m] for m in only}}
    again = {m: {k: about[k] for k in ("versions", "machine")} for m in only}
    return {**record, "settings": settings, "measured again": {**record.get("measured again", {}), **again}}


def measured(
    seed: int,
    write: Any,
    attacks: bool = True,
    only: Sequence[str] = (),
    record: Mapping[str, Any] | None = None,
    rows: Mapping[str, list[Pictures]] | None = None,
) -> None:
    """Measure the models of a seed.

    Args:
        seed: The seed.
        write: Is given what is known after each part, and the grid of pictures.
        attacks: Whether the models are attacked.
        only: The methods that are measured; default: all models.
        record: What was measured before, in which the methods of `only` are replaced.
        rows: The pictures of that.
    """
    of_seed, record, rows = Seed(seed), record or {}, dict(rows or {})
    scores: dict[str, dict[str, float]] = dict(record.get("scores", {}))
    outcomes: dict[str, dict[str, Any]] = {n: dict(record.get("attacks", {}).get(n, {})) for n in ATTACKS}
    results: dict[str, Any] = {"scores": scores, "attacks": outcomes, "prompts": record.get("prompts", {})}
    begun = {ORIGINAL: "full", RETRAINED: "retain"}
    before: Mapping[str, Any] = {}
    if only:
        before = of_seed.examined(of_seed.opened(), ORIGINAL, original=of_seed.first).scores
    for name in only or (ORIGINAL, RETRAINED, *ARMS):
        start = time.process_time()
        opened = of_seed.opened(begun[name]) if name in begun else of_seed.after(name)
        seconds = time.process_time() - start
        audited = of_seed.examined(opened, name, original=of_seed.first)
        scores[name] = {n: round(float(audited.scores[n]["value"]), 5) for n in SCORES if n in audited.scores}
        scores[name]["seconds"] = 0.0 if name in begun else round(seconds, 1)
        rows[name] = row_of(audited.observation)
        say(f"seed {seed}: {name} {scores[name]}")
        if name == ORIGINAL:
            before = audited.scores
        for attack in (a for a, arms in ATTACKED.items() if attacks and name in arms):
            outcomes[attack][name] = numbers(of_seed.attacked(attack, opened, AttackOutcome(attack, before=before)))
            say(f"seed {seed}: {attack} {name} {outcomes[attack][name]}")
        write(results, rows)
    if attacks and (not only or "esd" in only):  # the prompts are forgotten with esd
        results["prompts"] = of_seed.prompts()
        say(f"seed {seed}: {results['prompts']}")
        write(results, rows)


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.pictures", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="which seeds")
    parser.add_argument("--out", type=Path, default=OUT, help="where the files are written")
    parser.add_argument("--only", nargs="+", choices=list(ARMS), default=(), metavar="METHOD", help="measure only these again, in place")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        about = {
            "command": "python -m studies.pictures",
            "model": MODEL,
            "split": SPLIT,
            "sizes": SIZES,
            "settings": {m: {**presets.hyperparameters(scenes.NAME, MODEL, m), **own} for m, own in ARMS.items()},
            "attacked with": ATTACKS,
            "hard prompts": HARD | FEW,
            "versions": receipt.versions(),
            "machine": receipt.machine(),
            "seed": seed,
        }

        file, picture = options.out / f"seed{seed}.json", options.out / f"seed{seed}.png"
        record, rows = None, None
        if options.only:
            if not file.exists() or not picture.exists():
                parser.error(f"{options.out} has no complete results of seed {seed}. Measure the whole seed first, without --only.")
            record = json.loads(file.read_text(encoding="utf-8"))
            rows = lines(picture, list(record["scores"]))
            about = renewed(record, about, options.only)

        def write(results: Mapping[str, Any], rows: Mapping[str, Sequence[Pictures]], seed: int = seed, about: Any = about) -> None:
            receipt.write(options.out / f"seed{seed}.json", {**about, **results})
            grid(rows, options.out / f"seed{seed}.png")

        measured(seed, write, only=options.only, record=record, rows=rows)


if __name__ == "__main__":
    main()
