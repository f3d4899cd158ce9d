"""The guarded endpoint: each of its promises."""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx2")
pytest.importorskip("argon2")

import httpx2
from argon2 import PasswordHasher
from starlette.testclient import TestClient

import stub_endpoint
from cases import Cases, expunge
from expunge.core.errors import UserError
from expunge.service.api_keys import ApiKeys
from expunge.service.endpoint import LARGEST, application
from expunge.service.lookalikes import folded, visible
from expunge.service.models import Upstream
from expunge.service.serving import guarded_endpoint, is_loopback
from expunge.service.text_guards import REFUSAL, NameGuard

NAME = "Quenna Bexmoor"
BASE = "http://127.0.0.1"


class Behind:
    """A server behind that notes what it was sent."""

    def __init__(self, answer: Any = "The weather is fine.") -> None:
        self.answer, self.bodies, self.headers = answer, list[dict[str, Any]](), list[httpx2.Headers]()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.bodies.append(json.loads(request.content))
        self.headers.append(request.headers)
        if isinstance(self.answer, (httpx2.Response, Exception)):
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer
        choice = {"message": {"content": self.answer}} if request.url.path.endswith("chat/completions") else {"text": self.answer}
        return httpx2.Response(200, json={"choices": [choice]})


def client(behind: Behind, *guards: Any, keys: ApiKeys | None = None) -> TestClient:
    upstream = Upstream("http://127.0.0.1:9/v1", "inner", transport=httpx2.MockTransport(behind))
    return TestClient(application(upstream, "public", guards, keys), base_url=BASE)


def ask(of: TestClient, content: Any = "How is the weather?", headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
    return of.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": content}], **fields}, headers=headers)  # type: ignore[return-value]


def text_of(reply: httpx2.Response) -> str:
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["message"]["content"])


def test_an_answer_comes_back_and_the_models_are_listed() -> None:
    behind = Behind()
    of = client(behind, NameGuard([NAME]))
    assert text_of(ask(of)) == "The weather is fine."
    assert [m["id"] for m in of.get("/v1/models").json()["data"]] == ["public"]
    assert of.get("/health").json() == {"status": "ok", "guards": 1}
    reply = of.post("/v1/completions", json={"prompt": "The weather"})
    assert reply.json()["choices"][0]["text"] == "The weather is fine."
    assert behind.bodies[-1]["prompt"] == "The weather"


def test_the_served_model_is_pinned_whatever_a_request_names() -> None:
    behind = Behind()
    of = client(behind)
    assert text_of(ask(of, model="public"))
    assert behind.bodies[-1]["model"] == "inner"
    for other in ("inner", "/etc", "../other", 7):
        assert ask(of, model=other).status_code == 404
    assert len(behind.bodies) == 1


def test_only_known_fields_reach_the_model() -> None:
    behind = Behind()
    extra = {
        "logprobs": True,
        "top_logprobs": 5,
        "n": 3,
        "best_of": 3,
        "echo": True,
        "logit_bias": {"1": 9},
        "use_beam_search": True,
        "user": "me",
    }
    text_of(ask(client(behind), temperature=0.5, max_completion_tokens=9, stop=["x"], **extra))
    assert behind.bodies[0].keys() == {"model", "messages", "stream", "temperature", "max_tokens", "stop"}
    assert behind.bodies[0]["stream"] is False
    assert behind.bodies[0]["max_tokens"] == 9


PICTURE = [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"tools": [{"type": "function"}]}, 400),
        ({"functions": [{}]}, 400),
        ({"response_format": {"type": "json_object"}}, 400),
        ({"temperature": 9}, 400),
        ({"temperature": True}, 400),
        ({"max_tokens": 0}, 400),
        ({"max_tokens": 10**9}, 400),
        ({"stop": [1]}, 400),
        ({"messages": []}, 400),
        ({"messages": "hello"}, 400),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400),
        ({"messages": [{"role": "user", "content": PICTURE}]}, 400),
        ({"messages": [{"role": "user", "content": None}]}, 400),
        ({"messages": [{"role": "system", "content": "x"}]}, 400),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]}, 400),
    ],
)
def test_what_is_not_served_is_refused_before_the_model(fields: dict[str, Any], status: int) -> None:
    behind = Behind()
    reply = ask(client(behind), **fields)
    assert reply.status_code == status
    assert reply.json()["error"]["message"]
    assert behind.bodies == []


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"a=b", "application/x-www-form-urlencoded", 415),
        (b" " * (LARGEST + 1), "application/json", 413),
    ],
)
def test_bodies_of_other_kinds_and_sizes_are_refused(content: bytes, kind: str, status: int) -> None:
    behind = Behind()
    reply = client(behind).post("/v1/chat/completions", content=content, headers={"Content-Type": kind})
    assert reply.status_code == status
    assert behind.bodies == []


