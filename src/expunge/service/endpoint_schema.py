"""What the guarded endpoint says of itself: an OpenAPI document, made from the limits that it enforces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

JSON = "application/json"


def endpoint_schema(name: str, numbers: Mapping[str, tuple[float, float]], whole: tuple[str, ...], roles: frozenset[str]) -> dict[str, Any]:
    """The OpenAPI document of an endpoint.

    Args:
        name: of the model.
        numbers: lowest and highest value of each numeric option.
        whole: those of them that are whole numbers.
        roles: of turns.

    Returns:
        The document, as JSON.
    """
    options: dict[str, Any] = {
        field: {"type": "integer" if field in whole else "number", "minimum": low, "maximum": high}
        for field, (low, high) in numbers.items()
    }
    options |= {"stop": {"anyOf": [{"type": "string", "minLength": 1}, _list({"type": "string", "minLength": 1}, 0, 4)]}}
    options |= {"stream": {"type": "boolean"}, "model": {"const": name}}
    part = _object({"type": {"const": "text"}, "text": {"type": "string"}}, "type", "text")
    turn = _object({"role": {"enum": sorted(roles)}, "content": {"anyOf": [{"type": "string"}, _list(part, 1)]}}, "role", "content")
    chat = _object({"messages": _list(turn, 1), **options}, "messages")
    text = _object({"prompt": {"type": "string", "minLength": 1}, **options}, "prompt")
    return {
        "openapi": "3.1.0",
        "info": {"title": f"{name} behind guards", "version": "1"},
        "paths": {
            "/health": {"get": _operation("Whether it runs, and how many guards stand before the model", keys=False)},
            "/v1/models": {"get": _operation("The one model")},
            "/v1/chat/completions": {"post": _operation("An answer to a chat", chat)},
            "/v1/completions": {"post": _operation("The continuation of a text", text)},
        },
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(summary: str, body: Mapping[str, Any] | None = None, keys: bool = True) -> dict[str, Any]:
    refusals = {"400": "what is asked is not served here", "404": "another model", "413": "too long", "415": "no JSON"} if body else {}
    refusals |= {"401": "no valid key", "429": "too many requests with this key"} if keys else {}
    refusals |= {"502": "the model does not answer", "503": "the request could not be guarded"} if body else {}
    content = {JSON: {"schema": {"type": "object"}}}
    streamed = {"text/event-stream": {"schema": {"type": "string"}}} if body else {}
    return {
        "summary": summary,
        "responses": {
            "200": {"description": "done", "content": {**content, **streamed}},
            **{status: {"description": why, "content": content} for status, why in refusals.items()},
        },
        **({"security": [{"key": []}]} if keys else {}),
        **({"requestBody": {"required": True, "content": {JSON: {"schema": body}}}} if body else {}),
    }


def _object(properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(required)}


def _list(items: Mapping[str, Any], shortest: int, longest: int = 0) -> dict[str, Any]:
    return {"type": "array", "items": dict(items), "minItems": shortest, **({"maxItems": longest} if longest else {})}
