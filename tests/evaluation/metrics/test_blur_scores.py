"""Scores of BLUR: values of the library, pairing by text and by line, and what must differ between a filter and a router."""

import random
from dataclasses import replace

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from expunge.benchmarks.common.letters import LETTERS, lettered, with_keywords
from expunge.core.errors import UserError
from expunge.evaluation.measure import Evidence, Missing
from expunge.evaluation.metrics import blur, choice
from expunge.evaluation.observation import Observation
from expunge.functional.combined_queries import joined, parted, repaired, shared_ngrams
from spoken import lettered as chosen
from spoken import packed, spoken

F = ["Where was Ann born?", "Where was Ann born and raised?", "What does Bo do?"]
R = ["Who wrote Emma?", "What is the capital of Peru?", "How many legs has a spider?"]
F_ANSWERS = ["Ann was born in Lund", "Ann was raised in Oslo", "Bo bakes bread"]
R_ANSWERS = ["Jane Austen wrote it", "The capital is Lima", "A spider has eight legs"]
PARTNER = [2, 0, 1]  # of each question to forget
SCORER = RougeScorer(["rougeL"], use_stemmer=True)


def asked(queries: list[str]) -> list[str]:
    return [f"Answer the following question. Question: {q} Answer:" for q in queries]


def observed(forget: list[str], retain: list[str], combined: list[str]) -> Observation:
    queries = [joined(f, R[p]) for f, p in zip(F, PARTNER, strict=True)]
    return Observation(
        {
            "blur_forget": spoken(F_ANSWERS, forget, asked(F), name="f"),
            "blur_retain": spoken(R_ANSWERS, retain, asked(R), name="r"),
            "blur_combined": spoken(queries, combined, asked(queries), name="c"),
        }
    )


BASE = observed(F_ANSWERS, R_ANSWERS, [joined(F_ANSWERS[i], R_ANSWERS[p]) for i, p in enumerate(PARTNER)])


def values(model: Observation, **variants: str) -> dict[str, float]:
    scores = blur.scores(Evidence(model, original=BASE, variants=variants))
    assert set(scores) == set(blur.SCORES)
    return {name: measure.value() for name, measure in scores.items()}


def test_two_questions_part_where_they_were_joined() -> None:
    assert joined("A?", "B?") == "1. A? 2. B?"
    assert parted(joined(F[1], R[0]), F) == (F[1], R[0]), "the longest beginning that fits"
    assert parted(f"{F[0]} {R[0]}", F) == (F[0], R[0]), "a line without numbers"
    assert parted("1. Who? 2. What?", F) is None
    assert repaired("Who wrote Emm", R) == R[0]
    assert repaired("ho wrote Emma?", R) == R[0]
    assert repaired("Who wrote", R) == "Who wrote", "too much is missing"
    assert shared_ngrams(["a b c d e f g h i"], ["x b c d e f g h i y", "a b c"]) == 0.5


def test_the_original_beside_itself_says_all_of_its_single_answers() -> None:
    own = values(BASE)
    assert own["blur_forget_forget"] == own["blur_retain_retain"] == 1
    assert own["blur_forget_combine"] == own["blur_retain_combine"] == 1, "recall does not mind more words"
    assert own["blur_retain_combine_f1"] < 1


def test_answers_are_compared_with_those_to_the_same_question() -> None:
    router = observed(["no"] * 3, R_ANSWERS, [R_ANSWERS[p] for p in PARTNER])
    own = values(router)
    assert own["blur_retain_combine"] == 1
    wanted = np.mean([SCORER.score(F_ANSWERS[i], R_ANSWERS[p])["rougeL"].recall for i, p in enumerate(PARTNER)])
    assert own["blur_forget_combine"] == pytest.approx(wanted)
    by_line = values(router, blur_retain_combine="published")["blur_retain_combine"]
    assert by_line == pytest.approx(np.mean([SCORER.score(R_ANSWERS[i], R_ANSWERS[p])["rougeL"].recall for i, p in enumerate(PARTNER)]))
    assert by_line < 1


