"""TOFU: the right rows in the right sets, on a small copy and, if available, on the real data."""

from collections.abc import Callable
from pathlib import Path

import pytest

from expunge.benchmarks import tofu
from expunge.benchmarks.suite import Suite
from expunge.core.errors import UserError
from expunge.io.data import read, write_jsonl
from expunge.workflows.sweep import Sweep

SIZES = {"forget01": (40, 3960), "forget05": (200, 3800), "forget10": (400, 3600)}


def keys(rows: object) -> set[tuple[str, str]]:
    return {(row["question"], row["answer"]) for row in rows}


# --- the real data ---


@pytest.mark.parametrize("split", SIZES)
def test_the_real_data_has_the_published_counts_and_overlaps(tofu_folder: str, split: str) -> None:
    suite = tofu.load(tofu_folder, split)
    forget, retain = SIZES[split]
    assert {name: len(rows) for name, rows in suite.train.items()} == {"full": 4000, "forget": forget, "retain": retain}
    assert {name: len(rows) for name, rows in suite.sets.items()} == {
        "forget": forget,
        "retain": 400,
        "real_authors": 100,
        "world_facts": 117,
    }
    assert not keys(suite.train["forget"]) & keys(suite.train["retain"])
    assert keys(suite.train["forget"]) | keys(suite.train["retain"]) == keys(suite.train["full"])
    assert [(r["question"], r["answer"]) for r in suite.sets["forget"]] == [(r["question"], r["answer"]) for r in suite.train["forget"]]
    assert keys(suite.sets["retain"]) <= keys(suite.train["retain"])
    for name, rows in suite.sets.items():
        wrong = 5 if name in ("forget", "retain") else 3
        assert all(len(row["perturbed_answer"]) == wrong for row in rows)
        assert not [row for row in rows if {row["answer"], row.get("paraphrased_answer")} & set(row["perturbed_answer"])]
    assert suite.name == f"tofu {split}"


@pytest.mark.parametrize("split", SIZES)
def test_carving_removes_whole_authors_from_the_real_data(tofu_folder: str, split: str) -> None:
    whole, carved = tofu.load(tofu_folder, split), tofu.load(tofu_folder, split, holdout="carve")
    forget, retain = SIZES[split]
    holdout = keys(carved.sets["holdout"])
    assert len(holdout) == forget
    assert len(carved.train["retain"]) == retain - forget
    assert keys(carved.train["full"]) == keys(whole.train["full"]) - holdout
    assert carved.train["forget"] == whole.train["forget"]
    assert not holdout & keys(carved.train["full"])
    assert not holdout & keys(carved.sets["retain"])
    # The cut runs between two authors: 20 rows each, in the order of the data.
    assert len(holdout) % 20 == 0
    assert carved.train["retain"] == whole.train["retain"][: retain - forget]
    assert carved.name == f"tofu {split} +carved holdout"


def test_the_files_and_the_configs_of_the_real_data_agree(tofu_folder: str) -> None:
    assert read(f"{tofu_folder}::forget01_perturbed") == tofu.load(tofu_folder, "forget01").sets["forget"]


# --- a small copy ---


def rows(start: int, end: int) -> list[dict]:
    return [{"question": f"Question {i}?", "answer": f"Answer {i}."} for i in range(start, end)]


def perturbed(records: list[dict], wrong: int) -> list[dict]:
    paraphrases = {"paraphrased_question": "Q?", "paraphrased_answer": "A."} if wrong == 5 else {}
    return [row | paraphrases | {"perturbed_answer": [f"Wrong {k}." for k in range(wrong)]} for row in records]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """20 rows, the last 4 to be forgotten, in the layout of TOFU."""
    configs = {
        "full": rows(0, 20),
        "forget10": rows(16, 20),
        "retain90": rows(0, 16),
        "forget10_perturbed": perturbed(rows(16, 20), 5),
        "retain_perturbed": perturbed(rows(0, 8), 5),
        "real_authors_perturbed": perturbed(rows(100, 103), 3),
        "world_facts_perturbed": perturbed(rows(200, 203), 3),
    }
    listed = "".join(f"- config_name: {name}\n  data_files: {name}.json\n" for name in configs)
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{listed}---\n")
    for name, records in configs.items():
        write_jsonl(tmp_path / f"{name}.json", records)
    return tmp_path


def load(small: Path, **options: object) -> Suite:
    return tofu.load(str(small), "forget10", **options)


def test_without_holdout_files_there_is_no_holdout(small: Path) -> None:
    assert list(load(small).sets) == ["forget", "retain", "real_authors", "world_facts"]


