"""From records to token ids, so that training, scoring and generation meet the same ids where prompt and answer touch.

Four accidents are ruled out. A prompt that ends in a blank would be tokenised apart from the word behind it: the blank goes to the answer.
A tokenizer that merges characters across the boundary would train on other prompt ids than it generates from: such a row is tokenised in
two pieces, and counted. A chat template that renders an answered question differently from the open one is an error. A template that
closes the assistant's turn with a token of its own ends answers with that token, and not with a second end behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

from expunge.core.errors import UserError

QUESTION_FORMAT = "Question: {prompt}\nAnswer: "
SHAPES = "{'prompt','completion'}, {'question','answer'}, {'messages'} or {'text'}"

Messages = list[dict[str, Any]]
Kind = Literal["question", "prompt", "text"]


@dataclass(frozen=True)
class Pair:
    """A record as text: what stands before the answer, and the answer."""

    context: str | Messages  # a bare question or prompt, or the turns of a chat
    answer: str
    kind: Kind = "question"  # a prompt and its completion are joined as they are; of a text everything is answer

    @property
    def question(self) -> str:
        return self.context if isinstance(self.context, str) else str(self.context[-1]["content"])


class Written(NamedTuple):
    """A pair as it is tokenised; the blank at the boundary is on the answer's side."""

    prompt: str
    answer: str
    chat: bool  # written by the chat template, special tokens included
    free: bool  # a text: no prompt, and no end behind it


def pair_of(record: Mapping[str, Any], where: str) -> Pair:
    """Read one record of any of the known shapes. Errors: UserError that names the row and what it lacks."""
    if "messages" in record:
        turns = _turns(record["messages"], f"{where}: 'messages'")
        if len(turns) < 2 or turns[-1]["role"] != "assistant":
            raise UserError(f"{where}: 'messages' must end with a turn of the assistant, after at least one turn of the user")
        return Pair(turns[:-1], turns[-1]["content"])
    shapes: tuple[tuple[str, str, Kind], ...] = (("prompt", "completion", "prompt"), ("question", "answer", "question"))
    for prompt, answer, kind in shapes:
        if prompt not in record or answer not in record:
            continue
        asked, said = record[prompt], record[answer]
        if not isinstance(asked, str) and isinstance(asked, Sequence):
            return Pair(_turns(asked, f"{where}: {prompt!r}"), _only_turn(said, f"{where}: {answer!r}"))
        if not isinstance(asked, str) or not isinstance(said, str):
            raise UserError(f"{where}: {prompt!r} and {answer!r} must be texts")
        return Pair(asked, said, kind)
    if isinstance(record.get("text"), str):
        return Pair("", record["text"], "text")
    raise UserError(f"{where}: a row is {SHAPES}; this one has the columns {', '.join(map(repr, record)) or 'none'}")


def _turns(found: Any, where: str) -> Messages:
    if isinstance(found, Sequence) and not isinstance(found, str) and len(found):
        turns = [dict(t) if isinstance(t, Mapping) else {} for t in found]
        if all(isinstance(t.get("role"), str) and isinstance(t.get("content"), str) for t in turns):
            return turns
    raise UserError(f"{where} must be turns of a chat, each with a 'role' and a text as 'content'")


def _only_turn(found: Any, where: str) -> str:
    if isinstance(found, str):
        return found
    turns = _turns(found, where)
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        raise UserError(f"{where} must be one turn of the assistant")
    return str(turns[0]["content"])


