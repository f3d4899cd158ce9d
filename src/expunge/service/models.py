"""Where answers come from: a model that runs in this process with its guard, or a server that speaks the protocol of OpenAI."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx2
import torch
from anyio import to_thread

from expunge.core.capabilities import Generates, offers, require
from expunge.core.errors import UserError
from expunge.core.rows import Rows
from expunge.functional.brief import brief
from expunge.io.models import Opened, load
from expunge.service.ledger import Ledger

KEY = "EXPUNGE_UPSTREAM_KEY"  # variable of the environment with the key for the server behind
LONGEST = 1 << 22  # bytes of an answer of the server behind


class UpstreamError(Exception):
    """The server behind failed. The message says how, and never what was asked or answered."""


@brief("messages", "options")
@dataclass(frozen=True)
class Conversation:
    """A request that passed: a chat, or a plain prompt, and the options that may be given."""

    messages: Sequence[Mapping[str, str]]  # empty: `prompt` counts
    prompt: str
    options: Mapping[str, Any]

    @property
    def texts(self) -> list[str]:
        """Everything that the client wrote, turn by turn, and all of it together."""
        turns = [m["content"] for m in self.messages] or [self.prompt]
        return list(dict.fromkeys([*turns, "\n".join(turns)]))


class ServedModel(Protocol):
    """Gives one answer, whole."""

    async def answer(self, asked: Conversation) -> str: ...


@brief()
class LocalModel:
    """A model in this process, with the guard that its run has: any of `methods/guards`.

    Args:
        opened: the model.

    Raises:
        UserError: for a model that writes no text.
    """

    def __init__(self, opened: Opened) -> None:
        if not offers(opened.modality, Generates):
            raise UserError(f"{opened.source} writes no text, so it cannot be served as a chat")
        self.opened, self.lock = opened, threading.Lock()

    async def answer(self, asked: Conversation) -> str:
        """The answer, made in a thread, one at a time."""
        return await to_thread.run_sync(self._answer, asked)

    def _answer(self, asked: Conversation) -> str:
        options = asked.options
        last = asked.messages[-1]["content"] if len(asked.messages) == 1 else ""
        rows = rows_for(self.opened, last, asked.messages, asked.prompt)
        temperature = float(options.get("temperature", 0.0))
        generator = torch.Generator().manual_seed(int(options.get("seed", 0))) if temperature else None
        modality: Any = require(self.opened.modality, Generates)
        with self.lock, torch.no_grad():
            samples = modality.generate(self.opened.model, rows, int(options.get("max_tokens", 256)), generator, temperature or 1.0)
        return _stopped(str(modality.decode(samples.ids)[0]), options.get("stop"))


@brief()
class FollowedModel:
    """The model that a ledger serves: after a run is done, or undone, the next answer is of the new one.

    While the new one is loaded, answers wait. Where it cannot be loaded, nothing is answered: the one before may know what is to be gone.

    Args:
        ledger: that says which model is served.
        first: the model before the first run; None: the ledger serves one already.
        load_options: of `load`.

    Raises:
        UserError: for a ledger that serves nothing yet, without `first`.
    """

    def __init__(self, ledger: Ledger, first: Opened | None, load_options: Mapping[str, Any] | None = None) -> None:
        self.ledger, self.load_options = ledger, dict(load_options or {})
        self.lock, self.head = threading.Lock(), ""
        self.first = LocalModel(first) if first is not None else None
        self.source, self.inner = "", self.first
        self._current()

    async def answer(self, asked: Conversation) -> str:
        """The answer of the model that is served now."""
        inner = await to_thread.run_sync(self._current)
        return await inner.answer(asked)

    def _current(self) -> LocalModel:
        with self.lock:
            if (head := self.ledger.head) != self.head:
                source, run = self.ledger.serving()
                if run is None and self.first is not None:  # before the first run, and after its undoing
                    self.source, self.inner = "", self.first
                elif source != self.source:
                    self.inner = None
                    self.inner, self.source = LocalModel(load(source, **self.load_options)), source
                self.head = head
            if self.inner is None:
                raise UserError("the ledger serves no model yet: name the one before the first run with --model")
            return self.inner


@brief("url", "model")
class Upstream:
    """A server behind: `transformers serve`, vLLM, or another that speaks the protocol of OpenAI.

    Args:
        url: base address, such as http://127.0.0.1:8001/v1.
        model: the one name that is ever asked for, whatever a request names.
        timeout: seconds.
        transport: for tests.

    Raises:
        UserError: for an address that is none.
    """

    def __init__(self, url: str, model: str, timeout: float = 120.0, transport: Any = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise UserError(
                f"the server behind has an address like http://127.0.0.1:8001/v1 with nothing else in it; its key comes from ${KEY}"
            )
        if not model:
            raise UserError("name the one model of the server behind that may be asked: --upstream-model NAME")
        self.url, self.model = url.rstrip("/"), model
        self.client = httpx2.AsyncClient(timeout=timeout, follow_redirects=False, trust_env=False, transport=transport)

    async def answer(self, asked: Conversation) -> str:
        """The answer of the server. Raises: UpstreamError where it fails or speaks another protocol."""
        chat = bool(asked.messages)
        body = {**asked.options, "model": self.model, "stream": False}
        body |= {"messages": [dict(m) for m in asked.messages]} if chat else {"prompt": asked.prompt}
        headers = {"Authorization": f"Bearer {key}"} if (key := os.environ.get(KEY, "").strip()) else {}
        try:
            reply = await self.client.post(f"{self.url}/{'chat/completions' if chat else 'completions'}", json=body, headers=headers)
        except httpx2.HTTPError as error:
            raise UpstreamError(f"no answer ({type(error).__name__})") from None
        if reply.status_code != 200 or len(reply.content) > LONGEST:
            raise UpstreamError(f"status {reply.status_code}, {len(reply.content)} bytes")
        try:
            choice = reply.json()["choices"][0]
            text = choice["message"]["content"] if chat else choice["text"]
        except (ValueError, LookupError, TypeError):
            text = None
        if not isinstance(text, str):
            raise UpstreamError("its reply holds no text")
        return text


def rows_for(opened: Opened, question: str, messages: Sequence[Mapping[str, str]] = (), prompt: str = "") -> Rows:
    """A prompt as a row of the model: by its chat template, else a lone question in its own format, else the text as it stands."""
    modality: Any = opened.modality
    chat = [dict(m) for m in messages] or ([{"role": "user", "content": question}] if question else [])
    if chat and _has_chat_template(modality):
        return modality.rows("asked", [{"prompt": chat, "completion": "?"}])  # type: ignore[no-any-return]
    if question:
        return modality.rows("asked", [{"question": question, "answer": "?"}])  # type: ignore[no-any-return]
    text = prompt or "\n\n".join(m["content"] for m in messages) + "\n"
    return modality.rows("asked", [{"prompt": text, "completion": "?"}])  # type: ignore[no-any-return]


def _has_chat_template(modality: Any) -> bool:
    try:
        return bool(modality.tokenizer.chat_template)
    except AttributeError:  # a model that reads no chats
        return False


def _stopped(text: str, stop: Any) -> str:
    for sign in [stop] if isinstance(stop, str) else stop or ():
        text = text.split(sign, 1)[0]
    return text