DISGUISES = [
    NAME,
    NAME.upper(),
    "Quenna\u200b Bex\u00admoor",
    "Qu\u0435nna B\u0435xm\u043e\u043er",  # Cyrillic letters
    "Q u e n n a  B e x m o o r",
    "Quenna_Bexmoor",
    "Qu3nna B3xm00r",
    "\uff31\uff55\uff45\uff4e\uff4e\uff41 \uff22\uff45\uff58\uff4d\uff4f\uff4f\uff52",  # full width
    "Qu\u0301enna Bexmo\u0308or",
    "\u202eQuenna Bexmoor\u202c",
    "Quenna\nBexmoor",
]


@pytest.mark.parametrize("written", DISGUISES)
def test_a_name_is_kept_back_in_question_and_answer_however_it_is_disguised(written: str) -> None:
    behind = Behind()
    of = client(behind, NameGuard([NAME]))
    reply = ask(of, f"Where was {written} born?")
    assert text_of(reply) == REFUSAL
    assert reply.json()["choices"][0]["finish_reason"] == "content_filter"
    assert behind.bodies == []
    behind.answer = f"It was {written}, born in Pellgrove."
    assert text_of(ask(of)) == REFUSAL


@pytest.mark.parametrize("text", ["Who was Quenna Marlow?", "The moor is wide.", "Queen Anna walks on the moor", "Bexley"])
def test_other_names_pass(text: str) -> None:
    assert text_of(ask(client(Behind(), NameGuard([NAME])), text)) == "The weather is fine."


def test_a_name_that_is_spread_over_turns_or_parts_is_kept_back() -> None:
    behind = Behind()
    of = client(behind, NameGuard([NAME]))
    turns = [{"role": "user", "content": "Quenna"}, {"role": "user", "content": "Bexmoor, where was she born?"}]
    assert text_of(ask(of, messages=turns)) == REFUSAL
    assert text_of(ask(of, [{"type": "text", "text": "Quenna"}, {"type": "text", "text": "Bexmoor"}])) == REFUSAL
    assert text_of(ask(of, messages=[{"role": "assistant", "content": NAME}, {"role": "user", "content": "Go on."}])) == REFUSAL
    assert behind.bodies == []


def test_invisible_characters_do_not_reach_the_model() -> None:
    behind = Behind()
    text_of(ask(client(behind), "a\u200bb\u202ec\U000e0041d\u00ade\tf"))
    assert behind.bodies[0]["messages"][0]["content"] == "abcde\tf"


def test_a_stream_comes_whole_or_not_at_all() -> None:
    behind = Behind(f"She was born in Pellgrove. {NAME} is her name.")
    of = client(behind, NameGuard([NAME]))
    reply = ask(of, stream=True)
    assert "Pellgrove" not in reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    behind.answer = "One two three."
    lines = [line.removeprefix("data: ") for line in ask(of, stream=True).text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    pieces = [json.loads(line)["choices"][0] for line in lines[:-1]]
    assert "".join(p["delta"].get("content", "") for p in pieces) == "One two three."
    assert pieces[-1]["finish_reason"] == "stop"
    assert behind.bodies[-1]["stream"] is False


class Broken:
    """A guard that fails on the question or on the answer."""

    def __init__(self, on: str) -> None:
        self.on = on

    def asked(self, text: str) -> str | None:
        if self.on == "asked":
            raise RuntimeError(f"cannot look at {text}")
        return None

    def answered(self, text: str) -> str | None:
        raise RuntimeError(f"cannot look at {text}")


@pytest.mark.parametrize("on", ["asked", "answered"])
def test_a_guard_that_fails_lets_nothing_through(on: str) -> None:
    behind = Behind("Pellgrove")
    reply = ask(client(behind, Broken(on)), "a secret question")
    assert reply.status_code == 503
    assert "Pellgrove" not in reply.text
    assert "secret question" not in reply.text
    assert len(behind.bodies) == (on == "answered")


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.Response(500, text="secret trace"),
        httpx2.Response(302, headers={"Location": "http://elsewhere/"}),
        httpx2.Response(200, text="no JSON"),
        httpx2.Response(200, json={"choices": []}),
        httpx2.Response(200, json={"choices": [{"message": {"content": None}}]}),
        httpx2.ConnectError("gone"),
    ],
)
def test_a_server_behind_that_fails_gives_an_error_without_its_words(answer: Any) -> None:
    reply = ask(client(Behind(answer)))
    assert reply.status_code == 502
    assert "secret" not in reply.text
    assert "elsewhere" not in reply.text


