"""The protocol: tuning on draws of its own, the reporting draws, gates, effects with intervals, a verdict."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import expunge
from expunge.core.errors import UserError
from expunge.engine import receipt
from expunge.io.models import cache_home
from studies.proofs.claim import Arm, Claim, Scores
from studies.proofs.curve import Curve, at_level
from studies.proofs.effect import Effect, Gate, Verdict, effect_of, weakest
from studies.proofs.world import Unit, World

ORIGINALS, DRAWS = 5, 3  # units of the report: originals on each draw
TUNING = ((100, 0), (101, 0))  # draw and seed of the units on which settings are chosen
SETTINGS = Path(__file__).with_name("settings")  # NAME.json: the settings that tuning chose
Say = Callable[[str], None]
MODELS = ("original", "retrained")


@dataclass(frozen=True)
class Proof:
    """A method's claims in a world, with the arms of all rivals."""

    name: str
    world: World
    claims: tuple[Claim, ...]
    arms: Mapping[str, Arm]

    @property
    def lines(self) -> list[str]:
        """The arms that the claims need, the method first."""
        rivals = [r for claim in self.claims for r in claim.rivals if r not in MODELS]
        return list(dict.fromkeys([self.name, *rivals]))

    @property
    def scores(self) -> frozenset[str]:
        return frozenset(s for claim in self.claims for s in (claim.score, claim.level) if s)


class Runs:
    """Runs of arms on units, kept on disk by content, because a rival of many methods runs once.

    Args:
        world: where the units come from.
        say: told of each run.
    """

    def __init__(self, world: World, say: Say) -> None:
        self.world, self.say = world, say

    def unit(self, draw: int, seed: int) -> Unit:
        """The original and the retrained model of a draw and a seed."""
        return unit_of(self.world, draw, seed)

    def curve(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str], draw: int, seed: int) -> Curve:
        """The curve of an arm on a unit, from disk where the same code made it."""
        content = [self.world.name, draw, seed, arm.method, arm.bare, dict(settings), sorted(scores), sources(type(self.world))]
        content += [arm.name] if arm.name != arm.method else []  # arms of one method may differ in what the world makes of them
        key = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:24]
        path = cache_home() / "proofs" / f"{key}.json"
        if not path.exists():
            self.say(f"{self.world.name}, draw {draw}, original {seed}: {arm.name} {dict(settings)}")
            receipt.write(path, {"curve": list(self.unit(draw, seed).run(arm, settings, scores))})
        curve: Curve = json.loads(path.read_text())["curve"]
        return curve


@cache
def unit_of(world: World, draw: int, seed: int) -> Unit:
    """A unit, made once for all proofs of a process."""
    return world.unit(draw, seed)


