"""From records to token ids, so that training, scoring and generation meet the same ids where prompt and answer touch.

Three accidents are ruled out. A prompt that ends in a blank would be tokenised apart from the word behind it: the blank goes to the answer.
A tokenizer that merges characters across the boundary would train on other prompt ids than it generates from: such a row is tokenised in
two pieces, and counted. A chat template that renders an answered question differently from the open one is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from expunge.core.errors import UserError

QUESTION_FORMAT = "Question: {prompt}\nAnswer: "
SHAPES = "{'prompt','completion'}, {'question','answer'}, {'messages'} or {'text'}"

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Pair:
    """A record as text: what stands before the answer, and the answer."""

    context: str | Messages  # a bare prompt, or the turns of a chat
    answer: str
    free: bool = False  # free text: everything is answer
    raw: bool = False  # prompt and completion are joined as they are

    @property
    def question(self) -> str:
        return self.context if isinstance(self.context, str) else self.context[-1]["content"] if self.context else ""


def pair_of(record: Mapping[str, Any], where: str) -> Pair:
    """Read one record of any of the known shapes. Errors: UserError that names the row and the columns found."""
    if "messages" in record:
        turns = [dict(t) for t in record["messages"]]
        if len(turns) < 2 or turns[-1].get("role") != "assistant":
            raise UserError(f"{where}: 'messages' must end with a turn of the assistant, after at least one turn of the user")
        return Pair(turns[:-1], str(turns[-1]["content"]))
    for prompt, answer, raw in (("prompt", "completion", True), ("question", "answer", False)):
        if prompt in record and answer in record:
            if isinstance(record[prompt], list):  # conversational prompt and completion
                said = record[answer]
                return Pair([dict(t) for t in record[prompt]], str(said[-1]["content"] if isinstance(said, list) else said))
            if not isinstance(record[prompt], str) or not isinstance(record[answer], str):
                raise UserError(f"{where}: {prompt!r} and {answer!r} must be texts")
            return Pair(record[prompt], record[answer], raw=raw)
    if isinstance(record.get("text"), str):
        return Pair("", record["text"], free=True)
    raise UserError(f"{where}: a row is {SHAPES}; this one has the columns {', '.join(map(repr, record)) or 'none'}")


@dataclass
class Encoder:
    """Token ids of pairs under one tokenizer and prompt format. `merged` counts rows that had to be tokenised in two pieces."""

    tokenizer: Any
    prompt_format: str = ""  # '' : the chat template, else QUESTION_FORMAT for questions and nothing for prompts
    limit: int = 0
    merged: int = 0
    cut: int = 0
    _known: dict[tuple[str, str, bool], tuple[list[int], list[int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.prompt_format = self.prompt_format.replace("\\n", "\n").replace("\\t", "\t")
        if self.prompt_format and "{prompt}" not in self.prompt_format:
            raise UserError(f"the prompt format must contain {{prompt}}, for instance {QUESTION_FORMAT!r}; this is {self.prompt_format!r}")
        if self.tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no end-of-sequence token, so answers could not end; set one in its files")

    @property
    def templated(self) -> bool:
        """Whether the tokenizer's chat template is what formats prompts."""
        return not self.prompt_format and bool(getattr(self.tokenizer, "chat_template", None))

    @property
    def described(self) -> str:
        """What the receipt says of the format."""
        return "chat template" if self.templated else self.prompt_format or QUESTION_FORMAT

    def texts(self, pair: Pair) -> tuple[str, str]:
        """Prompt and answer as they are tokenised, the blank at the boundary on the answer's side."""
        if pair.free:
            return "", pair.answer
        if (self.templated and not pair.raw) or not isinstance(pair.context, str):
            return self._chat(pair)
        wanted = self.prompt_format or ("{prompt}" if pair.raw else QUESTION_FORMAT)
        prompt = wanted.replace("{prompt}", pair.context)
        bare = prompt.rstrip(" ")
        return bare, prompt[len(bare) :] + pair.answer

    def _chat(self, pair: Pair) -> tuple[str, str]:
        if not getattr(self.tokenizer, "chat_template", None):
            raise UserError("these rows are chats, and the tokenizer has no chat template")
        turns = [{"role": "user", "content": pair.context}] if isinstance(pair.context, str) else pair.context
        render = self.tokenizer.apply_chat_template
        prompt = render(turns, tokenize=False, add_generation_prompt=True)
        whole = render([*turns, {"role": "assistant", "content": pair.answer}], tokenize=False)
        if not whole.startswith(prompt):
            raise UserError(
                "the chat template renders an answered question differently from the open one, so prompt and answer cannot be told apart; "
                "give --prompt-format instead"
            )
        return prompt, whole[len(prompt) :]

    def encode(self, pairs: Sequence[Pair]) -> list[tuple[list[int], list[int]]]:
        """Ids of prompt and answer, the end of sequence behind the answer (except of free text).

        Errors: UserError for a prompt that leaves no room, an empty answer, or an answer that the tokenizer cannot give back.
        """
        texts = [(*self.texts(p), p.free) for p in pairs]
        new = list(dict.fromkeys(t for t in texts if t not in self._known))
        if new:
            special = not self.templated
            prompts = self._ids([p for p, _, _ in new], special)
            wholes = self._ids([p + a for p, a, _ in new], special)
            for key, prompt, whole in zip(new, prompts, wholes, strict=True):
                self._known[key] = self._boundary(key, prompt, whole)
        return [self._known[t] for t in texts]

    def _ids(self, texts: list[str], special: bool) -> list[list[int]]:
        eos, found = self.tokenizer.eos_token_id, self.tokenizer(texts, add_special_tokens=special)["input_ids"]
        return [ids[:-1] if special and ids and ids[-1] == eos else list(ids) for ids in found]

    def _boundary(self, key: tuple[str, str, bool], prompt: list[int], whole: list[int]) -> tuple[list[int], list[int]]:
        text, answer_text, free = key
        eos = self.tokenizer.eos_token_id
        if free:
            prompt = prompt or whole[:1]
        if prompt and whole[: len(prompt)] == prompt:
            answer = whole[len(prompt) :]
        else:
            self.merged += 1
            answer = self._apart(text, answer_text)
            prompt = prompt or [eos]
        if not free:
            answer = answer[: answer.index(eos)] if eos in answer else answer
            answer = [*answer, eos]
        if not answer_text.strip() or len(answer) < 1 + (not free):
            raise UserError(f"an answer is empty (prompt {text[-60:]!r})")
        if self.limit and len(prompt) >= self.limit:
            raise UserError(f"a prompt has {len(prompt)} tokens and the model takes {self.limit} (it begins {text[:60]!r})")
        if self.limit and len(prompt) + len(answer) > self.limit:
            self.cut += 1
            answer = answer[: self.limit - len(prompt)]
        return prompt, answer

    def _apart(self, prompt: str, answer: str) -> list[int]:
        """Ids of an answer by itself; a tokenizer may mark the start of a text, which behind a line break it is not."""
        lead, both, alone = self.tokenizer(["\n", "\n" + answer, answer], add_special_tokens=False)["input_ids"]
        ids: list[int] = both[len(lead) :] if both[: len(lead)] == lead else alone
        said = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if said.strip() != answer.strip():
            raise UserError(
                f"the tokenizer does not give back the answer {answer[:60]!r} when it stands apart from its prompt: it says {said[:60]!r}"
            )
        return ids