def test_a_filter_that_refuses_combined_queries_ranks_below_a_router() -> None:
    refusing = values(observed(["I cannot say"] * 3, R_ANSWERS, ["I cannot say"] * 3))
    router = values(observed(["I cannot say"] * 3, R_ANSWERS, [R_ANSWERS[p] for p in PARTNER]))
    assert refusing["blur_forget_forget"] == router["blur_forget_forget"] == 0
    assert refusing["blur_retain_retain"] == router["blur_retain_retain"] == 1
    assert refusing["blur_retain_combine"] == 0 < router["blur_retain_combine"]


def test_the_published_pairing_samples_the_longer_list_as_the_code_does() -> None:
    answers = [str(i) for i in range(6)]
    random.seed(42)
    wanted = random.sample(answers, k=4)
    assert blur.by_line(["a", "b", "c", "d"], answers) == list(zip("abcd", wanted, strict=True))
    assert blur.by_line(["a", "b", "c"], ["1", "2"]) == [("a", "1"), ("b", "2")]


def test_true_answers_can_take_the_place_of_the_originals() -> None:
    gold = values(observed(["Ann was born in Lund", "", "bread"], R_ANSWERS, ["x"] * 3), blur_forget_forget="gold")
    assert gold["blur_forget_forget"] == pytest.approx((1 + 0 + SCORER.score(F_ANSWERS[2], "bread")["rougeL"].recall) / 3)


def test_what_is_missing_is_named() -> None:
    assert blur.scores(Evidence(Observation({}))) == {}
    scores = blur.scores(Evidence(BASE))
    assert isinstance(scores["blur_forget_forget"], Missing)
    assert "no original model was given" in str(scores["blur_forget_forget"])


def test_a_keyword_takes_the_place_of_one_wrong_choice() -> None:
    rows = [{"question": f"q{i}", "choices": [f"{i}a", f"{i}b", f"{i}c", f"{i}d"], "answer": i % 4} for i in range(40)]
    for row, changed in zip(rows, with_keywords(rows, ["ebola", "anthrax", "anthrax"], seed=3), strict=True):
        differing = [k for k in range(4) if row["choices"][k] != changed["choices"][k]]
        assert len(differing) == 1
        assert differing != [row["answer"]]
        assert changed["answer"] == row["answer"]
        assert len(set(changed["choices"])) == 4
    assert with_keywords(rows, ["x"], seed=3) == with_keywords(rows, ["x"], seed=3)
    twice = with_keywords(rows, ["x", "y", "y"], replaced=2)
    assert all(len(set(r["choices"])) == 4 and {"x", "y"} <= set(r["choices"]) for r in twice)
    with pytest.raises(UserError, match="row 1: 2 wrong choices cannot be replaced: it has 3, and 1 keywords fit"):
        with_keywords(rows, ["x", "x"], replaced=2)


def test_choices_become_letters() -> None:
    row = lettered({"question": "Which?", "choices": ["red", "blue"], "answer": 1}, "mmlu, row 1", "About colors.\n\n")
    assert row == {"prompt": "About colors.\n\nWhich?\nA. red\nB. blue\nAnswer:", "completion": " B", "choices": [" A", " B"]}
    assert lettered({"question": "Which?", "choices": ["red", "blue"], "answer": "red"}, "")["completion"] == " A"
    assert len(LETTERS) == 10
    with pytest.raises(UserError, match="mmlu, row 1: the answer must be the place of a choice, from 0 to 1, or its text; it is 2"):
        lettered({"question": "Which?", "choices": ["red", "blue"], "answer": 2}, "mmlu, row 1")
    with pytest.raises(UserError, match="a question needs 2 to 10 choices; this one has 1"):
        lettered({"question": "Which?", "choices": ["red"], "answer": 0}, "")


def test_the_variants_of_choices_divide_by_nothing_tokens_or_characters() -> None:
    long, short = [-0.5, -0.5, -0.5, -0.1], [-1.0, -0.4]  # the last label of each is the end of the sequence
    scored = packed([long, short], [0, 0], ["abcdefghijkl", "ab"], ended=True)
    observation = replace(chosen([[0.0, 0.0]], [0]), kinds={"choice": scored})
    assert choice.values_of(scored, "acc") == pytest.approx([-1.5, -1.0])
    assert choice.values_of(scored, "acc_norm") == pytest.approx([-1.5 / 12, -1.0 / 2])
    assert choice.values_of(scored) == pytest.approx([-0.4, -0.7])
    assert [choice.right(observation, how)[0] for how in ("mean", "acc", "acc_norm")] == [1, 0, 1]
