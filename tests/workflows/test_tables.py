"""Results as dictionaries and data frames: the numbers of the files, read by pandas and json themselves."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import pytest

import expunge
import toy_modality
from expunge.core.errors import UserError


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any, Any, Any]]:
    """An unlearned model, its audit with an attack, and a benchmark, with their folder."""
    folder = tmp_path_factory.mktemp("runs")
    with toy_modality.registered():
        suite = toy_modality._benchmark().load()
        trained = expunge.train(suite.train["full"], "curve-nano", out=folder / "original", steps=6)
        forget, retain = suite.sets["forget"], suite.sets["retain"]
        run = expunge.unlearn("graddiff", trained.folder, forget, retain, out=folder / "run", steps=3, lr=1e-3)
        sources = {"original": folder / "original", "retrained": folder / "original"}
        attack = {"hyperparameters": {"steps": 4, "lr": 1e-2}}
        audited = expunge.attack("relearn", folder / "run", forget, retain, out=folder / "audit", **sources, **attack)
        swept = expunge.bench(expunge.Sweep("waves", ("graddiff",), relearning=False), folder / "bench")
        yield folder, run, audited, swept


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def test_dictionaries_are_what_the_files_hold(runs: tuple[Path, Any, Any, Any]) -> None:
    folder, run, audited, swept = runs
    assert run.to_dict() == read(folder / "run" / "receipt.json")
    assert audited.to_dict() == read(folder / "audit" / "audit.json")
    assert swept.to_dict() == read(folder / "bench" / "bench.json")


def test_a_frame_of_scores_has_the_numbers_of_audit_json_and_the_missing_ones(runs: tuple[Path, Any, Any, Any]) -> None:
    folder, _, audited, _ = runs
    written = read(folder / "audit" / "audit.json")
    expected = pandas.DataFrame.from_dict(written["scores"], orient="index")
    got = audited.to_pandas().set_index("score")
    for column in ("value", "n", "retrained", "direction", "kind", "meaning"):
        assert got.loc[expected.index, column].tolist() == expected[column].tolist()
    assert got.loc[expected.index, ["low", "high"]].to_numpy().tolist() == expected["interval"].tolist()
    missing = got[got["missing"].notna()]
    assert missing["missing"].to_dict() == written["skipped"]
    assert len(got) == len(written["scores"]) + len(written["skipped"])


def test_a_frame_of_attacks_has_a_row_for_each_way_and_score(runs: tuple[Path, Any, Any, Any]) -> None:
    folder, _, audited, _ = runs
    written = read(folder / "audit" / "audit.json")["attacks"]
    rows = [("relearn", way, score, r["before"], r["value"]) for way, rs in written["relearn"]["ways"].items() for score, r in rs.items()]
    frame = audited.to_pandas("attacks")
    assert rows
    assert list(frame[["attack", "way", "score", "before", "value"]].itertuples(index=False, name=None)) == rows
    assert expunge.attack is not None
    assert set(audited.attacks) == {"relearn"}


def test_a_frame_of_a_benchmark_pivots_to_its_table(runs: tuple[Path, Any, Any, Any]) -> None:
    folder, _, _, swept = runs
    entries = read(folder / "bench" / "bench.json")["entries"]
    table = swept.to_pandas().pivot(index="name", columns="score", values="value")
    for entry in entries:
        for score, record in entry["scores"].items():
            value = table.loc[entry["name"], score]
            assert (value == record["value"]) if record["value"] is not None else pandas.isna(value)


def test_without_pandas_a_sentence_names_the_extra(runs: tuple[Path, Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    for result in runs[2:]:
        with pytest.raises(UserError, match=r"not installed: pip install 'expunge\[pandas\]'"):
            result.to_pandas()


def test_an_unknown_table_is_refused(runs: tuple[Path, Any, Any, Any]) -> None:
    with pytest.raises(UserError, match="there is no table of 'rows': give scores or attacks"):
        runs[2].to_pandas("rows")


def test_an_attack_that_does_not_exist_is_refused_at_once() -> None:
    with pytest.raises(UserError, match="did you mean 'relearn'"):
        expunge.attack("relern", "nowhere", [])
