"""The sets of an audit: the user's and a benchmark's, read and compared."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from expunge import catalog
from expunge.benchmarks.suite import SetSpec, Specs
from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.request import Request, digest
from expunge.core.rows import Rows
from expunge.evaluation.audited_models import spread
from expunge.evaluation.observe import Records
from expunge.evaluation.scoring import with_variants
from expunge.io.models import records, rows
from expunge.io.requested import Sources
from expunge.workflows.overlaps import Overlap, overlaps, refuse, same_questions

SETS = ("forget", "retain", "holdout")


def audited_sets(
    sources: Sources,
    suite_name: str,
    data: str,
    split: str,
    *,
    optional: bool,
    limit: int,
    allow_overlap: bool,
    variants: Mapping[str, str],
) -> tuple[dict[str, Records], Specs, list[str]]:
    """The sets of an audit, how to ask them, and sentences about rows that were left out.

    Args:
        sources: the user's sets, by name.
        suite_name, data, split: a benchmark, where its data are, and its split, whose sets fill what is not given.
        optional: no sets are needed, because the model was observed before.
        limit: rows of retain and holdout, evenly spread; 0: all.
        allow_overlap: rows to forget may also stand in retain or holdout.
        variants: by score, the definition to use.

    Raises:
        UserError: where the rows to forget are missing, or stand in another set too.
    """
    sets: dict[str, Records] = {}
    specs: dict[str, SetSpec] = {}
    if suite_name:
        suite = catalog.load(suite_name, "benchmarks").load(data, **({"split": split} if split else {}))
        sets.update(suite.sets)
        specs = {name: suite.spec(name) for name in suite.sets}
    sets.update({n: records(source, n) for n, source in sources.items() if source is not None and not isinstance(source, Rows)})
    if (data or split) and not suite_name:
        raise UserError(f"--{'data' if data else 'split'} belongs to a benchmark: name it with --suite")
    if "forget" not in sets:
        if optional and not sets:
            return {}, with_variants({}, variants), []
        raise UserError("an audit needs the rows that were to be forgotten: give --forget FILE, or --suite with its --split")
    if not allow_overlap:
        _check_disjoint(sets)
    kept = {n: spread(r, limit) if n in ("retain", "holdout") else r for n, r in sets.items()}
    notes = [
        f"Only {len(kept[n])} of {len(r)} rows of {n!r} were read (--limit {limit})." for n, r in sets.items() if len(kept[n]) < len(r)
    ]
    return kept, with_variants(specs, variants), notes


def _check_disjoint(sets: Mapping[str, Records]) -> None:
    """A quick look at the records before a model loads; the rows as a model reads them are compared later."""
    forgotten = {digest(_plain(r)) for r in sets["forget"]}
    for name in ("retain", "holdout"):
        if shared := sum(digest(_plain(r)) in forgotten for r in sets.get(name, ())):
            raise UserError(
                f"{shared} of {len(sets[name])} rows of {name!r} also stand in 'forget', so the two cannot be told apart. "
                f"Take them out, or allow it with --allow-overlap"
            )


def _plain(record: Mapping[str, Any]) -> list[Any]:
    """What tells a record from others: its texts, and the pictures that they are about."""
    texts = [record.get(k) for k in ("prompt", "completion", "question", "answer", "messages", "text")]
    pictures = [record[c] for name in catalog.names("modalities") for c in catalog.load(name, "modalities").FILE_COLUMNS if c in record]
    return [*texts, *pictures] if any(w is not None for w in texts) else sorted(record.items())


def read_rows(
    modality: Modality, sets: Mapping[str, Records], own: Collection[str], allow_overlap: bool, notes: list[str]
) -> tuple[Rows, list[Overlap]]:
    """The rows to forget as a model reads them, and the pairs of sets that share items.

    Args:
        modality: of the model.
        sets: records, by name.
        own: the user's sets, whose overlaps are refused; a benchmark's sets are as they are.
        allow_overlap: nothing is refused.
        notes: takes what the comparison has to say.

    Raises:
        UserError: for a row that cannot be read, with file and row, and for a set of the user that shares items with another one of
            forget, retain and holdout.
    """
    read = {name: read_set for name, r in sets.items() if (read_set := rows(modality, name, r)) is not None and len(read_set)}
    shared = overlaps(modality, read)
    if not allow_overlap:
        refuse([o for o in shared if {o.first, o.second} & set(own)])
    for name in (n for n in SETS if n in read):
        notes += Request(**{name: read[name]}).findings  # rows that repeat others of their set
    notes += same_questions(modality, read)
    return read["forget"], shared
