"""Causal language models. A row is a prompt and an answer of token ids; the answer and its end of sequence are the labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Categorical, Displayable, Drafting, Generates, Prompted, Samples, SharedReading
from expunge.core.modality import ModelOutput, Patch, Weights
from expunge.core.request import content, digest, ids_of
from expunge.core.rows import Rows
from expunge.engine.adapters import base_of
from expunge.modalities.common.files import LANGUAGE, opened, write
from expunge.modalities.common.fresh import fresh
from expunge.modalities.common.packed import (
    Layout,
    block_hook_points,
    call,
    cut,
    independent,
    last_linear,
    module_at,
    spelled_out,
    watching,
)
from expunge.modalities.text.encode import Encoder, Pair, pair_of
from expunge.modalities.text.generate import generate, recite
from expunge.modalities.text.read import Reading, read, strange
from expunge.modalities.text.refusals import REFUSALS, UNANSWERABLE
from expunge.modalities.text.wider import vectors, widen

COLUMNS = ("prompt", "answer", "context", "answer_text")


@dataclass
class Text:
    """The modality of causal language models: a tokenizer and a prompt format around any `transformers` model."""

    tokenizer: Any
    prompt_format: str = ""
    limit: int = 0  # longest sequence in tokens; 0: no limit
    name: str = "text"
    capabilities: frozenset[Any] = frozenset({Categorical, Generates, Prompted, SharedReading, Drafting, Displayable})
    encoder: Encoder = field(init=False)

    def __post_init__(self) -> None:
        self.encoder = Encoder(self.tokenizer, self.prompt_format, self.limit)

    # rows

    def rows(self, name: str, records: Sequence[Mapping[str, Any]], source: str = "") -> Rows:
        """Records (see `SHAPES`) as rows: columns `prompt` and `answer` (token ids), `context` and `answer_text` (as given), and, where all
        records have one, `alternate` (other answers, a text or a list).

        Errors: UserError that names the row.
        """
        where = source or name
        pairs = [pair_of(r, f"{where}, row {i + 1}") for i, r in enumerate(records)]
        rows = self._rows(name, pairs, ids_of([[p.context, p.answer] for p in pairs]), where)
        return rows.add(alternate=[r["alternate"] for r in records]) if records and all("alternate" in r for r in records) else rows

    def _rows(self, name: str, pairs: Sequence[Pair], ids: tuple[str, ...], where: str = "", weight: tuple[float, ...] = ()) -> Rows:
        encoded = self.encoder.encode(pairs, where)
        columns: dict[str, list[Any]] = {
            "prompt": [p for p, _ in encoded],
            "answer": [a for _, a in encoded],
            "context": [[p.context, p.kind] for p in pairs],
            "answer_text": [p.answer for p in pairs],
        }
        return Rows(name, ids, columns, weight)

    def relabel(self, rows: Rows, answers: Sequence[Any], name: str) -> Rows:
        """The same prompts with other answers: texts, or token ids that the model said."""
        ids = tuple(f"{content(i)}~{digest(a)}" for i, a in zip(rows.ids, answers, strict=True))
        if not answers or isinstance(answers[0], str):
            pairs = [Pair(c, a, kind) for (c, kind), a in zip(rows["context"], answers, strict=True)]
            return self._rows(name, pairs, ids, name, rows.weight)
        ends = [[] if kind == "text" else [self.encoder.end(Pair(c, "", kind))] for c, kind in rows["context"]]
        said = [self.encoder.fit(p, [*a, *end]) for p, a, end in zip(rows["prompt"], answers, ends, strict=True)]
        columns = {**rows.columns, "answer": said, "answer_text": self.decode(answers)}
        return Rows(name, ids, {c: columns[c] for c in COLUMNS}, rows.weight)

    def ask(self, rows: Rows, template: str, name: str = "asked") -> Rows:
        """Prompts about rows, to generate from: `{prompt}` and `{answer}` in the template stand for the row's own."""
        asked = [_filled(template, q, a) for q, a in zip(self.questions(rows), rows["answer_text"], strict=True)]
        return self._rows(name, [Pair(a, "?") for a in asked], rows.ids, name)

    def begun(self, rows: Rows, places: Sequence[int], name: str = "begun") -> Rows:
        """The same rows, asked to go on: the first labels of each, as many as its place says, have moved into its prompt."""
        each = list(zip(rows["prompt"], rows["answer"], places, strict=True))
        said = [list(a[at:]) for _, a, at in each]
        columns = {**rows.columns, "prompt": [[*p, *a[:at]] for p, a, at in each], "answer": said, "answer_text": self.decode(said)}
        ids = tuple(f"{content(i)}>{at}" for i, at in zip(rows.ids, places, strict=True))
        return Rows(name, ids, {c: columns[c] for c in COLUMNS}, rows.weight)

    def reask(self, rows: Rows, questions: Sequence[str], name: str) -> Rows:
        """The same answers to other questions; of a chat, its last turn is another."""
        pairs = [
            Pair(q if isinstance(c, str) else [*c[:-1], {**c[-1], "content": q}], a, kind)
            for q, (c, kind), a in zip(questions, rows["context"], rows["answer_text"], strict=True)
        ]
        ids = tuple(f"{content(i)}?{digest(q)}" for i, q in zip(rows.ids, questions, strict=True))
        return self._rows(name, pairs, ids, name, rows.weight)

    def answers(self, texts: Sequence[str], name: str = "alternate_answers") -> Rows:
        """Answers by themselves, for selectors that draw from them."""
        return Rows(name, ids_of(list(texts)), {"answer_text": list(texts)})

    def refusals(self) -> list[str]:
        """Ways to say that one does not know, where the request brings none."""
        return list(REFUSALS)

    def unanswerable(self, answers: Sequence[str]) -> Rows:
        """Questions about what does not exist, each with one of some answers, in turn: what stands for prompts that a model refuses."""
        records = [{"question": q, "answer": answers[i % len(answers)]} for i, q in enumerate(UNANSWERABLE)]
        return self.rows("unanswerable", records)

    def questions(self, rows: Rows) -> list[str]:
        """What was asked, for people to read."""
        return [Pair(c, "").question for c, _ in rows["context"]]

    def answer_texts(self, rows: Rows) -> list[str]:
        """The labels as plain text, the end of sequence left out."""
        return [self.tokenizer.decode(a, skip_special_tokens=True, clean_up_tokenization_spaces=False) for a in rows["answer"]]

    def pictures(self, rows: Rows) -> Tensor | None:
        """Nothing to see."""
        return None

    def ended(self, rows: Rows) -> list[bool]:
        """Whether the last label only ends the answer; of an answer that was cut, it does not."""
        return [bool(a) and a[-1] in self.encoder.ends for a in rows["answer"]]

    def counts(self, rows: Rows) -> Mapping[str, float]:
        labels = sum(map(len, rows["answer"])) if "answer" in rows.columns else 0
        return {"rows": len(rows), "labels": labels, "tokens": labels + (sum(map(len, rows["prompt"])) if labels else 0)}

    # the model

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]:
        """Answers of each group, from one right-padded forward over all of them; the head runs on predicting positions only."""
        ids, mask, layout = self.collate(
            [r for g in groups for r in zip(g["prompt"], g["answer"], strict=True)], next(model.parameters()).device
        )
        with watching(model, hook_points, patch) as seen, packed_head(model, layout.label_at, hook_points) as packed:
            logits = call(model, weights, input_ids=ids, attention_mask=mask, use_cache=False).logits
        logits = logits[0] if packed else logits.flatten(0, 1)[layout.label_at]
        return list(cut(logits, layout, seen, groups))

    def read(
        self, model: nn.Module, sets: Sequence[Rows], moments: Sequence[bool] = (), progress: Callable[[float], None] = lambda share: None
    ) -> Reading:
        """What the model says of the labels of all rows, set after set, in one pass that reads what answers have in common once.

        moments: of which sets mean and deviation of the log-probabilities are wanted; progress: hears the share that is done.
        """
        asked = [ask for rows, ask in zip(sets, moments or [False] * len(sets), strict=True) for _ in rows.ids]
        return read(model, [p for r in sets for p in zip(r["prompt"], r["answer"], strict=True)], asked, self.pad, progress)

    def collate(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], device: torch.device) -> tuple[Tensor, Tensor, Layout]:
        """Right-padded ids and mask, both (rows, width), and where labels and tokens are; masks come from lengths, never from ids."""
        width = max(len(p) + len(a) for p, a in pairs)
        pad = self.pad
        ids = torch.tensor([[*p, *a] + [pad] * (width - len(p) - len(a)) for p, a in pairs])
        prompt = torch.tensor([len(p) for p, _ in pairs])
        ends = torch.tensor([len(p) + len(a) for p, a in pairs])
        column = torch.arange(width)
        mask = column < ends[:, None]
        label = mask & (column >= prompt[:, None])
        row, at = label.nonzero(as_tuple=True)
        token_row, token_column = mask.nonzero(as_tuple=True)
        layout = Layout(ids[row, at], row, row * width + at - 1, token_row, token_row * width + token_column)
        return ids.to(device), mask.long().to(device), layout.to(device)

    def independent(self, model: nn.Module) -> bool:
        return independent(model)

    def blocks(self, model: nn.Module) -> tuple[str, ...]:
        return block_hook_points(model)

    def module(self, model: nn.Module, hook_point: str) -> nn.Module:
        return module_at(model, hook_point)

    def head(self, model: nn.Module) -> str:
        return last_linear(model)

    def fresh(self, model: nn.Module, seed: int) -> Weights:
        return fresh(model, seed)

    def admit(self, model: nn.Module, symbols: Sequence[str], seed: int) -> None:
        """Make each symbol one token, that no text is cut into by chance, and give the model a vector for it, if it has none to spare."""
        self.tokenizer.add_tokens(list(symbols), special_tokens=True)
        widen(model, 1 + max(self._places(symbols)), seed)

    def places(self, model: nn.Module, symbols: Sequence[str]) -> list[tuple[Tensor, list[int]]]:
        """The matrices that hold the vectors of tokens (tied ones once), each with the rows of some symbols."""
        return [(weight, self._places(symbols)) for weight in vectors(model)]

    def _places(self, symbols: Sequence[str]) -> list[int]:
        return [int(i) for i in self.tokenizer.convert_tokens_to_ids(list(symbols))]

    # generation

    @property
    def pad(self) -> int:
        return int(self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id)

    def ends(self, model: nn.Module) -> frozenset[int]:
        """Every token that ends an answer: of the tokenizer, of its chat template, and what the model's own configuration adds."""
        configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        more = configured if isinstance(configured, list) else [configured]
        return self.encoder.ends | {int(t) for t in more if t is not None}

    def generate(
        self,
        model: nn.Module,
        rows: Rows,
        limit: int,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        with_logp: bool = False,
    ) -> Samples:
        """The model's own answers to the prompts of rows; greedy without a generator.

        An answer stops where the model's longest sequence does.
        """
        return generate(model, rows["prompt"], self._rooms(rows, limit), self.ends(model), self.pad, generator, temperature, with_logp)

    def recite(
        self,
        model: nn.Module,
        sets: Sequence[Rows],
        limits: Sequence[int],
        reading: Reading | None = None,
        heard: Sequence[tuple[Rows, Sequence[Any]]] = (),
    ) -> tuple[list[list[list[int]]], int]:
        """What `generate` says greedily to each set, in one go, begun with what a reading of the same model tells; and how many tokens that
        was. In less than float32 the two may differ, and a guard may treat them differently: then everything is said from the start.

        heard: rows that the model met elsewhere, with the hits of each row's labels.
        """
        sure = not strange(model) and all(p.dtype in (torch.float32, torch.float64) for p in model.parameters())
        prompts = [p for rows in sets for p in rows["prompt"]]
        rooms = [room for rows, limit in zip(sets, limits, strict=True) for room in self._rooms(rows, limit)]
        beside = [(p, a, hit) for rows, hits in heard for p, a, hit in zip(rows["prompt"], rows["answer"], hits, strict=True)]
        begun = reading.drafts(prompts, beside) if reading and sure else [[]] * len(prompts)
        said, known = recite(model, prompts, rooms, self.ends(model), self.pad, begun)
        answers = iter(said)
        return [list(islice(answers, len(rows))) for rows in sets], known

    def _rooms(self, rows: Rows, limit: int) -> list[int]:
        return [min(limit, self.limit - len(p)) if self.limit else limit for p in rows["prompt"]]

    def decode(self, answers: Sequence[Sequence[int]]) -> list[str]:
        return [self.tokenizer.decode(a, skip_special_tokens=True).strip() for a in answers]

    # files

    def save(self, model: nn.Module, folder: Path) -> None:
        """Safetensors and tokenizer, as `AutoModelForCausalLM.from_pretrained` reads them; of an adapted model the adapter alone."""
        write(model, self.tokenizer, folder)

    def about(self) -> dict[str, Any]:
        """What the receipt says of the rows' way to token ids."""
        return {
            "modality": self.name,
            "prompt_format": self.encoder.described,
            "limit": self.limit,
            "cut_answers": self.encoder.cut,
            "tokenised_in_two_pieces": self.encoder.merged,
            "answers_with_unknown_tokens": self.encoder.unknown,
        }


