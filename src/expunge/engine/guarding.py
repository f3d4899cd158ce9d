"""Guards decorate the modality: a guarded modality answers in the guard's way, and the weights stay as they are."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from expunge.core.modality import Modality


class Guarded:
    """A modality with another `forward` or `generate`; everything else is that of the modality inside.

    A guard derives from this class, overrides what it answers differently, and says in `capabilities` what it no longer offers: fast paths
    around `forward` and `generate` among them.
    """

    def __init__(self, inner: Modality) -> None:
        self.unguarded = inner
        self.name = inner.name
        self.capabilities = inner.capabilities

    def __getattr__(self, name: str) -> Any:
        if name == "unguarded":  # while it is being copied
            raise AttributeError(name)
        return getattr(self.unguarded, name)

    def around(self, inner: Modality) -> Guarded:
        """The same guard around another modality."""
        other = copy.copy(self)
        other.unguarded = inner
        return other

    def describe(self) -> dict[str, Any]:
        """What the guard does, for receipts, cache keys and files."""
        raise NotImplementedError

    def about(self) -> dict[str, Any]:
        return {**self.unguarded.about(), "guard": self.describe()}

    def save_guard(self, folder: Path) -> None:
        """Write the guard alone; the model is where it was."""
        raise NotImplementedError


def unguarded(modality: Modality) -> Modality:
    """The modality without any guard: what an attacker with the weights asks."""
    while isinstance(modality, Guarded):
        modality = modality.unguarded
    return modality


def is_guarded(modality: Modality) -> bool:
    """Whether a guard decorates a modality."""
    return isinstance(modality, Guarded)
