"""`python -m studies.reproduce NAME`: a paper's effect on a CPU-size case, compared with committed numbers.

Each method makes claims about its numbers; whether they hold is computed and written down, also where they do not.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from expunge import catalog
from expunge.core.errors import UserError
from expunge.engine import receipt
from expunge.evaluation.audited_models import Progress, silent
from expunge.io.models import cache_home
from studies import determinism
from studies.cases.claims import Claim, Numbers

CASES = (
    "people",
    "digits",
    "shadows",
    "equal",
    "entangled",
    "forget_sets",
    "updates",
    "strangers",
    "unaided",
    "shortcuts",
    "stream",
    "curve",
    "restricted",
    "selectors",
    "gated",
)
TOLERANCE = 0.1  # of a score between 0 and 1, between machines; p-values are compared by which side of 0.05 they are on
COUNTS = ("steps", "retain_loss", "cost", "klom", "loss", "farthest")  # scores without an upper end, compared by their ratio


def folder() -> Path:
    """Where the committed numbers are."""
    checkout = Path(__file__).parents[1] / "results" / "reproduce"
    return checkout


def modules() -> Iterator[ModuleType]:
    """The cases, each a module with `CLAIMS` by name and a class `Case`."""
    return (import_module(f"{__package__}.cases.{name}") for name in CASES)


def claims() -> dict[str, tuple[Claim, ...]]:
    """What is claimed of everything that can be reproduced."""
    return {name: found for module in modules() for name, found in module.CLAIMS.items()}


def names() -> list[str]:
    """What can be reproduced."""
    return sorted(claims())


@dataclass(frozen=True)
class Reproduced:
    """What a rerun found beside what is committed."""

    name: str
    numbers: Numbers
    effect: Sequence[Mapping[str, Any]]
    differs: Sequence[str]
    compared: bool
    exact: bool = True  # in the arithmetic of the committed numbers

    @property
    def agrees(self) -> bool:
        return not self.differs

    @property
    def shows(self) -> bool:
        """Every claim holds."""
        return all(c["holds"] for c in self.effect)

    def told(self) -> str:
        """For the terminal."""
        lines = [f"{self.name}:"]
        for model, scores in self.numbers.items():
            lines.append(f"  {model:16} " + "  ".join(f"{n} {v:.3g}" for n, v in scores.items()))
        lines += [f"  {'shown' if c['holds'] else 'NOT shown'}: {c['claim']}" for c in self.effect]
        lines += [f"  differs from the committed numbers: {d}" for d in self.differs]
        if self.compared and self.agrees:
            lines.append("  agrees with the committed numbers")
        if not self.exact:
            lines.append(
                "  computed in this processor's own arithmetic, so what hangs on the last digit may differ (see `studies.determinism`)"
            )
        return "\n".join(lines)


def reproduce(name: str, *, update: bool = False, progress: Progress = silent) -> Reproduced:
    """Run a case and compare, or with `update` write its numbers.

    They are the same to the last digit on every x86-64 processor where `studies.determinism.hold()` was called before torch was imported,
    as the command line does; elsewhere they are near. Errors: UserError for an unknown name, or where nothing is committed.
    """
    if name not in names():
        kind = catalog.find(name)
        raise UserError(f"there is no case for the {kind.removesuffix('s')} '{name}' yet")
    path = folder() / f"{name}.json"
    if not update and not path.exists():
        raise UserError(f"no numbers are committed for '{name}'; write them with --update")
    exact = determinism.held()
    with _apart() if exact else nullcontext():
        case = next(m for m in modules() if name in m.CLAIMS).Case(progress)
        numbers, hyperparameters = case.measure(name)
    effect = [{"claim": c.text, "holds": bool(c.holds(numbers, name))} for c in claims()[name]]
    if update:
        done = {
            "command": f"python -m studies.reproduce {name}",
            "case": {"benchmark": case.suite.name, "model": case.model, "hyperparameters": hyperparameters},
            "numbers": {m: {n: round(v, 6) for n, v in s.items()} for m, s in numbers.items()},
            "effect": effect,
            "tolerance": TOLERANCE,
            "arithmetic": "the same on every x86-64 processor" if exact else "this processor's own",
            "versions": receipt.versions(),
            "machine": receipt.machine(),
        }
        receipt.write(path, done)
        return Reproduced(name, numbers, effect, (), False, exact)
    known = json.loads(path.read_text())
    differs = [*differences(numbers, known["numbers"]), *(f"{c['claim']}: {c['holds']}" for c in effect if c not in known["effect"])]
    return Reproduced(name, numbers, effect, differs, True, exact)


@contextmanager
def _apart() -> Iterator[None]:
    """Away from models that were trained in another arithmetic, and from oneDNN, which fits its sums to a processor's caches."""
    before, os.environ["EXPUNGE_CACHE"] = os.environ.get("EXPUNGE_CACHE"), str(cache_home() / "reproduce")
    (fitting, *_) = torch.backends.mkldnn.set_flags(False)
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(fitting)
        del os.environ["EXPUNGE_CACHE"]
        if before is not None:
            os.environ["EXPUNGE_CACHE"] = before


def differences(mine: Numbers, known: Numbers) -> list[str]:
    """Scores that are not the committed ones within the tolerance."""
    out = []
    for model, scores in known.items():
        for score, value in scores.items():
            now = mine.get(model, {}).get(score, float("nan"))
            if score.endswith("quality"):
                same = math.isfinite(now) and ((now >= 0.05) == (value >= 0.05) or abs(now - value) <= TOLERANCE)
            elif score.startswith(COUNTS):
                same = abs(now - value) <= max(1, 0.3 * value)
            else:
                same = abs(now - value) <= TOLERANCE
            if not same:
                out.append(f"{model} {score} {now:.4g}, committed {value:.4g}")
    return out