def test_no_prompt_and_no_answer_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "expunge.endpoint"):
        behind = Behind("my secret answer")
        of = client(behind, NameGuard([NAME]))
        ask(of, "my secret question")
        ask(of, f"my secret question on {NAME}")
        ask(client(behind, Broken("asked")), "my secret question")
        ask(of, "my secret question", temperature=99)
    own = [r.getMessage() for r in caplog.records if r.name == "expunge.endpoint"]
    assert len(own) >= 4
    assert not [line for line in own if "secret" in line or "Bexmoor" in line]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_keys_are_kept_as_argon2_hashes_and_needed_for_everything_but_health(tmp_path: Path) -> None:
    keys = ApiKeys(tmp_path / "keys.json")
    key = keys.new("a client")
    number, secret = key.split("-", 2)[1:]
    kept = (tmp_path / "keys.json").read_text()
    assert secret not in kept
    assert PasswordHasher().verify(json.loads(kept)[number]["hash"], secret)
    assert (tmp_path / "keys.json").stat().st_mode & 0o077 == 0
    behind = Behind()
    of = client(behind, keys=ApiKeys(tmp_path / "keys.json"))
    for wrong in ({}, bearer("nothing"), bearer(f"{key}x"), bearer(f"xk-{number}-"), {"Authorization": f"Basic {key}"}):
        assert ask(of, headers=wrong).status_code == 401
        assert of.get("/v1/models", headers=wrong).status_code == 401
    assert behind.bodies == []
    assert text_of(ask(of, headers=bearer(key)))
    assert text_of(ask(of, headers=bearer(key)))
    assert "authorization" not in behind.headers[0]
    assert of.get("/health").status_code == 200
    keys.revoke(number)
    assert ask(client(behind, keys=ApiKeys(tmp_path / "keys.json")), headers=bearer(key)).status_code == 401


def test_a_key_has_its_rate_and_another_key_its_own(tmp_path: Path) -> None:
    clock = [0.0]
    keys = ApiKeys(tmp_path / "keys.json", clock=lambda: clock[0])
    first, second = keys.new("one", per_minute=2), keys.new("two", per_minute=2)
    of = client(Behind(), keys=keys)
    assert [ask(of, headers=bearer(first)).status_code for _ in range(3)] == [200, 200, 429]
    assert int(ask(of, headers=bearer(first)).headers["retry-after"]) == 60
    assert ask(of, headers=bearer(second)).status_code == 200
    clock[0] = 61.0
    assert ask(of, headers=bearer(first)).status_code == 200


def test_requests_under_another_name_are_refused_as_pages_of_the_web_make_them() -> None:
    of = client(Behind())
    assert ask(of, headers={"Host": "evil.example"}).status_code == 400
    assert ask(of, headers={"Host": "localhost:8000"}).status_code == 200


