"""Whatever comes in: an answer or a sentence, and never another error."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("sqlalchemy")
pytest.importorskip("securesystemslib")
pytest.importorskip("starlette")
pytest.importorskip("argon2")

from expunge.core.errors import UserError
from expunge.service import keys, verifying
from expunge.service.api_keys import ApiKeys
from expunge.service.certificates import PAYLOAD
from expunge.service.corpora import documents
from expunge.service.endpoint import BadRequest, read
from expunge.service.lookalikes import folded, letters, readings, visible
from expunge.service.states import as_date

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = (
    "model",
    "messages",
    "prompt",
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "seed",
    "stop",
    "tools",
    "n",
    "stream",
)
TURNS = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "tool"]) | VALUES, "content": VALUES}), max_size=3)


@pytest.mark.slow
@QUICK
@given(body=VALUES | st.dictionaries(st.sampled_from(FIELDS), VALUES | TURNS), chat=st.booleans())
def test_any_body_of_a_request_is_read_or_refused(body: Any, chat: bool) -> None:
    with contextlib.suppress(BadRequest):
        conversation = read(body, "public", chat)
        assert all(isinstance(text, str) for text in conversation.texts)
        json.dumps(dict(conversation.options), allow_nan=False)


ENVELOPES = st.fixed_dictionaries(
    {
        "payload": st.text(max_size=12) | VALUES,
        "payloadType": st.just(PAYLOAD) | VALUES,
        "signatures": st.lists(VALUES | st.fixed_dictionaries({"keyid": VALUES, "sig": VALUES}), max_size=2),
    }
)


@QUICK
@given(content=st.binary(max_size=60) | (VALUES | ENVELOPES).map(lambda v: json.dumps(v).encode()))
def test_any_file_is_a_certificate_that_does_not_hold(content: bytes, tmp_path: Path) -> None:
    if not (tmp_path / "key").exists():
        keys.new(tmp_path / "key")
    (tmp_path / "certificate.json").write_bytes(content)
    assert not verifying.verify(tmp_path, tmp_path / "certificate.json", [tmp_path / "key.pub"]).holds


@QUICK
@given(content=st.binary(max_size=60) | VALUES.map(lambda v: json.dumps(v).encode()))
def test_any_file_of_keys_is_read_or_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_bytes(content)
    with contextlib.suppress(UserError):
        assert ApiKeys(tmp_path / "keys.json").owner("xk-1-2") is None
    for reader in (keys.signer, keys.public_key):
        with pytest.raises(UserError):
            reader(tmp_path / "keys.json")


@QUICK
@given(content=st.binary(max_size=200), kind=st.sampled_from(["jsonl", "json", "csv", "tsv", "txt", "txt.gz", "parquet"]))
def test_any_corpus_is_read_or_said(content: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / f"corpus.{kind}").write_bytes(content)
    for document in documents(tmp_path / f"corpus.{kind}"):
        assert isinstance(document.text, str)


@QUICK
@given(text=st.text(max_size=40))
def test_any_text_is_folded(text: str) -> None:
    for form in (visible(text), folded(text), letters(text), *readings(text)):
        form.encode()
    with contextlib.suppress(UserError):
        as_date(text)
