"""Summary-level ROUGE-L recall: values that the package `rouge` gives, worked out by hand."""

import pytest

from expunge.functional.summary_rouge import common_subsequence, recall


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("Wizards of Waverly Place", "Wizards of Waverly Place", 1.0),
        ("It was wizards of waverly place", "Wizards of Waverly Place", 0.25),  # only `of`, for case counts
        ("of Place", "Wizards of Waverly Place", 0.5),
        ("1947,", "1947", 0.0),  # marks other than full stops belong to words
        ("In 1947.", "1947", 1.0),
        ("", "1947", 0.0),
        ("...", "1947", 0.0),
        ("1947", "", 0.0),
        ("a b. c d", "a c. b d", 1.0),  # every sentence against every sentence
        ("b a", "a b", 0.5),
        ("the the the", "the cat the hat", 1 / 3),  # words count once
    ],
)
def test_recall_by_hand(text: str, reference: str, expected: float) -> None:
    assert recall(text, reference) == pytest.approx(expected)


def test_a_common_subsequence_keeps_the_order() -> None:
    assert common_subsequence(["a", "x", "b", "y", "c"], ["c", "a", "b", "c", "z"]) == ["a", "b", "c"]
    assert common_subsequence([], ["a"]) == []
