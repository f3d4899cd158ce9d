"""Questions with lettered choices, answered by the letter."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from expunge.core.errors import UserError

Row = dict[str, Any]

LETTERS = "ABCDEFGHIJ"


def lettered(row: Row, where: str, header: str = "") -> Row:
    """A row with `question`, `choices` and `answer` (the place of the right choice) as a prompt whose completion is a letter.

    Args:
        row: `choices` are texts, and `answer` is a place from 0, or the text of the right choice.
        where: name of the row in messages.
        header: what stands before the question.

    Raises:
        UserError: where the answer is no choice, or there are too few or too many choices.
    """
    options = list(row["choices"])
    if not 2 <= len(options) <= len(LETTERS):
        raise UserError(f"{where}: a question needs 2 to {len(LETTERS)} choices; this one has {len(options)}")
    place = answer_place(row, where)
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    letters = [f" {letter}" for letter in LETTERS[: len(options)]]
    return {"prompt": f"{header}{row['question']}\n{listed}\nAnswer:", "completion": letters[place], "choices": letters}


def answer_place(row: Row, where: str) -> int:
    """The place of the right choice. Raises: UserError where the answer is no choice."""
    options, answer = list(row["choices"]), row["answer"]
    if isinstance(answer, str) and answer in options:
        return options.index(answer)
    if isinstance(answer, int) and 0 <= answer < len(options):
        return answer
    raise UserError(f"{where}: the answer must be the place of a choice, from 0 to {len(options) - 1}, or its text; it is {answer!r}")


def with_keywords(rows: Sequence[Row], keywords: Sequence[str], seed: int = 0, replaced: int = 1) -> list[Row]:
    """The rows with wrong choices replaced by keywords; the right choice, its place and the number of choices stay.

    Args:
        rows: with `question`, `choices` and `answer`.
        keywords: to draw from, each as often as it is listed.
        seed: of the draws.
        replaced: wrong choices to replace in each row, all by different keywords that are no choice yet.

    Raises:
        UserError: for more replacements than a row has wrong choices or than there are keywords.
    """
    rng = random.Random(f"keywords {seed}")
    changed = []
    for number, row in enumerate(rows, start=1):
        options, right = list(row["choices"]), answer_place(row, f"row {number}")
        wrong = [i for i in range(len(options)) if i != right]
        drawn: list[str] = []
        usable = [k for k in keywords if k not in options]
        if replaced > len(wrong) or len(set(usable)) < replaced:
            raise UserError(
                f"row {number}: {replaced} wrong choices cannot be replaced: it has {len(wrong)}, and {len(set(usable))} keywords fit"
            )
        for place in rng.sample(wrong, replaced):
            drawn.append(rng.choice([k for k in usable if k not in drawn]))
            options[place] = drawn[-1]
        changed.append({**row, "choices": options, "answer": right})
    return changed
