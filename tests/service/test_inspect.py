"""inspect-ai, the evaluation framework, runs unchanged against the guarded endpoint."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("inspect_ai", reason="inspect-ai is not installed: pip install inspect-ai openai")
pytest.importorskip("openai", reason="inspect-ai needs the client of OpenAI here: pip install openai")

import httpx2
import uvicorn

from expunge.service.endpoint import application
from expunge.service.models import Upstream
from expunge.service.text_guards import NameGuard

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def address() -> Iterator[str]:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={"choices": [{"message": {"content": "She was born in Pellgrove."}}]})

    model = Upstream("http://127.0.0.1:9/v1", "inner", transport=httpx2.MockTransport(answer))
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = trial.getsockname()[1]
    app = application(model, "public", [NameGuard(["Quenna Bexmoor"])])
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}/v1"
    server.should_exit = True
    thread.join(20)


def test_an_evaluation_runs_and_sees_the_guard(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.scorer import includes
    from inspect_ai.solver import generate

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(os.environ, "EXPUNGE_API_KEY", "none")
    monkeypatch.setitem(os.environ, "EXPUNGE_BASE_URL", address)
    samples = [Sample(input="Where was she born?", target="Pellgrove"), Sample(input="Where was Quenna Bexmoor born?", target="Pellgrove")]
    task = Task(dataset=samples, solver=generate(), scorer=includes())
    (log,) = eval(task, model="openai-api/expunge/public", log_dir=str(tmp_path / "logs"), display="none")
    assert log.status == "success", log.error
    assert [s.scores["includes"].value for s in sorted(log.samples, key=lambda s: s.id)] == ["C", "I"]
