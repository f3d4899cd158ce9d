"""The rows of an audit, and whether all models read them alike."""

from __future__ import annotations

from collections.abc import Mapping

from expunge import catalog
from expunge.benchmarks.suite import SetSpec, Specs
from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.rows import Rows
from expunge.evaluation.audited_models import spread
from expunge.evaluation.observation import Observation
from expunge.evaluation.observe import Records
from expunge.io.models import Source, records
from expunge.io.secret import sealed_id


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
            scored, about = subject.sets["forget"].kinds["answer"], dict(subject.about.get("modality") or {})  # type: ignore[call-overload]
            label_counts = dict(zip(subject.sets["forget"].ids, scored.lengths.tolist(), strict=True))
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


def sets_of(
    sources: Mapping[str, Source | None], suite_name: str, data: str, split: str, limit: int, optional: bool
) -> tuple[dict[str, Records], Specs, list[str]]:
    """The sets of an audit, how to ask them, and sentences about rows that were left out.

    Args:
        sources: the user's own rows by set.
        suite_name, data, split: a benchmark that fills what is not given.
        limit: rows of retain and holdout at most; 0: all.
        optional: an audit of observations needs no sets.

    Raises:
        UserError: where rows are missing, or options do not fit together.
    """
    sets: dict[str, Records] = {}
    specs: dict[str, SetSpec] = {}
    if suite_name:
        suite = catalog.load(suite_name, "benchmarks").load(data, **({"split": split} if split else {}))
        sets.update(suite.sets)
        specs = {name: suite.spec(name) for name in suite.sets}
    sets.update({n: records(source, n) for n, source in sources.items() if source is not None})
    if (data or split) and not suite_name:
        raise UserError(f"--{'data' if data else 'split'} belongs to a benchmark: name it with --suite")
    if "forget" not in sets:
        if optional and not sets:
            return {}, {}, []
        raise UserError("an audit needs the rows that were to be forgotten: give --forget FILE, or --suite with its --split")
    kept = {n: spread(r, limit) if n in ("retain", "holdout") else r for n, r in sets.items()}
    notes = [
        f"Only {len(kept[n])} of {len(r)} rows of {n!r} were read (--limit {limit})." for n, r in sets.items() if len(kept[n]) < len(r)
    ]
    return kept, specs, notes
