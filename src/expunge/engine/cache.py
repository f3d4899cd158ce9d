"""Where this package keeps what it may make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_home() -> Path:
    """Where trained models, observations and answers are kept by content: $EXPUNGE_CACHE, else ~/.cache/expunge."""
    return Path(os.environ.get("EXPUNGE_CACHE") or Path.home() / ".cache" / "expunge")