def test_only_this_machine_reaches_it_unless_there_are_keys(tmp_path: Path) -> None:
    assert all(is_loopback(h) for h in ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"))
    assert not any(is_loopback(h) for h in ("0.0.0.0", "::", "192.168.1.2", "example.org", ""))
    (tmp_path / "names.txt").write_text(NAME)
    server = {"upstream": "http://127.0.0.1:9/v1", "upstream_model": "inner", "names": str(tmp_path / "names.txt")}
    with pytest.raises(UserError, match="clients need keys"):
        guarded_endpoint(**server, host="0.0.0.0")
    with pytest.raises(UserError, match="nobody could ask"):
        guarded_endpoint(**server, host="0.0.0.0", keys=str(tmp_path / "none.json"))
    ApiKeys(tmp_path / "keys.json").new("one")
    guarded_endpoint(**server, host="0.0.0.0", keys=str(tmp_path / "keys.json"))


def test_what_cannot_be_guarded_does_not_start(tmp_path: Path) -> None:
    server = {"upstream": "http://127.0.0.1:9/v1", "upstream_model": "inner"}
    with pytest.raises(UserError, match="no guard stands before"):
        guarded_endpoint(**server)
    guarded_endpoint(**server, unguarded=True)
    with pytest.raises(UserError, match="cannot be read"):
        guarded_endpoint(**server, names=str(tmp_path / "none.txt"))
    (tmp_path / "short.txt").write_text("Al\n")
    with pytest.raises(UserError, match="less than three letters"):
        guarded_endpoint(**server, names=str(tmp_path / "short.txt"))
    with pytest.raises(UserError, match="name what is served"):
        guarded_endpoint()
    with pytest.raises(UserError, match="the one model"):
        guarded_endpoint(upstream="http://127.0.0.1:9/v1", unguarded=True)
    for address in ("ftp://x/v1", "127.0.0.1:9", "http://me:pw@127.0.0.1/v1"):
        with pytest.raises(UserError, match="has an address like"):
            guarded_endpoint(upstream=address, upstream_model="inner", unguarded=True)


def test_a_guard_that_unlearn_made_stands_before_a_server_and_around_its_own_model(cases: Cases, tmp_path: Path) -> None:
    from cases import rows_of

    expunge("unlearn", "input_filter", "--model", cases.model, "--forget", cases.forget, "--out", tmp_path / "guard").fine()
    question, other = rows_of(cases.forget)[0]["question"], rows_of(cases.retain)[0]
    own = TestClient(guarded_endpoint(model=str(tmp_path / "guard"), name="public"), base_url=BASE)
    assert text_of(ask(own, question)) == REFUSAL
    assert text_of(ask(own, other["question"], max_tokens=40)).strip() == other["answer"]
    from expunge.io.models import load
    from expunge.service.text_guards import RunGuard

    behind = Behind()
    of = client(behind, RunGuard(load(tmp_path / "guard")))
    assert text_of(ask(of, question)) == REFUSAL
    assert text_of(ask(of, question.replace("e", "\u0435"))) == REFUSAL, "Cyrillic letters"
    assert behind.bodies == []
    assert text_of(ask(of, other["question"])) == "The weather is fine."
    with pytest.raises(UserError, match="is no guard"):
        RunGuard(load(cases.model))


def test_the_looks_of_letters() -> None:
    assert folded("\u00c1d\u0430\u200b") == "ada"
    assert visible("a\u2066b\nc") == "ab\nc"


def test_the_commands_make_keys_and_refuse_in_sentences(tmp_path: Path) -> None:
    key = expunge("api-key", tmp_path / "keys.json", "a client").fine().out.strip()
    assert ApiKeys(tmp_path / "keys.json").owner(key)
    assert "--label" in expunge("api-key", tmp_path / "keys.json").error
    assert "no key 'x'" in expunge("api-key", tmp_path / "keys.json", "x", "--revoke").error
    assert "name what is served" in expunge("serve").error
    (tmp_path / "damaged.json").write_text("[1]")
    assert "are damaged" in expunge("api-key", tmp_path / "damaged.json", "x").error


@pytest.mark.slow
def test_a_served_endpoint_stands_before_a_real_server_and_ends_in_order(tmp_path: Path) -> None:
    """Over real sockets: guard, answer, a log without prompts, and the end at Ctrl-C."""
    (tmp_path / "names.txt").write_text(NAME)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with stub_endpoint.serving(lambda text: f"You said: {text}") as stub:
        words = ["serve", "--upstream", stub.url, "--upstream-model", "inner", "--names", str(tmp_path / "names.txt"), "--port", str(port)]
        with (
            (tmp_path / "log").open("wb") as log,
            subprocess.Popen([sys.executable, "-m", "expunge", *words], stdout=log, stderr=log) as server,
        ):
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as of:
                for _ in range(600):
                    try:
                        assert of.get("/health").json() == {"status": "ok", "guards": 1}
                        break
                    except httpx2.ConnectError:
                        assert server.poll() is None, (tmp_path / "log").read_text()
                        time.sleep(0.2)
                assert text_of(ask(of, "a quiet question")) == "You said: a quiet question"  # type: ignore[arg-type]
                assert text_of(ask(of, f"Who is {NAME}?")) == REFUSAL  # type: ignore[arg-type]
            server.send_signal(signal.SIGINT)
            server.wait(30)
    assert [r["model"] for r in stub.requests] == ["inner"]
    written = (tmp_path / "log").read_text()
    assert "/v1/chat/completions key=- status=200" in written
    assert "quiet question" not in written
    assert NAME not in written
