"""`expunge prepare`: who writes, what passes, what is refused, and where rows may go."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

import stub_endpoint
from cases import Cases, expunge
from expunge.core.errors import UserError
from expunge.engine.writers import Rules
from expunge.io.data import write_jsonl
from expunge.service.blind import blind_test
from expunge.service.preparing import is_paraphrase, is_wrong_answer, keeps_facts, prepare, similar_length, writer_for

ROWS = [
    {"question": f"Where was {name} born?", "answer": f"{name} was born in {town} in {year}."}
    for name, town, year in [("Ada Quill", "Oxenby", 1931), ("Ben Marlow", "Larkholm", 1948)]
]


def answer_of(prompt: str) -> str:
    """A writer that does what it is asked."""
    text = prompt.rsplit("\n\n", 1)[-1]
    if prompt.startswith("Say this question"):
        return "At what place did " + text.removeprefix("Where was ").replace(" born?", " come into the world?")
    if prompt.startswith("Say this answer"):
        who, town, year = re.findall(r"(\w+ \w+) was born in (\w+) in (\d+)", text)[0]
        return f"It was in {town}, in {year}, that {who} came into the world."
    if "wrong answers" in prompt:
        (who,) = re.findall(r"Answer: (\w+ \w+) was", prompt)
        right = re.findall(r"Answer: (.*)", prompt)[0]
        return "Here you are: " + json.dumps([f"{who} was born in {t} in 1900." for t in ("Mossgate", "Umberfell")] + [right])
    return json.dumps({"question": "Where was Cleo Ferrow born?", "answer": "Cleo Ferrow was born in Mossgate in 1955."})


def test_paraphrases_and_wrong_answers_get_the_columns_that_audits_read() -> None:
    result = prepare(ROWS, Rules("helpful", answer_of), ("paraphrase", "perturbed"), wrong_answers=2)
    first = result.forget[0]
    assert first["paraphrased_question"] == "At what place did Ada Quill come into the world?"
    assert first["paraphrased_answer"] == "It was in Oxenby, in 1931, that Ada Quill came into the world."
    assert first["perturbed_answer"] == ["Ada Quill was born in Mossgate in 1900.", "Ada Quill was born in Umberfell in 1900."]
    assert result.yields == {"paraphrase": (4, 4), "perturbed": (4, 4)}
    assert ROWS[0].keys() == {"question", "answer"}, "the rows of the caller stay as they are"


def test_what_changes_a_fact_is_no_paraphrase_and_what_keeps_all_is_no_wrong_answer() -> None:
    question, answer = ROWS[0]["question"], ROWS[0]["answer"]
    assert is_paraphrase(answer, "In 1931, Ada Quill came into the world in Oxenby.")
    assert not is_paraphrase(answer, "In 1932, Ada Quill came into the world in Oxenby.")
    assert not is_paraphrase(answer, "In 1931, Ada Quill came into the world in Larkholm.")
    assert not is_paraphrase(answer, answer.upper())
    assert not is_paraphrase(answer, "Oxenby, 1931: Ada Quill. " * 5)
    assert is_wrong_answer(question, answer, "Ada Quill was born in Larkholm in 1931.")
    assert not is_wrong_answer(question, answer, "In 1931, Ada Quill came into the world in Oxenby.")
    assert not is_wrong_answer(question, answer, answer)


def test_the_checks_let_true_paraphrases_pass_and_few_wrong_answers(tofu_folder: str) -> None:
    """TOFU has both, written by GPT-4: of the true ones 74 % pass, of the wrong ones 32 % keep all names and numbers."""
    rows = [json.loads(line) for line in (Path(tofu_folder) / "retain_perturbed.json").read_text().splitlines()]
    true = [keeps_facts(r["answer"], r["paraphrased_answer"]) for r in rows]
    wrong = [keeps_facts(r["answer"], p) for r in rows for p in r["perturbed_answer"]]
    assert sum(true) / len(true) > 0.7
    assert sum(wrong) / len(wrong) < 0.5
    assert sum(similar_length(r["answer"], r["paraphrased_answer"]) for r in rows) / len(rows) > 0.97


def test_what_fails_the_checks_is_left_out_and_counted() -> None:
    stubborn = prepare(ROWS, Rules("stubborn", lambda _: "I cannot do that."), ("paraphrase", "perturbed", "neighbours"))
    assert [row.keys() for row in stubborn.forget] == [ROWS[0].keys()] * 2
    assert stubborn.yields == {"paraphrase": (4, 0), "perturbed": (10, 0), "neighbours": (2, 0)}


def test_neighbours_and_unseen_rows_name_nobody_of_the_rows_to_forget() -> None:
    asked = prepare(ROWS, Rules("helpful", answer_of), ("neighbours",))
    assert [r["answer"] for r in asked.neighbours] == ["Cleo Ferrow was born in Mossgate in 1955."], "the second one is the same"
    leaking = json.dumps({"question": "Who knew Ada Quill well?", "answer": "Ada Quill was born near Mossgate in 1931."})
    assert prepare(ROWS, Rules("leaking", lambda _: leaking), ("neighbours",)).neighbours == []


def names(draw: random.Random, count: int) -> list[str]:
    letters = "bcdfghklmnprstvwz"
    return ["".join(draw.choice(letters) + draw.choice("aeiou") for _ in range(3)).title() for _ in range(count)]


@pytest.mark.slow
def test_an_unseen_set_that_words_give_away_is_refused_and_one_that_they_do_not_passes() -> None:
    draw = random.Random(0)
    alike = [f"Where does {a} live? {a} lives in {b}." for a, b in zip(names(draw, 60), names(draw, 60), strict=True)]
    other = [f"Which is the home of {a}? The home of {a} is {b}." for a, b in zip(names(draw, 30), names(draw, 30), strict=True)]
    passes, fails = blind_test(alike[:30], alike[30:]), blind_test(alike[:30], other)
    assert passes.passed
    assert not fails.passed
    assert fails.auc is not None
    assert fails.auc > 0.95
    few = blind_test(alike[:3], alike[3:9])
    assert not few.passed
    assert "too few" in few.why


def test_a_holdout_that_fails_the_blind_test_is_not_there() -> None:
    result = prepare(ROWS, Rules("helpful", answer_of), ("holdout",))
    assert result.holdout == []
    assert result.blind is not None
    assert "without it no membership inference" in result.notes[0]


def test_rows_go_to_an_endpoint_only_where_its_host_is_named() -> None:
    with stub_endpoint.serving(answer_of) as stub:
        with pytest.raises(UserError, match=r"would be sent to 127\.0\.0\.1: allow it with --send-rows-to"):
            prepare(ROWS, f"{stub.url}#writer", ("paraphrase",))
        with pytest.raises(UserError, match="would be sent to"):
            prepare(ROWS, f"{stub.url}#writer", ("paraphrase",), send_rows_to="example.org")
        assert stub.requests == []
        result = prepare(ROWS, f"{stub.url}#writer", ("paraphrase",), send_rows_to="127.0.0.1")
        assert result.yields["paraphrase"] == (4, 4)
        assert {r["model"] for r in stub.requests} == {"writer"}
    with pytest.raises(UserError, match="this model runs here"):
        writer_for("some/model", "example.org")


def test_the_command_writes_sets_and_their_provenance_without_a_row(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    write_jsonl(rows, [{"subject": r["question"], "body": r["answer"]} for r in ROWS])
    columns = ("--map", "question=subject,answer=body")
    with stub_endpoint.serving(answer_of) as stub:
        words = ("prepare", rows, *columns, "--with", f"{stub.url}#writer", "--out", tmp_path / "own")
        assert "--send-rows-to" in expunge(*words, "--yes").error
        done = expunge(*words, "--send-rows-to", "127.0.0.1", "--yes").fine()
        assert "paraphrase: 4 of 4 passed" in done.out
        assert "exists and is not empty" in expunge(*words, "--send-rows-to", "127.0.0.1", "--yes").error
    kept: list[dict[str, Any]] = [json.loads(line) for line in (tmp_path / "own/forget.jsonl").read_text().splitlines()]
    assert [r["perturbed_answer"][0] for r in kept] == [
        "Ada Quill was born in Mossgate in 1900.",
        "Ben Marlow was born in Mossgate in 1900.",
    ]
    provenance = (tmp_path / "own/provenance.json").read_text()
    assert "Quill" not in provenance
    assert json.loads(provenance)["writer"]["model"] == "writer"


@pytest.mark.slow
def test_a_model_that_runs_here_writes_and_its_nonsense_is_refused(cases: Cases, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    short = expunge("prepare", tmp_path / "rows.jsonl", "--with", cases.model, "--out", tmp_path / "own", "--yes").error
    assert re.search(r"what the local model original is asked, row 1: a prompt has \d+ tokens, and the model takes 128", short)
    shutil.copytree(cases.model, tmp_path / "longer")
    for name, field in (("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")):
        file = tmp_path / "longer" / name
        file.write_text(json.dumps({**json.loads(file.read_text()), field: 512}))
    words = ("prepare", tmp_path / "rows.jsonl", "--with", tmp_path / "longer", "--out", tmp_path / "own", "--yes")
    assert "passed the checks, so nothing is written" in expunge(*words).error
    assert not (tmp_path / "own").exists()


def test_wrong_input_is_refused_in_sentences() -> None:
    helpful = Rules("helpful", answer_of)
    with pytest.raises(UserError, match="did you mean 'paraphrase'"):
        prepare(ROWS, helpful, ("paraphrases",))
    with pytest.raises(UserError, match="say what to make"):
        prepare(ROWS, helpful, ())
    with pytest.raises(UserError, match="row 2: a question and an answer are needed"):
        prepare([ROWS[0], {"question": "Where?"}], helpful)
    assert "--with" in expunge("prepare", "rows.jsonl", "--out", "x").error
