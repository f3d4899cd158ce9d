"""All proofs by name of the system: a module of this folder that has `CLAIMS` and `ARMS` takes part."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from studies.proofs.protocol import Proof


def proofs() -> dict[str, Proof]:
    """Every proof of the protocol, by name of the method, metric or attack."""
    names = sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]))
    modules = [m for m in (importlib.import_module(f"studies.proofs.{name}") for name in names) if hasattr(m, "CLAIMS")]
    return {name: Proof(name, world, claims, module.ARMS) for module in modules for name, (world, claims) in module.CLAIMS.items()}
