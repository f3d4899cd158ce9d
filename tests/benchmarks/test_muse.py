"""MUSE: the mini has the published layout, folds grow or share nothing, both names of renamed tables are read."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from expunge.benchmarks import muse
from expunge.benchmarks.common.published import TablePlace
from expunge.benchmarks.synthetic import muse_tables
from expunge.core.errors import UserError


def copied(folder: Path, tables: dict) -> str:
    for place, rows in tables.items():
        file = folder / f"{place}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n".join(json.dumps(r) for r in rows))
    return str(folder)


def texts(rows: list) -> list[str]:
    return [r["text"] for r in rows]


@pytest.mark.parametrize("split", ["news", "books", "scal_3", "sust_4"])
def test_a_folder_gives_the_same_suite_as_the_generator(tmp_path: Path, split: str) -> None:
    corpus = split if split in muse.HUB else "news"
    folder = copied(tmp_path, muse_tables.tables(corpus))
    assert muse.load(folder, split).sets == muse.load(split=split).sets
    assert muse.load(folder, split).train == muse.load(split=split).train


def test_archives_share_no_document_and_methods_see_the_first_kept_one_alone() -> None:
    tables = muse_tables.tables("news")
    raw = {split: texts(tables[TablePlace("raw", split)]) for split in ("forget", "retain1", "retain2", "holdout")}
    assert len({text for rows in raw.values() for text in rows}) == sum(map(len, raw.values()))
    suite = muse.load()
    assert texts(suite.train["kept"]) == raw["retain1"]
    assert {*raw["retain1"], *raw["retain2"]} <= {r.get("text") for r in suite.train["retain"]}
    assert not {*raw["forget"], *raw["holdout"]} & {r.get("text") for r in suite.train["retain"]}
    shots = suite.sets["knowmem_forget"][0]["prompt"]
    assert shots.count("Question: ") == 4
    assert shots.endswith("\nAnswer: ")


def test_folds_grow_or_share_nothing() -> None:
    grown, apart = ([texts(f) for f in muse.folds(kind=kind)] for kind in ("scal", "sust"))
    assert all(set(a) < set(b) for a, b in pairwise(grown))
    assert grown[0] == apart[0] == texts(muse.load().train["forget"])
    assert len({t for fold in apart for t in fold}) == sum(map(len, apart))
    assert texts(muse.load(split="scal_2").train["forget"]) == grown[1]


def test_tables_that_were_renamed_are_read_by_either_name(tmp_path: Path) -> None:
    old = {"retain": "retain2", "retain_qa": "retain2_qa", "retain_qa_icl": "retain2_qa_icl"}
    tables = muse_tables.tables("news")
    renamed = {TablePlace(p.config, old.get(p.split, p.split)): rows for p, rows in tables.items()}
    assert muse.load(copied(tmp_path, renamed)).sets == muse.load().sets


def test_published_numbers_are_in_the_units_of_our_scores() -> None:
    for split in ("news", "books"):
        suite = muse.load(split=split)
        assert set(suite.published) == {
            "original",
            "retrained",
            "ga",
            "ga_gdr",
            "ga_klr",
            "npo",
            "npo_gdr",
            "npo_klr",
            "task_vector",
            "whp",
        }
        for scores in suite.published.values():
            assert all(0 <= v <= 1 for name, v in scores.items() if name.startswith("muse"))
    assert muse.load().published["original"]["privleak"] == -99.8


def test_mistakes_have_clear_messages(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MUSE has no split 'new'; did you mean 'news'"):
        muse.load(split="new")
    with pytest.raises(UserError, match="scal and sust, and none of the kind 'scale'"):
        muse.folds(kind="scale")
    with pytest.raises(UserError, match=r"lacks the table raw/forget of MUSE: a file such as raw/forget.jsonl"):
        muse.load(str(tmp_path))
    with pytest.raises(UserError, match="MUSE has no set 'verbatim'; did you mean 'verbmem'"):
        muse.load(verbatim=1)
