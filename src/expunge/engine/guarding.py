"""Guards decorate the modality: a guarded modality changes the outputs, and the weights stay as they are."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from expunge.core.modality import Modality
from expunge.functional.brief import brief


@brief("name", "unguarded")
class Guarded:
    """A modality with another `forward` or `generate`; everything else is that of the modality inside.

    A guard derives from this class, overrides `forward` or `generate`, and removes from `capabilities` what it no longer offers, such as
    fast paths around these two.
    """

    def __init__(self, inner: Modality) -> None:
        self.unguarded = inner
        self.name = inner.name
        self.capabilities = inner.capabilities

    def __getattr__(self, name: str) -> Any:
        if name == "unguarded":  # during a copy
            raise AttributeError(name)
        return getattr(self.unguarded, name)

    def around(self, inner: Modality) -> Guarded:
        """The same guard around another modality."""
        copied = copy.copy(self)
        copied.unguarded = inner
        return copied

    def describe(self) -> dict[str, Any]:
        """What the guard does, for receipts, cache keys and files."""
        raise NotImplementedError

    def about(self) -> dict[str, Any]:
        return {**self.unguarded.about(), "guard": self.describe()}

    def save_guard(self, folder: Path) -> None:
        """Write the guard alone, without the model."""
        raise NotImplementedError


def unguarded(modality: Modality) -> Modality:
    """The modality without any guard: the one that an attacker with the weights uses."""
    while isinstance(modality, Guarded):
        modality = modality.unguarded
    return modality


def is_guarded(modality: Modality) -> bool:
    """Whether a guard decorates a modality."""
    return isinstance(modality, Guarded)
