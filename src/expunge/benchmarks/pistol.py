"""PISTOL: invented contracts between invented firms, the edges of a graph with twenty questions each; forget one of them, keep the others.

Source: Qiu et al. 2024, arXiv 2406.16810; as LUNAR uses it (Shen et al. 2025, arXiv 2502.07218): sample 1 has 400 rows of 20 contracts,
  sample 2 1,500 rows of 75; records with `edge`, `question` and `answer`.
Licence: that of the copy that is read; none comes with the package.
Splits: every edge is one (A_B, A_C ...): its rows are to be forgotten, all others retained.
Scores: those that need no paraphrases (ROUGE, probability, extraction strength); retain ROUGE is the utility.
Status: faithful; counts and the cut are tested, on a small copy and, where there is one, on sample 1; published scores need a fine-tuned
  chat model of 7B parameters and were not rerun.

There are no rows that were never trained on. The authors also ask an unrelated set of facts; give such rows to the audit as you have them.
With the rows as files the same is had without a benchmark: `expunge unlearn lunar --model M --forget pistol_sample1.json::edge=A_B --retain
pistol_sample1.json::edge!=A_B --alternate-answers REFUSED.jsonl --out RUN`, REFUSED questions that the model refuses, with its refusals.
"""

from __future__ import annotations

from collections.abc import Iterable

from expunge.benchmarks.suite import QUESTION_ANSWER, Suite
from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.io.data import BadRow, Row, read
from expunge.modalities.text.refusals import REFUSALS


def load(data: str = "", split: str = "A_B", seed: int = 0, *, retain: int = 0) -> Suite:
    """The suite of an edge.

    Args:
        data: a file, or a data set by its id, in the published layout; there is no default.
        split: the edge whose rows are to be forgotten.
        seed: changes nothing, for nothing is drawn; every benchmark takes one.
        retain: at most so many retained rows are audited, evenly spread; 0: all. Training rows stay whole.

    Errors: UserError without data, for an edge that is not there or is all there is, and for rows that lack a column.
    """
    if not data:
        raise UserError("pistol comes with no data: give its file with --data, e.g. pistol_sample1.json")
    rows = read(data)
    for number, row in enumerate(rows, start=1):
        if missing := [c for c in ("edge", "question", "answer") if c not in row]:
            raise BadRow(f"{data}, row {number}: no column '{missing[0]}' as PISTOL has it; there are {', '.join(row)}")
    edges = list(dict.fromkeys(row["edge"] for row in rows))
    if split not in edges:
        raise UserError(f"there is no edge '{split}' in {data}{did_you_mean(split, edges)}; there are {', '.join(edges)}")
    if len(edges) == 1:
        raise UserError(f"{data} has the edge {split} alone, so nothing would be retained")
    forget, rest = (_asked(row for row in rows if (row["edge"] == split) == mine) for mine in (True, False))
    audited = rest[:: max(1, len(rest) // retain)][:retain] if retain else rest
    return Suite(
        name=f"pistol {split}",
        sets={"forget": forget, "retain": audited},
        train={"full": [*rest, *forget], "forget": forget, "retain": rest},
        refusals=REFUSALS,
        prompt_format=QUESTION_ANSWER,
    )


def _asked(rows: Iterable[Row]) -> list[Row]:
    return [{"question": row["question"], "answer": row["answer"]} for row in rows]
