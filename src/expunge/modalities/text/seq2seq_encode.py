"""Encode records for an encoder-decoder: the question goes to the encoder, and the decoder's sequence is a fixed beginning and the answer.

Question and answer are tokenized apart, as the library's own training does, so nothing is merged across their boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from expunge.core.errors import UserError
from expunge.functional.brief import brief
from expunge.modalities.text.encode import Content, Encoder, Written, naming
from expunge.modalities.text.records import Messages, Pair

PLAIN = "{prompt}"


@brief("start", "source_limit")
@dataclass
class SourceEncoder(Encoder):
    """Encode pairs for an encoder-decoder. `prompt` is the beginning of the decoder's sequence, and `source` is what the encoder reads."""

    COLUMNS: ClassVar[tuple[str, ...]] = ("source", "prompt", "answer")
    start: tuple[int, ...] = ()  # token ids that the decoder reads before an answer
    source_limit: int = 0  # longest source in tokens; 0: no limit
    _sources: dict[tuple[str, bool], list[int]] = field(default_factory=dict, repr=False)  # by prompt, and whether a template wrote it

    @property
    def described(self) -> str:
        """The format of questions, as the receipt names it."""
        return "chat template" if self.templated else self.prompt_format or PLAIN

    @property
    def lead(self) -> list[int]:
        """The beginning of the decoder's sequence, which later windows of a long answer repeat."""
        return list(self.start)

    def written(self, pair: Pair) -> Written:
        """Format prompt and answer for the tokenizer. Without a chat template, turns of a chat are lines that name their speaker.

        Raises:
            UserError: when the row is a text, the answer is empty, tools have no template, or the template cannot render the chat.
        """
        if pair.kind == "text":
            raise UserError(
                "this row is a text without a prompt, and an encoder-decoder writes an answer to what its encoder reads: give 'prompt' and "
                "'completion'"
            )
        if not pair.answer.strip() or self._chatted(pair):
            return super().written(pair)
        if pair.tools:
            raise UserError("this row describes tools, and the tokenizer has no chat template that could write them")
        context = pair.context if isinstance(pair.context, str) else _dialogue(pair.context)
        prompt = (self.prompt_format or PLAIN).replace("{prompt}", context)
        return Written(prompt, pair.answer, chat=False, free=False, end=int(self.tokenizer.eos_token_id))

    def _chatted(self, pair: Pair) -> bool:
        return bool(getattr(self.tokenizer, "chat_template", None)) and super()._chatted(pair)

    def columns(self, pairs: Sequence[Pair], encoded: Sequence[Content]) -> dict[str, list[Any]]:
        """The columns of rows with token ids. encoded: what `encode`, or a window of each pair, gave."""
        return {"source": [self._sources[w.prompt, w.chat] for w in map(self.written, pairs)], **super().columns(pairs, encoded)}

    def _whole(self, pairs: Sequence[Pair], where: str, places: Sequence[int]) -> list[Written]:
        """Format and encode pairs of any length."""
        texts = []
        for i, pair in zip(places, pairs, strict=True):
            with naming(where, i):
                texts.append(self.written(pair))
                self._read_source(texts[-1])
        new = [w for w in dict.fromkeys(texts) if w not in self._encoded]
        first = {w: i for i, w in reversed(list(zip(places, texts, strict=True)))}
        for w, answer in zip(new, self._targets([w.answer for w in new]), strict=True):
            with naming(where, first[w]):
                closed = self._closed(answer, w.end)
                if len(closed) < 2:
                    raise UserError("an answer has no tokens")
                self._check_known(closed)
                if self.tokenizer.unk_token_id not in (None, w.end) and self.tokenizer.unk_token_id in closed:
                    self._unknown.add(w)
                self._encoded[w] = list(self.start), closed
        return texts

    def _read_source(self, w: Written) -> None:
        if (w.prompt, w.chat) in self._sources:
            return
        ids = list(self.tokenizer(w.prompt, add_special_tokens=not w.chat, verbose=False)["input_ids"])
        if not ids:
            raise UserError("a prompt has no tokens, and the encoder must read something")
        if self.source_limit and len(ids) > self.source_limit:
            raise UserError(f"a prompt has {len(ids)} tokens, and the encoder takes {self.source_limit}")
        self._check_known(ids)
        self._sources[w.prompt, w.chat] = ids

    def _targets(self, answers: list[str]) -> list[list[int]]:
        """Token ids of answers; some tokenizers have a vocabulary of their own for them."""
        if not answers:
            return []
        return [list(ids) for ids in self.tokenizer(text_target=answers, add_special_tokens=False, verbose=False)["input_ids"]]


def target_lead(tokenizer: Any) -> list[int]:
    """The ids that a tokenizer puts before every target: the beginning of sequence, a language, or nothing."""
    bare, whole = (list(tokenizer(text_target="a", add_special_tokens=special, verbose=False)["input_ids"]) for special in (False, True))
    at = next((i for i in range(len(whole)) if bare and whole[i : i + len(bare)] == bare), 0)
    return whole[:at]


def _dialogue(turns: Messages) -> str:
    """The turns before an answer as text: a question alone, or a line for each turn."""
    if len(turns) == 1 and turns[0]["role"] == "user":
        return str(turns[0]["content"])
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
