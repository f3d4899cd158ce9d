"""Whatever is sent to the pages: a page with its headers, never an error of the server, and a whole ledger afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("sqlalchemy")
pytest.importorskip("starlette")
pytest.importorskip("argon2")

import sites
from expunge.service.checking import check
from expunge.service.web import forms, visit
from sites import ROLES, Browser

PATHS = (
    "/sign-in", "/requests", "/requests/{}", "/requests/{}/rows", "/requests/{}/run", "/requests/{}/accept", "/requests/{}/refuse",
    "/requests/{}/extend", "/requests/{}/undo", "/requests/{}/{}", "/runs", "/runs/{}", "/runs/{}/reports/{}", "/compare", "/certificates",
    "/certificates/{}", "/verify", "/check", "/{}", "/style.css",
)  # fmt: skip
WORDS = st.sampled_from(["1", "2", "0", "-1", "99999999999999999999", "..", "%00", "x", "model", "these-requests", "", "1e3", "½"])
TEXTS = WORDS | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
FIELDS = (
    "data",
    "person",
    "subject",
    "basis",
    "due",
    "why",
    "method",
    "model",
    "settings",
    "budget",
    "left",
    "right",
    "question",
    "run",
    "keys",
    "head",
)


@pytest.fixture(scope="module")
def browsers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[sites.Case, dict[str, Browser]]]:
    case = sites.case(tmp_path_factory.mktemp("fuzzed"))
    case.add_run()
    site = case.site()
    yield case, {role: Browser(site, role) for role in ROLES}
    case.ledger.engine.dispose()


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    role=st.sampled_from(ROLES),
    path=st.sampled_from(PATHS),
    words=st.lists(TEXTS, min_size=2, max_size=2),
    fields=st.dictionaries(st.sampled_from(FIELDS), TEXTS),
    method=st.sampled_from(["GET", "POST", "POST", "PUT", "DELETE", "HEAD"]),
    files=st.none() | st.binary(max_size=40),
)
def test_any_request_gets_a_page(
    browsers: Any, role: str, path: str, words: list[str], fields: dict[str, str], method: str, files: Any
) -> None:
    _, known = browsers
    browser = known[role]
    sent: dict[str, Any] = {"data": {"token": browser.token, **fields}} if method == "POST" else {}
    if files is not None and sent:
        sent["files"] = {"certificate": ("c.json", files)}
    address = path.format(*[quote(w, safe="") for w in words])
    answer = browser.client.request(method, address, **sent)
    assert answer.status_code in (200, 303, 307, 400, 403, 404, 405, 429), (method, address)
    assert "content-security-policy" in answer.headers
    assert role != "clerk" or "Pellgrove" not in answer.text


@pytest.mark.slow
def test_the_ledger_is_whole_after_all_that(browsers: Any) -> None:
    case, _ = browsers
    assert check(case.ledger) == []


@settings(max_examples=200, deadline=None)
@given(header=st.text(max_size=40), content=st.binary(max_size=200))
def test_any_body_is_a_form_or_refused(header: str, content: bytes) -> None:
    from starlette.requests import Request as HttpRequest

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    for kind in (header, f"{forms.MULTIPART}; boundary={header}", forms.URLENCODED):
        scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind.encode("latin-1", "replace"))]}
        with contextlib.suppress(forms.BadForm):
            form = asyncio.run(forms.read(HttpRequest(scope, receive)))
            assert all(isinstance(v, str) for v in form.fields.values())


class Outline(HTMLParser):
    """What a page offers to a reader who does not see it."""

    def __init__(self) -> None:
        super().__init__()
        self.labels, self.fields, self.ids, self.levels = set[str](), list[dict[str, str | None]](), list[str](), list[int]()
        self.tags, self.lang = list[str](), ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.tags.append(tag)
        if identity := known.get("id"):
            self.ids.append(identity)
        if tag == "label":
            self.labels.add(str(known.get("for")))
        if tag in ("input", "select", "textarea") and known.get("type") != "hidden":
            self.fields.append(known)
        if tag in ("h1", "h2", "h3"):
            self.levels.append(int(tag[1]))
        if tag == "html":
            self.lang = str(known.get("lang"))


def test_pages_have_labels_landmarks_and_headings_in_order(browsers: Any) -> None:
    """What can be said without a browser; axe says more where one is installed."""
    _, known = browsers
    for role in ROLES:
        for path in ("/requests", "/requests/1", "/runs", "/runs/1", "/compare", "/certificates", "/verify", "/nothing", "/sign-in"):
            outline = Outline()
            outline.feed(known[role].get(path).text)
            assert outline.lang == "en"
            assert outline.tags.count("main") == outline.tags.count("h1") == outline.tags.count("title") == 1, path
            assert len(outline.ids) == len(set(outline.ids)), path
            assert {str(f.get("id")) for f in outline.fields} == outline.labels, path
            assert all(b - a <= 1 for a, b in zip([0, *outline.levels], outline.levels, strict=False)), path
            described = [f["aria-describedby"] for f in outline.fields if "aria-describedby" in f]
            assert set(described) <= set(outline.ids), path


def luminance(color: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


PAIRS = [(ink, ground) for ground in ("paper", "sheet") for ink in ("ink", "soft", "accent", "fail")]
PAIRS += [("pass", "pass-wash"), ("warn", "warn-wash"), ("fail", "fail-wash"), ("ink", "faint"), ("paper", "accent")]


@pytest.mark.parametrize(("ink", "ground"), PAIRS)
def test_colors_have_enough_contrast_on_light_and_dark_screens(ink: str, ground: str) -> None:
    style = (Path(str(visit.__file__)).parent / "style.css").read_text(encoding="utf-8")
    light, dark = style.split("prefers-color-scheme: dark")[:2]
    for part in (light, dark):
        colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part))
        lighter, darker = sorted((luminance(colors[ink]), luminance(colors[ground])), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5
        edge = sorted((luminance(colors["rule"]), luminance(colors["paper"])), reverse=True)
        assert (edge[0] + 0.05) / (edge[1] + 0.05) >= 3, "the edge of a field"
