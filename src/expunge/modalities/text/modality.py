"""The modality of language models. A row is a prompt and an answer of token ids; the answer and its end of sequence are labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.capabilities import (
    Categorical,
    Displayable,
    Drafting,
    Generates,
    OneSequence,
    Prompted,
    Samples,
    SharedReading,
)
from expunge.core.errors import UserError
from expunge.core.modality import Modality, ModelOutput, Patch, Weights
from expunge.core.request import content, digest, ids_of
from expunge.core.rows import Rows
from expunge.engine import memory
from expunge.engine.retokenizing import Retokenizes
from expunge.engine.run_state import evaluating
from expunge.functional.brief import brief
from expunge.modalities.common.files import write
from expunge.modalities.common.fingerprint import fingerprint
from expunge.modalities.common.network import Network
from expunge.modalities.common.packed import Layout
from expunge.modalities.common.records import Records, kind_of, listed, note
from expunge.modalities.text.architecture import Architecture
from expunge.modalities.text.causal import CAUSAL, collate
from expunge.modalities.text.encode import Content, Encoder
from expunge.modalities.text.generate import Beginnings, choose, generate, recite
from expunge.modalities.text.reading import Reading, strange
from expunge.modalities.text.records import Pair, all_pairs, answered, answered_ids, answering, filled, same_question
from expunge.modalities.text.refusals import REFUSALS, UNANSWERABLE
from expunge.modalities.text.shapes import plain
from expunge.modalities.text.shared_rows import Known, known_rows
from expunge.modalities.text.streaming import stream
from expunge.modalities.text.wider import known_tokens, vectors, widen


@brief("name", "prompt_format", "limit")
@dataclass
class Text(Network):
    """The modality of language models: a tokenizer and a prompt format for any `transformers` model."""

    tokenizer: Any
    prompt_format: str = ""
    limit: int = 0  # longest sequence in tokens; 0: no limit
    vocabulary: int = 0  # how many tokens the model knows; 0: unknown
    name: str = "text"
    capabilities: frozenset[Any] = frozenset(
        {Categorical, Generates, Prompted, SharedReading, Drafting, Displayable, OneSequence, Retokenizes}
    )
    architecture: Architecture = CAUSAL
    encoder: Encoder = field(init=False)
    several: set[str] = field(default_factory=set, repr=False)  # hashes of the chats with several answers

    def __post_init__(self) -> None:
        self.encoder = self.architecture.encoder(self.tokenizer, self.prompt_format, self.limit, self.vocabulary)
        self.capabilities = self.capabilities - self.architecture.lacks

    # Rows

    def rows(self, name: str, records: Sequence[Mapping[str, Any]], source: str = "") -> Rows:
        """Convert records (see `records.LISTED`) to rows.

        A chat gives a row for each of its answers. An answer that is too long for the model gives a row for each of its windows.

        Args:
            name: name of the set.
            source: name of the records in messages; default: `name`.

        Returns:
            Rows with the columns `prompt` and `answer` (token ids), `context` and `answer_text` (as in the records), `content` (hashes of
            what the model reads, by which rows of two sets are the same), `record` (the place of the row's record) if some record gave
            several rows, and `alternate` (lists of other answers) if any record has one. A question has the same id whether it stands in a
            column or as the turn of a chat.

        Raises:
            UserError: when a record cannot be encoded; the message names the row.
        """
        own = Records(list[Any](records))  # which takes the notes of this reading
        known = self._known(len(own), ["rows", name, source, own], lambda r: (r._read(name, own, source or name), own.notes))
        note(records, known.notes)
        return known.rows

    def _known(self, size: int, content: list[Any], make: Callable[[Text], tuple[Rows, Sequence[str]]]) -> Known[Text]:
        """Rows that a run of this process shares (see `known_rows`), or new ones: a subclass may read them by more than `content`."""
        return known_rows(self, size, content, make) if type(self) is Text else Known(*make(self), self)

    def _read(self, name: str, records: Sequence[Mapping[str, Any]], where: str) -> Rows:
        """The rows of records. where: name of the records in messages."""
        by_record = all_pairs(records, name, where)
        alternates = [listed(r, "alternate", f"{where}, row {i + 1}") for i, r in enumerate(records)]
        for i, pairs in enumerate(by_record):
            if alternates[i] and len(pairs) > 1:
                raise UserError(
                    f"{where}, row {i + 1}: a chat with {len(pairs)} answers cannot have one 'alternate' for all: give each "
                    f"answer a row of its own, with 'prompt' (the turns before it) and 'completion'"
                )
        self.several.update(digest(r["messages"]) for r, pairs in zip(records, by_record, strict=True) if len(pairs) > 1)
        of_record = [i for i, pairs in enumerate(by_record) for _ in pairs]
        pairs = [pair for record_pairs in by_record for pair in record_pairs]
        place, window_pairs, encoded, texts, identity = list[int](), list[Pair](), list[Content](), list[str](), list[object]()
        for i, pair, windows in zip(of_record, pairs, self.encoder.windows(pairs, where, of_record), strict=True):
            tools = [list(pair.tools)] if pair.tools else []
            for k, window in enumerate(windows):
                is_whole = len(windows) == 1
                place.append(i)
                window_pairs.append(pair)
                encoded.append(window)
                texts.append(pair.answer if is_whole else self.tokenizer.decode(window[1], skip_special_tokens=True))
                identity.append([same_question(pair), pair.answer, *tools, *([] if is_whole else [k])])
        rows = Rows(name, ids_of(identity), self._columns(window_pairs, encoded, texts)).add(content=self._contents(window_pairs))
        if any(alternates):
            rows = rows.add(alternate=[alternates[i] for i in place])
        return rows.add(record=place) if len(rows) > len(records) else rows

    def _contents(self, pairs: Sequence[Pair]) -> list[tuple[str, ...]]:
        """Hashes of each row as the model reads it, and of what it says in any format, without differences in white space."""
        hashes = {}
        for pair in {id(p): p for p in pairs}.values():
            written = self.encoder.written(pair)
            read_as = digest(plain(written.prompt + written.answer + written.after))
            turns = [{"role": "user", "content": pair.context}] if isinstance(pair.context, str) else pair.context
            spoken = [[t["role"], plain(t["content"])] for t in turns if t["role"] != "system"]
            hashes[id(pair)] = (read_as,) if pair.kind == "text" else (read_as, digest([spoken, plain(pair.answer)]))
        return [hashes[id(p)] for p in pairs]

    def _columns(self, pairs: Sequence[Pair], encoded: Sequence[Content], answer_texts: Sequence[str]) -> dict[str, list[Any]]:
        ids = self.encoder.columns(pairs, encoded)
        return {**ids, "context": [p.context_fields for p in pairs], "answer_text": list(answer_texts)}

    def _kept(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
        """The columns of rows that were made of other rows."""
        return {c: columns[c] for c in (*self.encoder.COLUMNS, "context", "answer_text")}

    def _rows(self, name: str, pairs: Sequence[Pair], ids: tuple[str, ...], where: str = "", weight: tuple[float, ...] = ()) -> Rows:
        """One row for each pair; an answer that is too long is cut."""
        return Rows(name, ids, self._columns(pairs, self.encoder.encode(pairs, where), [p.answer for p in pairs]), weight)

    def relabel(self, rows: Rows, answers: Sequence[Any], name: str) -> Rows:
        """The same prompts with other answers, each a text or the token ids of a generated answer.

        Raises:
            UserError: when an answer is neither.
        """
        if odd := [a for a in answers if not hasattr(a, "__len__") or isinstance(a, Mapping)]:
            raise UserError(f"{name}: an answer is a text, and this is {kind_of(odd[0])}")
        if not answers or isinstance(answers[0], str):
            key = ["relabel", name, rows.ids, rows.weight, rows["context"], answers]
            return self._known(
                len(rows), key, lambda r: (r._rows(name, answered(rows, answers), answered_ids(rows, answers), name, rows.weight), ())
            ).rows
        ends = [[] if pair.kind == "text" else [self.encoder.end(pair)] for pair in (answering(context, "") for context in rows["context"])]
        labels = [self.encoder.fit(p, [*a, *end]) for p, a, end in zip(rows["prompt"], answers, ends, strict=True)]
        columns = {**rows.columns, "answer": labels, "answer_text": self.decode(answers)}
        return Rows(name, answered_ids(rows, answers), self._kept(columns), rows.weight)

    def ask(self, rows: Rows, template: str, name: str = "asked") -> Rows:
        """Prompts about rows, to generate from. `{prompt}` and `{answer}` in the template stand for question and answer of the row."""
        prompts = [filled(template, q, a) for q, a in zip(self.questions(rows), rows["answer_text"], strict=True)]
        pairs = [Pair(self.placed(context, prompt), "?") for context, prompt in zip(rows["context"], prompts, strict=True)]
        return self._rows(name, pairs, rows.ids, name)

    def placed(self, context: Sequence[Any], question: str) -> str:
        """A question in the place of that of a row, with what else the row asks about. context: of the row."""
        return question

    def begun(self, rows: Rows, places: Sequence[int], name: str = "begun") -> Rows:
        """The same rows with the beginning of each answer moved into its prompt.

        Args:
            places: for each row, how many labels move.
        """
        triples = list(zip(rows["prompt"], rows["answer"], places, strict=True))
        remaining = [list(a[at:]) for _, a, at in triples]
        prompts = [[*p, *a[:at]] for p, a, at in triples]
        columns = {**rows.columns, "prompt": prompts, "answer": remaining, "answer_text": self.decode(remaining)}
        ids = tuple(f"{content(i)}>{at}" for i, at in zip(rows.ids, places, strict=True))
        return Rows(name, ids, self._kept(columns), rows.weight)

    def reask(self, rows: Rows, questions: Sequence[str], name: str) -> Rows:
        """The same answers to other questions. In a chat, the question replaces the last turn."""
        asked = [self.placed(context, q) for context, q in zip(rows["context"], questions, strict=True)]
        pairs = [answering(context, a).reasked(q) for q, context, a in zip(asked, rows["context"], rows["answer_text"], strict=True)]
        ids = tuple(f"{content(i)}?{digest(q)}" for i, q in zip(rows.ids, questions, strict=True))
        return self._rows(name, pairs, ids, name, rows.weight)

    def formats(self) -> dict[str, Modality]:
        """The same modality with other formats around a question, in which models are often trained, by format."""
        return {f: replace(self, prompt_format=f) for f in self.architecture.formats}

    def answers(self, texts: Sequence[str], name: str = "alternate_answers") -> Rows:
        """Rows of answers without prompts, for selectors that draw from them."""
        return Rows(name, ids_of(list(texts)), {"answer_text": list(texts)})

    def refusals(self) -> list[str]:
        """Default refusals, for requests without their own."""
        return list(REFUSALS)

    def unanswerable(self, answers: Sequence[str]) -> Rows:
        """Questions about things that do not exist, as examples of prompts that a model refuses. The answers are used in turn."""
        records = [{"question": q, "answer": answers[i % len(answers)]} for i, q in enumerate(UNANSWERABLE)]
        return self.rows("unanswerable", records)

    def questions(self, rows: Rows) -> list[str]:
        """The questions as text, for people to read."""
        return [answering(context, "").question for context in rows["context"]]

    def answer_texts(self, rows: Rows) -> list[str]:
        """The labels as plain text, without the end of sequence."""
        return [self.tokenizer.decode(a, skip_special_tokens=True, clean_up_tokenization_spaces=False) for a in rows["answer"]]

    def pictures(self, rows: Rows) -> Tensor | None:
        """None: texts have no pictures."""
        return None

    def ended(self, rows: Rows) -> list[bool]:
        """For each row, whether its last label is an end of sequence. It is not if the answer was cut."""
        return [bool(a) and a[-1] in self.encoder.ends for a in rows["answer"]]

    def counts(self, rows: Rows) -> Mapping[str, float]:
        """The number of rows, labels and tokens; rows without answers count no tokens."""
        labels = sum(map(len, rows["answer"])) if "answer" in rows.columns else 0
        if not labels:
            return {"rows": len(rows), "labels": 0, "tokens": 0}
        return {"rows": len(rows), "labels": labels, "tokens": labels + sum(map(len, rows["prompt"])), **self.architecture.counts(rows)}

    # The model

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]:
        """Run the model on all groups in one right-padded forward pass. The head runs on the predicting positions only.

        Args:
            groups: rows; each group gets an output of its own.
            hook_points: modules whose inputs and outputs are recorded.
            patch: a change of the forward pass.
            weights: weights that replace those of the model, by name.
        """
        return self.architecture.forward(model, groups, self.pad, hook_points, patch, weights)

    def read(
        self, model: nn.Module, sets: Sequence[Rows], moments: Sequence[bool] = (), progress: Callable[[float], None] = lambda share: None
    ) -> Reading:
        """Score the labels of all rows, set after set, in one pass that computes the shared beginnings of answers once.

        Args:
            moments: for each set, whether to compute mean and deviation of the log-probabilities; default: no set.
            progress: is called with the share of the work that is done, from 0 to 1.
        """
        with_moments = [wanted for rows, wanted in zip(sets, moments or [False] * len(sets), strict=True) for _ in rows.ids]
        return self.architecture.read(model, self._together(sets), with_moments, self.pad, progress)

    def collate(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], device: torch.device) -> tuple[Tensor, Tensor, Layout]:
        """Prompts and answers, padded on the right: see `causal.collate`."""
        return collate(pairs, self.pad, device)

    def admit(self, model: nn.Module, symbols: Sequence[str], seed: int) -> None:
        """Add each symbol to the tokenizer as a special token, and an embedding to the model if it has too few."""
        self.tokenizer.add_tokens(list(symbols), special_tokens=True)
        widen(model, 1 + max(self._token_ids(symbols)), seed)
        self.encoder.vocabulary = known_tokens(model)

    def places(self, model: nn.Module, symbols: Sequence[str]) -> list[tuple[Tensor, list[int]]]:
        """The embedding matrices of the model (tied matrices once), each with the rows of the symbols."""
        return [(weight, self._token_ids(symbols)) for weight in vectors(model)]

    def retokenize(self, tokenizer: Any) -> None:
        """Encode rows with another tokenizer from now on."""
        known, self.tokenizer = self.encoder.vocabulary, tokenizer
        self.encoder = self.architecture.encoder(tokenizer, self.prompt_format, self.limit, known)

    def encode_again(self, rows: Rows) -> Rows:
        """The same rows, with the same ids, as the tokenizer encodes them now."""
        return replace(self.relabel(rows, rows["answer_text"], rows.name), ids=rows.ids)

    def _token_ids(self, symbols: Sequence[str]) -> list[int]:
        return [int(i) for i in self.tokenizer.convert_tokens_to_ids(list(symbols))]

    # Generation

    @property
    def pad(self) -> int:
        """The token id of padding."""
        pad, known = self.tokenizer.pad_token_id, self.encoder.vocabulary
        return int(self.tokenizer.eos_token_id if pad is None or (known and pad >= known) else pad)

    def ends(self, model: nn.Module) -> frozenset[int]:
        """All tokens that end an answer: those of the tokenizer, of its chat template, and of the model's generation configuration."""
        configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        model_ends = configured if isinstance(configured, list) else [configured]
        return self.encoder.ends | {int(t) for t in model_ends if t is not None}

    def generate(
        self,
        model: nn.Module,
        rows: Rows,
        limit: int,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        with_logp: bool = False,
    ) -> Samples:
        """Generate the model's own answers to the prompts of rows.

        An answer stops at the longest sequence of the model.

        Args:
            limit: most tokens of an answer.
            generator: for sampling; None: greedy.
            with_logp: keep the log-probability of each chosen token.
        """
        beginnings = self.architecture.beginnings(model, rows, self.pad)
        return self.generate_from(beginnings, model, rows, limit, generator, temperature, with_logp)

    def generate_from(
        self,
        beginnings: Beginnings,
        model: nn.Module,
        rows: Rows,
        limit: int,
        generator: torch.Generator | None,
        temperature: float,
        with_logp: bool,
    ) -> Samples:
        """As `generate`, from what answers to the rows begin from: another model than `model`, or several, may choose the tokens."""
        limits = self.limits(rows, limit)
        size = self._answers(model, rows, limits)
        return generate(beginnings, limits, self.ends(model), generator, temperature, with_logp, size)

    def stream(
        self, model: nn.Module, rows: Rows, limit: int, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Iterator[str]:
        """Pieces of the text that `generate` and `decode` give for one row, as they are generated.

        Args:
            rows: one row.
            limit, generator, temperature: of `generate`.
        """
        beginnings = self.architecture.beginnings(model, rows.select([0]), self.pad)
        yield from self.stream_from(beginnings, model, rows, limit, generator, temperature)

    def stream_from(
        self, beginnings: Beginnings, model: nn.Module, rows: Rows, limit: int, generator: torch.Generator | None, temperature: float
    ) -> Iterator[str]:
        """As `stream`, from what the answer to the row begins from."""
        with evaluating(model):
            yield from stream(
                beginnings,
                self.limits(rows, limit)[0],
                self.ends(model),
                lambda logits: choose(logits, generator, temperature)[0],
                lambda ids: self.decode([ids])[0],
            )

    def recite(
        self,
        model: nn.Module,
        sets: Sequence[Rows],
        limits: Sequence[int],
        reading: Reading | None = None,
        heard: Sequence[tuple[Rows, Sequence[Any]]] = (),
    ) -> tuple[list[list[list[int]]], int]:
        """Generate greedy answers to all sets in one go, starting each answer with the tokens that a reading of the model predicts.

        In less than float32 reading and generation may differ, and a guard may treat them differently. All answers are then generated from
        the start.

        Args:
            limits: for each set, the most tokens of an answer.
            reading: what `read` returned for the same model.
            heard: other rows that the model was scored on, with the hits of each row's labels.

        Returns:
            The answers of each set as token ids, and the number of tokens that were taken from the reading.
        """
        reliable = not strange(model) and all(p.dtype in (torch.float32, torch.float64) for p in model.parameters())
        row_limits = [row_limit for rows, limit in zip(sets, limits, strict=True) for row_limit in self.limits(rows, limit)]
        scored = [s for rows, hits in heard for s in zip(self.architecture.asked(rows), rows["answer"], hits, strict=True)]
        together = self._together(sets)
        drafts = reading.drafts(self.architecture.asked(together), scored) if reading and reliable else [[]] * len(together)
        beginnings, size = self.architecture.beginnings(model, together, self.pad), self._answers(model, together, row_limits)
        generated, drafted = recite(beginnings, row_limits, self.ends(model), drafts, size)
        answers = iter(generated)
        return [list(islice(answers, len(rows))) for rows in sets], drafted

    def _answers(self, model: nn.Module, rows: Rows, limits: Sequence[int]) -> int:
        """How many answers to rows are generated at a time."""
        return memory.answers(model, max(map(len, rows["prompt"]), default=0), max(limits, default=0))

    def _together(self, sets: Sequence[Rows]) -> Rows:
        """The rows of all sets, in order."""
        columns = {c: [ids for rows in sets for ids in rows[c]] for c in self.encoder.COLUMNS}
        return Rows("together", tuple(i for rows in sets for i in rows.ids), columns)

    def limits(self, rows: Rows, limit: int) -> list[int]:
        """The most tokens of an answer to each prompt."""
        return [min(limit, self.limit - len(p)) if self.limit else limit for p in rows["prompt"]]

    def decode(self, answers: Sequence[Sequence[int]]) -> list[str]:
        """Token ids of answers as text, without special tokens."""
        return [self.tokenizer.decode(a, skip_special_tokens=True).strip() for a in answers]

    # Files

    def save(self, model: nn.Module, folder: Path) -> None:
        """Save weights and tokenizer as `from_pretrained` reads them; of an adapted model only the adapter."""
        write(model, self.tokenizer, folder)

    def about(self) -> dict[str, Any]:
        """How rows become token ids, for the receipt."""
        return {
            "modality": self.name,
            "prompt_format": self.encoder.described,
            "format_given": bool(self.prompt_format),
            "limit": self.limit,
            **self.architecture.about(),
            "tokenizer": fingerprint(self.tokenizer),
            "cut_answers": self.encoder.cut,
            "tokenised_in_two_pieces": self.encoder.merged,
            "answers_with_unknown_tokens": self.encoder.unknown,
            "chats_with_several_answers": len(self.several),
            "long_answers": self.encoder.windowed[0],
            "windows_of_long_answers": self.encoder.windowed[1],
        }
