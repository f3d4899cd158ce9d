"""The bundled cases of `expunge demo`: each is a file such as `faces.json` with its sweep and what its smallest version changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.functional.brief import brief

FIRST = "people"  # the case that is shown where none is named


@brief("about")
@dataclass(frozen=True)
class Demonstration:
    """A bundled case.

    Args:
        about: which model it shows, in half a sentence.
        sweep: fields of the sweep.
        quick: the fields that its smallest version changes, a check that everything runs; its numbers mean nothing.
    """

    about: str
    sweep: Mapping[str, Any]
    quick: Mapping[str, Any]


@cache
def cases() -> dict[str, Demonstration]:
    """All cases by name, the first one first."""
    files = sorted(Path(__file__).parent.glob("*.json"), key=lambda file: (file.stem != FIRST, file.stem))
    return {file.stem: Demonstration(**json.loads(file.read_text(encoding="utf-8"))) for file in files}


def case_of(name: str) -> Demonstration:
    """A bundled case.

    Raises:
        UserError: when there is no such case.
    """
    if name not in cases():
        raise UserError(f"there is no demo called '{name}'; there are {', '.join(cases())}{did_you_mean(name, cases())}")
    return cases()[name]
