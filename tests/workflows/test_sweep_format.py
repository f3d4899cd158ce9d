"""The format of questions in a sweep: the benchmark's, the model's own, or another."""

from __future__ import annotations

import pytest

from expunge.benchmarks.suite import QUESTION_ANSWER
from expunge.workflows.sweep import CHAT, Sweep


@pytest.mark.parametrize(("given", "expected"), [("", QUESTION_ANSWER), (CHAT, ""), ("Q: {prompt} A:", "Q: {prompt} A:")])
def test_questions_become_prompts_as_the_order_says(given: str, expected: str) -> None:
    sweep = Sweep("people", ("ga",), sizes={"people": 14, "forget": 4, "holdout": 2, "neighbours": 1}, prompt_format=given)
    assert sweep.load_suite().prompt_format == expected
