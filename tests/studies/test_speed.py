"""The page on time and memory says what the files say, whatever is missing from them."""

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


def page(**found: Any) -> str:
    return performance_page.page(found, docs.ROOT / "performance", picture=False)


def point(**more: Any) -> dict[str, Any]:
    ways = {"reading": {"seconds": 0.5, "to_floor": 1.5, "bytes": 2**20}, "unlearning": {"seconds": 2, "to_floor": 0.75, "bytes": 2**22}}
    return {"rows": 32, "length": 64, "vocabulary": 4096, "parameters": 10**6, **ways, **more}


def test_where_time_goes_by_hand() -> None:
    told = page(evaluation=EVALUATION)
    assert "| reading of given answers, and scores | 500 ms | 25 % |" in told
    assert "| answers of the model's own | 250 ms | 12 % |" in told
    assert "| tokens and packing | 750 ms | 38 % |" in told
    assert "python -m performance.evaluation --rounds 3 --json results/performance/evaluation.json" in told
    assert "2 threads, x86_64, cpu" in told


def test_what_was_not_measured_is_said() -> None:
    told = page(evaluation=EVALUATION)
    assert told.count("Not measured yet") == len(performance_page.SECTIONS), "once for each other benchmark, and in the list of limits"
    assert "python -m performance.scale --json" in told
    assert not re.search(r"nan|None", told)


def test_what_is_missed_is_among_the_limits() -> None:
    method = {"to_floor": 1.3, "must": 1.15}
    rows = {"rows": [64, 512], "times": {"reading": 1.1, "evaluation": 1.5}, "must": 1.25}
    told = page(training={"parts": {"npo": method, "ga": {**method, "to_floor": 1.1}}}, scale={"parts": {"memory against rows": rows}})
    assert re.findall(r"\*\*Missed\*\*: (.*?): ([\d.]+)", told) == [
        ("an epoch of `npo`, to a plain one", "1.30"),
        ("peak memory of an evaluation of more rows, to that of few", "1.50"),
    ]
    assert "No number here is from a GPU" not in told, "nobody knows what these were measured on"
    assert "No number here is from a GPU" in page(evaluation=EVALUATION)
    assert "No number here is from a GPU" not in page(evaluation={**EVALUATION, "machine": {"device": "NVIDIA X"}})


def without(found: Any, whole: Any) -> Iterator[Any]:
    """All there is, each time with another key left out; of a list, of its first alone."""
    for key in list(found):
        kept = found.pop(key)
        yield copy.deepcopy(whole)
        found[key] = kept
        inner = kept[0] if isinstance(kept, list) and kept else kept
        if isinstance(inner, dict):
            yield from without(inner, whole)


@pytest.mark.parametrize("path", sorted((docs.ROOT / performance_page.RESULTS).glob("*.json")), ids=lambda p: p.stem)
def test_no_key_is_needed(path: Path) -> None:
    found = json.loads(path.read_text())
    for less in without(found, found):
        told = performance_page.page({path.stem: less}, Path("nowhere"), picture=False)
        assert f"## {performance_page.SECTIONS[path.stem].title}" in told
        assert "None" not in told
        performance_page.drawn(performance_page.at(less, "parts", "axes") or {})


def test_no_file_is_needed(tmp_path: Path) -> None:
    assert list(performance_page.pages(tmp_path)) == ["performance.md"]


def test_the_picture_is_whole_in_light_and_dark() -> None:
    svg = performance_page.drawn({"rows": [point(), point(rows=512)], "length": [point()], "model": [point(), point(parameters=10**7)]})
    root = ElementTree.fromstring(svg)
    assert len(root.findall("{*}g")) == 2 * 3, "an axis of one point has no line"
    assert "prefers-color-scheme: dark" in svg
    assert set(re.findall(r"var\((--[\w-]+)\)", svg)) <= {*re.findall(r"(--[\w-]+):", svg)}
    drawn = {c for e in root.iter() for c in e.get("class", "").split()}
    assert {"ink", "dot", "tick", "grid"} <= drawn & set(re.findall(r"\.([\w-]+)", svg.partition("</style>")[0]))
    assert not re.search(r"plain|evaluation", "".join(root.itertext()).partition("}\n")[2].rpartition("}")[2]), (
        "what was not measured has no line"
    )


def test_values_are_drawn_where_they_are() -> None:
    """Four times the seconds on a logarithmic axis are as far apart as sixteen times are from four."""
    points = [point(rows=2 * 4**i, reading={"seconds": 4.0**i}, unlearning={}) for i in range(3)]
    svg = ElementTree.fromstring(performance_page.drawn({"rows": points}))
    spots = [(float(e.get("cx", "nan")), float(e.get("cy", "nan"))) for e in svg.iter() if e.tag.endswith("circle")]
    (a, x), (b, y), (c, z) = spots
    assert b - a == pytest.approx(c - b, abs=0.2)
    assert x - y == pytest.approx(y - z, abs=0.2)
    assert x > y, "more is higher"
