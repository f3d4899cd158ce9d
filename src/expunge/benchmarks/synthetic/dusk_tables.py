"""An offline mini of DUSK in its published layout: five archives of one style each, which share some firms and have some of their own."""

from __future__ import annotations

import random

from expunge.benchmarks.common.few_shot import after_examples
from expunge.benchmarks.common.published import TablePlace
from expunge.benchmarks.synthetic import archives
from expunge.benchmarks.synthetic.archives import Row

STYLE_OF = {  # by split of the published documents: a style of ours
    "forget_chronological": "diary",
    "retain_feature_story": "news",
    "retain_interview": "interview",
    "retain_inverted_pyramid": "encyclopedia",
    "retain_listicle": "letter",
}
DOWNSTREAM, PRACTICE = TablePlace("downstream"), TablePlace("practice")  # in no published copy


def tables(seed: int = 0, *, shared: int = 8, unique: int = 2, practice: int = 12, general: int = 24) -> dict[TablePlace, list[Row]]:
    """The tables.

    Args:
        seed: of all draws.
        shared: firms that all archives tell of.
        unique: firms that an archive alone tells of, in all styles.
        practice: firms whose questions are part of the training, so that a model learns to answer.
        general: general questions.
    """
    rng = random.Random(f"dusk {seed}")
    of_all, learned, few, unseen, *own = archives.draw_firms(rng, shared, practice, 1, shared, *[unique] * len(STYLE_OF))
    raw, questions = {}, {}
    for (split, style), firms in zip(STYLE_OF.items(), own, strict=True):
        raw[TablePlace("raw", split)] = [*archives.in_style(of_all, style), *archives.in_all_styles(firms)]
        questions[split] = archives.asked_about(firms)
    forget, *retain = STYLE_OF
    known, choices = archives.general_questions(rng, general)
    examples = archives.asked_about(few)[:3]
    taught = after_examples(archives.asked_about(learned), examples)
    return {
        **raw,
        TablePlace("eval_verbatim"): archives.continued(raw[TablePlace("raw", forget)][:shared]),
        TablePlace("eval_general_qa"): archives.asked_about(of_all),
        TablePlace("eval_specific_forget_qa"): questions[forget],
        TablePlace("eval_specific_retain_qa"): [row for split in retain for row in questions[split]],
        TablePlace("eval_icl"): examples,
        TablePlace("eval_holdout"): archives.in_style(unseen, STYLE_OF[forget]),
        PRACTICE: [*archives.in_all_styles(learned), *taught, *after_examples(known, examples)],
        DOWNSTREAM: choices,
    }
