"""Runs a proof, compares it with the committed record, and tells the result in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.core.errors import UserError
from expunge.engine import receipt
from studies.proofs import protocol
from studies.proofs.protocol import DRAWS, ORIGINALS, Say
from studies.proofs.registry import proofs

FOLDER = Path(__file__).parents[2] / "results" / "proofs"


@dataclass(frozen=True)
class Proved:
    """The record of a run, and where it differs from the committed one."""

    name: str
    record: Mapping[str, Any]
    differs: tuple[str, ...]
    whole: bool  # whether all units ran; fewer are a quick look

    @property
    def agrees(self) -> bool:
        """Whether the run says what the committed record says."""
        return not self.differs

    def summary(self) -> str:
        """The result as lines for the terminal."""
        units = self.record["units"]
        lines = [f"{self.name}: {units['draws']} draws of the data, {units['originals']} originals each"]
        for claim in self.record["claims"]:
            lines.append(f"  {claim['verdict']}: {claim['claim']} ({claim['source']})")
            if "effect" in claim:
                effect = claim["effect"]
                lines.append(
                    f"    better than {effect['rival']} in {claim['score']} by {effect['mean']:.3g} "
                    f"[{effect['low']:.3g}, {effect['high']:.3g}]; {claim['matters']:g} matters"
                )
            lines += [f"    the case does not hold: {gate['gate']} ({gate['value']:.3g})" for gate in claim["gates"] if not gate["holds"]]
        if not self.whole:
            lines.append(f"  a quick look: the committed record has {DRAWS} draws with {ORIGINALS} originals each")
        lines += [f"  differs from the committed record: {d}" for d in self.differs]
        return "\n".join(lines)


def tuned(name: str, say: Say) -> None:
    """Choose the settings of a proof and write them."""
    receipt.write(protocol.SETTINGS / f"{name}.json", protocol.tune(_proof(name), say))


def proved(name: str, say: Say, *, draws: int = DRAWS, originals: int = ORIGINALS, update: bool = False) -> Proved:
    """Run a proof.

    Args:
        name: a system that has a proof.
        say: told of each run.
        draws, originals: fewer than the protocol's are a quick look, which is not compared.
        update: write the record instead of comparing with it.

    Raises:
        UserError: for unknown names, settings that are not chosen, and a quick look that would be written.
    """
    whole = (draws, originals) == (DRAWS, ORIGINALS)
    if update and not whole:
        raise UserError(f"only {DRAWS} draws with {ORIGINALS} originals are committed: leave --draws and --originals out with --update")
    record = protocol.prove(_proof(name), protocol.frozen(name), draws, originals, say)
    path = FOLDER / f"{name}.json"
    if update:
        receipt.write(path, record)
    committed = json.loads(path.read_text()) if whole and path.exists() else None
    return Proved(name, record, differences(record, committed) if committed else (), whole)


def differences(record: Mapping[str, Any], committed: Mapping[str, Any]) -> tuple[str, ...]:
    """What a rerun says otherwise: another verdict, or a mean effect outside the committed interval."""
    lines = []
    for now, then in zip(record["claims"], committed["claims"], strict=True):
        if now["verdict"] != then["verdict"]:
            lines.append(f"{now['verdict']} instead of {then['verdict']}: {now['claim']}")
        elif "effect" in then and not then["effect"]["low"] <= now["effect"]["mean"] <= then["effect"]["high"]:
            lines.append(f"an effect of {now['effect']['mean']:.4g} instead of {then['effect']['mean']:.4g}: {now['claim']}")
    return tuple(lines)


def _proof(name: str) -> protocol.Proof:
    known = proofs()
    if name not in known:
        raise UserError(f"there is no proof for '{name}' yet; there are {', '.join(sorted(known))}")
    return known[name]
