"""DUSK: archives that tell of the same people in different words; forget one archive, and keep what the others tell as well.

Source: Jeung et al. 2025, arXiv 2505.15209; code AI-ISL/DUSK, data set `AI-ISL/DUSK` (120 invented professors, five styles)
Licence: MIT, by the tag of the data set; the package includes none of it. The mini is our own.
Splits: chronological: forget the chronological archive (120 documents), retain the other four. Sets: forget, retain, holdout (documents),
  verbatim (47 passages to continue), unique_forget (20 questions about people of the forgotten archive alone), shared (134 questions that
  other archives answer as well), unique_retain (119 questions about people of one retained archive).
Scores: the seven of DUSK: verbatim memorization, unique forget knowledge, privacy leakage, shared knowledge, unique retain knowledge,
  downstream capability, retain deviation; and the longest common subsequence and the edit distance of its code
Differs: items of the two membership scores are the rows of a table, or windows of rows that are too long for the model, where the code has
  windows of 1,024 tokens; downstream capability is scored on the mini's general questions, of the published data by an evaluation harness
Status: faithful; tests check the layout of the mini, hand values of all scores, and that a model scored beside itself has no leakage and no
  deviation; published scores need a model of 8B parameters, were not rerun, and are not quoted

Without data, the suite is the mini: invented firms in place of professors, in the same tables. Its models also train on rows to practice
on, since a small model has not learned to answer questions elsewhere.
"""

from __future__ import annotations

from expunge.benchmarks.common import published
from expunge.benchmarks.common.few_shot import after_examples
from expunge.benchmarks.common.published import TablePlace, Tables, generated
from expunge.benchmarks.suite import QUESTION_ANSWER, SetSpec, Suite
from expunge.benchmarks.synthetic import dusk_tables
from expunge.benchmarks.synthetic.archives import Row
from expunge.modalities.text.refusals import REFUSALS

MODEL = "micro"  # the built-in size that it is made for

HUB = "AI-ISL/DUSK"
SPLITS = ("chronological",)
STYLES = tuple(dusk_tables.STYLE_OF)  # splits of the documents: the one to forget, then the others
QUESTIONS = {  # by set: the table of its questions
    "unique_forget": "eval_specific_forget_qa",
    "shared": "eval_general_qa",
    "unique_retain": "eval_specific_retain_qa",
}
PASSAGE, ANSWER = 128, 32  # tokens of a continued passage, and of an answer


def load(data: str = "", split: str = "chronological", seed: int = 0, **limits: int) -> Suite:
    """Load the suite.

    Args:
        data: a folder in the published layout, or the hub id; empty: the offline mini.
        split: a name of SPLITS.
        seed: of the mini.
        limits: the most rows of a set to audit, from its start, e.g. `verbatim=10`. Training rows stay complete.

    Raises:
        UserError: for an unknown split or set, and for a source that cannot be read or lacks a table or a column.
    """
    published.checked_split(split, SPLITS, "DUSK")
    tables = published.published(data, "DUSK") if data else generated(dusk_tables.tables(seed))
    forget, *retain = (tables(TablePlace("raw", style), "text") for style in STYLES)
    kept = [row for rows in retain for row in rows]
    examples = tables(TablePlace("eval_icl"), "question", "answer")
    practice = published.optional(tables, dusk_tables.PRACTICE)
    sets: dict[str, list[Row]] = {
        "forget": forget,
        "retain": kept,
        "holdout": tables(TablePlace("eval_holdout"), "text"),
        "verbatim": passages(tables, TablePlace("eval_verbatim"), "gt"),
        **{name: after_examples(tables(TablePlace(config), "question", "answer"), examples) for name, config in QUESTIONS.items()},
        "downstream": published.optional(tables, dusk_tables.DOWNSTREAM),
    }
    return Suite(
        name=f"dusk {split}" + ("" if data else " mini"),
        sets=published.cut(sets, limits, "DUSK"),
        train={"full": [*practice, *kept, *forget], "forget": forget, "retain": [*practice, *kept]},
        specs={
            "forget": SetSpec("forget"),
            "retain": SetSpec("retain", ("score", "moments")),
            "verbatim": SetSpec("forget", ("score", "generate"), length=PASSAGE),
            "unique_forget": SetSpec("forget", ("score", "generate"), length=ANSWER),
            "shared": SetSpec("retain", ("score", "generate"), length=ANSWER),
            "unique_retain": SetSpec("retain", ("score", "generate"), length=ANSWER),
            "downstream": SetSpec("general", ("choose",)),
        },
        refusals=REFUSALS,
        prompt_format=QUESTION_ANSWER,
        metrics=("dusk",),
    )


def passages(tables: Tables, place: TablePlace, continuation: str) -> list[Row]:
    """Passages to continue, as prompts with their completions."""
    return [{"prompt": row["prompt"], "completion": row[continuation]} for row in tables(place, "prompt", continuation)]
