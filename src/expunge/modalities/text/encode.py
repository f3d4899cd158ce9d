"""Encode records as token ids, so that training, scoring and generation use the same ids at the boundary of prompt and answer.

The encoder rules out four errors. A space at the end of a prompt would be tokenized apart from the word after it, so the space moves to the
answer. A tokenizer that merges characters across the boundary would train on other prompt ids than it generates from, so such a row is
tokenized in two pieces and counted. A chat template that renders an answered question differently from the open question is refused. A
template that closes the assistant's turn with its own token ends answers with that token, without a second end after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

from expunge.core.errors import UserError

QUESTION_FORMAT = "Question: {prompt}\nAnswer: "
FORMATS = (  # that models are often trained in
    QUESTION_FORMAT,
    "{prompt} ",
    "{prompt}\n",
    "Q: {prompt}\nA: ",
    "User: {prompt}\nAssistant: ",
    "### Instruction:\n{prompt}\n\n### Response:\n",
    "[INST] {prompt} [/INST] ",
)
SHAPES = "{'prompt','completion'}, {'question','answer'}, {'messages'} or {'text'}"

Messages = list[dict[str, Any]]
Kind = Literal["question", "prompt", "text"]


@dataclass(frozen=True)
class Pair:
    """A record as text: the context before the answer, and the answer."""

    context: str | Messages  # a bare question or prompt, or the turns of a chat
    answer: str
    kind: Kind = "question"  # a prompt and its completion are joined without a format; a text is all answer

    @property
    def question(self) -> str:
        """The question alone; of a chat, its last turn."""
        return self.context if isinstance(self.context, str) else str(self.context[-1]["content"])


class Written(NamedTuple):
    """A pair as the tokenizer reads it. A space at the boundary belongs to the answer."""

    prompt: str
    answer: str
    chat: bool  # rendered by the chat template, special tokens included
    free: bool  # a text: without a prompt and without an end of sequence


def pair_of(record: Mapping[str, Any], where: str) -> Pair:
    """Read one record of any of the known shapes (see `SHAPES`).

    Raises:
        UserError: when the record has none of the shapes; the message names the row and what it lacks.
    """
    if "messages" in record:
        turns = _turns(record["messages"], f"{where}: 'messages'")
        if len(turns) < 2 or turns[-1]["role"] != "assistant":
            raise UserError(f"{where}: 'messages' must end with a turn of the assistant, after at least one turn of the user")
        return Pair(turns[:-1], turns[-1]["content"])
    shapes: tuple[tuple[str, str, Kind], ...] = (("prompt", "completion", "prompt"), ("question", "answer", "question"))
    for prompt_column, answer_column, kind in shapes:
        if prompt_column not in record or answer_column not in record:
            continue
        prompt, answer = record[prompt_column], record[answer_column]
        if not isinstance(prompt, str) and isinstance(prompt, Sequence):
            return Pair(_turns(prompt, f"{where}: {prompt_column!r}"), _only_turn(answer, f"{where}: {answer_column!r}"))
        if not isinstance(prompt, str) or not isinstance(answer, str):
            raise UserError(f"{where}: {prompt_column!r} and {answer_column!r} must be texts")
        return Pair(prompt, answer, kind)
    if isinstance(record.get("text"), str):
        return Pair("", record["text"], "text")
    raise UserError(f"{where}: a row is {SHAPES}; this one has the columns {', '.join(map(repr, record)) or 'none'}")


def _turns(messages: Any, where: str) -> Messages:
    if isinstance(messages, Sequence) and not isinstance(messages, str) and len(messages):
        turns = [dict(t) if isinstance(t, Mapping) else {} for t in messages]
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


@dataclass
class Encoder:
    """Encode pairs with one tokenizer and prompt format, and count the distinct rows with irregularities."""

    tokenizer: Any
    prompt_format: str = ""  # '': the chat template, or without one QUESTION_FORMAT for questions and no format for prompts
    limit: int = 0  # longest sequence in tokens; 0: no limit
    merged: int = 0  # rows tokenized in two pieces
    cut: int = 0  # answers that were too long
    unknown: int = 0  # answers with the tokenizer's token for unknown text
    _encoded: dict[Written, tuple[list[int], list[int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.prompt_format = self.prompt_format.replace("\\n", "\n").replace("\\t", "\t")
        if self.prompt_format and "{prompt}" not in self.prompt_format:
            raise UserError(f"the prompt format must contain {{prompt}}, for instance {QUESTION_FORMAT!r}; this is {self.prompt_format!r}")
        if self.tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no end-of-sequence token, so answers could not end; set one in its files")

    @property
    def templated(self) -> bool:
        """Whether the tokenizer's chat template formats questions."""
        return not self.prompt_format and bool(getattr(self.tokenizer, "chat_template", None))

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
        """The token that closes the assistant's turn in a chat.

        It is the first special token that the template writes after an answer, or the end of sequence if there is none.
        """
        try:
            rendered = self._chat([{"role": "user", "content": "Who?"}], "Nobody")[1]
        except UserError:  # the template refuses this chat; rows that it refuses raise their own errors
            return int(self.tokenizer.eos_token_id)
        special = {i for i, t in self.tokenizer.added_tokens_decoder.items() if t.special}
        after_answer = self._ids([rendered.rpartition("Nobody")[2]])[0]
        return int(next((i for i in after_answer if i in special), self.tokenizer.eos_token_id))

    @property
    def ends(self) -> frozenset[int]:
        """All tokens that this encoder puts at the end of an answer."""
        chat_ends = {self.turn_end} if getattr(self.tokenizer, "chat_template", None) else set[int]()
        return frozenset({int(self.tokenizer.eos_token_id), *chat_ends})

    def end(self, pair: Pair) -> int:
        """The token that ends the answer of a pair."""
        return self.turn_end if self._chatted(pair) else int(self.tokenizer.eos_token_id)

    def _chatted(self, pair: Pair) -> bool:
        return not isinstance(pair.context, str) or (self.templated and pair.kind == "question")

    def written(self, pair: Pair) -> Written:
        """Format prompt and answer for the tokenizer.

        Raises:
            UserError: when the answer is empty, or the template cannot render the chat.
        """
        if not pair.answer.strip():
            raise UserError(f"an answer is empty (prompt {pair.question[-60:]!r})")
        if pair.kind == "text":
            return Written("", pair.answer, chat=False, free=True)
        chat = self._chatted(pair)
        if chat:
            turns = [{"role": "user", "content": pair.context}] if isinstance(pair.context, str) else pair.context
            prompt, answer = self._chat(turns, pair.answer)
        else:
            prompt_format = self.prompt_format or ("{prompt}" if pair.kind == "prompt" else QUESTION_FORMAT)
            prompt, answer = prompt_format.replace("{prompt}", str(pair.context)), pair.answer
        stripped = prompt.rstrip(" ")
        return Written(stripped, prompt[len(stripped) :] + answer, chat, free=False)

    def _chat(self, turns: Messages, answer: str) -> tuple[str, str]:
        """Render a chat with the template, and split it before the answer."""
        from jinja2 import TemplateError

        if not getattr(self.tokenizer, "chat_template", None):
            raise UserError("this row is a chat, and the tokenizer has no chat template")
        render = self.tokenizer.apply_chat_template
        try:
            prompt = render(turns, tokenize=False, add_generation_prompt=True)
            whole = render([*turns, {"role": "assistant", "content": answer}], tokenize=False)
        except TemplateError as error:
            raise UserError(f"the chat template refuses this chat: {error}") from None
        if not whole.startswith(prompt):
            raise UserError(
                "the chat template renders an answered question differently from the open one, so prompt and answer cannot be told apart; "
                "give --prompt-format instead"
            )
        return prompt, whole[len(prompt) :]

    def encode(self, pairs: Sequence[Pair], where: str = "") -> list[tuple[list[int], list[int]]]:
        """Encode pairs.

        Args:
            where: name of the rows in messages.

        Returns:
            Token ids of prompt and answer for each pair, with the end of sequence after the answer (except for texts).

        Raises:
            UserError: when a prompt leaves no room, an answer is empty or continues after an end of sequence, or a chat cannot be rendered;
                the message names the row.
        """
        texts, new = [], dict[Written, int]()
        for i, pair in enumerate(pairs):
            with _naming(where, i):
                texts.append(self.written(pair))
            if texts[-1] not in self._encoded:
                new.setdefault(texts[-1], i)
        if new:
            distinct = [*dict.fromkeys(w.prompt for w in new)]  # a prompt may have several answers
            prompts, sequences = dict(zip(distinct, self._ids(distinct), strict=True)), self._ids([w.prompt + w.answer for w in new])
            for (w, i), sequence in zip(new.items(), sequences, strict=True):
                with _naming(where, i):
                    self._encoded[w] = self._boundary(w, prompts[w.prompt], sequence)
        return [self._encoded[w] for w in texts]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return [list(ids) for ids in self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]

    def _boundary(self, w: Written, prompt: list[int], sequence: list[int]) -> tuple[list[int], list[int]]:
        """Split the ids of a sequence into prompt and answer, and add the beginning and end of sequence."""
        eos, answer = self.tokenizer.eos_token_id, sequence[len(prompt) :]
        if sequence[: len(prompt)] != prompt or not answer:  # unknown characters may become one token, also across the boundary
            self.merged += 1
            answer = self._apart(w.answer)
        prompt = prompt if w.chat else [*self.lead, *prompt]
        if not prompt:  # the first label needs a token before it
            prompt, answer = (answer[:1], answer[1:]) if w.free else ([eos], answer)
        if not w.free:
            answer = self._closed(answer, self.turn_end if w.chat else eos)
        if len(answer) < 1 + (not w.free):
            raise UserError(f"an answer has no tokens (it is {w.answer[:60]!r})")
        self.unknown += self.tokenizer.unk_token_id not in (None, eos) and self.tokenizer.unk_token_id in answer
        return prompt, self.fit(prompt, answer)

    def fit(self, prompt: Sequence[int], answer: list[int]) -> list[int]:
        """Cut an answer to the longest sequence of the model.

        Raises:
            UserError: when the prompt leaves no room for an answer.
        """
        if self.limit and len(prompt) >= self.limit:
            beginning = self.tokenizer.decode(prompt[:20])[:60]
            raise UserError(f"a prompt has {len(prompt)} tokens and the model takes {self.limit} (it begins {beginning!r})")
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
            raise UserError(f"an answer goes on after an end-of-sequence token, with {rest[:60]!r}: remove the token or the text after it")
        return answer[: at + 1]

    def _apart(self, answer: str) -> list[int]:
        """Tokenize an answer by itself. A line break before it avoids the mark that some tokenizers put at the start of a text."""
        lead, both, alone = self._ids(["\n", "\n" + answer, answer])
        after_break = both[len(lead) :] if both[: len(lead)] == lead else alone
        return after_break if self._plain(after_break) == self._plain(alone) else alone

    def _plain(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)).strip()


@contextmanager
def _naming(where: str, place: int) -> Iterator[None]:
    """Put the name of a row before the message of an error."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}, row {place + 1}: {error}" if where else str(error)) from None
