"""Ports that ask in words, and one that does not."""

from __future__ import annotations

import pytest

import toys
import worlds
from expunge.core.capabilities import Prompts, prompts
from expunge.core.errors import UserError


def test_a_text_port_can_ask_otherwise(text: worlds.World) -> None:
    assert prompts(text.port) is text.port
    own = {n for n in vars(Prompts) if not n.startswith("_")}
    assert own == {"ask", "reask", "begun", "unanswerable", "admit", "places"}
    assert all(callable(getattr(text.port, n)) for n in own)


def test_pictures_have_no_words() -> None:
    with pytest.raises(UserError, match="rows that ask in words, which a model of the kind 'image' cannot give"):
        prompts(toys.port(3))
