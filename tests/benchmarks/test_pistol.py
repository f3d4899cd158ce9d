"""PISTOL: an edge and the rest, on a small copy in the published layout and, if available, on the real sample."""

import json
import os
from pathlib import Path

import pytest

import worlds
from expunge.benchmarks import pistol
from expunge.core.errors import UserError
from expunge.evaluation.audited_models import examine
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.io.data import read

EDGES = ("A_B", "A_C", "B_D")


@pytest.fixture
def small(tmp_path: Path) -> str:
    """Three contracts with four questions each."""
    rows = [
        {"edge": e, "question": f"What was point {i} of the contract between {e[0]} Ltd and {e[2]} GmbH?", "answer": f"{e} number {i}."}
        for e in EDGES
        for i in range(4)
    ]
    (tmp_path / "sample.json").write_text(json.dumps(rows))
    return str(tmp_path / "sample.json")


def test_one_edge_is_to_be_forgotten_and_all_others_are_retained(small: str) -> None:
    suite = pistol.load(small, "A_C")
    assert suite.name == "pistol A_C"
    assert [r["answer"] for r in suite.sets["forget"]] == [f"A_C number {i}." for i in range(4)]
    assert {r["answer"][:3] for r in suite.sets["retain"]} == {"A_B", "B_D"}
    assert {n: len(rows) for n, rows in suite.train.items()} == {"full": 12, "forget": 4, "retain": 8}
    assert all(set(r) == {"question", "answer"} for rows in suite.train.values() for r in rows)
    assert suite.sets["forget"] == [{k: r[k] for k in ("question", "answer")} for r in read(f"{small}::edge=A_C")]
    assert suite.sets["retain"] == [{k: r[k] for k in ("question", "answer")} for r in read(f"{small}::edge!=A_C")]


def test_several_edges_and_firms_are_forgotten_together(small: str) -> None:
    both = pistol.load(small, "A_C+B_D")
    assert {r["answer"][:3] for r in both.sets["forget"]} == {"A_C", "B_D"}
    assert {r["answer"][:3] for r in both.sets["retain"]} == {"A_B"}
    firm = pistol.load(small, "A")
    assert ({r["answer"][:3] for r in firm.sets["forget"]}, {r["answer"][:3] for r in firm.sets["retain"]}) == ({"A_B", "A_C"}, {"B_D"})
    with pytest.raises(UserError, match="no row would be retained"):
        pistol.load(small, "A+D")
    with pytest.raises(UserError, match="no edge 'E'"):
        pistol.load(small, "A_B+E")


def test_retain_limits_the_audited_rows_only(small: str) -> None:
    suite = pistol.load(small, retain=4)
    assert [r["answer"] for r in suite.sets["retain"]] == ["A_C number 0.", "A_C number 2.", "B_D number 0.", "B_D number 2."]
    assert len(suite.train["retain"]) == 8


def test_mistakes_have_clear_messages(small: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="comes with no data"):
        pistol.load()
    with pytest.raises(UserError, match=r"no edge 'A_D'.*there are A_B, A_C, B_D"):
        pistol.load(small, "A_D")
    with pytest.raises(UserError, match="the edge A_B alone"):
        pistol.load(f"{small}::edge=A_B")
    (tmp_path / "bare.json").write_text(json.dumps([{"question": "Who?", "answer": "Nobody."}]))
    with pytest.raises(UserError, match="row 1: no column 'edge'"):
        pistol.load(str(tmp_path / "bare.json"))


def test_a_model_is_scored_on_the_suite(small: str, text: worlds.World) -> None:
    suite = pistol.load(small)
    audited = examine(text.model(), text.modality, suite.sets, name="nobody", wants=ObservationSpec(moments=False, gradient_norms=False))
    assert {"forget_rouge", "retain_rouge", "forget_probability", "extraction_strength"} <= set(audited.scores)
    assert audited.scores["forget_rouge"]["value"] < 0.5


def test_the_real_sample_has_the_published_counts() -> None:
    default = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "pistol"
    file = Path(os.environ.get("EXPUNGE_PISTOL") or default) / "pistol_sample1.json"
    if not file.is_file():
        pytest.skip(f"no copy of PISTOL in {file.parent}; set EXPUNGE_PISTOL to one")
    suite = pistol.load(str(file))
    assert {n: len(rows) for n, rows in suite.train.items()} == {"full": 400, "forget": 20, "retain": 380}
    assert len({(r["question"], r["answer"]) for r in suite.train["full"]}) == 400
