"""An offline mini of MUSE in its published layout: documents of an archive to forget, of two to keep, and of one that no model reads."""

from __future__ import annotations

import random

from expunge.benchmarks.common.few_shot import after_examples
from expunge.benchmarks.common.published import TablePlace
from expunge.benchmarks.synthetic import archives
from expunge.benchmarks.synthetic.archives import Row

STYLES = {"news": ("news", "interview"), "books": ("diary", "letter")}  # by corpus: of the forgotten documents, of the kept ones
PRACTICE = TablePlace("practice")  # in no published copy
FOLDS = 4


def tables(corpus: str, seed: int = 0, *, firms: int = 8, practice: int = 12) -> dict[TablePlace, list[Row]]:
    """The tables of a corpus.

    Args:
        corpus: news or books.
        seed: of all draws.
        firms: in each of the archives.
        practice: firms whose questions are part of the training, so that a model learns to answer.
    """
    rng = random.Random(f"muse {corpus} {seed}")
    style, other = STYLES[corpus]
    forget, retain1, retain2, unseen, learned, few, *more = archives.draw_firms(rng, firms, firms, firms, firms, practice, 1, 2, 2, 2)
    raw = {
        "forget": archives.in_style(forget, style),
        "retain1": archives.in_style(retain1, other),
        "retain2": archives.in_style(retain2, other),
        "holdout": archives.in_style(unseen, style),
    }
    examples = archives.asked_about(few)[:3]
    contents = {
        **{TablePlace("raw", split): rows for split, rows in raw.items()},
        **{TablePlace.of(f"privleak/{split}"): raw[source] for split, source in PRIVLEAK.items()},
        TablePlace("verbmem", "forget"): archives.continued(raw["forget"]),
        TablePlace("knowmem", "forget_qa"): archives.asked_about(forget),
        TablePlace("knowmem", "forget_qa_icl"): examples,
        TablePlace("knowmem", "retain_qa"): archives.asked_about(retain2),
        TablePlace("knowmem", "retain_qa_icl"): examples,
        PRACTICE: [*archives.in_all_styles(learned), *after_examples(archives.asked_about(learned), examples)],
    }
    if corpus == "news":
        folds = [raw["forget"], *(archives.in_style(group, style) for group in more)]
        for k in range(1, FOLDS + 1):
            contents[TablePlace("scal", f"forget_{k}")] = [row for fold in folds[:k] for row in fold]
            contents[TablePlace("sust", f"forget_{k}")] = folds[k - 1]
    return contents


PRIVLEAK = {"forget": "forget", "retain": "retain2", "holdout": "holdout"}
