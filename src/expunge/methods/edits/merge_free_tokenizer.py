"""Merge-free tokenizer: take the ordered list of merges out of a BPE tokenizer, and the order of its ids, which tells the same.

The order in which a BPE merged pairs is a record of how often they stood in its training text, so it tells what that text was made of (the
attack `merge_list`). A trained model hardly needs it: texts are cut with the vocabulary alone, and the model reads them nearly as well.

Equation: dp: the fewest tokens of the vocabulary, best_j = min over s[i:j] in V of best_i + 1, of equally few those with the longest last
  token; greedy: the longest token from the left, again and again; rows of embeddings and head: W'[id'(t)] = W[id(t)] for each token t
Source: Sawada and Goyal 2025, Train It and Forget It, arXiv 2508.06621; the leak: Hayase et al. 2024, arXiv 2407.16607
Needs: a model with a BPE tokenizer of the library `tokenizers`; some rows to measure the cost on (none with `measure nothing`)
Cost: no gradient; a forward of the measured rows before and after, and for each scheme of `compare`
Differs: new ids follow the strings of the tokens, which say nothing that the vocabulary does not say; the papers leave ids alone, and they
  follow the merges. Special tokens, and ids that configurations name, stay. Which lists of deleted merges the paper tries, and the
  greedy scheme from the right, are reconstructed. The lengths of the embeddings still tell a little of how frequent a token was
Status: shown

An ordinary model is not retrained, so its perplexity rises a little; `compare` shows it for other schemes. No differential privacy is
promised: the vocabulary itself, without any order, still says roughly which languages it is from.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch

from expunge.core.capabilities import require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Edit
from expunge.core.plan import Plan
from expunge.core.view import View
from expunge.engine.adapters import base_of, is_adapted
from expunge.engine.retokenizing import Retokenizes
from expunge.modalities.text import schemes
from expunge.modalities.text.renumber import configured, renumber
from expunge.modalities.text.wider import known_tokens

SAMPLES = ("The quick brown fox, 1234.", "naïve café 漢字")  # texts on which a saved tokenizer is compared with itself


def sorted_ids(vocabulary: Mapping[str, int], fixed: set[int]) -> dict[str, int]:
    """New ids for a vocabulary: those that may move are given in the order of the strings. fixed: ids that stay."""
    movable = sorted(t for t, i in vocabulary.items() if i not in fixed)
    return {**vocabulary, **dict(zip(movable, sorted(vocabulary[t] for t in movable), strict=True))}


def drawn_ids(vocabulary: Mapping[str, int], fixed: set[int], rng: torch.Generator) -> dict[str, int]:
    """New ids for a vocabulary, in random order."""
    movable = sorted(t for t, i in vocabulary.items() if i not in fixed)
    ids = sorted(vocabulary[t] for t in movable)
    return {**vocabulary, **{t: ids[k] for t, k in zip(movable, torch.randperm(len(ids), generator=rng).tolist(), strict=True)}}


@part
class MergeFree(Edit):
    """Replaces the tokenizer by one that knows the vocabulary alone, and gives the tokens other ids."""

    scheme: schemes.Stored = hp(
        "dp",
        "how texts are cut: dp: fewest tokens; greedy: longest token from the left; bytes: no merges; standard, shuffle, delete, truncate "
        "(the tail goes), truncate_head: a list of merges stays",
    )
    share: float = hp(0.5, "share of the merges that go, for delete, truncate and truncate_head", ge=0, le=1)
    ids: Literal["sorted", "drawn", "kept"] = hp(
        "sorted", "ids of the tokens: sorted by their strings; drawn from the seed, which undoes it for whoever knows it; kept, which leaks"
    )
    measure: Literal["retain", "forget", "nothing"] = hp("retain", "rows on which perplexity per byte is measured before and after")
    compare: tuple[schemes.Scheme, ...] = hp((), "further schemes to measure: those of `scheme`, and greedy_rtl and longest")
    batch_size: int = hp(16, "rows in one forward pass; affects memory, not the result", ge=1)
    requires = frozenset({Retokenizes})

    @property
    def reads(self) -> frozenset[str]:
        return frozenset() if self.measure == "nothing" else frozenset({self.measure})

    def apply(self, view: View) -> None:
        if is_adapted(view.model):
            raise UserError("an adapter does not hold the embeddings, whose rows must move: merge it into the model first")
        if self.compare and not self.reads:
            raise UserError("--compare has no effect without rows to measure on: leave --measure out")
        modality = require(view.modality, Retokenizes)
        tokenizer, bpe = modality.tokenizer, schemes.read(modality.tokenizer)
        fixed = configured(view.model) | set(bpe.special.values()) | set(range(known_tokens(view.model), 1 + max(bpe.vocabulary.values())))
        ids = {
            "sorted": lambda: sorted_ids(bpe.vocabulary, fixed),
            "drawn": lambda: drawn_ids(bpe.vocabulary, fixed, view.rng()),
            "kept": lambda: dict(bpe.vocabulary),
        }[self.ids]()
        new = schemes.rebuilt(tokenizer, bpe, self.scheme, ids, self.share, view.rng())
        self._measured(view, modality, "as it was")
        for scheme in self.compare:
            other = copy.copy(modality)
            other.retokenize(schemes.rebuilt(tokenizer, bpe, scheme, bpe.vocabulary, self.share, view.rng()))
            self._measured(view, other, f"compared: {scheme}")
        if ids != bpe.vocabulary:
            source = torch.arange(known_tokens(view.model))
            moved = {i: bpe.vocabulary[t] for t, i in ids.items() if i not in fixed}
            source[torch.tensor(list(moved))] = torch.tensor(list(moved.values()))
            renumber(view.model, source)
        modality.retokenize(new)
        self._measured(view, modality, f"result: {self.scheme}")
        self._warn(view, bpe, new)

    def _measured(self, view: View, modality: Retokenizes, name: str) -> None:
        """Show the perplexity per byte of the answers of the measured rows, as a tokenizer cuts them."""
        for which in self.reads:
            rows = modality.encode_again(view.rows(which))
            nats = sum(
                float(view.now(rows.select(range(i, min(i + self.batch_size, len(rows))))).loss.values.double().sum())
                for i in range(0, len(rows), self.batch_size)
            )
            decode: Any = modality.tokenizer.decode
            texts = [decode(a, skip_special_tokens=True, clean_up_tokenization_spaces=False) for a in rows["answer"]]
            size = sum(len(t.encode()) for t in texts)
            shorter = sum(len(t) < len(a) for t, a in zip(texts, rows["answer_text"], strict=True))
            if not size:
                raise UserError(f"the answers of {which!r} have no text, so nothing can be measured on them")
            numbers = {"rows": len(rows), "bytes": size, "tokens": modality.counts(rows)["labels"], "cut_rows": shorter}
            view.show(f"perplexity per byte, {name}", [{**numbers, "perplexity": math.exp(nats / size)}])

    def _warn(self, view: View, bpe: schemes.Bpe, new: Any) -> None:
        """Say what still tells the order of the merges, and who would read the tokenizer in another way."""
        if self.scheme not in schemes.WITHOUT_LIST:
            count = len(schemes.read(new).merges)
            view.warn(f"the scheme {self.scheme} keeps {count} of {len(bpe.merges)} merges in the files of the tokenizer, for all to read")
        if self.ids == "kept":
            view.warn("the ids of the tokens still follow the order of the merges, from which the list can be made again")
        config: Any = base_of(view.model).config  # type: ignore[assignment]
        if not schemes.loads_as_it_is(new, config, SAMPLES):
            view.warn(
                f"AutoTokenizer builds the tokenizer of a {config.model_type} anew and does not read this one: load it with "
                "PreTrainedTokenizerFast.from_pretrained, as expunge does"
            )


def plan() -> Plan:
    return Plan(MergeFree())
