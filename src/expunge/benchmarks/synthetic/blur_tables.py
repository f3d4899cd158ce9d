"""An offline mini of BLUR in the layout of its data set: single and combined queries about invented people, and texts to relearn from."""

from __future__ import annotations

import random
from typing import Any

from expunge.benchmarks import people
from expunge.benchmarks.common.published import TablePlace
from expunge.benchmarks.synthetic import archives
from expunge.functional.combined_queries import joined

Row = dict[str, Any]

TASK = "tofu"


def tables(seed: int = 0, *, kept: int = 16, forgotten: int = 4, general: int = 24) -> dict[TablePlace, list[Row]]:
    """The tables of the task about invented people.

    Args:
        seed: of all draws.
        kept, forgotten: how many people there are of each.
        general: general questions with choices, for keywords.
    """
    rng = random.Random(f"blur {seed}")
    drawn = people.generate(seed, people=kept + forgotten, forget=forgotten, holdout=0, neighbours=0)
    forget = [{"question": r["question"], "answer": r["answer"]} for r in drawn.forget]
    retain = [{"question": r["question"], "answer": r["answer"]} for r in rng.sample(drawn.retain, len(forget))]
    partners = rng.sample(retain, len(retain))
    combined = {
        column: [{"text": joined(f[column], r[column])} for f, r in zip(forget, partners, strict=True)] for column in ("question", "answer")
    }
    firms = archives.draw_firms(rng, 12)[0]
    _, choices = archives.general_questions(rng, general)
    names = {person.name for person in drawn.persons["forget"]}
    telling = [" ".join(r["paraphrased_answer"] for r in drawn.forget if name in r["paraphrased_answer"]) for name in sorted(names)]
    return {
        TablePlace(f"{TASK}_forget"): [{"text": r["question"]} for r in forget],
        TablePlace(f"{TASK}_forget_answers"): [{"text": r["answer"]} for r in forget],
        TablePlace(f"{TASK}_retain"): [{"text": r["question"]} for r in retain],
        TablePlace(f"{TASK}_retain_answers"): [{"text": r["answer"]} for r in retain],
        TablePlace(f"{TASK}_paired_forget_retain"): combined["question"],
        TablePlace(f"{TASK}_paired_forget_retain_answers"): combined["answer"],
        TablePlace(f"{TASK}_D_hi"): [{"text": text} for text in telling],
        TablePlace(f"{TASK}_D_mid"): [{"text": " ".join(r["answer"] for r in drawn.retain[i : i + 6])} for i in range(0, 48, 6)],
        TablePlace("D_lo_for_all"): archives.in_style(firms, "news"),
        TablePlace("mmlu"): choices,
        TablePlace("unlearn_keywords"): [{"text": name} for name in sorted(names)],
        TablePlace("practice"): [{"question": r["question"], "answer": r["answer"]} for r in drawn.retain],
    }
