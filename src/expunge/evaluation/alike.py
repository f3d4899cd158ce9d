"""Whether models can be compared: all of them must read the rows to forget in the same way."""

from __future__ import annotations

from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.rows import Rows
from expunge.engine.secret import sealed_id
from expunge.evaluation.observation import Observation


class Alike:
    """A check that all models read the rows to forget in the same way: audits compare them answer by answer, token by token."""

    def __init__(self) -> None:
        self.first: tuple[str, str, dict[str, int]] | None = None

    def check(self, name: str, subject: Rows | Observation, modality: Modality | None = None) -> None:
        """Compare a model with the first one.

        Raises:
            UserError: where the two read the rows to forget in different ways.
        """
        if isinstance(subject, Observation):
            scored, about = subject.sets["forget"].kinds.get("answer"), dict(subject.about.get("modality") or {})  # type: ignore[call-overload]
            label_counts = dict(zip(subject.sets["forget"].ids, scored.lengths.tolist(), strict=True)) if scored else {}
        else:
            assert modality is not None
            about = dict(modality.about())
            label_counts = {i: int(modality.counts(subject.select([k]))["labels"]) for k, i in enumerate(map(sealed_id, subject.ids))}
        prompt_format = str(about.get("prompt_format", ""))
        if self.first is None:
            self.first = name, prompt_format, label_counts
            return
        first_name, first_format, first_labels = self.first
        shared = label_counts.keys() & first_labels.keys()
        if unequal := sum(label_counts[i] != first_labels[i] for i in shared):
            raise UserError(
                f"the {name} and the {first_name} have incompatible tokenizers: {unequal} of {len(shared)} answers to forget have "
                f"another number of tokens, so their scores cannot be compared. Give a model that shares the tokenizer"
            )
        if prompt_format != first_format:
            raise UserError(
                f"the {name} is asked by the prompt format {prompt_format!r} and the {first_name} by {first_format!r}, "
                f"so their scores cannot be compared. Give one for all with --prompt-format"
            )
