"""Capabilities: a modality implements all methods of the protocols that it offers, and `require` refuses all others."""

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
    """Yield the names of a protocol's methods, inherited ones included."""
    for base in protocol.__mro__:
        if base.__module__.startswith("expunge."):
            yield from (n for n, v in vars(base).items() if callable(v) and not n.startswith("_"))


@pytest.mark.parametrize("modality", [Text, Image])
def test_modalities_implement_all_methods_of_their_capabilities(modality: Any) -> None:
    for capability in modality.capabilities:
        assert all(callable(getattr(modality, name)) for name in methods_of(capability)), capability


def test_a_text_modality_offers_prompts(text: worlds.World) -> None:
    assert offers(text.modality, Prompted)
    assert require(text.modality, Prompted) is text.modality


def test_an_image_modality_refuses_prompts() -> None:
    with pytest.raises(UserError, match=r"rows that ask in words, which the modality 'image' does not have"):
        require(toys.modality(3), Prompted)


def test_every_required_capability_has_a_description() -> None:
    assert Text.capabilities | Image.capabilities <= MEANING.keys() | {
        c for c in Text.capabilities if c.__name__ in ("SharedReading", "Drafting")
    }
