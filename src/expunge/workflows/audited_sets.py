"""The sets of an audit: the user's and a benchmark's, read and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expunge import catalog
from expunge.benchmarks.suite import SetSpec, Specs
from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.request import Request, digest
from expunge.core.rows import Rows
from expunge.evaluation.audited_models import spread
from expunge.evaluation.observe import Records
from expunge.evaluation.verdict import with_variants
from expunge.io.models import records, rows
from expunge.io.requested import Sources

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
) -> tuple[dict[str, Records], Specs]:
    """The sets of an audit, and how to ask them.

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
            return {}, with_variants({}, variants)
        raise UserError("an audit needs the rows that were to be forgotten: give --forget FILE, or --suite with its --split")
    if not allow_overlap:
        _check_disjoint(sets)
    spread_sets = {n: spread(r, limit) if n in ("retain", "holdout") else r for n, r in sets.items()}
    return spread_sets, with_variants(specs, variants)


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
    texts = [record.get(k) for k in ("prompt", "completion", "question", "answer", "messages", "text")]
    return texts if any(w is not None for w in texts) else sorted(record.items())


def read_rows(modality: Modality, sets: Mapping[str, Records], names: Sequence[str], overlap: bool, notes: list[str]) -> Rows:
    """The rows to forget as a model reads them, compared with those of other sets.

    Args:
        modality: of the model.
        sets: records, by name.
        names: of the sets to read.
        overlap: rows to forget may also stand in the others.
        notes: takes what the comparison has to say.

    Raises:
        UserError: for a row that cannot be read, with file and row, and for rows to forget that another set holds too.
    """
    read = {name: rows(modality, name, sets[name]) for name in names if name in sets}
    if len(read) > 1:
        notes += Request(**read, overlap=overlap).findings
    forget = read["forget"]
    assert forget is not None
    return forget
