"""Merge list: what was the tokenizer trained on? The order of its merges tells the shares of languages, topics or sets in that text.
A BPE merges the pair that is most frequent at the time, so each merge bounds how much of each category there can have been.

Threat model: the attacker holds the files of the tokenizer, and a sample of each category that may be in its training text; asks nothing.
Source: Hayase et al. 2024, Data Mixture Inference, arXiv 2407.16607
Scores: none of the audit; for each set that the audit gives, as a category: its share of the bytes and of the pairs of the training text,
    and how much of the list contradicts these shares (objective, 0 where nothing does)
Needs: two or more sets of texts (forget, retain, holdout), and a BPE tokenizer; without its merges, its ids serve as the list
Range and ideal: shares from 0 to 1 that add up to 1; against a tokenizer without an order they are arbitrary, and the objective is not 0
Differs: HiGHS solves the linear program, not a commercial solver; the solution need not be unique. Runs of one sign, which tokenizers add
    by hand, are left out, as are merges that no sample has
Status: shown
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from expunge.core.capabilities import offers, require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality
from expunge.engine.retokenizing import Retokenizes
from expunge.evaluation.attack import Attack, Scene
from expunge.evaluation.measure import Missing
from expunge.evaluation.observe import Records
from expunge.functional.brief import brief
from expunge.functional.mixture_inference import infer, replay
from expunge.functional.segmentation import merged
from expunge.modalities.text import schemes
from expunge.modalities.text.records import pair_of

Way = Literal["merges", "ids"]


@brief("bytes", "objective")
@dataclass(frozen=True)
class TrainingShares:
    """What a tokenizer was trained on, by category.

    Args:
        bytes: share of the bytes of its training text.
        pairs: share of the adjacent pairs of symbols in it.
        objective: what contradicts the shares, in shares of pairs; 0: nothing does.
        merges: number of merges that some sample has.
    """

    bytes: Mapping[str, float]
    pairs: Mapping[str, float]
    objective: float
    merges: int


def merges_in(tokenizer: Any, way: Way = "merges") -> schemes.Merges:
    """The ordered merges of a tokenizer, as an attacker reads them.

    Args:
        tokenizer: of `transformers`, on the library `tokenizers`.
        way: merges: the list in its files; ids: made again from the order of the ids, each token being the two that earlier merges leave.

    Raises:
        UserError: when the files have no list.
    """
    if way == "merges":
        return schemes.read(tokenizer).merges
    ranks: dict[tuple[str, str], int] = {}
    special = set(tokenizer.added_tokens_decoder)
    for token, number in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        parts = merged(token, ranks) if number not in special else []
        if len(parts) == 2:
            ranks[parts[0], parts[1]] = len(ranks)
    return list(ranks)


def words_of(tokenizer: Any, texts: Sequence[str]) -> Counter[str]:
    """How often each pre-token, as the model of a tokenizer gets it, occurs in texts."""
    backend: Any = tokenizer.backend_tokenizer
    words: Counter[str] = Counter()
    for text in texts:
        normal = backend.normalizer.normalize_str(text) if backend.normalizer else text
        pieces = backend.pre_tokenizer.pre_tokenize_str(normal) if backend.pre_tokenizer else [(normal, None)]
        words.update(piece for piece, _ in pieces)
    return words


def mixture(tokenizer: Any, samples: Mapping[str, Sequence[str]], way: Way = "merges", limit: int = 30_000) -> TrainingShares:
    """Infer what a tokenizer was trained on.

    Args:
        tokenizer: of `transformers`, on the library `tokenizers`.
        samples: texts of each category, the more the better.
        way: see `merges_in`.
        limit: merges that are used, from the first on.

    Raises:
        UserError: when there are fewer than two categories, no list, or no merge that the samples have.
    """
    if len(samples) < 2:
        raise UserError("a mixture is one of at least two categories: give samples of another one")
    merges = [m for m in merges_in(tokenizer, way)[:limit] if len(set("".join(m))) > 1]
    counts = replay([words_of(tokenizer, texts) for texts in samples.values()], merges)
    used = sum(m >= 0 for m in counts.merges)
    if not used or not counts.totals.all():
        raise UserError("the samples have none of the tokenizer's merges, or one of them has no text: give longer ones")
    result = infer(counts)
    sizes = [sum(len(t.encode()) for t in texts) for texts in samples.values()]
    raw = [float(a) * size / float(n) for a, size, n in zip(result.shares, sizes, counts.totals, strict=True)]
    by_bytes = {name: b / sum(raw) for name, b in zip(samples, raw, strict=True)}
    return TrainingShares(by_bytes, dict(zip(samples, map(float, result.shares), strict=True)), result.objective, used)


@part
class MergeList(Attack):
    """Takes the sets of the audit as the categories."""

    limit: int = hp(30_000, "merges that are used, from the first on", ge=1)

    def about(self, records: Records, modality: Modality) -> Records:
        if not offers(modality, Retokenizes):
            raise Missing("the model has no tokenizer of texts")
        return records

    def run(self, scene: Scene) -> None:
        tokenizer = require(scene.weights_modality, Retokenizes).tokenizer
        samples = {name: [text_of(r, f"{name}, row {i}") for i, r in enumerate(rows, 1)] for name, rows in scene.sets.items() if rows}
        ways: tuple[tuple[Way, str], ...] = (("merges", "list of merges"), ("ids", "order of the ids"))
        for way, name in ways:
            try:
                shares = mixture(tokenizer, samples, way, self.limit)
            except UserError as error:
                scene.lacks(str(error), name)
                continue
            for category, share in shares.bytes.items():
                numbers = {"share_of_bytes": share, "share_of_pairs": shares.pairs[category], "objective": shares.objective}
                scene.look({}, category, name, **numbers, merges=shares.merges)


def text_of(record: Mapping[str, Any], where: str) -> str:
    """What a record says, as one text."""
    pair = pair_of(record, where)
    return f"{pair.question}\n{pair.answer}" if pair.question else pair.answer


def plan() -> MergeList:
    return MergeList()
