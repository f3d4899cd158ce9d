"""The sections of recommenders on the report page: curves, users and items one by one, lists."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from expunge.report import page
from expunge.report.panels import ranking
from expunge.report.panels.ranking import ListOfUser, OneByOne, Recommended
from expunge.report.report_data import Entry, ReportData, Score

HOSTILE = "<b>user & co</b>"


def entry(name: str, role: Any, recalls: dict[str, float], **changes: Any) -> Entry:
    parts: dict[str, Any] = {
        "sets": {"forget": [ListOfUser(HOSTILE, ["x", "y"], ["y"])]},
        "cut": 7,
        "curves": {"forget": [(1, 0.25), (10, 1.0)], "unseen": [(1, 0.0), (10, 0.5)]},
        "users": [OneByOne(user, 4, recall, 3.5) for user, recall in recalls.items()],
        "items": [OneByOne("x", 2, 0.5, 1.0)],
    }
    label = "" if role == "method" else name
    panels = {ranking.NAME: ranking.data(Recommended(**{**parts, **changes}))}
    return Entry(name=name, role=role, label=label, method=name, scores={"test_ndcg": Score(value=0.5)}, panels=panels)


def drawn(*entries: Entry) -> str:
    return page.build(ReportData(title="t", models=list(entries), main=["test_ndcg"], utility="test_ndcg", quality="test_ndcg"))


def test_users_furthest_from_the_retrained_model_come_first() -> None:
    many = {f"user{k:02d}": 0.5 for k in range(20)}
    entries = (
        entry("original", "original", {**many, "near": 1.0, "far": 0.0}),
        entry("npo", "method", {**many, "near": 0.5, "far": 1.0}),
        entry("retrained", "retrained", {**many, "near": 0.6, "far": 0.0}),
    )
    html = drawn(*entries)
    start = html.index('id="levels"')
    places = [html.index(f'<th scope="row">{name}</th>', start) for name in ("far", "near", "user00")]
    assert places == sorted(places), "the original, which is to differ, does not count"
    assert f"{ranking.SHOWN} of 22 users" in html
    assert "among the first 7 of the ranking" in html
    assert "1.00 <small>(3.5)</small>" in html


def test_curves_stand_beside_the_retrained_model() -> None:
    html = drawn(entry("npo", "method", {}), entry("retrained", "retrained", {}))
    section = html[html.index('id="places"') :]
    assert "Items to be forgotten: share among the first K recommended by npo" in section
    assert "Unseen items: share among the first K recommended by npo" in section
    assert section.count('class="line retrained"') == 2, "in each chart of the method, and in none of its own"


def test_names_are_escaped_and_kept_lists_are_not_red() -> None:
    html = drawn(entry("npo", "method", {HOSTILE: 0.5}))
    assert HOSTILE not in html
    assert "&lt;b&gt;user" in html
    assert ".lists.kept mark" in html


def test_parts_that_are_missing_are_left_out() -> None:
    html = drawn(entry("npo", "method", {}, sets={}, items=[]))
    assert 'id="places"' in html
    assert 'id="lists"' not in html
    assert 'id="levels"' not in html


def test_unknown_fields_are_refused() -> None:
    bad = entry("npo", "method", {})
    bad.panels[ranking.NAME]["more"] = 1
    with pytest.raises(ValidationError):
        ranking.read(bad)
