"""The package `rouge-score`, without the second that its imports take.

It needs one file of NLTK, the Porter stemmer. The package NLTK brings SciPy's statistics, scikit-learn and pandas with it, and absl a log,
which no score uses. So its files are imported beside light stand-ins for these packages, and nothing of that stays in `sys.modules`.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

LIGHT = ("nltk", "nltk.stem")  # packages of which single files are needed
MODULES = ("rouge_score.rouge_scorer", "rouge_score.tokenizers")


def scorer(kinds: list[str], **options: Any) -> Any:
    """A `RougeScorer`.

    Args:
        kinds: `rouge1`, `rougeL` and others. Summaries that are split by NLTK (`split_summaries`) need the whole package.
        options: of `RougeScorer`.
    """
    return _modules()[0].RougeScorer(kinds, **options)


def tokenizer(stem: bool) -> Any:
    """The `DefaultTokenizer`. stem: words of more than three letters become their stems."""
    return _modules()[1].DefaultTokenizer(use_stemmer=stem)


@cache
def _modules() -> list[ModuleType]:
    if not set(MODULES) & sys.modules.keys() and "nltk" not in sys.modules:
        try:
            with _stand_ins():
                return [importlib.import_module(name) for name in MODULES]
        except (ImportError, AttributeError):  # other versions may need more of NLTK
            pass
    return [importlib.import_module(name) for name in MODULES]


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Packages whose own files do not run, but whose modules can be imported. Afterwards everything is as before."""
    before = set(sys.modules)
    spec = find_spec("nltk")
    folder = spec.submodule_search_locations if spec else None
    if not folder:
        raise ImportError("NLTK is missing")
    for name in LIGHT:
        sys.modules[name] = stand_in = ModuleType(name)
        stand_in.__path__ = ["/".join([folder[0], *name.split(".")[1:]])]
    if "absl" not in sys.modules:
        sys.modules["absl"] = ModuleType("absl")
        sys.modules["absl"].logging = logging  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for name in [n for n in sys.modules if n not in before and n.partition(".")[0] in ("nltk", "rouge_score", "absl")]:
            del sys.modules[name]
