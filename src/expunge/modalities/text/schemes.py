"""Tokenizers that cut texts in other ways with the vocabulary of a byte-pair encoding (BPE).

Normalizer, pre-tokenizer, decoder, post-processor and special tokens stay; only the model inside the tokenizer is another one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from expunge.core.errors import UserError
from expunge.functional import segmentation
from expunge.functional.brief import brief
from expunge.modalities.common.files import quiet

Stored = Literal["dp", "greedy", "standard", "shuffle", "delete", "truncate", "truncate_head", "bytes"]
Slow = Literal["greedy_rtl", "longest"]  # no file of a tokenizer can say these, so they can only be measured
Scheme = Literal[Stored, Slow]
WITHOUT_LIST: tuple[Stored, ...] = ("dp", "greedy", "bytes")
Merges = list[tuple[str, str]]
NEVER, UNUSED = -100.0, -1000.0  # scores of special tokens and of ids without a token, among tokens whose score is -1


@brief("vocabulary", "merges")
@dataclass(frozen=True)
class Bpe:
    """A tokenizer as its file describes it, with a BPE inside."""

    file: Mapping[str, Any]
    vocabulary: Mapping[str, int]  # of the BPE alone
    merges: Merges

    @property
    def options(self) -> dict[str, Any]:
        """The settings of the BPE besides vocabulary and merges."""
        return {k: v for k, v in self.file["model"].items() if k not in ("vocab", "merges")}

    @property
    def special(self) -> dict[str, int]:
        """Tokens that are split out of a text before anything else."""
        return {t["content"]: t["id"] for t in self.file["added_tokens"]}

    @property
    def complete(self) -> bool:
        """Whether the vocabulary has a token for every byte, so that no text has an unknown symbol."""
        from tokenizers import pre_tokenizers

        in_bytes = '"ByteLevel"' in json.dumps(self.file["pre_tokenizer"])
        return in_bytes and self.vocabulary.keys() >= set(pre_tokenizers.ByteLevel.alphabet())


def read(tokenizer: Any) -> Bpe:
    """The BPE of a tokenizer of `transformers`.

    Raises:
        UserError: when it has another model, or is no tokenizer of the library `tokenizers`.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"the tokenizer of this model ({type(tokenizer).__name__}) is not one of the library `tokenizers`, so it has no list of merges "
            "that could be taken out: convert it to a tokenizer.json first"
        )
    file = json.loads(backend.to_str())
    if (kind := file["model"]["type"]) != "BPE":
        raise UserError(f"the tokenizer of this model is a {kind} and no BPE, so it has no list of merges that could be taken out")
    merges: Merges = [(left, right) for left, right in (m.split(" ", 1) if isinstance(m, str) else m for m in file["model"]["merges"])]
    return Bpe(file, file["model"]["vocab"], merges)


def changed(merges: Sequence[tuple[str, str]], scheme: Scheme, share: float, rng: torch.Generator) -> Merges:
    """The merges that a scheme leaves, in its order. share: of the merges that go, where some go and others stay."""
    kept = len(merges) - round(share * len(merges))
    order = torch.randperm(len(merges), generator=rng).tolist()
    chosen: Mapping[str, Sequence[int]] = {
        "standard": range(len(merges)),
        "shuffle": order,
        "delete": sorted(order[:kept]),
        "truncate": range(kept),
        "truncate_head": range(len(merges) - kept, len(merges)),
        "bytes": (),
    }
    return [merges[i] for i in chosen[scheme]]


