"""Capabilities: every protocol that a modality offers is there in full, and what it does not offer is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import toys
import worlds
from expunge.core.capabilities import MEANING, Prompted, offers, require
from expunge.core.errors import UserError
from expunge.modalities.image.modality import Image
from expunge.modalities.text.modality import Text


def methods_of(protocol: type) -> Iterator[str]:
    """The methods of a protocol, inherited ones included."""
    for base in protocol.__mro__:
        if base.__module__.startswith("expunge."):
            yield from (n for n, v in vars(base).items() if callable(v) and not n.startswith("_"))


@pytest.mark.parametrize("modality", [Text, Image])
def test_offered_capabilities_are_there_in_full(modality: Any) -> None:
    for capability in modality.capabilities:
        assert all(callable(getattr(modality, name)) for name in methods_of(capability)), capability


def test_a_text_modality_can_ask_otherwise(text: worlds.World) -> None:
    assert offers(text.modality, Prompted)
    assert require(text.modality, Prompted) is text.modality


def test_pictures_have_no_words() -> None:
    with pytest.raises(UserError, match=r"rows that ask in words, which the modality 'image' does not have"):
        require(toys.modality(3), Prompted)


def test_every_capability_has_a_meaning_in_words() -> None:
    assert Text.capabilities | Image.capabilities <= MEANING.keys() | {
        c for c in Text.capabilities if c.__name__ in ("SharedReading", "Drafting")
    }
