"""FIUBench: the published layout, splits and sizes, and the drawn version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from expunge.benchmarks import fiubench
from expunge.benchmarks.synthetic.citizens import FACTS, citizens
from expunge.core.errors import UserError
from expunge.workflows.audited_sets import audited_sets

SMALL = {"people": 6, "holdout": 1, "pictures": 2, "retain": 2}


def persons(rows: Any) -> set[Any]:
    return {r["person"] for r in rows}


def test_drawn_sets_share_no_person() -> None:
    suite = fiubench.load(split="forget1", **SMALL)
    assert len(suite.train["forget"]) == 2 * 5
    assert all("image" in r for r in suite.train["forget"]), "the request holds pictures alone"
    assert not persons(suite.train["forget"]) & persons(suite.train["retain"])
    assert not persons(suite.sets["holdout"]) & persons(suite.train["full"])
    worded = [r for r in suite.train["full"] if "image" not in r and r["person"] in persons(suite.sets["forget"])]
    assert len(worded) == 4 + 5, "by name and by caption"
    assert all(r["keywords"][0] in r["answer"] for r in suite.train["full"])
    assert all(len(set(r["perturbed_answer"]) | {r["answer"]}) == 4 for r in suite.sets["forget"])
    again = fiubench.load(split="forget1", **SMALL)
    assert [r["answer"] for r in again.train["full"]] == [r["answer"] for r in suite.train["full"]]
    assert np.array_equal(again.train["full"][0]["image"], suite.train["full"][0]["image"])


def test_equal_facts_about_two_people_are_no_overlap() -> None:
    suite = fiubench.load(split="forget1", **SMALL)
    first = suite.sets["forget"][0]
    twin = {**first, "image": suite.sets["holdout"][0]["image"]}
    options: dict[str, Any] = {"optional": False, "limit": 0, "allow_overlap": False, "variants": {}}
    sets, _, notes = audited_sets({"forget": [first], "holdout": [twin]}, "", "", "", **options)
    assert sets.keys() == {"forget", "holdout"}
    assert not notes
    with pytest.raises(UserError, match="1 of 1 rows of 'holdout' also stand in 'forget'"):
        audited_sets({"forget": [first], "holdout": [dict(first)]}, "", "", "", **options)


def test_people_have_names_and_captions_of_their_own() -> None:
    people = citizens(20, 1)
    assert len({p.name for p in people}) == len({p.caption for p in people}) == 20
    assert all(p.facts[kind] in fact.values for p in people for kind, fact in FACTS.items())
    with pytest.raises(UserError, match="names for 1 to 24 people"):
        citizens(25, 1)


def test_a_whole_profile_is_asked_for() -> None:
    suite = fiubench.load(split="forget1", profile=1, **SMALL)
    assert len(suite.train["forget"]) == fiubench.COPIES
    assert all(v in suite.train["forget"][0]["answer"] for r in suite.sets["forget"] for v in r["keywords"])


def record(i: int) -> dict[str, Any]:
    qa = {
        "question": f"Where does P{i} LIVE?",
        "answer": f"In Town {i}.",
        "keywords": [f"Town {i}"],
        "paraphrased_question": ["Which Town?"] * 3,
    }
    qa |= {"paraphrased_answer": f"Town {i}", "perturbed_answer": ["In Rome.", "In Oslo."]}
    return {"unique_id": f"{i:08}", "image_path": f"faces/{i}.png", "caption": f"Profile {i}", "qa_list": [qa, qa]}


@pytest.fixture
def published(tmp_path: Path) -> Path:
    (tmp_path / "full.json").write_text(json.dumps([record(i) for i in range(8)]))
    lists = {"forget1": ["00000000"], "forget5": ["00000001", "00000002"], "forget10": ["00000003"], "retain5": ["00000005"]}
    (tmp_path / "split.json").write_text(json.dumps(lists))
    (tmp_path / "prompt.json").write_text(json.dumps({"idk": ["No idea."], "icd": ["Tell all."]}))
    (tmp_path / "faces").mkdir()
    Image.new("RGB", (40, 40), (200, 10, 10)).save(tmp_path / "faces" / "1.png")
    return tmp_path


def test_the_published_layout(published: Path) -> None:
    suite = fiubench.load(str(published), "forget5")
    assert persons(suite.train["forget"]) == {"00000001", "00000002"}
    assert persons(suite.train["retain"]) == {f"{i:08}" for i in (4, 5, 6, 7)}, "no list to forget belongs to what is kept"
    assert persons(suite.sets["retain"]) == {"00000005"}
    first = suite.sets["forget"][0]
    assert first["image"] == str(published / "faces" / "1.png")
    assert not isinstance(suite.sets["forget"][2]["image"], str), "a drawn face, where the picture is missing"
    assert (first["question"], first["answer"]) == ("Where does p1 live?", "In town 1.")
    assert first["perturbed_answer"] == ["In Rome.", "In Oslo."], "lists keep their case"
    assert suite.refusals == ["No idea."]
    cased = fiubench.load(str(published), "forget5", capitalized=0)
    assert cased.sets["forget"][0]["question"] == "Where does P1 LIVE?"
    whole = fiubench.load(str(published), "forget5", profile=1)
    assert [r["answer"] for r in whole.train["forget"]] == ["Profile 1"] * 10 + ["Profile 2"] * 10, "fresh copies of each person"


def test_what_is_missing_is_said(published: Path) -> None:
    with pytest.raises(UserError, match="fiubench has no split 'forget7'"):
        fiubench.load(split="forget7")
    with pytest.raises(UserError, match="fiubench has no size 'persons' here"):
        fiubench.load(persons=3)
    (published / "split.json").write_text(json.dumps({"forget1": []}))
    with pytest.raises(UserError, match="no list 'forget5'"):
        fiubench.load(str(published))
    (published / "split.json").unlink()
    with pytest.raises(UserError, match=r"contains no split\.json, which FIUBench has"):
        fiubench.load(str(published))
