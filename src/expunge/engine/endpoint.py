"""A model behind an endpoint that speaks the chat protocol of OpenAI, as `transformers serve`, vLLM, Ollama and most providers do.

The key comes from the environment (`EXPUNGE_ENDPOINT_KEY`, else `OPENAI_API_KEY`) and goes nowhere but to the endpoint.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from expunge.core.errors import UserError
from expunge.engine.writers import Chat
from expunge.functional.brief import brief

KEYS = ("EXPUNGE_ENDPOINT_KEY", "OPENAI_API_KEY")  # variables of the environment, the first that is set
AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})  # answers that another try may change
LONGEST = 30.0  # seconds between two tries at most


class _Stay(urllib.request.HTTPRedirectHandler):
    """No redirect is followed: it would carry the key, and the prompts, to another address."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


@brief("url", "model")
class Endpoint:
    """A writer over HTTP.

    Args:
        url: base address, such as http://localhost:8000/v1.
        model: the name that the endpoint knows.
        timeout: seconds to wait for an answer.
        tries: how often a question is put where the endpoint is busy, fails or does not answer.
        wait: seconds before the second try; each later one waits twice as long.
        sleep: how to wait.

    Raises:
        UserError: for an address that is none.
    """

    def __init__(
        self, url: str, model: str, timeout: float = 120.0, tries: int = 5, wait: float = 1.0, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"an endpoint is an address like http://localhost:8000/v1, and this is {_safe(url)!r}")
        if parts.username or parts.password or parts.query:
            raise UserError(f"the address {_safe(url)!r} of the endpoint holds more than the address: put a key into ${KEYS[0]}")
        if not model:
            raise UserError(f"say which model of the endpoint {url} is meant: {url}#MODEL")
        self.url, self.model, self.timeout, self.tries, self.wait, self.sleep = url.rstrip("/"), model, timeout, tries, wait, sleep
        self.opener = urllib.request.build_opener(_Stay())

    def write(self, chats: Sequence[Chat], limit: int, temperature: float = 0.0) -> list[str]:
        """The endpoint's answers, one request for each chat.

        Raises:
            UserError: when it does not answer, refuses, or answers in another protocol.
        """
        return [self._answer(chat, limit, temperature) for chat in chats]

    def about(self) -> dict[str, Any]:
        """Address and model."""
        return {"writer": "endpoint", "model": self.model, "url": self.url}

    def _answer(self, chat: Chat, limit: int, temperature: float) -> str:
        body = {"model": self.model, "messages": [dict(turn) for turn in chat], "max_tokens": limit, "temperature": temperature, "seed": 0}
        reply = self._posted(json.dumps(body).encode())
        try:
            content = json.loads(reply)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            content = None
        if not isinstance(content, str):
            raise UserError(
                f"{self._where} does not answer in the chat protocol of OpenAI: its reply has no text at choices, message, content"
            )
        return content

    def _posted(self, body: bytes) -> bytes:
        why, pause = "", self.wait
        for attempt in range(self.tries):
            if attempt:
                self.sleep(min(pause, LONGEST))
                pause *= 2
            try:
                with self.opener.open(self._request(body), timeout=self.timeout) as response:
                    return bytes(response.read())
            except urllib.error.HTTPError as error:
                error.close()  # what it says may repeat the prompt
                why = f"status {error.code}, {error.reason}"
                if error.code not in AGAIN:
                    raise UserError(
                        f"{self._where} refuses the request ({self._without_key(why)}); its key comes from ${KEYS[0]}"
                    ) from None
                asked = error.headers.get("Retry-After", "")
                pause = max(pause, float(asked)) if asked.replace(".", "", 1).isdecimal() else pause
            except (OSError, ValueError) as error:  # URLError, timeouts and broken answers are such
                why = str(getattr(error, "reason", error)) or type(error).__name__
        raise UserError(f"{self._where} did not answer in {self.tries} tries ({self._without_key(why)}): is it running?")

    def _request(self, body: bytes) -> urllib.request.Request:
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if (key := _key()) else {})}
        return urllib.request.Request(f"{self.url}/chat/completions", data=body, headers=headers)

    @property
    def _where(self) -> str:
        return f"the endpoint {self.url} (model {self.model})"

    def _without_key(self, text: str) -> str:
        return text.replace(key, "...") if (key := _key()) else text


def _key() -> str:
    return next((value for name in KEYS if (value := os.environ.get(name, "").strip())), "")


def _safe(url: str) -> str:
    """An address without what may be secret in it."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.hostname or parts.netloc.rpartition("@")[2], parts.path, "", ""))