@dataclass
class Encoder:
    """Token ids of pairs under one tokenizer and prompt format, with counts of the distinct rows that met trouble."""

    tokenizer: Any
    prompt_format: str = ""  # '' : the chat template, else QUESTION_FORMAT for questions and nothing for prompts
    limit: int = 0
    merged: int = 0  # tokenised in two pieces
    cut: int = 0  # answers that were too long
    unknown: int = 0  # answers with tokens that the tokenizer does not know
    _known: dict[Written, tuple[list[int], list[int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.prompt_format = self.prompt_format.replace("\\n", "\n").replace("\\t", "\t")
        if self.prompt_format and "{prompt}" not in self.prompt_format:
            raise UserError(f"the prompt format must contain {{prompt}}, for instance {QUESTION_FORMAT!r}; this is {self.prompt_format!r}")
        if self.tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no end-of-sequence token, so answers could not end; set one in its files")

    @property
    def templated(self) -> bool:
        """Whether the tokenizer's chat template is what formats questions."""
        return not self.prompt_format and bool(getattr(self.tokenizer, "chat_template", None))

    @property
    def described(self) -> str:
        """What the receipt says of the format."""
        return "chat template" if self.templated else self.prompt_format or QUESTION_FORMAT

    @cached_property
    def lead(self) -> list[int]:
        """What the tokenizer puts in front of every text: the beginning of sequence, or nothing."""
        eos, bare, whole = self.tokenizer.eos_token_id, self._ids(["a"])[0], list(self.tokenizer("a")["input_ids"])
        starts = [i for i in range(len(whole)) if bare and whole[i : i + len(bare)] == bare]
        return whole[: starts[0]] if starts else [t for t in whole if t != eos]

    @cached_property
    def turn_end(self) -> int:
        """What closes the assistant's turn in a chat: the first special token that the template writes behind an answer, else the end of
        sequence.
        """
        try:
            rest = self._chat([{"role": "user", "content": "Who?"}], "Nobody")[1]
        except UserError:  # a template with demands of its own; rows that break them are refused one by one
            return int(self.tokenizer.eos_token_id)
        special = {i for i, t in self.tokenizer.added_tokens_decoder.items() if t.special}
        behind = self._ids([rest.rpartition("Nobody")[2]])[0]
        return int(next((i for i in behind if i in special), self.tokenizer.eos_token_id))

    @property
    def ends(self) -> frozenset[int]:
        """Every token that this encoder puts at the end of an answer."""
        chats = {self.turn_end} if getattr(self.tokenizer, "chat_template", None) else set[int]()
        return frozenset({int(self.tokenizer.eos_token_id), *chats})

    def end(self, pair: Pair) -> int:
        """The token that ends the answer of a pair."""
        return self.turn_end if self._chatted(pair) else int(self.tokenizer.eos_token_id)

    def _chatted(self, pair: Pair) -> bool:
        return not isinstance(pair.context, str) or (self.templated and pair.kind == "question")

    def written(self, pair: Pair) -> Written:
        """Prompt and answer as they are tokenised. Errors: UserError for an empty answer, or a chat that cannot be rendered."""
        if not pair.answer.strip():
            raise UserError(f"an answer is empty (prompt {pair.question[-60:]!r})")
        if pair.kind == "text":
            return Written("", pair.answer, chat=False, free=True)
        chat = self._chatted(pair)
        if chat:
            turns = [{"role": "user", "content": pair.context}] if isinstance(pair.context, str) else pair.context
            prompt, answer = self._chat(turns, pair.answer)
        else:
            wanted = self.prompt_format or ("{prompt}" if pair.kind == "prompt" else QUESTION_FORMAT)
            prompt, answer = wanted.replace("{prompt}", str(pair.context)), pair.answer
        bare = prompt.rstrip(" ")
        return Written(bare, prompt[len(bare) :] + answer, chat, free=False)

    def _chat(self, turns: Messages, answer: str) -> tuple[str, str]:
        """A chat as the template renders it, up to the answer and from there on."""
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
        """Ids of prompt and answer, the end of sequence behind the answer (except of a text).

        where: what the rows are called in messages. Errors: UserError that names the row, for a prompt that leaves no room, an empty
        answer, an answer that goes on behind an end, or a chat that cannot be rendered.
        """
        texts, new = [], dict[Written, int]()
        for i, pair in enumerate(pairs):
            with _naming(where, i):
                texts.append(self.written(pair))
            if texts[-1] not in self._known:
                new.setdefault(texts[-1], i)
        if new:
            asked = [*dict.fromkeys(w.prompt for w in new)]  # a prompt may have several answers
            prompts, wholes = dict(zip(asked, self._ids(asked), strict=True)), self._ids([w.prompt + w.answer for w in new])
            for (w, i), whole in zip(new.items(), wholes, strict=True):
                with _naming(where, i):
                    self._known[w] = self._boundary(w, prompts[w.prompt], whole)
        return [self._known[w] for w in texts]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return [list(ids) for ids in self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]

    def _boundary(self, w: Written, prompt: list[int], whole: list[int]) -> tuple[list[int], list[int]]:
        eos, answer = self.tokenizer.eos_token_id, whole[len(prompt) :]
        if whole[: len(prompt)] != prompt or not answer:  # unknown characters may become one token, across the boundary too
            self.merged += 1
            answer = self._apart(w.answer)
        prompt = prompt if w.chat else [*self.lead, *prompt]
        if not prompt:  # something must stand before the first label
            prompt, answer = (answer[:1], answer[1:]) if w.free else ([eos], answer)
        if not w.free:
            answer = self._closed(answer, self.turn_end if w.chat else eos)
        if len(answer) < 1 + (not w.free):
            raise UserError(f"an answer has no tokens (it is {w.answer[:60]!r})")
        self.unknown += self.tokenizer.unk_token_id not in (None, eos) and self.tokenizer.unk_token_id in answer
        return prompt, self.fit(prompt, answer)

    def fit(self, prompt: Sequence[int], answer: list[int]) -> list[int]:
        """As much of an answer as the model takes behind a prompt. Errors: UserError for a prompt that leaves no room."""
        if self.limit and len(prompt) >= self.limit:
            begins = self.tokenizer.decode(prompt[:20])[:60]
            raise UserError(f"a prompt has {len(prompt)} tokens and the model takes {self.limit} (it begins {begins!r})")
        if not self.limit or len(prompt) + len(answer) <= self.limit:
            return answer
        self.cut += 1
        return answer[: self.limit - len(prompt)]

    def _closed(self, answer: list[int], end: int) -> list[int]:
        """An answer with exactly one end, its last token; what a template writes behind it (a line break) is dropped."""
        if end not in answer:
            return [*answer, end]
        at = answer.index(end)
        if behind := self.tokenizer.decode(answer[at + 1 :], skip_special_tokens=True).strip():
            raise UserError(f"an answer goes on behind an end-of-sequence token, with {behind[:60]!r}")
        return answer[: at + 1]

    def _apart(self, answer: str) -> list[int]:
        """Ids of an answer by itself; a tokenizer may mark the start of a text, which behind a line break it is not."""
        lead, both, alone = self._ids(["\n", "\n" + answer, answer])
        behind = both[len(lead) :] if both[: len(lead)] == lead else alone
        return behind if self._plain(behind) == self._plain(alone) else alone

    def _plain(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)).strip()


@contextmanager
def _naming(where: str, place: int) -> Iterator[None]:
    """Put the name of a row before a message about it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}, row {place + 1}: {error}" if where else str(error)) from None
