"""The guarded endpoint: a small part of the protocol of OpenAI before one model. What goes wrong ends in an error, never in a text."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anyio import to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from expunge.service.api_keys import ApiKeys
from expunge.service.endpoint_schema import endpoint_schema
from expunge.service.lookalikes import visible
from expunge.service.models import Conversation, ServedModel, UpstreamError
from expunge.service.text_guards import TextGuard

log = logging.getLogger("expunge.endpoint")
LARGEST = 1 << 20  # bytes of a request
NUMBERS = {"temperature": (0.0, 2.0), "top_p": (0.0, 1.0), "seed": (0, 2**31 - 1), "max_tokens": (1, 4096)}
WHOLE = ("seed", "max_tokens")
FORWARDED = frozenset({*NUMBERS, "stop"})
REFUSED = frozenset({"tools", "tool_choice", "functions", "function_call", "modalities", "audio", "response_format", "prediction"})
ROLES = frozenset({"system", "developer", "user", "assistant"})


Hear = Callable[[str, Sequence[tuple[str, str]]], str]  # the id of a key, and turns with role and text


class BadRequest(Exception):
    """A request that is not answered. status: of HTTP."""

    def __init__(self, sentence: str, status: int = 400, wait: float = 0.0) -> None:
        super().__init__(sentence)
        self.status, self.wait = status, wait


def application(
    model: ServedModel,
    name: str,
    guards: Sequence[TextGuard] = (),
    keys: ApiKeys | None = None,
    hosts: Sequence[str] = ("127.0.0.1", "localhost"),
    hear: Hear | None = None,
) -> Starlette:
    """The application.

    Args:
        model: the one that is served.
        name: under which clients know it.
        guards: each looks at all that is asked, and at the whole answer before a word of it is sent.
        keys: of clients; None: whoever reaches the address may ask.
        hosts: names that requests may give to this server; another name may be a page of the web that reaches for it.
        hear: listens to chats of clients with a key; what it returns is answered in the place of the model, '' for nothing.
    """
    served = Served(model, name, guards, keys, hear)
    routes = [
        Route("/health", served.health, methods=["GET"]),
        Route("/openapi.json", served.schema, methods=["GET"]),
        Route("/v1/models", served.models, methods=["GET"]),
        Route("/v1/chat/completions", served.chat, methods=["POST"]),
        Route("/v1/completions", served.complete, methods=["POST"]),
    ]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[*hosts])])


class Served:
    """The handlers of one model; see `application`."""

    def __init__(self, model: ServedModel, name: str, guards: Sequence[TextGuard], keys: ApiKeys | None, hear: Hear | None = None) -> None:
        self.model, self.name, self.guards, self.keys, self.hear = model, name, tuple(guards), keys, hear
        self.started = int(time.time())

    async def health(self, request: HttpRequest) -> Response:
        """Whether it runs, and how many guards stand before the model."""
        return JSONResponse({"status": "ok", "guards": len(self.guards)})

    async def schema(self, request: HttpRequest) -> Response:
        """What is served here, as an OpenAPI document."""
        return JSONResponse(endpoint_schema(self.name, NUMBERS, WHOLE, ROLES))

    async def models(self, request: HttpRequest) -> Response:
        """The one model."""
        try:
            await self._admitted(request)
        except BadRequest as error:
            return _refusal(error)
        entry = {"id": self.name, "object": "model", "created": self.started, "owned_by": "expunge"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def chat(self, request: HttpRequest) -> Response:
        """An answer to a chat."""
        return await self._respond(request, True)

    async def complete(self, request: HttpRequest) -> Response:
        """The continuation of a text."""
        return await self._respond(request, False)

    async def _respond(self, request: HttpRequest, chat: bool) -> Response:
        started, who, status = time.perf_counter(), "-", 500
        try:
            who = await self._admitted(request)
            body = await _body(request)
            asked = read(body, self.name, chat)
            noticed = await self._noticed(who, asked)
            text, reason = (noticed, "stop") if noticed else await self._guarded(asked)
            status = 200
            return _reply(self.name, text, reason, chat, bool(body.get("stream")))
        except BadRequest as error:
            status = error.status
            return _refusal(error)
        except UpstreamError as error:
            status = 502
            log.warning("the server behind failed: %s", error)
            return _refusal(BadRequest("the model does not answer", 502))
        except Exception as error:  # fail closed; the message of an unknown error may hold the prompt, so its kind alone is logged
            log.error("a request failed: %s", type(error).__name__)
            return _refusal(BadRequest("the request could not be guarded, so it is not answered", 503))
        finally:
            log.info("%s key=%s status=%d seconds=%.3f", request.url.path, who, status, time.perf_counter() - started)

    async def _admitted(self, request: HttpRequest) -> str:
        if self.keys is None:
            return "-"
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        owner = await to_thread.run_sync(self.keys.owner, key.strip()) if kind.lower() == "bearer" else None
        if owner is None:
            raise BadRequest("a valid key is needed: Authorization: Bearer KEY", 401)
        if (wait := self.keys.wait(owner)) > 0:
            raise BadRequest("too many requests with this key", 429, wait)
        return owner

    async def _noticed(self, who: str, asked: Conversation) -> str:
        """What is said to a wish to be forgotten; '' where nothing is wished, or nobody is known to wish it."""
        if self.hear is None or who == "-" or not asked.messages:
            return ""
        return await to_thread.run_sync(self.hear, who, [(turn["role"], turn["content"]) for turn in asked.messages])

    async def _guarded(self, asked: Conversation) -> tuple[str, str]:
        """The answer and why it ends. Guards see the whole answer before anybody else does."""
        for guard in self.guards:
            for text in asked.texts:
                if (instead := await to_thread.run_sync(guard.asked, text)) is not None:
                    return instead, "content_filter"
        answer = await self.model.answer(asked)
        for guard in self.guards:
            if (instead := await to_thread.run_sync(guard.answered, answer)) is not None:
                return instead, "content_filter"
        return answer, "stop"


def read(body: Any, name: str, chat: bool) -> Conversation:
    """What a request asks. Raises: BadRequest for all that is not served here; fields that are not known are left out."""
    if not isinstance(body, dict):
        raise BadRequest("the body of a request is a JSON object")
    if body.get("model", name) != name:
        raise BadRequest(f"this endpoint serves {name!r} and no other model", 404)
    if refused := sorted(REFUSED & {k for k, v in body.items() if v not in (None, [], {}, "none")}):
        raise BadRequest(f"{refused[0]!r} is not served here")
    options = {field: _number(body, field) for field in NUMBERS if body.get(field) is not None}
    if body.get("max_completion_tokens") is not None and "max_tokens" not in options:
        options["max_tokens"] = _number({"max_tokens": body["max_completion_tokens"]}, "max_tokens")
    if (stop := body.get("stop")) is not None:
        signs = [stop] if isinstance(stop, str) else stop
        if not isinstance(signs, list) or len(signs) > 4 or not all(isinstance(s, str) and s for s in signs):
            raise BadRequest("'stop' is a text or up to four of them")
        options["stop"] = signs
    if not chat:
        prompt = body.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise BadRequest("'prompt' is one text")
        return Conversation((), visible(prompt), options)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("'messages' is a list of turns")
    turns = [_turn(m) for m in messages]
    if not any(turn["role"] == "user" for turn in turns):
        raise BadRequest("one of the turns is by the user")
    return Conversation(turns, "", options)


def _turn(message: Any) -> dict[str, str]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str) or message["role"] not in ROLES:
        raise BadRequest(f"a turn has a role, one of {', '.join(sorted(ROLES))}, and a content")
    content = message.get("content")
    if isinstance(content, list):
        parts = [p.get("text") if isinstance(p, dict) and p.get("type") == "text" else None for p in content]
        if not parts or not all(isinstance(p, str) for p in parts):
            raise BadRequest("only texts are served here: no pictures, sounds or files")
        content = "\n".join(map(str, parts))
    if not isinstance(content, str) or message.get("tool_calls"):
        raise BadRequest("the content of a turn is a text")
    return {"role": message["role"], "content": visible(content)}


def _number(body: Mapping[str, Any], field: str) -> float | int:
    low, high = NUMBERS[field]
    value = body[field]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise BadRequest(f"{field!r} is a number from {low} to {high}")
    if field in WHOLE and value != int(value):
        raise BadRequest(f"{field!r} is a whole number")
    return int(value) if field in WHOLE else float(value)


async def _body(request: HttpRequest) -> Any:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise BadRequest("requests are sent as application/json", 415)
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > LARGEST:
            raise BadRequest(f"a request has at most {LARGEST} bytes", 413)
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise BadRequest("the body of a request is JSON") from None


def _reply(name: str, text: str, reason: str, chat: bool, stream: bool) -> Response:
    """The reply; where a stream is asked for, the whole answer in one piece of it."""
    kind = "chat.completion" if chat else "text_completion"
    about = {"id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
    turn: dict[str, Any] = {"role": "assistant", "content": text}
    if not stream:
        choice = {"index": 0, "finish_reason": reason, **({"message": turn} if chat else {"text": text})}
        usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}  # counting would need the tokenizer of the server behind
        return JSONResponse({**about, "object": kind, "choices": [choice], "usage": usage})
    pieces = [{"delta": turn} if chat else {"text": text}, {"delta": {}} if chat else {"text": ""}]
    ends = [None, reason]
    kind = f"{kind}.chunk" if chat else kind
    lines = [
        json.dumps({**about, "object": kind, "choices": [{"index": 0, "finish_reason": end, **piece}]})
        for piece, end in zip(pieces, ends, strict=True)
    ]
    return Response("".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]), media_type="text/event-stream")


def _refusal(error: BadRequest) -> Response:
    headers = {"Retry-After": str(max(1, round(error.wait)))} if error.wait else {}
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return JSONResponse({"error": {"message": str(error), "type": kind, "code": error.status}}, error.status, headers)
