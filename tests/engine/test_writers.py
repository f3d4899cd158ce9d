"""Writers: requests as the protocol wants them, patience with endpoints, answers kept by content, and nonsense refused."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import worlds
from expunge.core.errors import UserError
from expunge.engine.endpoint import Endpoint
from expunge.engine.writers import Remembering, Rules, asking, first_json, understood
from expunge.modalities.text import local_writer
from expunge.modalities.text.local_writer import LocalWriter, writer_of
from stub_endpoint import serving


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "EXPUNGE_ENDPOINT_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def patient(url: str, **more: Any) -> tuple[Endpoint, list[float]]:
    """An endpoint that only notes how long it would wait."""
    waits: list[float] = []
    return Endpoint(url, "small", sleep=waits.append, **more), waits


def test_an_endpoint_is_asked_in_the_protocol_with_the_key_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "other")
    monkeypatch.setenv("EXPUNGE_ENDPOINT_KEY", "sesame-1")
    with serving(lambda text: f"heard {text}") as stub:
        writer = Endpoint(stub.url, "small")
        assert writer.write([asking("Be brief.", "one"), asking("two")], 7, 0.5) == ["heard one", "heard two"]
    first = stub.requests[0]
    assert stub.paths == ["/v1/chat/completions"] * 2
    assert first["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one"}]
    assert (first["model"], first["max_tokens"], first["temperature"]) == ("small", 7, 0.5)
    assert stub.keys == ["Bearer sesame-1"] * 2
    assert "sesame" not in repr(writer) + json.dumps(writer.about()) + json.dumps(stub.requests)


def test_a_busy_endpoint_is_asked_again_after_growing_waits() -> None:
    replies: list[Any] = [503, (429, {"Retry-After": "9"}), 500, "at last"]
    with serving(lambda text: replies.pop(0)) as stub:
        writer, waits = patient(stub.url)
        assert writer.write([asking("?")], 5) == ["at last"]
    assert waits == [1.0, 9.0, 18.0]
    assert stub.keys == [""] * 4


def test_an_endpoint_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_ENDPOINT_KEY", "sesame-2")
    with serving(lambda text: 503) as stub:
        writer, waits = patient(stub.url, tries=3)
        with pytest.raises(UserError, match=r"did not answer in 3 tries \(status 503.*is it running\?") as caught:
            writer.write([asking("?")], 5)
    assert (len(waits), len(stub.requests)) == (2, 3)
    assert "sesame" not in str(caught.value)
    gone, _ = patient(stub.url, tries=2)  # the server has ended
    with pytest.raises(UserError, match=r"127\.0\.0\.1.*did not answer in 2 tries"):
        gone.write([asking("?")], 5)


def test_a_refusal_is_not_repeated_and_a_redirect_is_not_followed() -> None:
    with serving(lambda text: text) as other, serving(lambda text: 401) as stub:
        writer, waits = patient(stub.url)
        with pytest.raises(UserError, match=r"refuses the request \(status 401"):
            writer.write([asking("secret question")], 5)
        stub.reply = lambda text: (307, {"Location": f"{other.url}/chat/completions"})
        with pytest.raises(UserError, match="status 307"):
            writer.write([asking("?")], 5)
    assert waits == []
    assert other.requests == [], "the key and the prompt stay where they belong"


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"choices": []}', b'{"choices": [{"message": {"content": null}}]}', b"[1]"])
def test_another_protocol_is_refused(body: bytes) -> None:
    with serving(lambda text: body) as stub, pytest.raises(UserError, match="does not answer in the chat protocol"):
        Endpoint(stub.url, "small").write([asking("?")], 5)


@pytest.mark.parametrize(
    ("url", "model", "message"),
    [
        ("ftp://host/v1", "m", "address like http"),
        ("http:///v1", "m", "address like http"),
        ("http://me:sesame@host/v1", "m", "put a key into"),
        ("http://host/v1?key=sesame", "m", "put a key into"),
        ("http://host/v1", "", "http://host/v1#MODEL"),
    ],
)
def test_an_address_that_is_none_is_refused_without_its_secrets(url: str, model: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Endpoint(url, model)
    assert "sesame" not in str(caught.value)


def test_answers_are_kept_by_all_that_they_depend_on(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(text: str) -> str:
        asked.append(text)
        return f"{text}{len(asked)}"

    folder = tmp_path / "answers"
    writer = Remembering(Rules("counting", answer), folder)
    assert writer.write([asking("a"), asking("b")], 5) == ["a1", "b2"]
    assert Remembering(Rules("counting", answer), folder).write([asking("b"), asking("a")], 5) == ["b2", "a1"]
    assert writer.write([asking("a")], 6) == ["a3"]
    assert writer.write([asking("a")], 5, 0.5) == ["a4"]
    assert writer.write([asking("", "a")], 5) == ["a5"]
    assert Remembering(Rules("other", answer), folder).write([asking("a")], 5) == ["a6"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(f.stat().st_mode) for f in folder.iterdir()} == {0o600}


def test_a_guess_of_a_chat_cannot_be_tried_against_the_names_of_kept_answers(tmp_path: Path) -> None:
    """A name is keyed: another secret gives another one, and the plain hash of what it depends on, an earlier version's name, is gone."""
    key = json.dumps([{"writer": "rules", "name": "echo"}, [{"role": "user", "content": "a"}], 5, 0.0], sort_keys=True)
    plain = tmp_path / "answers" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
    plain.parent.mkdir()
    plain.write_text('"old"')
    names = set()
    for user in ("first", "second"):
        with mock.patch.dict(os.environ, EXPUNGE_CACHE=str(tmp_path / user)):
            writer = Remembering(Rules("echo", str), plain.parent)
            assert writer.write([asking("a")], 5) == ["a"]
            names |= {file.name for file in plain.parent.iterdir()}
    assert len(names) == 2
    assert not any(plain.stem.startswith(Path(name).stem) for name in names)