@cache
def sources(world: type) -> str:
    """A hash of the code of the package and of a world: runs of other code are not reused."""
    files = [*Path(expunge.__file__).parent.rglob("*.py"), Path(inspect.getfile(world))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()[:16]


def read(claim: Claim, curve: Curve, unit: Unit) -> Scores | None:
    """The scores of an arm where the claim reads them: at the level of its target model, or at the end."""
    if not claim.level:
        return curve[-1]
    return at_level([unit.original, *curve], claim.level, getattr(unit, claim.target)[claim.level])


def goodness(claim: Claim, curve: Curve, unit: Unit) -> float:
    """The claim's own score of a setting, larger is better; minus infinity where the level is never reached."""
    scores = read(claim, curve, unit)
    if scores is None:
        return float("-inf")
    return scores[claim.score] if claim.better == "higher" else -scores[claim.score]


def tune(proof: Proof, say: Say) -> dict[str, Any]:
    """Choose the settings of the method and its rivals by the score of the first claim, on draws that no report uses.

    Args:
        proof: the claims.
        say: told of each run.

    Returns:
        The record that is kept in `settings/NAME.json`: chosen settings, and how many were looked at.
    """
    runs, claim = Runs(proof.world, say), proof.claims[0]
    record: dict[str, Any] = {
        "world": proof.world.name,
        "by": claim.score,
        "level": claim.level,
        "units": [list(u) for u in TUNING],
        "arms": {},
    }
    for name in proof.lines:
        arm = proof.arms[name]
        options = arm.settings()
        tried = []
        for settings in options if len(options) > 1 else ():
            curves = [(runs.curve(arm, settings, proof.scores, *unit), runs.unit(*unit)) for unit in TUNING]
            tried.append(fmean(goodness(claim, curve, unit) for curve, unit in curves))
        best = max(range(len(tried)), key=tried.__getitem__) if tried else 0
        record["arms"][name] = {
            "settings": options[best],
            "looks": len(tried),
            "tried": [None if value == float("-inf") else round(value, 5) for value in tried],
        }
    return record


def frozen(name: str) -> dict[str, Any]:
    """The settings that tuning chose.

    Raises:
        UserError: where the method was not tuned.
    """
    path = SETTINGS / f"{name}.json"
    if not path.exists():
        raise UserError(f"the settings of '{name}' are not chosen yet; run `python -m studies.reproduce {name} --tune` first")
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def prove(proof: Proof, chosen: Mapping[str, Any], draws: int, originals: int, say: Say) -> dict[str, Any]:
    """Run the method and its rivals on all units, and decide each claim.

    Args:
        proof: the claims.
        chosen: the record of `tune`.
        draws, originals: how many draws of the data, and how many originals on each.
        say: told of each run.

    Returns:
        The record that is kept in `results/proofs/NAME.json`.
    """
    runs = Runs(proof.world, say)
    places = [(draw, seed) for draw in range(draws) for seed in range(originals)]
    curves: dict[str, list[Curve]] = {name: [] for name in proof.lines}
    for place in places:
        for name in proof.lines:
            curves[name].append(runs.curve(proof.arms[name], chosen["arms"][name]["settings"], proof.scores, *place))
    units = [runs.unit(*place) for place in places]
    claims = [decided(proof, claim, units, curves, places) for claim in proof.claims]
    return {
        "command": f"python -m studies.reproduce {proof.name}",
        "world": proof.world.name,
        "model": proof.world.model,
        "units": {"draws": draws, "originals": originals},
        "settings": {name: chosen["arms"][name]["settings"] for name in proof.lines},
        "looks": {name: chosen["arms"][name]["looks"] for name in proof.lines},
        "cost": {name: round(fmean(curve[-1].get("cost", 0.0) for curve in curves[name]), 4) for name in proof.lines},
        "verdict": claims[0]["verdict"],
        "claims": claims,
        "versions": receipt.versions(),
        "machine": receipt.machine(),
    }


def decided(
    proof: Proof, claim: Claim, units: Sequence[Unit], curves: Mapping[str, Sequence[Curve]], places: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """One claim with its effect, interval, gates and verdict."""
    values = {name: [scores_at(claim, name, k, unit, curves) for k, unit in enumerate(units)] for name in (proof.name, *claim.rivals)}
    complete = [k for k in range(len(units)) if all(column[k] is not None for column in values.values())]
    kept = {name: [v for v in (column[k] for k in complete) if v is not None] for name, column in values.items()}
    gates = []
    if claim.level:
        share = len(complete) / len(units)
        gates.append(Gate("all of them forget as far, in at least four of five units", share, share >= 0.8))
    verdict: Verdict = "case invalid"
    summary: dict[str, Any] = {}
    if len(complete) > 1:
        gates += proof.world.gates(claim, [units[k] for k in complete], {r: kept[r] for r in claim.rivals})
        effects = [effect_of(r, [claim.effect(a, b) for a, b in zip(kept[proof.name], kept[r], strict=True)]) for r in claim.rivals]
        effect, verdict = weakest(effects, claim.matters)
        if len(complete) < 3 or not all(gate.holds for gate in gates):
            verdict = "case invalid"
        summary = {"effect": plain(effect), "rivals": {e.rival: plain(e) for e in effects}} | {
            "by_draw": by_draw(effect, [places[k][0] for k in complete])
        }
    return {
        "claim": claim.text,
        "source": claim.source,
        "score": claim.score,
        "better": claim.better,
        "level": f"{claim.level} of the {claim.target} model" if claim.level else "",
        "matters": claim.matters,
        **({"margin": claim.margin} if claim.margin else {}),
        "verdict": verdict,
        **summary,
        "gates": [{"gate": gate.text, "value": round(gate.value, 5), "holds": gate.holds} for gate in gates],
        "values": {name: [None if v is None else round(v, 5) for v in column] for name, column in values.items()},
    }


def scores_at(claim: Claim, name: str, k: int, unit: Unit, curves: Mapping[str, Sequence[Curve]]) -> float | None:
    """The claim's score of a model or an arm on a unit."""
    if name in MODELS:
        return float(getattr(unit, name)[claim.score])
    scores = read(claim, curves[name][k], unit)
    return None if scores is None else scores[claim.score]


def plain(effect: Effect) -> dict[str, Any]:
    """An effect as JSON."""
    return {"rival": effect.rival, "mean": round(effect.mean, 5), "low": round(effect.low, 5), "high": round(effect.high, 5)}


def by_draw(effect: Effect, draws: Sequence[int]) -> dict[str, float]:
    """The mean effect in each draw, so that a draw that disagrees is seen."""
    return {str(d): round(fmean(v for v, draw in zip(effect.values, draws, strict=True) if draw == d), 5) for d in sorted(set(draws))}
