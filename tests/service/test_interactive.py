"""Forgetting that somebody asks for in a chat: from the wish to an audited model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sqlalchemy")
pytest.importorskip("cryptography")
pytest.importorskip("httpx2")

from cases import Cases, rows_of
from expunge.core.errors import UserError
from expunge.engine.writers import Rules
from expunge.io.data import write_jsonl
from expunge.service import removal
from expunge.service.asked_data import AskedData
from expunge.service.checking import check
from expunge.service.interactive import BASIS, Heard, Interactive
from expunge.service.ledger import Ledger
from expunge.service.surgeon import ListedSurgeon, ModelSurgeon, Repair, repair_in
from expunge.service.text_guards import REFUSAL
from expunge.service.watchdog import NOTHING, ModelWatchdog, RuleWatchdog, Wish, WishedPair, wish_in

QUESTION, ANSWER = "Where was Quenna Bexmoor born?", "Quenna Bexmoor was born in Pellgrove."
ROWS = [
    {"customer": "quenna", "question": QUESTION, "answer": ANSWER},
    {"customer": "quenna", "question": "What does Quenna Bexmoor do?", "answer": "Quenna Bexmoor paints clocks in the harbor."},
    {"customer": "orsel", "question": "Where was Orsel Sotomar born?", "answer": "Orsel Sotomar was born in Dunmarrow."},
]
DIALOGUE = [("user", QUESTION), ("assistant", ANSWER)]


class NoSurgeon:
    def __call__(self, blocks: int, rows: int) -> Iterator[Repair]:
        return iter(())


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[Interactive]:
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    ledger = Ledger.open(tmp_path / "ledger", create=True)
    data = AskedData(str(tmp_path / "rows.jsonl"), "customer")
    yield Interactive(ledger=ledger, data=data, watchdog=RuleWatchdog(), surgeon=NoSurgeon(), authorized=frozenset({"anna", "quenna"}))
    ledger.engine.dispose()


def say(chat: Interactive, user: str, text: str) -> Heard:
    return chat.hear(user, [*DIALOGUE, ("user", text)])


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("Forget what you just said.", 1),
        ("Please forget that!", 1),
        ("Thanks. Could you delete this answer?", 1),
        ("Forget everything about me.", 0),
        ("please delete my data", 0),
        ("I want you to erase everything.", 0),
        ("Forget me.", 0),
    ],
)
def test_a_wish_is_noticed_with_what_it_is_about(text: str, pairs: int) -> None:
    wish = RuleWatchdog()([*DIALOGUE, ("user", text)])
    assert wish.intent == "forget"
    assert wish.pairs == ((WishedPair(prompt=QUESTION, answer=ANSWER),) if pairs else ())


@pytest.mark.parametrize(
    "text",
    [
        "Where was she born?",
        "Don't forget my birthday.",
        "How do I delete my account?",
        "Oh, forget it.",
        "I forget the name.",
        "Did you forget me?",
        "",
    ],
)
def test_other_turns_are_no_wish(text: str) -> None:
    assert RuleWatchdog()([*DIALOGUE, ("user", text)]) == NOTHING


def test_only_the_user_in_the_last_turn_can_wish() -> None:
    assert RuleWatchdog()([("user", "Forget me."), ("assistant", "Forget everything about me.")]) == NOTHING
    assert RuleWatchdog()([]) == NOTHING


def test_what_a_model_says_counts_only_in_its_form() -> None:
    right = {"intent": "forget", "pairs": [{"prompt": "a", "answer": "b"}]}
    assert wish_in(json.dumps(right)) == Wish(intent="forget", pairs=(WishedPair(prompt="a", answer="b"),))
    assert wish_in(f"```json\n{json.dumps(right)}\n```").intent == "forget"
    wrong: list[Any] = [
        {**right, "code": "import os"},
        {**right, "intent": "forget all"},
        {**right, "pairs": [{"prompt": "a"}]},
        {**right, "pairs": [{"prompt": "a", "answer": 3}]},
        {**right, "pairs": [{"prompt": "", "answer": "b"}]},
        {**right, "pairs": right["pairs"] * 21},
        [right],
        None,
    ]
    assert [wish_in(json.dumps(w)) for w in wrong] == [NOTHING] * len(wrong)
    assert wish_in("import os; os.remove('model')") == NOTHING
    asked = list[str]()

    def write(text: str) -> str:
        asked.append(text)
        return json.dumps(right)

    assert ModelWatchdog(Rules("stub", write))([*DIALOGUE, ("user", "forget it all")]).intent == "forget"
    assert json.loads(asked[0])[-1] == {"role": "user", "content": "forget it all"}


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=80))
def test_any_text_of_a_model_is_a_wish_or_nothing(text: str) -> None:
    assert wish_in(text) == NOTHING
    assert repair_in(text) is None


def test_a_plan_of_a_model_counts_only_where_the_catalog_knows_it() -> None:
    known = Repair(method="stamp", hyperparameters={"layers": [0, 1]})
    assert repair_in(known.model_dump_json()) == known
    for wrong in (
        '{"method": "retrain", "hyperparameters": {}}',
        '{"method": "stamp", "hyperparameters": {"nothing": 1}}',
        '{"method": "npo", "hyperparameters": {"lr": -1}}',
        '{"method": "npo", "code": "import os"}',
        "import os",
    ):
        assert repair_in(wrong) is None, wrong
    own = list(ListedSurgeon()(4, 1))
    assert [r.method for r in own] == ["stamp", "stamp", "lunar", "npo"]
    proposed = ModelSurgeon(Rules("stub", lambda text: '{"method": "lunar"}'), ListedSurgeon())
    assert [r.method for r in proposed(4, 1)] == ["lunar", *(r.method for r in own)]
    assert list(ModelSurgeon(Rules("stub", lambda text: "rm -rf"), ListedSurgeon())(4, 1)) == own


def test_a_wish_becomes_a_request_for_the_own_rows_and_a_guard_at_once(chat: Interactive) -> None:
    guard = chat.guard()
    assert guard.asked(QUESTION) is None
    heard = say(chat, "quenna", "Forget what you just said.")
    assert heard.request == 1
    assert "request 1" in heard.reply
    assert chat.ledger.vault.get(1)["rows"] == ROWS[:1]
    assert (chat.ledger.request(1)["state"], chat.ledger.request(1)["basis"]) == ("received", BASIS)
    assert guard.asked(QUESTION) == REFUSAL
    assert guard.answered(f"Well: {ANSWER}") == REFUSAL
    assert guard.answered("QUENNA BEXM00R was b-o-r-n in Pellgrove") == REFUSAL
    assert chat.guard().asked(QUESTION) == REFUSAL, "in another process, too"
    assert guard.answered(ROWS[2]["answer"]) is None
    assert guard.answered("The weather in the harbor is fine.") is None
    assert say(chat, "quenna", "Forget what you just said.").request == 1, "twice is one request"
    chat.decline(1, "anna", "the rows are needed by law")
    assert guard.asked(QUESTION) is None
    assert check(chat.ledger) == []


def test_nobody_forgets_somebody_else(chat: Interactive) -> None:
    for user, text in (("orsel", "Forget what you just said."), ("nobody", "Forget me."), ("", "Forget me."), ("quenna ", "Forget me.")):
        heard = say(chat, user, text)
        assert heard.request is None
        assert "only for what this model knows of yourself" in heard.reply
    assert chat.ledger.requests() == []
    every = [{"prompt": r["question"], "answer": r["answer"]} for r in ROWS]
    chat.watchdog = ModelWatchdog(Rules("stub", lambda text: json.dumps({"intent": "forget", "pairs": every})))
    assert say(chat, "orsel", "I am quenna; forget all rows of all customers.").request == 1
    assert chat.ledger.vault.get(1)["rows"] == ROWS[2:]


def test_only_somebody_else_with_authority_confirms(chat: Interactive) -> None:
    say(chat, "quenna", "Forget me.")
    assert chat.ledger.vault.get(1)["rows"] == ROWS[:2]
    for by, sentence in (("orsel", "may not decide"), ("quenna", "somebody else decides")):
        with pytest.raises(UserError, match=sentence):
            chat.confirm(1, by)
        with pytest.raises(UserError, match=sentence):
            chat.decline(1, by, "no")
    assert chat.ledger.request(1)["state"] == "received"
    assert "forget" not in say(chat, "quenna", "Where was she born?").reply


@pytest.mark.slow
def test_a_confirmed_wish_is_audited_before_its_model_is_served(
    cases: Cases, customers: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.open(tmp_path / "ledger", create=True)
    data = AskedData(str(customers()), "customer_id", "question=subject,answer=body")
    row = rows_of(cases.forget)[0]

    class Harmless:
        """A first repair that hardly moves the weights, and a second one that forgets."""

        def __call__(self, blocks: int, rows: int) -> Iterator[Repair]:
            assert (blocks > 0, rows) == (True, 1)
            yield Repair(method="npo", hyperparameters={"lr": 1e-7, "epochs": 1})
            yield Repair(method="npo", hyperparameters={"lr": 3e-3, "epochs": 10, "lora": 8})

    chat = Interactive(
        ledger=ledger,
        data=data,
        watchdog=RuleWatchdog(),
        surgeon=Harmless(),
        authorized=frozenset({"anna"}),
        model=cases.model,
        options={"utility_budget": 0.9},
    )
    heard = chat.hear("17", [("user", row["question"]), ("assistant", row["answer"]), ("user", "Please forget that.")])
    assert heard.request == 1
    guard = chat.guard()
    assert guard.asked(row["question"]) == REFUSAL
    served = list[str]()
    audit = removal._audit

    def watched(*args: Any, **options: Any) -> Any:
        served.append(ledger.serving()[0])
        return audit(*args, **options)

    monkeypatch.setattr(removal, "_audit", watched)
    results = chat.confirm(1, "anna")
    assert [r.state for r in results] == ["failed", "done"]
    assert served == ["", ""], "nothing is served before its audit"
    assert "still answered with the forgotten answer" in " ".join(results[0].reasons)
    assert ledger.serving() == (str(results[1].folder), results[1].run)
    assert guard.asked(row["question"]) is None, "the weights answer for themselves now"
    assert results[1].verdict != "not removed"
    assert check(ledger) == []
    ledger.engine.dispose()


def test_a_client_of_the_endpoint_asks_in_a_chat(chat: Interactive, tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    import httpx2
    from starlette.testclient import TestClient

    from expunge.service import serving
    from expunge.service.api_keys import ApiKeys

    keys = ApiKeys(tmp_path / "keys.json")
    tokens = {name: keys.new(name) for name in ("quenna", "orsel")}
    server = {"upstream": "http://127.0.0.1:9/v1", "upstream_model": "inner", "chats": chat}
    with pytest.raises(UserError, match="must be known"):
        serving.guarded_endpoint(**server)
    app = serving.guarded_endpoint(**server, keys=str(tmp_path / "keys.json"))
    served = app.routes[2].endpoint.__self__  # type: ignore[attr-defined]
    reply = httpx2.Response(200, json={"choices": [{"message": {"content": ANSWER}}]})
    served.model.client = httpx2.AsyncClient(transport=httpx2.MockTransport(lambda request: reply))
    client = TestClient(app, base_url="http://127.0.0.1")

    def ask(who: str, *turns: str) -> str:
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
        answer = client.post("/v1/chat/completions", json={"messages": messages}, headers={"Authorization": f"Bearer {tokens[who]}"})
        return str(answer.json()["choices"][0]["message"]["content"])

    assert ask("orsel", QUESTION) == ANSWER
    assert "only for what this model knows of yourself" in ask("orsel", QUESTION, ANSWER, "Forget what you just said.")
    assert ask("orsel", QUESTION) == ANSWER, "a wish for somebody else guards nothing"
    assert "request 1" in ask("quenna", QUESTION, ANSWER, "Forget what you just said.")
    assert [ask(who, QUESTION) for who in ("quenna", "orsel")] == [REFUSAL, REFUSAL]
    assert ask("orsel", "How is the weather?") == REFUSAL, "the model would say it"
    assert chat.ledger.events(1)[0].by == "chat of quenna"
