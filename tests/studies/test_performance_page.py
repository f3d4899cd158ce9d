"""The page on time and memory shows the numbers of the files, even if some are missing."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from studies import docs, performance_page

EVALUATION = {
    "ratio_to_floor": 0.8,
    "parts": {"seconds": {"body": 1.0, "reading": 0.5, "reading and gradients": 1.0, "ours, tokens known": 1.25, "ours": 2.0}},
    "command": "python -m performance.evaluation --rounds 3",
    "machine": {"threads": 2, "processor": "x86_64", "device": "cpu"},
}


def page(**records: Any) -> str:
    return performance_page.page(records, docs.ROOT / "performance", picture=False)


def point(**changes: Any) -> dict[str, Any]:
    ways = {"reading": {"seconds": 0.5, "to_floor": 1.5, "bytes": 2**20}, "unlearning": {"seconds": 2, "to_floor": 0.75, "bytes": 2**22}}
    return {"rows": 32, "length": 64, "vocabulary": 4096, "parameters": 10**6, **ways, **changes}


def test_times_of_the_steps_match_a_hand_calculation() -> None:
    text = page(evaluation=EVALUATION)
    assert "| reading of given answers, and scores | 500 ms | 25 % |" in text
    assert "| generated answers | 250 ms | 12 % |" in text
    assert "| tokens and packing | 750 ms | 38 % |" in text
    assert "python -m performance.evaluation --rounds 3 --json results/performance/evaluation.json" in text
    assert "2 threads, x86_64, cpu" in text


def test_missing_measurements_are_listed() -> None:
    text = page(evaluation=EVALUATION)
    assert text.count("Not measured yet") == len(performance_page.SECTIONS), "once for each other benchmark, and once in the list of limits"
    assert "python -m performance.scale --json" in text
    assert not re.search(r"\bnan\b|\bNone\b", text)


def test_missed_limits_are_listed() -> None:
    method = {"to_floor": 1.3, "must": 1.15}
    rows = {"rows": [64, 512], "times": {"reading": 1.1, "evaluation": 1.5}, "must": 1.25}
    text = page(training={"parts": {"npo": method, "ga": {**method, "to_floor": 1.1}}}, scale={"parts": {"memory against rows": rows}})
    assert re.findall(r"\*\*Missed\*\*: (.*?): ([\d.]+)", text) == [
        ("an epoch of `npo`, relative to a plain one", "1.30"),
        ("peak memory of an evaluation of many rows, relative to few rows", "1.50"),
    ]
    assert "No number here is from a GPU" not in text, "the device of these numbers is unknown"
    assert "No number here is from a GPU" in page(evaluation=EVALUATION)
    assert "No number here is from a GPU" not in page(evaluation={**EVALUATION, "machine": {"device": "NVIDIA X"}})


def without(part: Any, whole: Any) -> Iterator[Any]:
    """Copies of the whole record, each without one key of the part or its inner parts; of a list only the first item."""
    for key in list(part):
        kept = part.pop(key)
        yield copy.deepcopy(whole)
        part[key] = kept
        inner = kept[0] if isinstance(kept, list) and kept else kept
        if isinstance(inner, dict):
            yield from without(inner, whole)


@pytest.mark.parametrize("path", sorted((docs.ROOT / performance_page.RESULTS).glob("*.json")), ids=lambda p: p.stem)
def test_the_page_works_without_any_single_key(path: Path) -> None:
    record = json.loads(path.read_text())
    for partial in without(record, record):
        text = performance_page.page({path.stem: partial}, Path("nowhere"), picture=False)
        assert f"## {performance_page.SECTIONS[path.stem].title}" in text
        assert "None" not in text
        performance_page.draw(performance_page.at(partial, "parts", "axes") or {})


def test_the_page_works_without_files(tmp_path: Path) -> None:
    assert list(performance_page.pages(tmp_path)) == ["performance.md"]


def test_the_picture_is_complete_in_light_and_dark_mode() -> None:
    svg = performance_page.draw({"rows": [point(), point(rows=512)], "length": [point()], "model": [point(), point(parameters=10**7)]})
    root = ElementTree.fromstring(svg)
    assert len(root.findall("{*}g")) == 2 * 3, "an axis of one point has no line"
    assert "prefers-color-scheme: dark" in svg
    assert set(re.findall(r"var\((--[\w-]+)\)", svg)) <= {*re.findall(r"(--[\w-]+):", svg)}
    classes = {c for e in root.iter() for c in e.get("class", "").split()}
    assert {"ink", "dot", "tick", "grid"} <= classes & set(re.findall(r"\.([\w-]+)", svg.partition("</style>")[0]))
    assert not re.search(r"plain|evaluation", "".join(root.itertext()).partition("}\n")[2].rpartition("}")[2]), (
        "a way without measurements has no line"
    )


def test_points_are_drawn_at_their_values() -> None:
    """On a logarithmic axis the distance from 1 to 4 equals the distance from 4 to 16."""
    points = [point(rows=2 * 4**i, reading={"seconds": 4.0**i}, unlearning={}) for i in range(3)]
    svg = ElementTree.fromstring(performance_page.draw({"rows": points}))
    spots = [(float(e.get("cx", "nan")), float(e.get("cy", "nan"))) for e in svg.iter() if e.tag.endswith("circle")]
    (a, x), (b, y), (c, z) = spots
    assert b - a == pytest.approx(c - b, abs=0.2)
    assert x - y == pytest.approx(y - z, abs=0.2)
    assert x > y, "more is higher"