def rebuilt(tokenizer: Any, bpe: Bpe, scheme: Scheme, ids: Mapping[str, int], share: float, rng: torch.Generator) -> Any:
    """A tokenizer with the tokens of another one, and another way of cutting texts into them.

    Args:
        tokenizer: the tokenizer, of `transformers`.
        bpe: what `read` gave for it.
        scheme: how a text is cut. `greedy_rtl` and `longest` cannot be saved.
        ids: the id of each token of the BPE's vocabulary.
        share: see `changed`.
        rng: of what is drawn.

    Raises:
        UserError: when the scheme does not fit the tokenizer.
    """
    from tokenizers import Tokenizer, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    file = {**bpe.file, "model": _model(bpe, scheme, ids, share, rng)}
    special_tokens = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    sides = {side: getattr(tokenizer, side) for side in ("padding_side", "truncation_side", "model_input_names")}
    fast: Any = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(file)),
        **special_tokens,
        **sides,
        model_max_length=tokenizer.model_max_length,
        clean_up_tokenization_spaces=bool(getattr(tokenizer, "clean_up_tokenization_spaces", False)),
    )
    if template := getattr(tokenizer, "chat_template", None):
        fast.chat_template = template
    if scheme in get_args(Slow):
        inner: Any = fast.backend_tokenizer
        splitter: Any = pre_tokenizers.PreTokenizer.custom(Splitter(getattr(segmentation, scheme), ids))
        inner.pre_tokenizer = pre_tokenizers.Sequence([inner.pre_tokenizer, splitter]) if inner.pre_tokenizer else splitter
    return fast


@brief("vocabulary")
@dataclass(frozen=True)
class Splitter:
    """A pre-tokenizer that cuts each piece into its tokens."""

    segment: segmentation.Segment
    vocabulary: Mapping[str, int]

    def pre_tokenize(self, text: Any) -> None:
        text.split(self._cut)

    def _cut(self, _: int, piece: Any) -> list[Any]:
        ends, pieces = 0, []
        for token in self.segment(str(piece), self.vocabulary):
            pieces.append(piece[ends : ends + len(token)])
            ends += len(token)
        return pieces


def _model(bpe: Bpe, scheme: Scheme, ids: Mapping[str, int], share: float, rng: torch.Generator) -> dict[str, Any]:
    """The model of a tokenizer, as its file describes it."""
    if scheme in ("standard", "shuffle", "delete", "truncate", "truncate_head", "bytes"):
        whole = {"ignore_merges": False} if scheme == "bytes" else {}  # which takes whole words as they stand in the vocabulary
        return {**bpe.options, **whole, "vocab": dict(ids), "merges": changed(bpe.merges, scheme, share, rng)}
    if marks := [m for m in (bpe.options.get("end_of_word_suffix"), bpe.options.get("continuing_subword_prefix")) if m]:
        raise UserError(
            f"this tokenizer marks where words begin or end ({marks[0]!r}), which only merges can say: leave the scheme {scheme}"
        )
    unknown = bpe.options.get("unk_token")
    if not bpe.complete and (unknown not in ids or scheme != "dp"):
        hint = "take the scheme dp" if unknown in ids else "its BPE leaves them out of the text"
        raise UserError(f"this tokenizer does not know every byte, so the scheme {scheme} has nothing for unknown symbols: {hint}")
    unknown = str(unknown) if unknown in ids else next((t for t in bpe.special if t in ids), min(ids, key=lambda t: ids[t]))
    if scheme == "dp":
        tokens = {i: [t, NEVER if t in bpe.special else -1.0] for t, i in ids.items()}
        vocabulary = [tokens.get(i, [f"<|unused {i}|>", UNUSED]) for i in range(max(tokens) + 1)]
        fallback = bool(bpe.options.get("byte_fallback"))
        return {"type": "Unigram", "unk_id": ids[unknown], "vocab": vocabulary, "byte_fallback": fallback}
    return {
        "type": "WordPiece",
        "unk_token": unknown,
        "continuing_subword_prefix": "",
        "max_input_chars_per_word": 10**6,
        "vocab": dict(ids),
    }


def loads_as_it_is(tokenizer: Any, config: Any, texts: Sequence[str]) -> bool:
    """Whether `AutoTokenizer` reads a saved tokenizer as it was saved. For some types of models it builds its own class anew."""
    from transformers import AutoTokenizer

    with quiet(), tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        Path(folder, "config.json").write_text(json.dumps({"model_type": config.model_type}), encoding="utf-8")
        try:
            loaded: Any = AutoTokenizer.from_pretrained(folder)
            return all(loaded(t)["input_ids"] == tokenizer(t)["input_ids"] for t in texts)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
