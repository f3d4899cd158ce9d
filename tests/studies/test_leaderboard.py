"""Leaderboards from committed runs: runs of one benchmark are one board, controls stand once, cost is a share of retraining."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from studies import leaderboard


def entry(name: str, role: str, flops: float, seed: int | None = None, **scores: float) -> dict[str, Any]:
    return {
        "name": name,
        "role": role,
        "method": name if role == "method" else "",
        "label": name,
        "seed": seed,
        "scores": {n: {"value": v, "direction": "retrained"} for n, v in scores.items()},
        "cost": {"flops": flops},
        "panels": {"text": {"truth_ratios": [0.1, 0.2]}},
    }


def commit(results: Path, folder: str, methods: list[str], split: str = "forget10", retrained: float = 200.0) -> None:
    both = [
        entry("original", "original", 250.0, forget_truth_ratio=0.9),
        entry("retrained", "retrained", retrained, forget_truth_ratio=0.5),
    ]
    entries = [entry(m, "method", 20.0 + s, s, forget_truth_ratio=0.6 + s / 10) for m in methods for s in range(2)]
    run = {"command": f"expunge bench people --methods {','.join(methods)}", "entries": both + entries}
    (results / folder).mkdir(parents=True)
    (results / folder / "bench.json").write_text(json.dumps({**run, "sweep": {"suite": "people", "split": split, "model": "micro"}}))


def test_runs_of_one_benchmark_are_one_board(tmp_path: Path) -> None:
    commit(tmp_path, "one", ["npo"])
    commit(tmp_path, "two", ["npo", "flat"], retrained=999.0)
    commit(tmp_path, "three", ["ga"], split="forget05")
    boards = leaderboard.boards(tmp_path)
    assert [b.name for b in boards] == ["people-forget05-micro", "people-forget10-micro"]
    assert [(e.label, e.seed) for e in boards[1].entries] == [
        ("original", None),
        ("retrained", None),
        ("npo", 0),
        ("npo", 1),
        ("flat", 0),
        ("flat", 1),
    ]
    assert len(boards[1].commands) == 2


def test_cost_is_a_share_of_retraining(tmp_path: Path) -> None:
    commit(tmp_path, "one", ["npo"])
    costs = {(e.label, e.seed): e.scores["cost"].value for e in leaderboard.boards(tmp_path)[0].entries}
    assert costs["retrained", None] == 1.0
    assert costs["npo", 1] == pytest.approx(21 / 200)


def test_pages(tmp_path: Path) -> None:
    commit(tmp_path, "one", ["npo"])
    pages = leaderboard.pages(tmp_path)
    assert set(pages) == {"leaderboard.md", "leaderboards/people-forget10-micro.html"}
    assert "| npo | 2 | 0.650 ± " in pages["leaderboard.md"]
    assert "expunge bench people --methods npo" in pages["leaderboard.md"]
    assert 'class="sortable"' in pages["leaderboards/people-forget10-micro.html"]
    assert leaderboard.pages(tmp_path) == pages


@pytest.mark.parametrize(("low", "stands"), [(0.0, False), (0.3, True)])
def test_utility_stands_only_where_the_original_has_some(low: float, stands: bool, tmp_path: Path) -> None:
    commit(tmp_path, "one", ["npo"])
    file = tmp_path / "one" / "bench.json"
    run = json.loads(file.read_text())
    blank = entry("random weights", "random", 0.0)
    for e, interval in ((run["entries"][0], [low, 0.5]), (blank, [0.0, 0.0]), (run["entries"][-1], [0.1, 0.2])):
        e["scores"]["model_utility"] = {"value": sum(interval) / 2, "interval": interval, "direction": "higher"}
    file.write_text(json.dumps({**run, "entries": [*run["entries"], blank]}))
    (board,) = leaderboard.boards(tmp_path)
    page = leaderboard.pages(tmp_path)["leaderboard.md"]
    assert board.has_utility == stands
    assert board.report_data.utility == ("model_utility" if stands else ""), "the plot has what is left of the rest on its x axis"
    assert ("| model_utility ↑ |" in page) == stands
    assert (leaderboard.NO_UTILITY in page) != stands


def test_without_runs_the_page_says_so(tmp_path: Path) -> None:
    assert "No benchmark run is committed yet." in leaderboard.pages(tmp_path)["leaderboard.md"]
