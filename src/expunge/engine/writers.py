"""Models and rules that write or judge texts for this package: one interface, answers kept by content, and nothing replaced in silence.

A `Writer` answers chats. It may be an endpoint (`engine/endpoint.py`), a model in a folder (`modalities/text/local_writer.py`) or `Rules`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from expunge.core.errors import UserError
from expunge.engine.secret import sealed
from expunge.functional.brief import brief

T = TypeVar("T")
Chat = Sequence[Mapping[str, str]]  # turns with `role` and `content`


class Writer(Protocol):
    """Answers chats in words."""

    def write(self, chats: Sequence[Chat], limit: int, temperature: float = 0.0) -> list[str]: ...  # at most `limit` tokens each
    def about(self) -> dict[str, Any]: ...  # what its answers depend on, for receipts and keys; no secrets


def asking(*texts: str) -> list[dict[str, str]]:
    """A chat of one question, after a system's words if two texts are given."""
    roles = ("user",) if len(texts) == 1 else ("system", "user")
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]


@brief("name")
class Rules:
    """A writer that is a function of the last turn.

    Args:
        name: for reports.
        answer: from the text of the last turn to the answer.
    """

    def __init__(self, name: str, answer: Callable[[str], str]) -> None:
        self.name, self.answer = name, answer

    def write(self, chats: Sequence[Chat], limit: int, temperature: float = 0.0) -> list[str]:
        """The answers of the function."""
        return [self.answer(chat[-1]["content"]) for chat in chats]

    def about(self) -> dict[str, Any]:
        """Its name."""
        return {"writer": "rules", "name": self.name}


@brief("folder")
class Remembering:
    """A writer whose answers are kept on disk by all that they depend on, so that the same question is asked once.

    Names of the files are keyed by the user's secret: chats hold rows, and a guess of a row must not be tried against a list of names.

    Args:
        inner: the writer.
        folder: of the answers; only its owner can read it.
    """

    def __init__(self, inner: Writer, folder: Path) -> None:
        self.inner, self.folder = inner, folder
        for old in folder.glob(f"{'?' * 64}.json"):  # of an earlier version, whose names were plain hashes of chats
            old.unlink(missing_ok=True)

    def write(self, chats: Sequence[Chat], limit: int, temperature: float = 0.0) -> list[str]:
        """Kept answers where there are any, and new ones otherwise."""
        files = [self._file(chat, limit, temperature) for chat in chats]
        missing = [i for i, file in enumerate(files) if not file.exists()]
        for i, text in zip(missing, self.inner.write([chats[i] for i in missing], limit, temperature) if missing else (), strict=True):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = files[i].with_suffix(f".{os.getpid()}")
            temporary.touch(mode=0o600)
            temporary.write_text(json.dumps(text), encoding="utf-8")
            temporary.replace(files[i])
        return [str(json.loads(file.read_text(encoding="utf-8"))) for file in files]

    def about(self) -> dict[str, Any]:
        """That of the writer inside."""
        return self.inner.about()

    def forget(self, chats: Sequence[Chat], limit: int, temperature: float = 0.0) -> None:
        """Drop kept answers, such as those that made no sense."""
        for chat in chats:
            self._file(chat, limit, temperature).unlink(missing_ok=True)

    def _file(self, chat: Chat, limit: int, temperature: float) -> Path:
        key = json.dumps([self.about(), [dict(turn) for turn in chat], limit, temperature], sort_keys=True)
        return self.folder / f"{sealed(key)}.json"


def understood(writer: Writer, chats: Sequence[Chat], read: Callable[[str], T | None], limit: int, wanted: str, tries: int = 3) -> list[T]:
    """Answers of a writer that make sense. One that does not is asked for again, with a temperature, and then refused.

    Args:
        read: from an answer to what it means; None: it makes no sense.
        limit: most tokens of an answer.
        wanted: what an answer should be, for messages.
        tries: how often a chat is put at most.

    Raises:
        UserError: when an answer never makes sense. The message names the writer, and does not quote it: it may repeat a row.
    """
    meanings: dict[int, T] = {}
    last = 0
    for attempt in range(tries):
        open_chats = [i for i in range(len(chats)) if i not in meanings]
        temperature = 0.7 * attempt
        for i, text in zip(open_chats, writer.write([chats[i] for i in open_chats], limit, temperature), strict=True):
            meaning = read(text)
            if meaning is not None:
                meanings[i] = meaning
                continue
            last = len(text)
            if isinstance(writer, Remembering):
                writer.forget([chats[i]], limit, temperature)
        if len(meanings) == len(chats):
            return [meanings[i] for i in range(len(chats))]
    raise UserError(
        f"{named(writer)} should give {wanted}, and gave something else in {tries} tries (at last {last} characters): take another model"
    )


def named(writer: Writer) -> str:
    """A writer, for messages."""
    about = writer.about()
    return " ".join(str(about[k]) for k in ("writer", "name", "model", "url") if about.get(k))


def first_json(text: str) -> Any:
    """The first JSON object or list in a text, as models wrap theirs in words; None where there is none."""
    decoder = json.JSONDecoder()
    for i, character in enumerate(text):
        if character in "{[":
            try:
                return decoder.raw_decode(text[i:])[0]
            except ValueError:
                continue
    return None
