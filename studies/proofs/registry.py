"""All proofs by name of the system."""

from __future__ import annotations

from studies.proofs import (
    certificates,
    clusters,
    committees,
    curve_fit,
    digits,
    forests,
    heads,
    language,
    likes,
    mixtures,
    shortcut,
    stream,
    tastes,
)
from studies.proofs.protocol import Proof

WORLDS = (certificates, clusters, committees, curve_fit, digits, forests, heads, language, likes, mixtures, shortcut, stream, tastes)


def proofs() -> dict[str, Proof]:
    """Every proof of the protocol, by name of the method, metric or attack."""
    return {name: Proof(name, world, claims, module.ARMS) for module in WORLDS for name, (world, claims) in module.CLAIMS.items()}
