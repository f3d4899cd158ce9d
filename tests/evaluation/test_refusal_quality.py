"""Refusal quality of answers: its parts, and a judge that makes no sense."""

from __future__ import annotations

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity

from expunge.core.errors import UserError
from expunge.engine.writers import Rules
from expunge.evaluation.refusal_quality import refusal_quality_of

ANSWERS = ["I do not know.", "She was born in Pellgrove."]


def test_quality_is_the_sum_of_its_parts() -> None:
    judge = Rules("by words", lambda text: '{"refusal": true, "grade": 3}' if "do not know" in text else '{"refusal": false, "grade": 1}')
    quality = refusal_quality_of(ANSWERS, judge, templates=["I do not know.", "No idea."])
    vectors = TfidfVectorizer(token_pattern=r"\w+").fit([*ANSWERS, "I do not know.", "No idea."])
    nearest = cosine_similarity(vectors.transform(ANSWERS), vectors.transform(["I do not know.", "No idea."])).max(1)
    assert quality.similarity == pytest.approx(nearest.mean())
    assert (quality.refusal_rate, quality.grade, quality.n) == (0.5, 2.0, 2)
    assert quality.value == pytest.approx(nearest.mean() + 0.5 + 0.2 * 2 / 3)
    assert quality.judge == {"writer": "rules", "name": "by words"}


@pytest.mark.parametrize(
    "reply", ["yes", '{"refusal": "yes", "grade": 3}', '{"refusal": true, "grade": 4}', '{"refusal": true, "grade": true}']
)
def test_a_judge_that_makes_no_sense_is_named(reply: str) -> None:
    with pytest.raises(UserError, match='rules oracle should give JSON with "refusal" and "grade"'):
        refusal_quality_of(ANSWERS, Rules("oracle", lambda text: reply))
    with pytest.raises(UserError, match="no answer"):
        refusal_quality_of([], Rules("oracle", lambda text: reply))
