"""The pages in a real browser, without and with JavaScript: the story, widths, and what axe says of them."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("starlette")
pytest.importorskip("argon2")
pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright axe-playwright-python")

import uvicorn
from playwright import sync_api

import sites

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (Debian: apt-get install chromium)")]
PAGES = ("/requests", "/requests/1", "/requests/1/rows", "/runs", "/runs/1", "/compare", "/certificates", "/verify")


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The address of the pages, served by a server as in use."""
    case = sites.case(tmp_path)
    case.add_run()
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = trial.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(case.site(), host="127.0.0.1", port=port, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)
    case.ledger.engine.dispose()


@pytest.fixture
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def signed_in(chromium: Any, address: str, role: str, **options: Any) -> Any:
    tab = chromium.new_context(**options).new_page()
    tab.goto(f"{address}/")
    tab.get_by_label("Name").fill(role)
    tab.get_by_label("Password").fill(sites.PASSWORDS[role])
    tab.get_by_role("button", name="Sign in").click()
    assert tab.url == f"{address}/requests"
    return tab


def test_a_clerk_takes_in_a_request_without_javascript(chromium: Any, address: str) -> None:
    tab = signed_in(chromium, address, "clerk", java_script_enabled=False)
    tab.get_by_label("Who is to be forgotten").fill("2")
    tab.get_by_label("Legal ground").fill("GDPR 17(1)(b)")
    tab.get_by_role("button", name="Take in").click()
    assert tab.url == f"{address}/requests/2"
    tab.get_by_role("button", name="Accept").click()
    assert "accepted by clerk" in tab.get_by_role("list").inner_text()
    tab.get_by_role("button", name="Sign out").click()
    tab.goto(f"{address}/requests")
    assert tab.url == f"{address}/sign-in"


def test_a_form_of_another_site_is_refused_by_browser_and_server(chromium: Any, address: str, tmp_path: Path) -> None:
    tab = signed_in(chromium, address, "clerk")
    tab.set_content(f'<form method="post" action="{address}/requests/1/withdraw"><button>Win a prize</button></form>')
    other = tab.context.new_page()
    (tmp_path / "evil.html").write_text(f'<form method="post" action="{address}/sign-out"><button>Win a prize</button></form>')
    other.goto(f"file://{tmp_path / 'evil.html'}")
    other.get_by_role("button").click()
    assert "sign in first" in other.content().lower(), "the cookie did not travel"
    tab.goto(f"{address}/requests")
    assert tab.url == f"{address}/requests"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 1200), ("light", 360)])
def test_pages_are_accessible_and_fit(chromium: Any, address: str, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python").Axe()
    tab = signed_in(chromium, address, "operator", color_scheme=scheme, viewport={"width": width, "height": 800})
    for path in PAGES:
        tab.goto(address + path)
        assert tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), path
        violations = axe.run(tab).response["violations"]
        assert not [(v["id"], [n["html"] for n in v["nodes"]]) for v in violations], path


def test_a_report_reaches_no_session(chromium: Any, address: str, tmp_path: Path) -> None:
    tab = signed_in(chromium, address, "auditor")
    tab.goto(f"{address}/runs/1/reports/these-requests")
    assert tab.evaluate("window.origin") == "null"
    denied = "(() => { try { document.cookie; return false } catch { return true } })()"
    assert tab.evaluate(denied)
