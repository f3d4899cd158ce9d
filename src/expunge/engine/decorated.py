"""Decorated modalities: one that changes the outputs of another and is like it in everything else."""

from __future__ import annotations

import copy
from typing import Any, Self

from expunge.core.modality import Modality
from expunge.functional.brief import brief


@brief("name", "inner")
class Decorated:
    """A modality around another one, `inner`. What it does not define itself is that of the inner modality."""

    def __init__(self, inner: Modality) -> None:
        self.inner = inner
        self.name = inner.name
        self.capabilities = inner.capabilities

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # during a copy
            raise AttributeError(name)
        return getattr(self.inner, name)

    def around(self, inner: Modality) -> Self:
        """The same decoration of another modality."""
        copied = copy.copy(self)
        copied.inner = inner
        return copied
