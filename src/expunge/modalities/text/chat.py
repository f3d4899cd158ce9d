"""Render a chat with the tokenizer's template, and tell its own text from the answer.

The answer is what the row says. What the template writes before it, an empty block of thoughts for instance, belongs to the prompt, and
what it writes after it is left out, but for the token that ends the turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from expunge.core.errors import UserError
from expunge.modalities.text.records import Messages

MARK = "Xq7answerXq7"  # a text that stands for the answer; templates have nothing like it


class Rendered(NamedTuple):
    """A chat as the template writes it, in three parts."""

    prompt: str
    answer: str
    after: str


def render(tokenizer: Any, turns: Messages, answer: str, tools: Sequence[Any] = ()) -> Rendered:
    """Render an answered chat.

    Raises:
        UserError: when there is no template, or it refuses the chat, changes the answer, or writes something else before an answer than
            before a question that is still open.
    """
    opened, whole = _written(tokenizer, turns, tools, opened=True), _written(tokenizer, [*turns, _assistant_turn(answer)], tools)
    mark = MARK
    while mark in whole:
        mark += MARK
    before, _, after = _written(tokenizer, [*turns, _assistant_turn(mark)], tools).rpartition(mark)
    text = whole[len(before) : len(whole) - len(after)]
    if not (whole.startswith(before) and whole.endswith(after) and text.strip() == answer.strip()):
        text = answer.strip()  # templates that move thoughts within the answer write another text before it than before a mark
        shared = next((i for i, (a, b) in enumerate(zip(opened, whole, strict=False)) if a != b), min(len(opened), len(whole)))
        at = whole.find(text, shared)
        if at < 0:
            raise UserError("the chat template changes the answer, or leaves a part of it out; give --prompt-format instead")
        before, after = whole[:at], whole[at + len(text) :]
    if len(opened) > len(before) and (before + text).startswith(opened):  # the open question holds the beginning of the answer already
        before, text = opened, text[len(opened) - len(before) :]
    if not before.startswith(opened):
        raise UserError(
            "the chat template renders an answered question differently from the open one, so prompt and answer cannot be told apart; "
            "give --prompt-format instead"
        )
    return Rendered(before, text, after)


def _assistant_turn(answer: str) -> dict[str, Any]:
    return {"role": "assistant", "content": answer}


def _written(tokenizer: Any, turns: Messages, tools: Sequence[Any], opened: bool = False) -> str:
    """A chat as text. opened: with the beginning of an answer."""
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        raise UserError("this row is a chat, and the tokenizer has no chat template")
    options: dict[str, Any] = {"tools": list(tools)} if tools else {}
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=opened, **options))
    except (TemplateError, TypeError, ValueError) as error:
        reason = str(error)
        for text in filter(None, (str(turn.get("content") or "").strip() for turn in turns)):
            reason = reason.replace(text, "...")  # a template may quote the chat
        raise UserError(f"the chat template refuses this chat: {reason}") from None
