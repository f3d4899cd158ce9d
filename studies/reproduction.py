"""Measures a paper's effect on a CPU-size case and compares it with committed numbers: `python -m studies.reproduce NAME`.

Each method has claims about its numbers. The outcome of each claim is computed and recorded, also where the claim does not hold.
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
TOLERANCE = 0.1  # for scores between 0 and 1, between machines; for p-values it counts on which side of 0.05 they are
COUNTS = ("steps", "retain_loss", "cost", "klom", "loss", "farthest")  # scores without an upper limit, compared by their ratio


def folder() -> Path:
    """The folder of the committed numbers."""
    return Path(__file__).parents[1] / "results" / "reproduce"


def modules() -> Iterator[ModuleType]:
    """The modules of all cases. Each has `CLAIMS` by name and a class `Case`."""
    return (import_module(f"{__package__}.cases.{name}") for name in CASES)


def claims() -> dict[str, tuple[Claim, ...]]:
    """The claims of all cases, by name of the method, metric or attack."""
    return {name: own for module in modules() for name, own in module.CLAIMS.items()}


def names() -> list[str]:
    """Names of everything that has a case."""
    return sorted(claims())


@dataclass(frozen=True)
class Reproduced:
    """Numbers of a rerun, compared with the committed ones."""

    name: str
    numbers: Numbers
    effect: Sequence[Mapping[str, Any]]
    differs: Sequence[str]
    compared: bool
    exact: bool = True  # computed in the arithmetic of the committed numbers

    @property
    def agrees(self) -> bool:
        """Whether all numbers and outcomes are the committed ones, within the tolerance."""
        return not self.differs

    @property
    def shows(self) -> bool:
        """Whether every claim holds."""
        return all(c["holds"] for c in self.effect)

    def summary(self) -> str:
        """The result as lines for the terminal."""
        lines = [f"{self.name}:"]
        for model, scores in self.numbers.items():
            lines.append(f"  {model:16} " + "  ".join(f"{n} {v:.3g}" for n, v in scores.items()))
        lines += [f"  {'shown' if c['holds'] else 'NOT shown'}: {c['claim']}" for c in self.effect]
        lines += [f"  differs from the committed numbers: {d}" for d in self.differs]
        if self.compared and self.agrees:
            lines.append("  agrees with the committed numbers")
        if not self.exact:
            lines.append(
                "  computed in this processor's own arithmetic, so what depends on the last digit may differ (see `studies.determinism`)"
            )
        return "\n".join(lines)


def reproduce(name: str, *, update: bool = False, progress: Progress = silent) -> Reproduced:
    """Run a case and compare its numbers with the committed ones, or write them.

    The numbers are the same to the last digit on every x86-64 processor if `studies.determinism.enable()` was called before torch was
    imported, as the command line does. Otherwise they are close.

    Args:
        name: A method, metric or attack that has a case.
        update: Write the numbers instead of comparing them.
        progress: Called with steps done, steps in all, and the name of the task.

    Raises:
        UserError: for an unknown name, or where no numbers are committed.
    """
    if name not in names():
        kind = catalog.find(name)
        raise UserError(f"there is no case for the {kind.removesuffix('s')} '{name}' yet")
    path = folder() / f"{name}.json"
    if not update and not path.exists():
        raise UserError(f"no numbers are committed for '{name}'; write them with --update")
    exact = determinism.is_enabled()
    with _isolated() if exact else nullcontext():
        case = next(m for m in modules() if name in m.CLAIMS).Case(progress)
        numbers, hyperparameters = case.measure(name)
    effect = [{"claim": c.text, "holds": bool(c.holds(numbers, name))} for c in claims()[name]]
    if update:
        record = {
            "command": f"python -m studies.reproduce {name}",
            "case": {"benchmark": case.suite.name, "model": case.model, "hyperparameters": hyperparameters},
            "numbers": {m: {n: round(v, 6) for n, v in s.items()} for m, s in numbers.items()},
            "effect": effect,
            "tolerance": TOLERANCE,
            "arithmetic": "the same on every x86-64 processor" if exact else "this processor's own",
            "versions": receipt.versions(),
            "machine": receipt.machine(),
        }
        receipt.write(path, record)
        return Reproduced(name, numbers, effect, (), False, exact)
    committed = json.loads(path.read_text())
    changed_claims = (f"{c['claim']}: {c['holds']}" for c in effect if c not in committed["effect"])
    differs = [*differences(numbers, committed["numbers"]), *changed_claims]
    return Reproduced(name, numbers, effect, differs, True, exact)


@contextmanager
def _isolated() -> Iterator[None]:
    """Use another cache of models than other arithmetic does, and no oneDNN, whose sums depend on the caches of the processor."""
    previous, os.environ["EXPUNGE_CACHE"] = os.environ.get("EXPUNGE_CACHE"), str(cache_home() / "reproduce")
    (enabled, *_) = torch.backends.mkldnn.set_flags(False)
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(enabled)
        del os.environ["EXPUNGE_CACHE"]
        if previous is not None:
            os.environ["EXPUNGE_CACHE"] = previous


def differences(numbers: Numbers, committed: Numbers) -> list[str]:
    """Compare numbers with the committed ones.

    Returns:
        One line for each score that differs by more than the tolerance. A score that is missing differs.
    """
    lines = []
    for model, scores in committed.items():
        for score, value in scores.items():
            now = numbers.get(model, {}).get(score, float("nan"))
            if score.endswith("quality"):
                same = math.isfinite(now) and ((now >= 0.05) == (value >= 0.05) or abs(now - value) <= TOLERANCE)
            elif score.startswith(COUNTS):
                same = abs(now - value) <= max(1, 0.3 * value)
            else:
                same = abs(now - value) <= TOLERANCE
            if not same:
                lines.append(f"{model} {score} {now:.4g}, committed {value:.4g}")
    return lines
