"""The world of mixtures: a tokenizer learns from texts in three languages, and its files may tell how much there was of each.

The score is log10 of the mean squared error of the shares of bytes that the attack infers. A small language model reads the texts through
the tokenizer, so that what another tokenizer costs it can be measured, as perplexity per byte of unseen texts.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from expunge.core.errors import UserError
from expunge.evaluation.attacks.merge_list import Way, mixture
from expunge.io.models import Opened, load
from expunge.workflows.train import train
from expunge.workflows.unlearn import unlearn
from studies.proofs.claim import Arm, Claim, Scores
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate

SIZE = "nano"
LANGUAGES, WORDS, TEXTS, LENGTH, UNSEEN = 3, 300, 240, 12, 20
ATTACK, EDIT, GUESS = "merge_list", "merge_free_tokenizer", "equal shares"


class MixtureUnit:
    """Languages of a draw, and a mixture of them."""

    def __init__(self, draw: int, seed: int) -> None:
        rng = random.Random(f"languages {draw}")
        lexicons = []
        for _ in range(LANGUAGES):  # the same letters in other frequencies
            weights = [rng.random() ** 2 + 0.02 for _ in "abcdefghijkl"]
            lexicons.append(["".join(rng.choices("abcdefghijkl", weights, k=rng.randint(2, 7))) for _ in range(WORDS)])
        self.samples = {f"language {k}": _texts(rng, words, TEXTS) for k, words in enumerate(lexicons)}
        mix = random.Random(f"mixture {draw} {seed}")
        raw = [mix.expovariate(1) for _ in lexicons]  # uniform over all mixtures
        counts = [max(1, round(TEXTS * r / sum(raw))) for r in raw]
        self.trained = [t for words, n in zip(lexicons, counts, strict=True) for t in _texts(mix, words, n)]
        sizes = [sum(map(len, self.trained[sum(counts[:k]) : sum(counts[: k + 1])])) for k in range(LANGUAGES)]
        self.truth = [s / sum(sizes) for s in sizes]
        self.unseen = [t for words, n in zip(lexicons, counts, strict=True) for t in _texts(mix, words, max(1, UNSEEN * n // TEXTS))]
        self.seed = seed

    @cached_property
    def folder(self) -> str:
        """A model that was trained on the texts, with a tokenizer that was."""
        result = train([{"text": t} for t in self.trained], SIZE, texts=self.trained, seed=self.seed, epochs=6)
        return str(result.folder)

    def error(self, shares: Sequence[float]) -> float:
        """log10 of the mean squared error, at least that of an error of 0.001 in each share."""
        return math.log10(max(1e-6, fmean((a - b) ** 2 for a, b in zip(shares, self.truth, strict=True))))

    def inferred(self, tokenizer: Any) -> float:
        """The error of the attack by the list, or by the ids where the files have no list."""
        way: Way
        for way in ("merges", "ids"):
            try:
                return self.error(list(mixture(tokenizer, self.samples, way).bytes.values()))
            except UserError:
                continue
        return self.error([1 / LANGUAGES] * LANGUAGES)  # nothing to infer from

    @cached_property
    def original(self) -> Scores:
        opened: Any = load(self.folder)
        return {"log_error": self.inferred(opened.modality.tokenizer), "perplexity": 1.0}

    @property
    def retrained(self) -> Scores:
        return self.original

    @property
    def random(self) -> Scores:
        return {"log_error": self.error([1 / LANGUAGES] * LANGUAGES)}

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The error of the attack, and the perplexity per byte as a share of that before."""
        if arm.name != EDIT:
            return [self.random if arm.name == GUESS else self.original]
        opened = load(self.folder)
        texts = [{"text": t} for t in self.unseen]
        result = unlearn(arm.method, Opened(opened.model, opened.modality, self.folder), retain=texts, **settings)
        shown = {name: rows[0]["perplexity"] for name, rows in result.receipt["shown"].items() if name.startswith("perplexity")}
        before, after = shown["perplexity per byte, as it was"], shown[f"perplexity per byte, result: {settings['scheme']}"]
        modality: Any = result.modality
        return [{"log_error": self.inferred(modality.tokenizer), "perplexity": after / before}]


def _texts(rng: random.Random, words: Sequence[str], count: int) -> list[str]:
    return [" ".join(rng.choices(words, k=LENGTH)) for _ in range(count)]


@dataclass(frozen=True)
class Mixtures:
    """Texts in three languages of the same letters."""

    name: str = "mixtures of languages"
    model: str = SIZE

    def unit(self, draw: int, seed: int) -> MixtureUnit:
        return MixtureUnit(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """The mixtures must differ from equal shares, and the attack must work where nothing is hidden."""
        guess, known = fmean(u.random["log_error"] for u in units), fmean(u.original["log_error"] for u in units)
        return [
            Gate("equal shares are far from the mixtures", guess, guess >= -2.5),
            Gate("the list tells the mixture ten times better than equal shares", known, known <= guess - 1),
        ]


ARMS: dict[str, Arm] = {
    ATTACK: Arm(ATTACK, EDIT, {"scheme": "standard", "ids": "kept"}),
    EDIT: Arm(EDIT, EDIT, {"scheme": "dp", "ids": "sorted"}),
    GUESS: Arm(GUESS, EDIT, {"scheme": "standard", "ids": "kept"}),
}
WORLD = Mixtures()
CLAIMS: dict[str, tuple[Mixtures, tuple[Claim, ...]]] = {
    ATTACK: (
        WORLD,
        (
            Claim(
                "the list of merges tells the mixture ten times better than equal shares",
                "Hayase et al. 2024, the table of log10 of the mean squared error on controlled mixtures",
                "log_error",
                (GUESS,),
                "lower",
                1.0,
            ),
        ),
    ),
    EDIT: (
        WORLD,
        (
            Claim(
                "without the list and with sorted ids the error of the attack is at least ten times that with them",
                "Sawada and Goyal 2025, the leak of the list, against the attack of Hayase et al. 2024",
                "log_error",
                ("original",),
                "higher",
                1.0,
            ),
            Claim(
                "what the attack then infers is no better than equal shares, or at most twice as good",
                "Sawada and Goyal 2025, the leak of the list, against the attack of Hayase et al. 2024",
                "log_error",
                (GUESS,),
                "higher",
                0.0,
                margin=0.3,
            ),
            Claim(
                "the perplexity per byte of unseen texts rises by at most a fifth",
                "Sawada and Goyal 2025, perplexity of open-ended texts: by a seventh",
                "perplexity",
                ("original",),
                "lower",
                0.0,
                margin=0.2,
            ),
        ),
    ),
}
