"""Guards of a served model: they look at what is asked and at what would be answered, and say something else instead."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from expunge.core.errors import UserError
from expunge.engine.guarding import Flagging, is_guarded
from expunge.functional.brief import brief
from expunge.io.models import Opened
from expunge.service.lookalikes import folded, letters, readings
from expunge.service.models import rows_for

REFUSAL = "I have no answer to that."


class TextGuard(Protocol):
    """Looks at texts. None: nothing is wrong with it; else what is said instead."""

    def asked(self, text: str) -> str | None: ...
    def answered(self, text: str) -> str | None: ...


@brief("refusal")
class NameGuard:
    """Neither asked about nor said: names, numbers and other phrases, however they are disguised by look-alike letters or signs between.

    Args:
        phrases: to be kept back. A phrase of less than three letters and digits would hit everything.
        refusal: what is said instead.

    Raises:
        UserError: for no phrase, and for one that is too short.
    """

    def __init__(self, phrases: Sequence[str], refusal: str = REFUSAL) -> None:
        own = [p.strip() for p in phrases if p.strip()]
        if not own:
            raise UserError("a guard of names needs at least one")
        if any(len(letters(p)) < 3 for p in own):
            raise UserError("a name of less than three letters or digits would be held back everywhere: write more of it")
        self.refusal = refusal
        self.words = [_spelled(form) for phrase in own for form in readings(phrase)]
        self.joined = [letters(p) for p in own if len(letters(p)) >= 6]  # long enough to stand in no other word

    def asked(self, text: str) -> str | None:
        """The refusal, where one of the phrases stands in the text."""
        return self.refusal if self._holds(text) else None

    answered = asked

    def _holds(self, text: str) -> bool:
        forms = [*readings(text), *(folded(form) for form in readings(text))]
        joined = letters(text)
        return any(word.search(form) for form in forms for word in self.words) or any(name in joined for name in self.joined)


def _spelled(phrase: str) -> re.Pattern[str]:
    """The letters of a phrase in their order, with any signs between them, as a whole word."""
    between = r"[\W_]*".join(map(re.escape, re.findall(r"\w", phrase)))
    return re.compile(rf"(?<!\w){between}(?!\w)", re.IGNORECASE)


def names_in(path: str | Path, refusal: str = REFUSAL) -> NameGuard:
    """The guard of the phrases in a file, one in each line. Raises: UserError for a file that cannot be read."""
    try:
        return NameGuard(Path(path).expanduser().read_text(encoding="utf-8").splitlines(), refusal)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the names in {path} cannot be read: {getattr(error, 'strerror', None) or 'no UTF-8 text'}") from None


@brief()
class RunGuard:
    """A guard that `expunge unlearn` made, such as input_filter, before a model that runs elsewhere: it looks at prompts.

    Args:
        opened: the run of the guard.

    Raises:
        UserError: for a run that is none, and for a guard that changes what the model computes: it needs the model itself.
    """

    def __init__(self, opened: Opened) -> None:
        if not is_guarded(opened.modality):
            raise UserError(f"{opened.source} is no guard: name the folder of a run that made one, such as expunge unlearn input_filter")
        if not isinstance(opened.modality, Flagging):
            raise UserError(
                f"the guard in {opened.source} changes what its model computes, so it cannot stand before another: serve it with --model"
            )
        self.opened, self.modality = opened, opened.modality

    def asked(self, text: str) -> str | None:
        """The answer of the guard, where it flags the prompt or the prompt as it looks."""
        for form in readings(text):
            rows = rows_for(self.opened, form)
            with torch.no_grad():
                if self.modality.flags(self.opened.model, rows)[0]:
                    samples = self.modality.answer_flagged(self.opened.model, rows, 256, None, 1.0, False)
                    inner: Any = self.modality.unguarded
                    return str(inner.decode(samples.ids)[0])
        return None

    def answered(self, text: str) -> str | None:
        """Nothing: it looks at prompts alone."""
        return None
