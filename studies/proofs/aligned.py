"""The world of people whose facts depend on each other: some rows to forget share a chain of facts with people to keep, and some are alone.

Both arms are one method, whose weights of rows are all 1 at the temperature of the second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from expunge.benchmarks.suite import Suite
from expunge.benchmarks.synthetic import entangled
from studies.proofs.claim import Arm, Claim
from studies.proofs.effect import Gate
from studies.proofs.language import arm
from studies.proofs.people import FORGETTING, NEIGHBOURS, RETAINED, SIZE, PeopleUnit

OVERLAP = 0.15  # the share of the people to keep who live in a town of the people to forget
METHOD, ALIKE = "guard_attribution", "guard_attribution, all rows alike"
SOURCE = "Niu et al. 2025, the table of TOFU: what is lost on the retain set, with and without the weights"


class AlignedUnit(PeopleUnit):
    """One original and one retrained model on one draw of the people."""

    def drawn(self, draw: int) -> Suite:
        return entangled.load(draw, overlap=OVERLAP)


@dataclass(frozen=True)
class Aligned:
    """Draws of people whose facts depend on each other."""

    name: str = "people in chains of facts"
    model: str = SIZE

    def unit(self, draw: int, seed: int) -> AlignedUnit:
        return AlignedUnit(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """The original must know all rows, the retrained model those to keep; equal weights must cost some of those, not all."""
        known, unknown = (fmean(getattr(u, n)[FORGETTING] for u in units) for n in ("original", "retrained"))
        kept = fmean(u.retrained[RETAINED] for u in units)
        left = fmean(v for values in rivals.values() for v in values)
        return [
            Gate("the original knows what is to be forgotten", known, known >= 0.9),
            Gate("the retrained model does not", unknown, unknown <= 0.5),
            Gate("the retrained model knows what is to be kept", kept, kept >= 0.9),
            Gate("equal weights cost something of it, but not all", left, 0.02 <= left <= 0.98 * kept),
        ]


WORLD = Aligned()
ARMS: dict[str, Arm] = {  # eight settings each
    METHOD: arm(
        METHOD, batch_size=40, epochs=120, grid={"lr": (1.5e-4, 3e-4), "alignment": ("product", "cosine"), "temperature": (1.0, 3.0)}
    ),
    ALIKE: arm(METHOD, ALIKE, batch_size=40, epochs=120, grid={"lr": (5e-5, 1e-4, 1.5e-4, 2e-4, 3e-4, 5e-4, 1e-3, 3e-3)}, temperature=1e9),
}


def keeps(text: str, score: str) -> Claim:
    """At equal forgetting more is kept than with equal weights."""
    return Claim(text, SOURCE, score, (ALIKE,), "higher", 0.02, FORGETTING)


CLAIMS: dict[str, tuple[Aligned, tuple[Claim, ...]]] = {
    METHOD: (
        WORLD,
        (
            keeps("at equal forgetting the answers to keep stay more probable than with equal weights of all rows", RETAINED),
            keeps("so do those that share facts with the rows to forget", NEIGHBOURS),
        ),
    )
}
