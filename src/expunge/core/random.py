"""Seeds: each one is a function of the place where it is used, so no generator has a state to save."""

from __future__ import annotations

import hashlib


def seed_of(*place: object) -> int:
    """A 56-bit seed for a place in a run, such as (seed, stage, epoch, step, part)."""
    return int.from_bytes(hashlib.sha256(repr(place).encode()).digest()[:7], "big")
