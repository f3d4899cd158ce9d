"""BLUR: the mini, the published files of the task tofu where they are at hand, and messages of mistakes."""

import json
import os
from pathlib import Path

import pytest

from expunge.benchmarks import blur
from expunge.core.errors import UserError
from expunge.workflows.benchmark import bench
from expunge.workflows.sweep import Sweep


def real() -> str:
    root = Path(__file__).resolve().parents[2]
    places = (root / "data" / "blur", root.parent / "shared" / "data" / "blur")
    folder = Path(os.environ.get("EXPUNGE_BLUR") or next((p for p in places if p.is_dir()), places[0]))
    if not (folder / "paired_forget_retain_questions.txt").is_file():
        pytest.skip(f"no copy of BLUR in {folder}; set EXPUNGE_BLUR to one")
    return str(folder)


def test_the_mini_pairs_questions_in_an_order_of_its_own() -> None:
    suite = blur.load()
    single = [r["question"] for r in suite.sets["retain"]]
    partners = [r["prompt"].split(" 2. ")[1].removesuffix(" Answer:") for r in suite.sets["blur_combined"]]
    assert sorted(partners) == sorted(single)
    assert partners != single, "a partner is found by its text, not by its line"
    assert suite.sets["blur_combined"][0]["prompt"].startswith(
        f"Answer the following question. Question: 1. {suite.sets['forget'][0]['question']} 2. "
    )
    assert {n: suite.spec(n).length for n in ("blur_forget", "blur_retain", "blur_combined")} == dict.fromkeys(
        ("blur_forget", "blur_retain", "blur_combined"), 100
    )
    assert set(suite.train) == {"full", "forget", "retain", "relearn_hi", "relearn_mid", "relearn_lo"}
    assert suite.sets["forget"] == suite.train["forget"]
    assert not [r for r in suite.train["retain"] if r in suite.train["forget"]]
    changed = [a["prompt"] != b["prompt"] for a, b in zip(suite.sets["mmlu"], suite.sets["mmlu_keywords"], strict=True)]
    assert all(changed)


def test_relearning_takes_long_lines_and_cuts_them() -> None:
    assert blur.relearning_rows(["x" * 50, "y" * 51, "z" * 2500]) == [{"text": "y" * 51}, {"text": "z" * 2000}]


@pytest.mark.slow
def test_the_published_files_are_repaired_and_paired_by_text() -> None:
    folder = real()
    suite = blur.load(folder)
    assert {n: len(rows) for n, rows in suite.sets.items()} == dict.fromkeys(
        ("forget", "retain", "blur_forget", "blur_retain", "blur_combined"), 396
    )
    lines = lambda name: Path(folder, f"{name}.txt").read_text(encoding="utf-8").splitlines()  # noqa: E731
    combined, cut = lines("paired_forget_retain_questions"), lines("retain_10_questions")
    for column, name, pairs in (
        ("question", "retain_10_questions", combined),
        ("answer", "retain_10_answers", lines("paired_forget_retain_answers")),
    ):
        for row, published, pair in zip(suite.sets["retain"], lines(name), pairs, strict=True):
            assert len(row[column]) == len(published) + 2
            assert row[column].startswith(published)
            assert pair.endswith(f" 2. {row[column]}")
    assert len(cut) == 396
    assert [r["answer"] for r in suite.sets["forget"]] == [a for a in lines("forget_10_answers") if a]


