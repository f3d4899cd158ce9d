"""Encode records as token ids, so that training, scoring and generation use the same ids at the boundary of prompt and answer.

The encoder rules out four errors. A space at the end of a prompt would be tokenized apart from the word after it, so it moves to the
answer. A tokenizer that merges characters across the boundary would train on other prompt ids than it generates from, so such a row is
tokenized in two pieces and counted. A sequence begins once, although tokenizer, row and prompt format may all bring its beginning.
A template that closes the assistant's turn with its own token ends answers with that token, without a second end after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from expunge.core.errors import UserError
from expunge.functional.brief import brief
from expunge.modalities.text.chat import render
from expunge.modalities.text.records import Pair

QUESTION_FORMAT = "Question: {prompt}\nAnswer: "
CONTEXT = 0.25  # share of a later window of a long text that repeats the tokens before it
FORMATS = (  # that models are often trained in
    QUESTION_FORMAT,
    "{prompt} ",
    "{prompt}\n",
    "Q: {prompt}\nA: ",
    "User: {prompt}\nAssistant: ",
    "### Instruction:\n{prompt}\n\n### Response:\n",
    "[INST] {prompt} [/INST] ",
)
Content = tuple[list[int], list[int]]  # token ids of a prompt and of its answer


@brief()
class Written(NamedTuple):
    """A pair as the tokenizer reads it. A space at the boundary belongs to the answer."""

    prompt: str
    answer: str
    chat: bool  # rendered by the chat template, special tokens included
    free: bool  # a text: without a prompt and without an end of sequence
    end: int = 0  # the token that ends the answer, unless it is free
    after: str = ""  # what the template writes after the answer, which is not encoded


@brief("prompt_format", "limit", "cut")
@dataclass
class Encoder:
    """Encode pairs with one tokenizer and prompt format, and count the distinct rows with irregularities."""

    COLUMNS: ClassVar[tuple[str, ...]] = ("prompt", "answer")  # of rows, those with token ids
    tokenizer: Any
    prompt_format: str = ""  # '': the chat template, or without one QUESTION_FORMAT for questions and no format for prompts
    limit: int = 0  # longest sequence in tokens; 0: no limit
    vocabulary: int = 0  # how many tokens the model knows; 0: unknown
    cut: int = 0  # answers that were too long
    _merged: set[Written] = field(default_factory=set, repr=False)  # tokenized in two pieces
    _unknown: set[Written] = field(default_factory=set, repr=False)  # answers with the tokenizer's token for unknown text
    _encoded: dict[Written, Content] = field(default_factory=dict, repr=False)
    _fitted: dict[Written, Content] = field(default_factory=dict, repr=False)
    _windows: dict[Written, list[Content]] = field(default_factory=dict, repr=False)
    _ends: dict[str, int] = field(default_factory=dict, repr=False)  # the token that closes a turn, by what follows the answer

    def __post_init__(self) -> None:
        self.prompt_format = self.prompt_format.replace("\\n", "\n").replace("\\t", "\t")
        if self.prompt_format and "{prompt}" not in self.prompt_format:
            raise UserError(f"the prompt format must contain {{prompt}}, for instance {QUESTION_FORMAT!r}; this is {self.prompt_format!r}")
        if self.tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no end-of-sequence token, so answers could not end; set one in its files")

    @property
    def chats(self) -> Any:
        """What writes chats: it has a `chat_template` and applies it."""
        return self.tokenizer

    @property
    def templated(self) -> bool:
        """Whether the tokenizer's chat template formats questions."""
        return not self.prompt_format and bool(getattr(self.chats, "chat_template", None))

    @property
    def merged(self) -> int:
        """How many rows were tokenized in two pieces."""
        return len(self._merged)

    @property
    def unknown(self) -> int:
        """How many answers have the tokenizer's token for unknown text."""
        return len(self._unknown)

    @property
    def windowed(self) -> tuple[int, int]:
        """How many answers were too long for one window, and how many windows they fill."""
        long = [len(parts) for parts in self._windows.values() if len(parts) > 1]
        return len(long), sum(long)

    @property
    def described(self) -> str:
        """The format of questions, as the receipt names it."""
        return "chat template" if self.templated else self.prompt_format or QUESTION_FORMAT

    @cached_property
    def lead(self) -> list[int]:
        """The ids that the tokenizer puts before every text: the beginning of sequence, or nothing."""
        eos, bare, whole = self.tokenizer.eos_token_id, self._ids(["a"])[0], list(self.tokenizer("a")["input_ids"])
        starts = [i for i in range(len(whole)) if bare and whole[i : i + len(bare)] == bare]
        return whole[: starts[0]] if starts else [t for t in whole if t != eos]

    @cached_property
    def turn_end(self) -> int:
        """The token that closes the assistant's turn in a chat."""
        try:
            return self._end_of(render(self.chats, [{"role": "user", "content": "Who?"}], "Nobody").after)
        except UserError:  # the template refuses this chat; rows that it refuses raise their own errors
            return int(self.tokenizer.eos_token_id)

    def _end_of(self, after: str) -> int:
        """The token that closes a turn: the first special one that the template writes after an answer, else the end of sequence."""
        if after not in self._ends:
            special = {i for i, t in self.tokenizer.added_tokens_decoder.items() if t.special}
            self._ends[after] = int(next((i for i in self._ids([after])[0] if i in special), self.tokenizer.eos_token_id))
        return self._ends[after]

    @property
    def ends(self) -> frozenset[int]:
        """All tokens that this encoder puts at the end of an answer."""
        chat_ends = {self.turn_end, *self._ends.values()} if getattr(self.chats, "chat_template", None) else set[int]()
        return frozenset({int(self.tokenizer.eos_token_id), *chat_ends})

    def end(self, pair: Pair) -> int:
        """The token that ends the answer of a pair."""
        return self.written(replace(pair, answer="Nobody")).end

    def _chatted(self, pair: Pair) -> bool:
        return not isinstance(pair.context, str) or (self.templated and pair.kind == "question")

    def written(self, pair: Pair) -> Written:
        """Format prompt and answer for the tokenizer.

        Raises:
            UserError: when the answer is empty, or the template cannot render the chat.
        """
        if not pair.answer.strip():
            raise UserError("an answer is empty")
        if pair.kind == "text":
            return Written("", pair.answer, chat=False, free=True)
        chat, end, after = self._chatted(pair), int(self.tokenizer.eos_token_id), ""
        if chat:
            turns = [{"role": "user", "content": pair.context}] if isinstance(pair.context, str) else pair.context
            prompt, answer, after = render(self.chats, turns, pair.answer, pair.tools)
            end = self._end_of(after)
        else:
            prompt_format = self.prompt_format or ("{prompt}" if pair.kind == "prompt" else QUESTION_FORMAT)
            prompt, answer = prompt_format.replace("{prompt}", str(pair.context)), pair.answer
        stripped = prompt.rstrip(" ")
        return Written(stripped, prompt[len(stripped) :] + answer, chat, free=False, end=end, after=after)

    def encode(self, pairs: Sequence[Pair], where: str = "") -> list[Content]:
        """Encode pairs, each as one sequence; answers that are too long are cut and counted.

        Args:
            where: name of the rows in messages.

        Returns:
            Token ids of prompt and answer for each pair, with the end of sequence after the answer (except for texts).

        Raises:
            UserError: when a prompt leaves no room, an answer is empty or continues after an end of sequence, a chat cannot be rendered, or
                the model does not know a token; the message names the row.
        """
        written = self._whole(pairs, where, range(len(pairs)))
        for i, w in enumerate(written):
            if w not in self._fitted:
                with naming(where, i):
                    prompt, answer = self._encoded[w]
                    self._fitted[w] = prompt, self.fit(prompt, answer)
        return [self._fitted[w] for w in written]

    def adopt(self, other: Encoder) -> None:
        """Know and count all that another encoder with the same tokenizer and settings encoded, as if this one had."""
        new = other._fitted.keys() - self._fitted.keys()
        self.cut += sum(len(other._fitted[w][1]) < len(other._encoded[w][1]) for w in new)
        for name in ("_merged", "_unknown", "_encoded", "_fitted", "_windows", "_ends"):
            getattr(self, name).update(getattr(other, name))

    def columns(self, pairs: Sequence[Pair], encoded: Sequence[Content]) -> dict[str, list[Any]]:
        """The columns of rows with token ids. encoded: what `encode`, or a window of each pair, gave."""
        return {"prompt": [p for p, _ in encoded], "answer": [a for _, a in encoded]}

    def windows(self, pairs: Sequence[Pair], where: str = "", of_record: Sequence[int] = ()) -> list[list[Content]]:
        """Encode pairs, a long one as several windows. Each label is in one of them; later windows repeat tokens before it (`CONTEXT`).

        Args:
            where: name of the rows in messages.
            of_record: the place of the record of each pair, for messages; default: its own place.

        Returns:
            For each pair, token ids of the prompt and answer of its windows, in order.

        Raises:
            UserError: as `encode`.
        """
        places = of_record or range(len(pairs))
        written = self._whole(pairs, where, places)
        for i, w in zip(places, written, strict=True):
            if w not in self._windows:
                with naming(where, i):
                    self._windows[w] = self._in_windows(*self._encoded[w])
        return [self._windows[w] for w in written]

    def _in_windows(self, prompt: list[int], answer: list[int]) -> list[Content]:
        self._check_room(prompt)
        if not self.limit or len(prompt) + len(answer) <= self.limit:
            return [(prompt, answer)]
        context = max(1, int(CONTEXT * self.limit))
        lead = self.lead if prompt[: len(self.lead)] == self.lead and len(self.lead) + context < self.limit else []
        sequence, at = [*prompt, *answer], self.limit
        windows = [(prompt, answer[: self.limit - len(prompt)])]
        while at < len(sequence):
            before = [*lead, *sequence[at - context : at]]
            windows.append((before, sequence[at : at + self.limit - len(before)]))
            at += self.limit - len(before)
        return windows

    def _whole(self, pairs: Sequence[Pair], where: str, places: Sequence[int]) -> list[Written]:
        """Format and encode pairs of any length."""
        texts, new = [], dict[Written, int]()
        for i, pair in zip(places, pairs, strict=True):
            with naming(where, i):
                texts.append(self.written(pair))
            if texts[-1] not in self._encoded:
                new.setdefault(texts[-1], i)
        if new:
            distinct = [*dict.fromkeys(w.prompt for w in new)]  # a prompt may have several answers
            prompts, sequences = dict(zip(distinct, self._ids(distinct), strict=True)), self._ids([w.prompt + w.answer for w in new])
            for (w, i), sequence in zip(new.items(), sequences, strict=True):
                with naming(where, i):
                    self._encoded[w] = self._boundary(w, prompts[w.prompt], sequence)
        return texts

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return [list(ids) for ids in self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]

    def _boundary(self, w: Written, prompt: list[int], sequence: list[int]) -> Content:
        """Split the ids of a sequence into prompt and answer, and add the beginning and end of sequence."""
        eos, answer = self.tokenizer.eos_token_id, sequence[len(prompt) :]
        if sequence[: len(prompt)] != prompt or not answer:  # unknown characters may become one token, also across the boundary
            self._merged.add(w)
            answer = self._apart(w.answer)
        prompt, answer = self._begun(prompt, answer, w.chat)
        if not prompt:  # the first label needs a token before it
            prompt, answer = (answer[:1], answer[1:]) if w.free else ([eos], answer)
        if not w.free:
            answer = self._closed(answer, w.end)
        if len(answer) < 1 + (not w.free):
            raise UserError("an answer has no tokens")
        self._check_known([*prompt, *answer])
        if self.tokenizer.unk_token_id not in (None, eos) and self.tokenizer.unk_token_id in answer:
            self._unknown.add(w)
        return prompt, answer

    def _begun(self, prompt: list[int], answer: list[int], chat: bool) -> Content:
        """Put the beginning of sequence before a prompt, unless the row, the prompt format or the chat template brings it already."""
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        start = self.lead or ([bos] if chat and bos not in (None, eos) else [])
        if not prompt and start and answer[: len(start)] == start:
            answer = answer[len(start) :]
        prompt = prompt if chat else [*self.lead, *prompt]
        while start and prompt[: 2 * len(start)] == [*start, *start]:
            prompt = prompt[len(start) :]
        return prompt, answer

    def _check_known(self, ids: Sequence[int]) -> None:
        if self.vocabulary and (largest := max(ids)) >= self.vocabulary:
            added = self.tokenizer.added_tokens_decoder.get(largest)  # any other token is a part of the text
            token = repr(str(added)) if added else "a token of this text"
            raise UserError(
                f"the tokenizer gives {token} the number {largest}, and the model knows {self.vocabulary} tokens, numbered from 0: "
                f"take the tokenizer of this model, or enlarge its embeddings"
            )

    def _check_room(self, prompt: Sequence[int]) -> None:
        if self.limit and len(prompt) >= self.limit:
            raise UserError(
                f"a prompt has {len(prompt)} tokens, and the model takes {self.limit}: shorten it, or take a model for longer texts"
            )

    def fit(self, prompt: Sequence[int], answer: list[int]) -> list[int]:
        """Cut an answer to the longest sequence of the model.

        Raises:
            UserError: when the prompt leaves no room for an answer.
        """
        self._check_room(prompt)
        if not self.limit or len(prompt) + len(answer) <= self.limit:
            return answer
        self.cut += 1
        return answer[: self.limit - len(prompt)]

    def _closed(self, answer: list[int], end: int) -> list[int]:
        """Make the end of sequence the last token of an answer. White space that a template writes after it is dropped."""
        if end not in answer:
            return [*answer, end]
        at = answer.index(end)
        if rest := self.tokenizer.decode(answer[at + 1 :], skip_special_tokens=True).strip():
            raise UserError(
                f"an answer goes on after an end-of-sequence token, with {len(rest)} characters: remove the token or the text after it"
            )
        return answer[: at + 1]

    def _apart(self, answer: str) -> list[int]:
        """Tokenize an answer by itself. A line break before it avoids the mark that some tokenizers put at the start of a text."""
        lead, both, alone = self._ids(["\n", "\n" + answer, answer])
        after_break = both[len(lead) :] if both[: len(lead)] == lead else alone
        return after_break if self._plain(after_break) == self._plain(alone) else alone

    def _plain(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)).strip()


@contextmanager
def naming(where: str, place: int) -> Iterator[None]:
    """Put the name of a row before the message of an error."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}, row {place + 1}: {error}" if where else str(error)) from None
