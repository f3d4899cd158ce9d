"""The world of certificates: an attacker sees five hundred unlearned and five hundred retrained heads, and tries to tell them apart.

An honest certificate is that of certified removal. The other one makes the same promise, and does not add up what removals leave behind,
so that its noise is too small for them. The score is by how much the attacker's lower bound on epsilon is above the epsilon that was
promised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from expunge.core.hyperparameters import part
from expunge.core.plan import Plan
from expunge.evaluation.attacks.certificate import CertificateTest, judge, published_pairs
from expunge.methods.by_design.certified_removal import CertifiedRemoval
from studies.proofs.claim import Arm, Claim, Scores
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate
from studies.proofs.table_draws import Maker, classified, leaving

ROWS, GONE, PAIRS = 40, 8, 500
ATTACK, HONEST = "certificate", "certificate, honest noise"
METHOD = "certified_removal"


@part
class Unaccounted(CertifiedRemoval):
    """Certified removal that never counts what its removals leave behind."""

    @property
    def _budget(self) -> float:
        return float("inf")


class CertificateUnit:
    """Rows of a draw, some of which leave."""

    def __init__(self, draw: int, seed: int) -> None:
        self.records, _ = classified(draw, ROWS, 1)
        self.seed = seed
        self.gone = leaving(GONE, ROWS, 5 * draw + seed)
        self.maker = Maker("linear", self.records, seed)

    def attacked(self, settings: Mapping[str, Any], honest: bool) -> CertificateTest:
        method = Plan((CertifiedRemoval if honest else Unaccounted)(**settings))
        rows = self.maker.rows("retain", self.records)
        model, modality = self.maker.opened.model, self.maker.modality
        return judge(published_pairs(model, modality, rows, self.gone, method, pairs=PAIRS, seed=self.seed))

    @cached_property
    def original(self) -> Scores:
        return self.retrained

    @property
    def retrained(self) -> Scores:
        return {"excess": 0.0}

    @property
    def random(self) -> Scores:
        return {"excess": 0.0}

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """By how much the bound exceeds the promise; and `margin`, how far inside the certified region the error rates stay."""
        result = self.attacked(settings, honest=arm.name == HONEST)
        return [{"excess": result.epsilon_lower - result.epsilon, "margin": result.margin}]


@dataclass(frozen=True)
class Certificates:
    """Tables of three classes, small enough that a removal leaves much behind."""

    name: str = "tables with a certified head"
    model: str = "linear"

    def unit(self, draw: int, seed: int) -> CertificateUnit:
        return CertificateUnit(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """The attacker must not convict the honest certificate."""
        convicted = fmean(float(v > 0) for v in rivals[HONEST]) if HONEST in rivals else 0.0
        return [Gate("an honest certificate is convicted in at most one unit of twenty", convicted, convicted <= 0.05)]


FIXED = {"secret": False, "sigma": 0.002, "weight_decay": 0.05}
ARMS: dict[str, Arm] = {ATTACK: Arm(ATTACK, METHOD, FIXED), HONEST: Arm(HONEST, METHOD, FIXED)}
CLAIMS: dict[str, tuple[Certificates, tuple[Claim, ...]]] = {
    ATTACK: (
        Certificates(),
        (
            Claim(
                "the bound is further above the promise where the noise is too small than where it is as promised",
                "Jagielski et al. 2020, lower bounds beside what is proved; Guo et al. 2020 for the promise",
                "excess",
                (HONEST,),
                "higher",
                0.5,
            ),
            Claim(
                "error rates leave the certified region where the noise is too small",
                "Kairouz et al. 2015, the region of error rates",
                "excess",
                ("retrained",),
                "higher",
                0.1,
            ),
        ),
    )
}