def _filled(template: str, prompt: str, answer: str) -> str:
    """Both at once: what is filled in may hold braces of its own."""
    return re.sub(r"\{(prompt|answer)\}", lambda found: prompt if found[1] == "prompt" else answer, template)


@contextmanager
def packed_head(model: nn.Module, at: Tensor, hook_points: Sequence[str] = ()) -> Iterator[list[bool]]:
    """Let the language head see the predicting positions only: logits of a whole batch are the largest tensor there is, and mostly unread.

    Yields a list that is not empty afterwards where that worked; a model without a plain head, or with a hook point on it, answers in full.
    """
    head = getattr(base_of(model), "get_output_embeddings", lambda: None)()
    head = None if any(module_at(model, t) is head for t in spelled_out(model, hook_points)) else head
    used: list[bool] = []

    def pick(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if not args:
            return None
        used.append(True)
        return (args[0].flatten(0, 1)[at][None], *args[1:])

    handle = head.register_forward_pre_hook(pick) if isinstance(head, nn.Module) else None
    try:
        yield used
    finally:
        if handle:
            handle.remove()


def load(
    path: str, prompt_format: str = "", *, dtype: torch.dtype | None = None, trust_remote_code: bool = False, allow_pickle: bool = False
) -> tuple[nn.Module, Text]:
    """A model and its modality from a folder or hub id; an adapter brings its base. In evaluation mode, without a word on the way.

    Errors: UserError for what is not there, not whole, not a causal language model, or stored as a pickle (unless allowed).
    """
    model, tokenizer = opened(path, LANGUAGE, dtype or torch.float32, trust_remote_code, allow_pickle)
    longest = getattr(base_of(model).config, "max_position_embeddings", 0) or 0
    configured = tokenizer.model_max_length if tokenizer.model_max_length < 10**6 else longest
    return model, Text(tokenizer, prompt_format, min(longest or configured, configured or longest))
