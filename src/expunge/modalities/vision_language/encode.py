"""Encode questions about pictures: the marks of pictures become the tokens that the model's processor writes for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from expunge.core.errors import UserError
from expunge.functional.brief import brief
from expunge.modalities.text.encode import Content, Encoder, Written
from expunge.modalities.text.records import Pair
from expunge.modalities.vision_language.pictures import MARK, Album, marks_in


class Speaker:
    """A chat template that reads parts of turns, as those of vision-language models do, for turns with marks."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.chat_template = getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)

    def apply_chat_template(self, turns: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """The chat as text, with the image token in the place of each mark."""
        parted = [{**turn, "content": parts(str(turn["content"]))} for turn in turns]
        return str(self.processor.apply_chat_template(parted, chat_template=self.chat_template, **options))


def parts(text: str) -> list[dict[str, str]]:
    """The pictures and texts of a turn, in order."""
    pieces = MARK.split(text)  # texts and keys in turn
    texts = [piece.removeprefix("\n") if i else piece for i, piece in enumerate(pieces[::2])]
    listed: list[dict[str, str]] = []
    for i, piece in enumerate(texts):
        listed += [{"type": "image"}] if i else []
        listed += [{"type": "text", "text": piece}] if piece or len(texts) == 1 else []
    return listed


@brief("crowded")
@dataclass
class PictureEncoder(Encoder):
    """Encode pairs whose contexts have marks of pictures."""

    COLUMNS: ClassVar[tuple[str, ...]] = ("prompt", "answer", "pictures")
    album: Album | None = None
    crowded: int = 0  # answers that were cut, although they would have had room without pictures

    @cached_property
    def chats(self) -> Speaker:
        """What writes chats."""
        return Speaker(self.pictures.processor)

    @property
    def pictures(self) -> Album:
        assert self.album is not None
        return self.album

    def written(self, pair: Pair) -> Written:
        """Format prompt and answer for the tokenizer, with the tokens of pictures.

        Raises:
            UserError: as of texts, and when the chat template has another number of places for pictures.
        """
        w, keys = super().written(pair), marks_in(pair.context)
        if not w.chat:
            return w._replace(prompt=MARK.sub(lambda m: self.pictures.texts[m[1]], w.prompt))
        pieces = w.prompt.split(self.pictures.token)
        if len(pieces) != len(keys) + 1:
            raise UserError(
                f"the chat template of this model has a place for {len(pieces) - 1} of the row's {len(keys)} pictures: give it fewer"
            )
        texts = (self.pictures.texts[k] for k in keys)
        return w._replace(prompt=pieces[0] + "".join(t + piece for t, piece in zip(texts, pieces[1:], strict=True)))

    def columns(self, pairs: Sequence[Pair], encoded: Sequence[Content]) -> dict[str, list[Any]]:
        """The columns of rows with token ids and pictures."""
        shown = [[self.pictures.known[k] for k in marks_in(pair.context)] for pair in pairs]
        return {**super().columns(pairs, encoded), "pictures": shown}

    def _in_windows(self, prompt: list[int], answer: list[int]) -> list[Content]:
        if self.pictures.token_id not in prompt:
            return super()._in_windows(prompt, answer)
        return [(prompt, self.fit(prompt, answer))]  # a later window would begin within a picture

    def fit(self, prompt: Sequence[int], answer: list[int]) -> list[int]:
        """Cut an answer to the longest sequence of the model. Raises: UserError when the prompt leaves no room for an answer."""
        kept = super().fit(prompt, answer)
        if len(kept) < len(answer) and len(prompt) - prompt.count(self.pictures.token_id) + len(answer) <= self.limit:
            self.crowded += 1
        return kept

    def _check_room(self, prompt: Sequence[int]) -> None:
        of_pictures = list(prompt).count(self.pictures.token_id)
        if of_pictures and self.limit and len(prompt) >= self.limit:
            raise UserError(
                f"a prompt has {len(prompt)} tokens, {of_pictures} of them of its pictures, and the model takes {self.limit}: give fewer "
                f"or smaller pictures"
            )
        super()._check_room(prompt)
