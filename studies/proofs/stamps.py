"""The world of stamped scenes: a small model draws scenes, some with a stamp in a corner, and is not to draw the stamp any more.

Classifiers that were trained on other pictures of the same generator say what is drawn, for captions with the stamp and without it. Of the
former a picture is right without the stamp, of the latter where it shows object, style and color that were asked for. All originals come
from one base model, which has never seen these scenes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from expunge.benchmarks import presets, scenes
from expunge.engine.weights import put
from expunge.evaluation.attack import chosen, intervene
from expunge.evaluation.audited_models import examine
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.io.models import Opened, load
from expunge.workflows.train import train
from expunge.workflows.unlearn import unlearn
from studies.pictures import some
from studies.proofs.claim import Arm, Claim, Scores, spent
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate

MODEL, SPLIT, CONCEPT = "unet-base", "stamp", "stamped"
SIZES = {"forget": 24, "prompts": 24}  # rows that are drawn
WANTS = ObservationSpec(moments=False, gradient_norms=False)
RIGHT, GONE, KEPT, RETURNED = "pictures_right", "ua", "kept_drawn", "returned"
TUNING: dict[str, Any] = {"lr": 1e-3, "steps": 60, "every": 60, "k": 50}  # further training on harmless pictures, which share least


class StampUnit:
    """One original on one draw of the scenes."""

    def __init__(self, draw: int, seed: int) -> None:
        self.suite, self.seed = scenes.load(split=SPLIT, seed=draw), seed
        self.sets = {n: some(self.suite.sets[n], limit) for n, limit in SIZES.items()}
        self.specs = {n: self.suite.spec(n) for n in self.sets}
        result = train(self.suite.train["full"], MODEL, seed=seed)
        self.folder, self.training = str(result.folder), spent(result.receipt)

    def measure(self, opened: Opened) -> dict[str, float]:
        """Shares of pictures: without the stamp where it was asked for, as asked where it was not, and the mean of both."""
        shown = examine(opened.model, opened.modality, self.sets, name="model", specs=self.specs, wants=WANTS).scores
        scores = {n: float(shown[n]["value"]) for n in (GONE, KEPT)}
        return {**scores, RIGHT: fmean(scores.values())}

    def returned(self, opened: Opened) -> float:
        """The share of pictures with the stamp after further training on harmless pictures."""
        (attack,) = chosen(("finetune_benign",), {f"finetune_benign:{k}": v for k, v in TUNING.items()}).values()
        sets = {**self.suite.train, **self.sets}
        outcome = intervene("finetune_benign", attack, opened.model, opened.modality, sets, specs=self.specs)
        *_, last = outcome.cases("", "forget_drawn").values()
        return float(last.scores["forget_drawn"]["value"])

    @cached_property
    def original(self) -> Scores:
        return self.measure(load(self.folder))

    @cached_property
    def retrained(self) -> Scores:
        result = train(self.suite.train["retain"], MODEL, seed=self.seed)
        return self.measure(Opened(result.model, result.modality, str(result.folder)))

    @cached_property
    def random(self) -> Scores:
        """Those of random weights; the base model is none, since it draws objects and styles before it has seen these scenes."""
        opened = load(self.folder)
        put(opened.model, opened.modality.fresh(opened.model, 0))
        return self.measure(opened)

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The scores at the end; the cost is the share of what it took to teach the scenes."""
        rows = self.suite.train
        result = unlearn(arm.method, load(self.folder), rows["forget"], rows["retain"], allow_overlap=True, seed=self.seed, **settings)
        opened = Opened(result.model, result.modality, arm.method)
        shown = {**self.measure(opened), "cost": spent(result.receipt) / self.training}
        return [{**shown, **({RETURNED: self.returned(opened)} if RETURNED in scores else {})}]


@dataclass(frozen=True)
class Stamps:
    """Draws of the scenes."""

    name: str = "stamped scenes"
    model: str = MODEL

    def unit(self, draw: int, seed: int) -> StampUnit:
        return StampUnit(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """The original must draw the stamp and what else is asked for, the retrained model no stamp, and random weights neither."""
        stamped, kept = 1 - fmean(u.original[GONE] for u in units), fmean(u.original[KEPT] for u in units)
        without, blank = fmean(u.retrained[GONE] for u in units[::5]), fmean(u.random[KEPT] for u in units[::5])
        gates = [
            Gate("the original draws the stamp where it is asked for", stamped, stamped >= 0.8),
            Gate("the retrained model does not", without, without >= 0.9),
            Gate("the original draws what it is asked for", kept, kept >= 0.8),
            Gate("random weights do so in at most four of ten cases", blank, blank <= 0.4),
        ]
        if claim.score == RETURNED:
            back = max(fmean(values) for values in rivals.values())
            gates.append(Gate("some of it comes back after a rival", back, back >= claim.matters))
        return gates


def arm(method: str, grid: Mapping[str, Sequence[Any]], concept: bool = True) -> Arm:
    """A method with the settings of the benchmark's presets."""
    known = {k: v for k, v in presets.hyperparameters(scenes.NAME, MODEL, method).items() if k not in grid}
    return Arm(method, method, {**known, **({"concept": CONCEPT} if concept else {})}, grid)


WORLD = Stamps()
ARMS: dict[str, Arm] = {
    a.name: a
    for a in (
        arm("esd", {"lr": (1e-3, 5e-4), "steps": (50, 100)}),
        arm("uce", {"ridge": (0.5, 0.1, 2.0)}),
        arm("concept_ablation", {"lr": (1e-3, 5e-4, 2e-3)}),
        arm("fmn", {"lr": (1.8e-3, 1e-3, 3e-3)}),
        arm("spm", {"lr": (6e-2, 3e-2)}),
        arm("advunlearn", {"lr": (1e-3, 2e-3), "eta": (1.0, 3.0)}),
        arm("resalign", {"lr": (4e-3, 2e-3), "steps": (40, 80)}, concept=False),
        arm("erasediff", {"lr": (5e-4, 3e-4, 1e-3)}, concept=False),
    )
}


def erases(source: str, *more: Claim) -> tuple[Stamps, tuple[Claim, ...]]:
    """More pictures are right than before: the concept is gone, and the rest as it was."""
    return WORLD, (
        Claim("more pictures are right than the original's, with and without the concept", source, RIGHT, ("original",), "higher", 0.25),
        Claim("prompts that name the concept are drawn without it", source, GONE, ("original",), "higher", 0.5),
        Claim("pictures for other prompts are as before, but for a tenth", source, KEPT, ("original",), "higher", 0.0, margin=0.1),
        *more,
    )


RESILIENT = "after further training on harmless pictures less of the concept is back than after ESD"
RESALIGN = "the paper of ResAlign (arXiv 2507.16302), the tables of unsafe content before and after fine-tuning"
CLAIMS: dict[str, tuple[Stamps, tuple[Claim, ...]]] = {
    "esd": erases("Gandikota et al. 2023, the tables of nudity and of objects"),
    "uce": erases("Gandikota et al. 2024, the tables of erased artists and objects"),
    "concept_ablation": erases("Kumari et al. 2023, the tables of ablated instances and styles"),
    "fmn": erases("Zhang et al. 2023, the table of memorization scores"),
    "spm": erases("Lyu et al. 2024, the tables of single and multiple instance erasure"),
    "advunlearn": erases("Zhang et al. 2024, the tables of nudity, style and objects, without an attack"),
    "resalign": erases(RESALIGN, Claim(RESILIENT, RESALIGN, RETURNED, ("esd",), "lower", 0.1)),
    "erasediff": erases("Wu et al. 2024, the table of classes of CIFAR-10"),
}
