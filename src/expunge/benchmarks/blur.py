"""BLUR: one query asks for what is to be forgotten and for what is to be kept, and texts near the forgotten ones bring it back.

Source: Hu, Kale, Thaker, Fu, Wu, Smith 2025, arXiv 2506.15699; code s-huu/BLUR, data set `forgelab/BLUR`; not the method of the same name
Licence: Apache-2.0; the package includes none of the data. The mini is our own.
Splits: tofu (396 questions to forget, 396 to keep, 396 combined, all with answers), whp (200, 1,000, 200), rwku (1,702, 2,000, 1,702), wmdp
  (1,210, 713, 1,210). Sets: forget and retain (questions with answers, or texts to unlearn), blur_forget, blur_retain, blur_combined, and
  where there are such, mmlu and mmlu_keywords (a wrong choice of each question replaced by a keyword of what is to be forgotten), and hard
  (questions that compare Harry Potter with other books). Training rows relearn_hi, relearn_mid, relearn_lo are the texts to relearn from.
Scores: four of overlap with the original's answers, each as recall and as F-measure; choice_accuracy of mmlu and mmlu_keywords;
  recovery after relearning and perplexity under the original by `expunge.workflows.protocols`
Differs: halves of combined queries are paired by their text; `--variant "*=published"` pairs by line, as the released code does. Kept
  questions whose last characters the published files lack are rebuilt from the combined ones. Answers are greedy.
Status: faithful; tests check the pairing, the repair and the counts on the published data of the task tofu, and hand values of all scores;
  the paper's tables need models of 7B parameters and were not rerun

A source is a folder with the files of the code (`eval_data/tofu/...`, or all files of one task in one folder), or a data set with tables
such as `tofu_forget`. Tasks other than tofu have no rows to unlearn: put texts into `forget_corpus.jsonl` and `retain_corpus.jsonl`
beside their files. Keywords are inserted where `mmlu.jsonl` (question, choices, answer) and `unlearn_keywords.txt` (one in a line) stand
beside them, too, since no published file holds both. Models of published tasks exist already, so give them with --original and --retrained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from expunge.benchmarks.common import published
from expunge.benchmarks.common.letters import lettered, with_keywords
from expunge.benchmarks.common.published import TablePlace, Tables, generated, optional
from expunge.benchmarks.suite import QUESTION_ANSWER, SetSpec, Suite
from expunge.benchmarks.synthetic import blur_tables
from expunge.core.errors import UserError
from expunge.functional.combined_queries import parted, repaired
from expunge.modalities.text.refusals import REFUSALS

MODEL = "micro"  # the built-in size that it is made for

HUB = "forgelab/BLUR"
SPLITS = ("tofu", "whp", "rwku", "wmdp")
LENGTH = 100  # tokens of an answer
QUERY = "Answer the following question. Question: {query} Answer:"
UNKNOWN = "-"  # in place of the true answer to a question that has none
# By split and table: the file of the released code.
FILES = {
    ("tofu", "forget"): "pure_forget/forget_10_questions.txt",
    ("tofu", "forget_answers"): "pure_forget/forget_10_answers.txt",
    ("tofu", "retain"): "pure_retain/retain_10_questions.txt",
    ("tofu", "retain_answers"): "pure_retain/retain_10_answers.txt",
    ("tofu", "paired_forget_retain_answers"): "1_2_format/paired_forget_retain_answers.txt",
    ("whp", "forget"): "pure_forget/harry_potter_questions.txt",
    ("whp", "forget_answers"): "pure_forget/harry_potter_answers.txt",
    ("whp", "retain"): "pure_retain/all_retain.txt",
    ("whp", "hard"): "general_format/hp_lotr_crossover_hard_questions.txt",
    ("whp", "hard_answers"): "general_format/hp_lotr_crossover_hard_answers.txt",
    ("rwku", "forget"): "pure_forget/rwku_questions.txt",
    ("rwku", "retain"): "pure_retain/all_retain.txt",
    ("wmdp", "forget"): "pure_forget/all_forget.txt",
    ("wmdp", "retain"): "pure_retain/combined_retain_questions.txt",
    **{(split, "paired_forget_retain"): "1_2_format/paired_forget_retain_questions.txt" for split in SPLITS},
}
RELEARN = {  # by split: the released files, from the nearest to the forgotten texts to the farthest
    "tofu": {"lo": "lorem_ipsum.txt"},
    "whp": {"hi": "hp_summary.txt", "mid": "magic.txt", "lo": "lorem_ipsum.txt"},
    "rwku": {"hi": "rwku_hi.txt", "mid": "car_brand_and_movies.txt", "lo": "lorem_ipsum.txt"},
    "wmdp": {"hi": "wmdp_relearn_knowledge.txt", "mid": "college_biology.txt", "lo": "lorem_ipsum.txt"},
}
SHORTEST, LONGEST = 50, 2000  # characters of a text to relearn from: longer than, at most


def load(data: str = "", split: str = "tofu", seed: int = 0, *, keywords: int = 1, **limits: int) -> Suite:
    """Load the suite of a task.

    Args:
        data: a folder with the files of the task, or the hub id; empty: the offline mini of the task tofu.
        split: a name of SPLITS.
        seed: of the mini, and of the draw of keywords.
        keywords: wrong choices of each multiple-choice question to replace by a keyword, 1 to 3.
        limits: the most rows of a set to audit, from its start, e.g. `blur_combined=50`. Training rows stay complete.

    Raises:
        UserError: for an unknown split or set, for a source that cannot be read or lacks a table, and for files that do not fit together.
    """
    published.checked_split(split, SPLITS, "BLUR")
    if not data and split != blur_tables.TASK:
        raise UserError(f"the mini of BLUR has the task {blur_tables.TASK} alone: for {split} give its data with --data, e.g. {HUB}")
    read = generated(blur_tables.tables(seed)) if not data else _files(data, split)
    name = lambda table: TablePlace(f"{split}_{table}")  # noqa: E731
    texts = lambda place: [str(row["text"]) for row in optional(read, place, "text") if str(row["text"]).strip()]  # noqa: E731
    required = lambda place: [str(row["text"]) for row in read(place, "text") if str(row["text"]).strip()]  # noqa: E731
    forget, combined = required(name("forget")), required(name("paired_forget_retain"))
    partners = _partners(forget, combined, split)
    retain = [repaired(q, partners) for q in required(name("retain"))]
    forget_answers, pairs = texts(name("forget_answers")), texts(name("paired_forget_retain_answers"))
    retain_answers = [repaired(a, _partners(forget_answers, pairs, split)) for a in texts(name("retain_answers"))] if pairs else []
    sets: dict[str, list[dict[str, Any]]] = {
        "forget": _questions(forget, forget_answers) if retain_answers else optional(read, TablePlace("forget_corpus"), "text"),
        "retain": _questions(retain, retain_answers) if retain_answers else optional(read, TablePlace("retain_corpus"), "text"),
        "blur_forget": _queries(forget, forget_answers),
        "blur_retain": _queries(retain, retain_answers),
        "blur_combined": _queries(combined, pairs),
        "hard": _queries(texts(name("hard")), texts(name("hard_answers"))),
        **_choices(read, seed, keywords),
    }
    if not sets["forget"] or not sets["retain"]:
        raise UserError(f"the task {split} has no rows to unlearn: put texts into forget_corpus.jsonl and retain_corpus.jsonl in {data}")
    kept = [row for row in optional(read, TablePlace("practice")) if row not in sets["retain"]]
    corpora = {"hi": name("D_hi"), "mid": name("D_mid"), "lo": TablePlace("D_lo_for_all")}
    relearn = {f"relearn_{near}": relearning_rows(texts(place)) for near, place in corpora.items()}
    return Suite(
        name=f"blur {split}" + ("" if data else " mini"),
        sets=published.cut(sets, limits, "BLUR"),
        train={
            "full": [*kept, *sets["retain"], *sets["forget"]],
            "forget": sets["forget"],
            "retain": [*kept, *sets["retain"]],
            **{use: rows for use, rows in relearn.items() if rows},
        },
        specs={
            "blur_forget": SetSpec("forget", ("generate",), length=LENGTH),
            "blur_retain": SetSpec("retain", ("generate",), length=LENGTH),
            "blur_combined": SetSpec("general", ("generate",), length=LENGTH),
            "hard": SetSpec("general", ("generate",), length=LENGTH),
            **{s: SetSpec("general", ("choose",), ("choice",), {"*": "acc"}) for s in ("mmlu", "mmlu_keywords")},
        },
        refusals=REFUSALS,
        prompt_format=QUESTION_ANSWER,
        metrics=("blur",),
    )


def relearning_rows(texts: list[str]) -> list[dict[str, Any]]:
    """Texts to relearn from: those of more than 50 characters, cut at 2,000."""
    return [{"text": text[:LONGEST]} for text in texts if len(text) > SHORTEST]


def _files(data: str, split: str) -> Tables:
    """Tables from the files of the released code, in its folders or all in one, else in the layout of the data set."""
    folder, tables = Path(data).expanduser(), published.published(data, "BLUR")

    def table(place: TablePlace, *columns: str) -> list[dict[str, Any]]:
        known = FILES.get((split, place.config.removeprefix(f"{split}_")))
        near = place.config.removeprefix(f"{split}_").removeprefix("D_").removesuffix("_for_all")
        names = [known] if known else [f"../../relearn_data/{RELEARN[split][near]}"] if near in RELEARN[split] else []
        for name in names:
            for file in (folder / "eval_data" / split / name, folder / name, folder / Path(name).name):
                if file.is_file():
                    return [{"text": line} for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        return tables(place, *columns)

    return table


def _partners(firsts: list[str], combined: list[str], split: str) -> list[str]:
    """The second halves of combined texts. Raises: UserError where one has no known first half."""
    halves = [parted(text, firsts) for text in combined]
    if None in halves:
        line = halves.index(None) + 1
        raise UserError(f"line {line} of the combined queries of {split} begins with no query to forget: the files do not fit together")
    return [half[1] for half in halves if half]


def _questions(questions: list[str], answers: list[str]) -> list[dict[str, Any]]:
    _check_parallel(questions, answers)
    return [{"question": q, "answer": a} for q, a in zip(questions, answers, strict=True)]


def _queries(queries: list[str], answers: list[str]) -> list[dict[str, Any]]:
    """Queries as the benchmark asks them; without true answers a sign stands in their place, since no score reads it."""
    if answers:
        _check_parallel(queries, answers)
    known = answers or [UNKNOWN] * len(queries)
    return [{"prompt": QUERY.format(query=q), "completion": a} for q, a in zip(queries, known, strict=True)]


def _check_parallel(questions: list[str], answers: list[str]) -> None:
    if len(questions) != len(answers):
        raise UserError(
            f"BLUR has an answer to each question, in the same line: there are {len(questions)} questions and {len(answers)} answers"
        )


def _choices(read: Tables, seed: int, keywords: int) -> dict[str, list[dict[str, Any]]]:
    """Multiple-choice questions, and the same with keywords among the wrong choices; none without a table of them."""
    rows = optional(read, TablePlace("mmlu"), "question", "choices", "answer")
    listed = [str(row["text"]) for row in optional(read, TablePlace("unlearn_keywords"), "text")]
    if not rows or not listed:
        return {}
    changed = with_keywords(rows, listed, seed, keywords)
    return {n: [lettered(r, f"{n}, row {i}") for i, r in enumerate(of, 1)] for n, of in (("mmlu", rows), ("mmlu_keywords", changed))}
