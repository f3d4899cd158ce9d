"""A server that follows a ledger answers with the model of the last run that is done, and with the one before after an undo."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("starlette")

from starlette.testclient import TestClient

import sites
from cases import Cases, expunge, rows_of
from expunge.core.errors import UserError
from expunge.io.models import load
from expunge.service import undo
from expunge.service.files import digest_of_model
from expunge.service.models import Conversation, FollowedModel, LocalModel, ServedModel
from expunge.service.serving import guarded_endpoint


@pytest.fixture
def case(tmp_path: Path) -> Iterator[sites.Case]:
    own = sites.case(tmp_path)
    yield own
    own.ledger.engine.dispose()


def answer(model: ServedModel, question: str) -> str:
    return asyncio.run(model.answer(Conversation([{"role": "user", "content": question}], "", {"max_tokens": 30})))


def done(case: sites.Case, cases: Cases) -> None:
    """A run whose model is the retrained one."""
    folder = case.ledger.folder / "runs/0001"
    shutil.copytree(cases.retrained, folder)
    case.ledger.append(case.number, "accepted")
    begins = {
        "batch": [1],
        "method": "npo",
        "folder": "runs/0001",
        "parent": str(cases.model),
        "parent_weights": digest_of_model(cases.model),
    }
    case.ledger.append(case.number, "running", {"run": 1, "begins": begins})
    ends = {"state": "done", "folder": "runs/0001", "receipt_sha256": "", "weights": "", "verdict": "cannot tell", "summary": sites.SUMMARY}
    case.ledger.append(case.number, "done", {"run": 1, "ends": ends, "serves": {"source": "runs/0001", "run": 1}})


def test_the_model_is_swapped_when_a_run_is_done_and_back_when_it_is_undone(cases: Cases, case: sites.Case) -> None:
    question = rows_of(cases.forget)[0]["question"]
    original, retrained = (answer(LocalModel(load(m)), question) for m in (cases.model, cases.retrained))
    assert original != retrained
    followed = FollowedModel(case.ledger, load(cases.model))
    assert answer(followed, question) == original
    done(case, cases)
    assert answer(followed, question) == retrained, "without a new start"
    assert answer(FollowedModel(case.ledger, None), question) == retrained, "a new start finds it, too"
    undo.undo(case.ledger, case.number, "the wrong person")
    assert answer(followed, question) == original


def test_where_the_new_model_is_gone_nothing_is_answered(cases: Cases, case: sites.Case) -> None:
    app = guarded_endpoint(model=cases.model, follow=case.ledger, unguarded=True)
    client = TestClient(app, base_url=sites.BASE)
    asked = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}
    assert client.post("/v1/chat/completions", json=asked).status_code == 200
    done(case, cases)
    shutil.rmtree(case.ledger.folder / "runs/0001")
    for _ in range(2):
        assert client.post("/v1/chat/completions", json=asked).status_code == 503
    shutil.copytree(cases.retrained, case.ledger.folder / "runs/0001")
    assert client.post("/v1/chat/completions", json=asked).status_code == 200, "it is tried again"


def test_what_cannot_be_followed_is_said(case: sites.Case) -> None:
    with pytest.raises(UserError, match="serves no model yet"):
        guarded_endpoint(follow=case.ledger, unguarded=True)
    with pytest.raises(UserError, match="no ledger can swap"):
        guarded_endpoint(follow=case.ledger, upstream="http://127.0.0.1:9/v1", upstream_model="m")
    place = ("--ledger", case.ledger.folder)
    assert "serves no model yet" in expunge("serve", "--follow", "--unguarded", *place).error
    assert "--forget-on-request" in expunge("serve", "--watchdog", "m", *place).error


def test_a_model_that_is_asked_elsewhere_needs_leave(cases: Cases, case: sites.Case, tmp_path: Path) -> None:
    """Chats and the number of rows leave this machine where the host is named, and not otherwise."""
    place = ("--ledger", case.ledger.folder)
    key = expunge("api-key", tmp_path / "keys.json", "17").fine()
    assert key.out
    words = ("--model", cases.model, "--unguarded", "--api-keys", tmp_path / "keys.json")
    chats = ("--forget-on-request", case.data, "--column", "customer_id")
    serve = expunge("serve", *words, *chats, "--watchdog", "http://llm.example.org/v1#m", *place)
    assert "allow it with --send-rows-to llm.example.org" in serve.error
    confirm = expunge("request", "confirm", 1, "--by", "anna", "--surgeon", "http://llm.example.org/v1#m", *place)
    assert "allow it with --send-rows-to llm.example.org" in confirm.error
