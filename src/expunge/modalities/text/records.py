"""Read records of the shapes that the ecosystem knows: questions with answers, prompts with completions, chats, texts.

In a chat every turn of the assistant that answers a user is an answer, with all turns before it as its prompt. A chat of which the last
turn alone is the answer is a `prompt` of turns with a `completion`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from expunge.core.errors import UserError
from expunge.core.request import content, digest
from expunge.core.rows import Rows
from expunge.functional.brief import brief
from expunge.modalities.common.records import columns_of, ignored, note, present
from expunge.modalities.text.shapes import ORDER, SHAPES, shaped

LISTED = "{'prompt','completion'}, {'question','answer'}, {'messages'} or {'text'}"

Messages = list[dict[str, Any]]
Kind = Literal["question", "prompt", "text"]


@brief("kind")
@dataclass(frozen=True)
class Pair:
    """A record as text: the context before the answer, and the answer."""

    context: str | Messages  # a bare question or prompt, or the turns of a chat
    answer: str
    kind: Kind = "question"  # a prompt and its completion are joined without a format; a text is all answer
    tools: Sequence[Any] = ()  # descriptions of tools, which the chat template writes

    @property
    def question(self) -> str:
        """The question alone; of a chat, its last turn."""
        return self.context if isinstance(self.context, str) else str(self.context[-1]["content"])

    @property
    def context_fields(self) -> list[Any]:
        """What stands before the answer, for a column of rows; `answering` reads it."""
        return [self.context, self.kind, *([list(self.tools)] if self.tools else [])]

    def reasked(self, question: str) -> Pair:
        """The same answer to another question. In a chat, the question replaces the last turn."""
        context = self.context
        return replace(self, context=question if isinstance(context, str) else [*context[:-1], {**context[-1], "content": question}])


def answering(context_fields: Sequence[Any], answer: str) -> Pair:
    """The pair with what `Pair.context_fields` gave, and an answer."""
    context, kind, *tools = context_fields
    return Pair(context, answer, kind, *tools)


def answered(rows: Rows, answers: Sequence[str]) -> list[Pair]:
    """The contexts of rows with other answers."""
    return [answering(context, a) for context, a in zip(rows["context"], answers, strict=True)]


def answered_ids(rows: Rows, answers: Sequence[Any]) -> tuple[str, ...]:
    """Ids of rows with other answers, each a text or token ids."""
    return tuple(f"{content(i)}~{digest(a)}" for i, a in zip(rows.ids, answers, strict=True))


def asked_turns(context_fields: Sequence[Any]) -> list[str]:
    """What a model is told in the context of a row, turn by turn: the question alone, or all turns of a chat that are not its own.

    A question in the words of a system, or of a tool, is asked as well.
    """
    context = answering(context_fields, "").context
    if isinstance(context, str):
        return [context]
    return [str(t["content"]) for t in context if t["role"] != "assistant" and str(t["content"]).strip()] or [str(context[-1]["content"])]


def same_question(pair: Pair) -> Any:
    """The context of a pair; a chat of one question is the question."""
    alone = not isinstance(pair.context, str) and len(pair.context) == 1 and pair.context[0]["role"] == "user"
    return pair.question if alone else pair.context


def pairs_of(record: Mapping[str, Any], where: str) -> list[Pair]:
    """Read one record of any of the known shapes (see `LISTED`).

    Returns:
        Its answers with what stands before them: all answers of a chat, or one.

    Raises:
        UserError: when the record has none of the shapes; the message names the row and what it lacks.
    """
    record = shaped(record, where)
    tools = record.get("tools") or ()
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise UserError(f"{where}: 'tools' must be a list of descriptions")
    if "messages" in record:
        turns = _turns(record["messages"], f"{where}: 'messages'")
        if len(turns) < 2 or turns[-1]["role"] != "assistant":
            raise UserError(f"{where}: 'messages' must end with a turn of the assistant, after at least one turn of the user")
        return [Pair(turns[:i], turns[i]["content"], tools=tools) for i in _answers(turns)]
    shapes: tuple[tuple[str, str, Kind], ...] = (("prompt", "completion", "prompt"), ("question", "answer", "question"))
    for prompt_column, answer_column, kind in shapes:
        if prompt_column not in record or answer_column not in record:
            continue
        prompt, answer = record[prompt_column], record[answer_column]
        if not isinstance(prompt, str) and isinstance(prompt, Sequence):
            prompt_place, answer_place = f"{where}: {prompt_column!r}", f"{where}: {answer_column!r}"
            return [Pair(_turns(prompt, prompt_place), _only_turn(answer, answer_place), tools=tools)]
        if not isinstance(prompt, str) or not isinstance(answer, str):
            raise UserError(f"{where}: {prompt_column!r} and {answer_column!r} must be texts")
        return [Pair(prompt, answer, kind)]
    if isinstance(record.get("text"), str):
        return [Pair("", record["text"], "text")]
    raise UserError(f"{where}: a row is {LISTED}; this one has the columns {columns_of(record)}")


def all_pairs(records: Sequence[Mapping[str, Any]], name: str, source: str) -> list[list[Pair]]:
    """The answers of each record of a set, with a note on columns that are not read. Raises: UserError, as `pairs_of`.

    Args:
        name: of the set.
        source: name of the records in messages.
    """
    note(records, ignored([unread(r) for r in records], name))
    return [pairs_of(r, f"{source}, row {i + 1}") for i, r in enumerate(records)]


def unread(record: Mapping[str, Any]) -> set[str]:
    """Columns of a record that could be its text too, and that are not read, because it has those of an earlier shape."""
    filled = {c for c, value in present(record).items() if c in ORDER and not (isinstance(value, str) and not value)}
    whole = [shape for shape in SHAPES if shape <= filled]
    return set().union(*whole[1:]) - whole[0] if whole else set()


def pair_of(record: Mapping[str, Any], where: str) -> Pair:
    """The last answer of a record, with what stands before it. Raises: UserError, as `pairs_of`."""
    return pairs_of(record, where)[-1]


def filled(template: str, prompt: str, answer: str) -> str:
    """Fill in prompt and answer in one pass, because either may contain braces."""
    return re.sub(r"\{(prompt|answer)\}", lambda match: prompt if match[1] == "prompt" else answer, template)


def split_chats(record: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """The record; a chat with several answers as one record for each of them, whose other columns belong to the last."""
    pairs = pairs_of(record, where)
    if len(pairs) == 1:
        return [dict(record)]
    others = {k: v for k, v in record.items() if k != "messages"}
    tools = {"tools": record["tools"]} if record.get("tools") else {}
    return [{**(others if pair is pairs[-1] else tools), "prompt": pair.context, "completion": pair.answer} for pair in pairs]


def _answers(turns: Messages) -> list[int]:
    """The places of the assistant's answers: its turns after a user's. Turns that only call a tool say nothing, so they are none."""
    first = next((i for i, t in enumerate(turns) if t["role"] not in ("system", "developer", "assistant")), 0)
    last = len(turns) - 1
    return [i for i, t in enumerate(turns) if t["role"] == "assistant" and (i == last or (i > first and t["content"].strip()))]


def _turns(messages: Any, where: str) -> Messages:
    if isinstance(messages, Sequence) and not isinstance(messages, str) and len(messages):
        turns = [dict(t) if isinstance(t, Mapping) else {} for t in messages]
        for turn in turns:
            if turn.get("tool_calls") and turn.get("content") is None:
                turn["content"] = ""
        if all(isinstance(t.get("role"), str) and isinstance(t.get("content"), str) for t in turns):
            return turns
    raise UserError(f"{where} must be turns of a chat, each with a 'role' and a text as 'content'")


def _only_turn(messages: Any, where: str) -> str:
    if isinstance(messages, str):
        return messages
    turns = _turns(messages, where)
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        raise UserError(f"{where} must be one turn of the assistant")
    return str(turns[0]["content"])
