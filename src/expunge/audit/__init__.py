"""Evidence that something was forgotten: observations of a model, the scores and attacks that read them, and the verdict.

The package is callable: `expunge.audit(model, forget=...)` is `expunge.audit.auditing.audit`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """The verb and the package that does it share a name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from .auditing import audit

        return audit(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
