"""The whole story on a bundled case: the sweeps behind `expunge demo`."""

from __future__ import annotations

from typing import Any

from expunge.benchmarks.demos import case_of
from expunge.workflows.sweep import Sweep


def demo(case: str, quick: bool = False) -> Sweep:
    """The sweep of a bundled case.

    Args:
        case: the name of a file in `benchmarks/demos`.
        quick: the smallest version, a check that everything runs; its numbers mean nothing.

    Raises:
        UserError: when there is no such case.
    """
    bundled = case_of(case)
    fields: dict[str, Any] = {**bundled.sweep, **(bundled.quick if quick else {})}
    return Sweep(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
