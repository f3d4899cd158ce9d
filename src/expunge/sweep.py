"""What a benchmark run is asked to do: the order behind `expunge bench`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from expunge.audit.asking import way_of
from expunge.audit.intervention import Attack, chosen
from expunge.audit.suite import Suite

from . import recipes
from .core import catalog

SIZES = {
    "people": "micro",
    "strangers": "micro",
    "pistol": "micro",
    "tofu": "tiny",
    "digits": "resnet-nano",
    "biased_digits": "resnet-nano",
    "waterbirds": "resnet-micro",
    "mufac": "resnet-nano",
    "mucac": "resnet-nano",
}


@dataclass(frozen=True)
class Sweep:
    """What a benchmark run is asked to do."""

    suite: str
    methods: tuple[str, ...]
    data: str = ""
    split: str = ""
    model: str = ""  # '': the built-in size that the benchmark is made for
    seeds: int = 1
    holdout: str = ""
    limit: int = 400
    relearning: bool = True
    knobs: Mapping[str, Any] = field(default_factory=dict)  # plain names go to every method that has them, `npo:beta` to one
    train: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    original: str = ""  # models that exist already, instead of trained ones
    retrained: str = ""
    draw: int = 0  # seed of a benchmark that is made, not read
    attacks: tuple[str, ...] = ()  # on every model, with every seed; their knobs as `quantise:bits`

    @property
    def size(self) -> str:
        """The model, or the built-in size that has recipes for the benchmark."""
        return self.model or SIZES.get(self.suite, "tiny")

    def made(self) -> Suite:
        """The suite. Errors: UserError for an unknown benchmark, split or size."""
        more: dict[str, Any] = {**({"split": self.split} if self.split else {}), **({"holdout": self.holdout} if self.holdout else {})}
        made: Suite = catalog.load(self.suite, "benchmarks").load(self.data, seed=self.draw, **more, **self.sizes)
        return made

    def knobs_of(self, method: str) -> dict[str, Any]:
        """The recipe of this case and model size, then what the user said."""
        common = {k: v for k, v in self.knobs.items() if ":" not in k}
        own = {k.split(":", 1)[1]: v for k, v in self.knobs.items() if k.split(":", 1)[0] == method and ":" in k}
        return {**recipes.knobs(self.suite, self.size, method), **common, **own}

    def attacks_of(self, items: int, seed: int = 0) -> dict[str, Attack]:
        """The attacks on a model; relearning, where nobody asked for attacks, is made with the first seed alone."""
        wanted = self.relearning and (self.attacks or not seed)
        bare = ("bare_question",) if any(map(way_of, self.methods)) else ()  # what they know is told without their words, too
        names = tuple(dict.fromkeys((*(("relearn",) if wanted else ()), *self.attacks, *bare)))
        tuned = {f"{n}:{k}": v for n in names for k, v in recipes.attacking(n, self.suite, self.size, items).items()}
        return chosen(names, {**tuned, **{k: v for k, v in self.knobs.items() if k.split(":", 1)[0] in names and ":" in k}})