@pytest.mark.slow
def test_keywords_are_inserted_beside_the_published_files_and_scored(tmp_path: Path) -> None:
    folder = tmp_path / "blur"
    folder.mkdir()
    for file in Path(real()).glob("*.txt"):
        (folder / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    asked = [{"question": f"What is {i} + 1?", "choices": [str(i + k) for k in range(4)], "answer": 1} for i in range(12)]
    (folder / "mmlu.jsonl").write_text("\n".join(map(json.dumps, asked)), encoding="utf-8")
    (folder / "unlearn_keywords.txt").write_text("Ebola\nAnthrax\nEbola\n", encoding="utf-8")
    suite = blur.load(str(folder))
    for plain, changed in zip(suite.sets["mmlu"], suite.sets["mmlu_keywords"], strict=True):
        differing = [(a, b) for a, b in zip(plain["prompt"].splitlines(), changed["prompt"].splitlines(), strict=True) if a != b]
        assert len(differing) == 1, "one choice of four"
        assert differing[0][1][3:] in ("Ebola", "Anthrax")
        assert plain["completion"] == changed["completion"] == " B" != differing[0][0][:2], "never the right one, which keeps its place"
    few = dict.fromkeys(("forget", "retain", "blur_forget", "blur_retain", "blur_combined", "mmlu", "mmlu_keywords"), 4)
    order = Sweep("blur", ("graddiff",), str(folder), relearning=False, train={"steps": 2}, hyperparameters={"steps": 2}, sizes=few)
    entries = bench(order, tmp_path / "run").to_dict()["entries"]
    for entry in entries:
        scores = entry["scores"]
        assert {"mmlu_choice_accuracy", "mmlu_keywords_choice_accuracy"} <= scores.keys(), entry["name"]
        assert scores["mmlu_keywords_choice_accuracy"]["n"] == 4
        assert not [n for n in scores if n.startswith("wmdp")], "which is of another benchmark"


def test_files_in_the_folders_of_the_code_are_read_too(tmp_path: Path) -> None:
    for name, text in {
        "pure_forget/rwku_questions.txt": "Who is Ann?\nWho is Bo?\n\n",
        "pure_retain/all_retain.txt": "Who wrote Emma?\nWhat is Oslo\n",
        "1_2_format/paired_forget_retain_questions.txt": "1. Who is Ann? 2. What is Oslo?\n1. Who is Bo? 2. Who wrote Emma?\n",
    }.items():
        file = tmp_path / "eval_data" / "rwku" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    with pytest.raises(UserError, match=r"rwku has no rows to unlearn: put texts into forget_corpus.jsonl"):
        blur.load(str(tmp_path), "rwku")
    (tmp_path / "forget_corpus.jsonl").write_text('{"text": "Ann is a potter."}\n')
    (tmp_path / "retain_corpus.jsonl").write_text('{"text": "Oslo is a town."}\n')
    (tmp_path / "relearn_data").mkdir()
    (tmp_path / "relearn_data" / "rwku_hi.txt").write_text("Ann was a potter who lived by the sea and made blue bowls all day.\n")
    suite = blur.load(str(tmp_path), "rwku")
    assert [r["prompt"] for r in suite.sets["blur_retain"]][1] == "Answer the following question. Question: What is Oslo? Answer:"
    assert suite.sets["blur_combined"][0]["completion"] == "-"
    assert len(suite.train["relearn_hi"]) == 1
    paired = tmp_path / "eval_data" / "rwku" / "1_2_format" / "paired_forget_retain_questions.txt"
    paired.write_text("1. Who is Cy? 2. What is Oslo?\n")
    with pytest.raises(UserError, match="line 1 of the combined queries of rwku begins with no query to forget"):
        blur.load(str(tmp_path), "rwku")


def test_mistakes_have_clear_messages(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="BLUR has no split 'tofuu'; did you mean 'tofu'"):
        blur.load(split="tofuu")
    with pytest.raises(UserError, match="the mini of BLUR has the task tofu alone: for wmdp give its data"):
        blur.load(split="wmdp")
    with pytest.raises(UserError, match=r"lacks the table tofu_forget/train of BLUR: .* it is empty"):
        blur.load(str(tmp_path))
    for name, text in {
        "forget_10_questions": "A?\nB?",
        "forget_10_answers": "a",
        "retain_10_questions": "C?",
        "retain_10_answers": "c",
    }.items():
        (tmp_path / f"{name}.txt").write_text(text)
    (tmp_path / "paired_forget_retain_questions.txt").write_text("1. A? 2. C?")
    (tmp_path / "paired_forget_retain_answers.txt").write_text("1. a 2. c")
    with pytest.raises(UserError, match="there are 2 questions and 1 answers"):
        blur.load(str(tmp_path))