def test_holdout_files_of_the_source_are_used(small: Path) -> None:
    write_jsonl(small / "holdout10.json", rows(300, 304))
    suite = load(small)
    assert suite.sets["holdout"] == rows(300, 304)
    assert len(suite.train["full"]) == 20


def test_holdout_may_be_rows_or_a_source(small: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("own") / "mine.jsonl"
    write_jsonl(file, rows(300, 304))
    assert load(small, holdout=rows(300, 304)).sets["holdout"] == rows(300, 304)
    assert load(small, holdout=str(file)).sets["holdout"] == rows(300, 304)


def test_carve_takes_the_last_retain_rows_out_of_training(small: Path) -> None:
    suite = load(small, holdout="carve")
    assert suite.sets["holdout"] == rows(12, 16)
    assert suite.train["retain"] == rows(0, 12)
    assert suite.train["full"] == rows(0, 12) + rows(16, 20)


def test_limits_cut_the_audited_sets_only(small: Path) -> None:
    suite = load(small, retain=3, world_facts=1)
    assert {name: len(records) for name, records in suite.sets.items()} == {"forget": 4, "retain": 3, "real_authors": 3, "world_facts": 1}
    assert suite.sets["retain"][0]["question"] == "Question 0?"
    assert suite.train == load(small).train


def test_extraction_strength_is_the_leaderboards_unless_another_definition_is_asked_for(small: Path) -> None:
    options = {"data": str(small), "split": "forget10"}
    assert Sweep("tofu", (), **options).load_suite().spec("forget").variants == {"*": "open-unlearning"}
    suite = Sweep("tofu", (), **options, variants={"extraction_strength": "definition"}).load_suite()
    assert suite.spec("forget").variants == {"*": "open-unlearning", "extraction_strength": "definition"}
    assert suite.spec("forget").ask == ("score", "generate")


def test_mistakes_have_clear_messages(small: Path) -> None:
    mistakes: dict[str, Callable[[], object]] = {
        "did you mean 'forget10'": lambda: tofu.load(str(small), "forget11"),
        "did you mean 'retain'": lambda: load(small, retian=3),
        "cannot be cut to 0 rows: retain": lambda: load(small, retain=0),
        "share 2 rows": lambda: load(small, holdout=rows(14, 16)),
        "row 1: no column 'question'": lambda: load(small, holdout=[{"prompt": "Who?"}]),
        "does not exist": lambda: load(small, holdout=str(small / "mine.jsonl")),
        "has no config 'full'": lambda: tofu.load(_unrelated(small / "other")),
    }
    for says, call in mistakes.items():
        with pytest.raises(UserError) as caught:
            call()
        assert says in str(caught.value)


def _unrelated(folder: Path) -> str:
    write_jsonl(folder / "train.jsonl", rows(0, 3))
    return str(folder)


def test_rows_in_forget_and_retain_are_refused(small: Path) -> None:
    write_jsonl(small / "retain90.json", rows(0, 17))
    with pytest.raises(UserError, match="forget10 and retain90 share 1 rows; they must be disjoint"):
        load(small)


def test_carving_never_removes_rows_of_retain_perturbed(small: Path) -> None:
    write_jsonl(small / "retain_perturbed.json", perturbed(rows(8, 16), 5))
    with pytest.raises(UserError, match="holdout rows and retain_perturbed share 4 rows"):
        load(small, holdout="carve")


def test_a_missing_column_is_named_with_file_and_row(small: Path) -> None:
    write_jsonl(small / "retain_perturbed.json", rows(0, 8))
    with pytest.raises(UserError, match=r"retain_perturbed\.json, row 1: no column 'paraphrased_answer'"):
        load(small)


def test_published_numbers_are_those_of_the_paper() -> None:
    assert set(tofu.PUBLISHED) == set(tofu.SPLITS)
    assert tofu.PUBLISHED["forget10"]["npo"] == (0.42, 0.54, 0.73)
    for table in tofu.PUBLISHED.values():
        assert set(table) == {"original", "retrained", "grad_ascent", "grad_diff", "idk_dpo", "npo", "rmu"}
        assert table["retrained"].forget_quality == 1.0
        assert all(0 <= value <= 1 for row in table.values() for value in row)


def test_the_card_is_complete() -> None:
    for field in ("Source:", "Licence: MIT", "Splits:", "Scores:", "Status:"):
        assert any(line.startswith(field) for line in tofu.__doc__.splitlines()), field