def test_nonsense_is_asked_again_and_then_refused_without_a_quote(tmp_path: Path) -> None:
    replies = ["what?", "[1, 2]", "what?"]
    writer = Remembering(Rules("judge", lambda text: replies.pop(0)), tmp_path)
    read = lambda text: first_json(text)  # noqa: E731
    assert understood(writer, [asking("a")], read, 5, "a list") == [[1, 2]]
    replies[:] = ["secret one", "secret two"]
    with pytest.raises(UserError, match=r"rules judge should give a list, and gave something else in 2 tries") as caught:
        understood(writer, [asking("b")], read, 5, "a list", tries=2)
    assert "secret" not in str(caught.value)
    replies[:] = ["[3]"]
    assert understood(writer, [asking("b")], read, 5, "a list") == [[3]], "nonsense is not kept"


@pytest.mark.parametrize(
    ("text", "value"), [('Sure! {"a": [1]} Bye.', {"a": [1]}), ("x [2] {3}", [2]), ("{ [4]", [4]), ("none", None), ("", None)]
)
def test_the_first_json_of_a_text(text: str, value: object) -> None:
    assert first_json(text) == value


def test_a_local_model_writes_what_it_generates(text: worlds.World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text.modality.save(text.model(), tmp_path / "model")
    writer = writer_of(str(tmp_path / "model"))
    assert isinstance(writer, Remembering)
    assert isinstance(writer.inner, LocalWriter)
    (written,) = writer.write([asking("Question: Who is it?\nAnswer:")], 9)
    ids = text.modality.tokenizer("Question: Who is it?\nAnswer:\n", return_tensors="pt")["input_ids"]  # type: ignore[attr-defined]
    library = text.model().generate(ids, max_new_tokens=9, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]  # type: ignore[operator]
    assert written == text.modality.tokenizer.decode(library, skip_special_tokens=True).strip()  # type: ignore[attr-defined]
    assert str(tmp_path) not in json.dumps(writer.about())
    with pytest.raises(UserError, match="no folder"):
        writer_of(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="#MODEL"):
        local_writer.writer_of("http://localhost:1/v1")
