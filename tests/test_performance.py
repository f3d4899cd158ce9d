"""The computations of the benchmarks apart from the clock: ratios, generated rows and models, and counts."""

from __future__ import annotations

import ast
import json
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from performance import _bench as bench
from performance import gpu, large, rollouts, scale

from expunge.engine.run_state import evaluating
from expunge.modalities.text import reading as reading_module
from studies import docs, performance_page

POINT = scale.Point(rows=8, length=11, vocabulary=300, width=32, layers=2)
BENCHMARKS = sorted(p for p in (docs.ROOT / "performance").glob("*.py") if not p.stem.startswith("_"))


def test_a_ratio_is_the_median_over_rounds_of_a_ratio_of_sums() -> None:
    times = bench.Times()
    for ours, floor, more in ((1.0, 1.0, 1.0), (3.0, 2.0, 2.0), (9.0, 1.0, 2.0)):
        times.add("ours", ours, 1.0)
        times.add("floor", floor, 2.0)
        times.add("more", more, 2.0)
    assert times.seconds("ours") == 3.0
    assert times.ratio("ours", "floor") == 1.5, "of 1, 1.5 and 9"
    assert times.ratio("ours", ("floor", "more")) == 0.75, "of 0.5, 0.75 and 3"
    assert times.ratio("ours", "floor", "cpu") == 0.5


def test_ways_are_timed_in_turns() -> None:
    calls: list[str] = []
    times = bench.interleaved({n: lambda n=n: calls.append(n) for n in "ab"}, 2)
    assert calls == [*"ababab"]
    assert len(times.wall["a"]) == 2, "the first round warms up"


def test_the_recorded_command_has_the_chosen_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["x", "--quick", "--batch-size", "8", "--items", "3", "--json", str(tmp_path / "x.json")])
    options = bench.options("", batch_size={"type": int, "default": 4}, axes={"default": ""})
    bench.finish(options, "x", {"ratio_to_floor": 1.0})
    report = json.loads((tmp_path / "x.json").read_text())
    assert report["command"] == "python -m performance.x --quick --rounds 3 --items 3 --batch-size 8"
    assert {"ratio_to_floor", "versions", "machine"} <= report.keys()


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda p: p.stem)
def test_every_benchmark_documents_its_command_and_is_on_the_page(path: Path) -> None:
    assert f"python -m performance.{path.stem}" in (ast.get_docstring(ast.parse(path.read_text())) or "")
    assert path.stem in performance_page.SECTIONS


@pytest.mark.parametrize("quick", [False, True])
def test_one_property_changes_along_an_axis(quick: bool) -> None:
    axes = scale.axes(quick)
    (base,) = set.intersection(*(set(points) for points in axes.values()))
    for axis, points in axes.items():
        changed = {k for p in points for k, v in asdict(p).items() if v != getattr(base, k)}
        assert changed <= ({"width", "layers"} if axis == "model" else {axis})
    assert max(p.vocabulary for p in axes["vocabulary"]) > 128_000


@pytest.mark.parametrize("length", [8, 11])
def test_random_rows_have_the_exact_number_of_tokens(length: int) -> None:
    point = replace(POINT, length=length)
    modality = scale.open_model(point).modality
    for name, records in scale.random_records(point).items():
        rows = modality.rows(name, records)
        assert len(rows) == point.rows // 2
        for prompt, answer in zip(rows["prompt"], rows["answer"], strict=True):
            assert len(prompt) == length // 2
            assert len(prompt) + len(answer) == length
            assert (prompt[0], answer[-1]) == (1, 2)
            assert max(prompt + answer) < point.vocabulary


def test_parameter_count_matches_the_model() -> None:
    assert scale.parameters(POINT) == sum(p.numel() for p in scale.open_model(POINT).model.parameters())


def test_logits_at_a_time_match_a_hand_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row has 6 labels; a step reads 8 rows, one by one 2 of them, and the plain way asks at every position.

    Before the first pass the model is tried on two rows, at every position.
    """
    monkeypatch.setitem(reading_module.ROOM, "cpu", 0)
    monkeypatch.setattr(reading_module, "FEWEST", 5)
    held = {way: scale.memory(Namespace(), POINT, way)["logits"] for way in ("reading", "unlearning", scale.ONE_BY_ONE, "plain")}
    positions = {"reading": 5, "unlearning": 8 * 6, scale.ONE_BY_ONE: 2 * 6, "plain": 8 * 11}
    assert held == {way: 4 * 300 * (n if way == "plain" else max(n, 2 * 11)) for way, n in positions.items()}
    assert scale.whole_logits_bytes(POINT, 8) == held["plain"]


def test_the_floor_of_reading_runs_the_head_at_every_label() -> None:
    case, head_rows = scale.Case(POINT), 0

    def count(module: object, args: object, out: object) -> None:
        nonlocal head_rows
        head_rows += out.shape[0] if isinstance(out, torch.Tensor) and out.shape[-1] == POINT.vocabulary else 0

    with evaluating(case.opened.model), torch.no_grad(), scale.register_module_forward_hook(count):
        scale.bare(scale.Workload(case.opened, case.records), size=3)
    assert head_rows == POINT.rows * 6


def test_memory_growth_compares_points_eight_times_apart() -> None:
    def point(rows: int, size: int) -> dict[str, object]:
        return {"rows": rows, "length": 10, **{way: {"bytes": size} for way in ("reading", "evaluation", "unlearning")}}

    growth = scale.memory_growth([point(64, 1), point(128, 89600), point(256, 1), point(1024, 134400)])
    assert growth["rows"] == [128, 1024]
    assert growth["times"] == {"reading": 1.5, "evaluation": 1.5, "unlearning": 1.5}
    assert growth["bytes a token"] == {"reading": 5, "evaluation": 5, "unlearning": 5}
    assert scale.memory_growth([point(128, 1), point(256, 2)]) == {}
    assert scale.memory_growth([point(16, 1), point(128, 2)]) == {}, "too few to fill a batch"


def test_a_step_of_reinforcement_is_timed_against_the_same_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["x", "--quick", "--rounds", "1", "--items", "3", "--json", str(tmp_path / "rollouts.json")])
    rollouts.main()
    record = json.loads((tmp_path / "rollouts.json").read_text())
    assert record["parts"]["answers"] == 3 * 4
    assert record["parts"]["answers that differ"] == 0
    assert record["ratio_to_floor"] > 0
    assert record["command"] == "python -m performance.rollouts --quick --rounds 1 --items 3"


@pytest.mark.slow
def test_long_documents_and_large_models_are_measured_at_small_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["x", "--quick", "--rounds", "1", "--json", str(tmp_path / "large.json")])
    large.main()
    record = json.loads((tmp_path / "large.json").read_text())
    assert record["parts"].keys() == large.QUICK.keys()
    for case in record["parts"].values():
        assert all(case[way]["bytes"] > 0 and case[way]["seconds"] > 0 for way in large.WAYS)


@pytest.mark.slow
def test_what_is_measured_on_a_gpu_also_runs_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["x", "--quick", "--json", str(tmp_path / "gpu.json")])
    gpu.main()
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert parts["parameters"] == scale.parameters(gpu.QUICK)
    assert parts["seconds"].keys() == parts["bytes"].keys() == {"body", "generate", "evaluation", "plain", "npo"}
    assert all(ratio > 0 for ratio in parts["ratios"].values())


def test_the_model_for_a_gpu_has_a_billion_weights() -> None:
    assert 1.0e9 < scale.parameters(gpu.LARGE) < 1.2e9
