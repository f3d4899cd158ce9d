"""A server on this machine that speaks the chat protocol of OpenAI, and says what a test wants."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = str | int | bytes | tuple[int, dict[str, str]]  # a text, a status, a raw body, or a status with headers


@dataclass
class Stub:
    """The server, what it is to answer, and what it was asked."""

    reply: Callable[[str], Reply]
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@contextlib.contextmanager
def serving(reply: Callable[[str], Reply]) -> Iterator[Stub]:
    """A stub whose answer is a function of the last turn."""
    stub = Stub(reply)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            stub.requests.append(body)
            stub.keys.append(self.headers.get("Authorization", ""))
            stub.paths.append(self.path)
            answer = stub.reply(body["messages"][-1]["content"])
            status, headers, text = 200, dict[str, str](), b""
            if isinstance(answer, str):
                text = json.dumps({"choices": [{"message": {"role": "assistant", "content": answer}}]}).encode()
            elif isinstance(answer, bytes):
                text = answer
            else:
                status, headers = (answer, {}) if isinstance(answer, int) else answer
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
