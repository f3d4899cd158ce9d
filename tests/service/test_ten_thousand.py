"""Ten thousand requests through a real server on this machine: each gets its own answer, and none is lost."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx2")

import httpx2
import uvicorn

from expunge.service.endpoint import application
from expunge.service.models import Upstream
from expunge.service.text_guards import REFUSAL, NameGuard

REQUESTS, CLIENTS = 10_000, 16


@pytest.fixture
def address() -> Iterator[str]:
    """An endpoint whose model repeats what it is asked."""

    def repeat(request: httpx2.Request) -> httpx2.Response:
        asked = json.loads(request.content)["messages"][-1]["content"]
        return httpx2.Response(200, json={"choices": [{"message": {"content": f"You said {asked}"}}]})

    model = Upstream("http://127.0.0.1:9/v1", "inner", transport=httpx2.MockTransport(repeat))
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = trial.getsockname()[1]
    app = application(model, "public", [NameGuard(["Quenna Bexmoor"])])
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)


@pytest.mark.slow
def test_ten_thousand_requests_get_their_own_answers(address: str) -> None:
    """Bounded in time by the limit that every test has."""
    answers: dict[int, str] = {}

    async def client(numbers: range, of: httpx2.AsyncClient) -> None:
        for number in numbers:
            text = f"number {number}" + (" Quenna Bexmoor" if number % 100 == 0 else "")
            body = {"messages": [{"role": "user", "content": text}]}
            reply = await of.post(f"{address}/v1/chat/completions", json=body)
            assert reply.status_code == 200
            answers[number] = reply.json()["choices"][0]["message"]["content"]

    async def everybody() -> None:
        async with httpx2.AsyncClient(timeout=60, limits=httpx2.Limits(max_connections=CLIENTS), trust_env=False) as of:
            await asyncio.gather(*(client(range(i, REQUESTS, CLIENTS), of) for i in range(CLIENTS)))

    asyncio.run(everybody())
    assert len(answers) == REQUESTS
    wrong: list[Any] = [n for n, text in answers.items() if text != (REFUSAL if n % 100 == 0 else f"You said number {n}")]
    assert wrong == []
