"""PISTOL: invented contracts between invented firms, the edges of a graph with twenty questions each; forget one contract, keep the others.

Source: Qiu et al. 2024, arXiv 2406.16810; as LUNAR uses it (Shen et al. 2025, arXiv 2502.07218): sample 1 has 400 rows of 20 contracts,
  sample 2 has 1,500 rows of 75; each record has `edge`, `question` and `answer`.
Licence: that of the copy you read; the package includes none.
Splits: one for each edge (A_B, A_C ...): its rows are to be forgotten, all other rows are retained. Several edges are joined by a plus
  (A_B+A_C), and a firm is all its contracts (A, m). Requests one after the other: `expunge.workflows.protocols.over_folds`, whose folds are
  the edges, with `in_sequence`.
Scores: the scores that need no paraphrases (ROUGE, probability, extraction strength); retain ROUGE is the utility. The deviation score is
  that of LUNAR with `--variant deviation_score=rouge_1`; `protocols.ranked` gives its mean reciprocal rank and its hit rate of true tokens.
Status: faithful; tests check the counts and the split, on a small copy and, if available, on sample 1; published scores need a fine-tuned
  chat model of 7B parameters and were not rerun.

PISTOL has no rows that a model was never trained on. The authors also ask an unrelated set of facts; if you have such rows, give them to
the audit. With the rows as files the same works without a benchmark: `expunge unlearn lunar --model M --forget
pistol_sample1.json::edge=A_B --retain pistol_sample1.json::edge!=A_B --alternate-answers REFUSED.jsonl --out RUN`,
where REFUSED.jsonl contains questions that the model refuses, with its refusals.
"""

from __future__ import annotations

from collections.abc import Iterable

from expunge.benchmarks.suite import QUESTION_ANSWER, Suite
from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.io.data import BadRow, Row, read
from expunge.modalities.text.refusals import REFUSALS

MODEL = "micro"  # the built-in size that it is made for


def load(data: str = "", split: str = "A_B", seed: int = 0, *, retain: int = 0) -> Suite:
    """Load the suite of an edge.

    Args:
        data: a file, or a data set by its id, in the published layout; there is no default.
        split: the edge whose rows are to be forgotten; several joined by a plus, or a firm, whose contracts are all forgotten.
        seed: has no effect, because nothing is drawn; every benchmark takes one.
        retain: the most retained rows to audit, evenly spread; 0: all. Training rows stay complete.

    Raises:
        UserError: without data, for an unknown edge or firm, if no edge would be retained, and for rows that lack a column.
    """
    if not data:
        raise UserError("pistol comes with no data: give its file with --data, for example pistol_sample1.json")
    rows = read(data)
    for number, row in enumerate(rows, start=1):
        if missing := [c for c in ("edge", "question", "answer") if c not in row]:
            raise BadRow(f"{data}, row {number}: no column '{missing[0]}' as PISTOL has it; there are {', '.join(row)}")
    edges = list(dict.fromkeys(row["edge"] for row in rows))
    leaving: set[str] = set()
    for part in split.split("+"):
        contracts = {edge for edge in edges if part == edge or part in edge.split("_")}
        if not contracts:
            raise UserError(f"there is no edge '{part}' in {data}{did_you_mean(part, edges)}; there are {', '.join(edges)}")
        leaving |= contracts
    if len(leaving) == len(edges):
        raise UserError(f"{data} has the edge {', '.join(edges)} alone, so no row would be retained")
    forget, rest = (_questions(row for row in rows if (row["edge"] in leaving) == forgotten) for forgotten in (True, False))
    audited = rest[:: max(1, len(rest) // retain)][:retain] if retain else rest
    return Suite(
        name=f"pistol {split}",
        sets={"forget": forget, "retain": audited},
        train={"full": [*rest, *forget], "forget": forget, "retain": rest},
        refusals=REFUSALS,
        prompt_format=QUESTION_ANSWER,
    )


def _questions(rows: Iterable[Row]) -> list[Row]:
    return [{"question": row["question"], "answer": row["answer"]} for row in rows]
