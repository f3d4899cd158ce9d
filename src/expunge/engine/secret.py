"""Hashes of rows that nobody can try against a list: keyed by a secret of this user, which no receipt and no run folder holds."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from expunge.engine.cache import cache_home

HASH = re.compile("[0-9a-f]{16,}")


def sealed(text: str) -> str:
    """A hash of a text, keyed by the secret: equal for equal texts of this user (or of those who share a cache), and for nobody else."""
    return _hash(text, _secret(cache_home() / "secret"))


def sealed_id(row_id: str) -> str:
    """The id of a row with all hashes in it sealed; what marks copies and windows of a row stays."""
    return sealed_ids([row_id])[0]


def sealed_ids(row_ids: Iterable[str]) -> tuple[str, ...]:
    """As `sealed_id`, of many rows."""
    secret = _secret(cache_home() / "secret")
    return tuple(HASH.sub(lambda match: _hash(match[0], secret), row_id) for row_id in row_ids)


def _hash(text: str, secret: bytes) -> str:
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()[:32]


@cache
def _secret(path: Path) -> bytes:
    """The secret in a file that only its owner reads; it is made at first use."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.touch(mode=0o600)
    temporary.write_bytes(secrets.token_bytes(32))
    try:
        os.link(temporary, path)  # another process may have made it meanwhile: the first one stays
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    return path.read_bytes()
