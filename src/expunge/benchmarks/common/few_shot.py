"""Questions after worked examples, as models that follow no instructions are asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]

ASKED = "Question: {question}\nAnswer: "
EXAMPLE = ASKED + "{answer}\n\n"


def after_examples(rows: Sequence[Row], examples: Sequence[Row]) -> list[Row]:
    """The rows, with `question` and `answer`, as prompts that begin with the examples. Columns besides these two stay."""
    before = "".join(EXAMPLE.format(question=e["question"], answer=e["answer"]) for e in examples)
    others = [{k: v for k, v in row.items() if k not in ("question", "answer")} for row in rows]
    return [
        {**other, "prompt": before + ASKED.format(question=row["question"]), "completion": row["answer"]}
        for row, other in zip(rows, others, strict=True)
    ]
