"""The endpoint and the pages keep to what their documents say, whatever a generator of requests thinks of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("starlette")
pytest.importorskip("argon2")
pytest.importorskip("schemathesis", reason="schemathesis is not installed: pip install schemathesis")

import httpx2
import schemathesis
from hypothesis import HealthCheck, settings
from jsonschema import Draft202012Validator
from schemathesis.core import NotSet
from starlette.testclient import TestClient

import sites
from expunge.service.checking import check
from expunge.service.endpoint import NUMBERS, ROLES, WHOLE, application
from expunge.service.endpoint_schema import endpoint_schema
from expunge.service.models import Upstream
from sites import Browser

BASE = "http://127.0.0.1"
CASES = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
FIELDS = {
    "/requests": ("data", "person", "subject", "basis", "due"),
    "/requests/1/accept": (),
    "/requests/1/refuse": ("why",),
    "/requests/1/extend": ("due", "why"),
    "/requests/1/withdraw": ("why",),
    "/requests/1/reopen": ("why",),
    "/requests/1/undo": ("why",),
    "/compare": ("left", "right", "question"),
    "/verify": ("run", "keys", "head"),
    "/check": (),
}


def answered(request: httpx2.Request) -> httpx2.Response:
    choice = {"message": {"content": "Fine."}} if request.url.path.endswith("chat/completions") else {"text": "Fine."}
    return httpx2.Response(200, json={"choices": [choice]})


def endpoint() -> Any:
    return application(Upstream("http://127.0.0.1:9/v1", "inner", transport=httpx2.MockTransport(answered)), "public")


def test_the_document_of_the_endpoint_is_served_and_names_its_limits() -> None:
    document = TestClient(endpoint(), base_url=BASE).get("/openapi.json").json()
    assert document == endpoint_schema("public", NUMBERS, WHOLE, ROLES)
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    Draft202012Validator.check_schema(body)
    wishes = Draft202012Validator(body)
    turns = [{"role": "user", "content": "Hello"}]
    assert wishes.is_valid({"messages": turns, "temperature": 1.5, "stop": ["a", "b"]})
    for wrong in ({"temperature": 2.5}, {"max_tokens": 0}, {"model": "another"}, {"stop": ["a"] * 5}, {"messages": []}):
        assert not wishes.is_valid({"messages": turns} | wrong), wrong


ENDPOINT = schemathesis.openapi.from_dict(endpoint_schema("public", NUMBERS, WHOLE, ROLES))


@pytest.mark.slow
@ENDPOINT.parametrize()
@CASES
def test_the_endpoint_answers_as_documented(case: Any) -> None:
    client = TestClient(endpoint(), base_url=BASE, raise_server_exceptions=False)
    kind = {"Content-Type": "application/json"}
    sent = (
        {}
        if isinstance(case.body, NotSet)
        else {"content": case.body, "headers": kind}
        if isinstance(case.body, bytes)
        else {"json": case.body}
    )
    answer = client.request(case.method, case.formatted_path, **sent)
    if answer.status_code == 405:
        assert "allow" in answer.headers, "another verb is tried, too"
        return
    assert str(answer.status_code) in case.operation.definition.raw["responses"], answer.text
    assert answer.status_code < 500
    if answer.status_code >= 400:
        assert answer.json()["error"]["message"]


def pages() -> dict[str, Any]:
    """The forms of the pages, as a document."""
    statuses = {str(status): {"description": "a page"} for status in (200, 303, 400, 403, 404, 429)}
    forms: dict[str, Any] = {
        path: {
            "post": {
                "responses": statuses,
                "requestBody": {
                    "content": {
                        "application/x-www-form-urlencoded": {
                            "schema": {"type": "object", "properties": {field: {"type": "string"} for field in fields}}
                        }
                    }
                },
            }
        }
        for path, fields in FIELDS.items()
    }
    number = {"name": "number", "in": "path", "required": True, "schema": {"type": "integer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "pages", "version": "1"},
        "paths": forms
        | {
            f"/{what}/{{number}}": {"parameters": [number], "get": {"responses": statuses}} for what in ("requests", "runs", "certificates")
        },
    }


PAGES = schemathesis.openapi.from_dict(pages())


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[sites.Case, list[Browser]]]:
    case = sites.case(tmp_path_factory.mktemp("documented"))
    case.add_run()
    site = case.site()
    yield case, [Browser(site, role) for role in sites.ROLES]
    case.ledger.engine.dispose()


@pytest.mark.slow
@PAGES.parametrize()
@CASES
def test_a_page_answers_as_documented_whatever_a_form_holds(case: Any, people: Any) -> None:
    own, browsers = people
    for browser in browsers:
        fields = {k: v for k, v in (case.body if isinstance(case.body, dict) else {}).items() if isinstance(v, str)}
        path = case.formatted_path
        sent = {"data": {"token": browser.token, **fields}} if case.method == "POST" else {}
        answer = browser.client.request(case.method, path, **sent)
        assert str(answer.status_code) in {*case.operation.definition.raw["responses"], "405"}, (case.method, path, answer.status_code)
        assert "content-security-policy" in answer.headers
    assert check(own.ledger) == []
