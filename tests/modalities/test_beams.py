"""Beam search equals that of the library where nothing is forbidden, and an exhaustive search of a known chain where something is."""

from __future__ import annotations

import itertools
from typing import Any

import makers
import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessorList

from expunge.functional.forbidden import ForbiddenTree
from expunge.modalities.text.beams import Beam, beam_search
from expunge.modalities.text.decoding import mode_of, started
from expunge.modalities.text.pieces import Pieces
from expunge.modalities.text.restriction import RestrictedLogits, Restriction, Spoken

PROMPT = [1, 40, 41, 42]


class Letters:
    """A tokenizer whose token i is the i-th letter of a string; the first one is special."""

    def __init__(self, letters: str) -> None:
        self.letters = letters

    def __len__(self) -> int:
        return len(self.letters)

    def __call__(self, text: str | list[str], **_: object) -> dict[str, Any]:
        def ids(one: str) -> list[int]:
            return [self.letters.index(c) for c in one if c in self.letters]

        return {"input_ids": ids(text) if isinstance(text, str) else [ids(t) for t in text]}

    def decode(self, ids: list[int], **_: object) -> str:
        return "".join(self.letters[i] for i in ids if i)


class Chain:
    """Rows whose next token depends on the last one alone."""

    def __init__(self, log_probs: Tensor) -> None:
        self.log_probs, self.ids = log_probs, torch.tensor([[0]])

    def logits(self) -> Tensor:
        return self.log_probs[self.ids[:, -1]]

    def append(self, tokens: Tensor) -> None:
        self.ids = torch.cat([self.ids, tokens[:, None]], 1)

    def keep(self, rows: Tensor) -> None:
        self.ids = self.ids[rows]


def restriction(letters: str, phrases: list[str], **more: Any) -> Restriction:
    """A restriction of letters, whose phrases are only spelled as they are."""
    return Restriction(Pieces(Letters(letters)), phrases, **more)


def best_by_hand(log_probs: Tensor, limit: int, forbidden: list[list[int]]) -> tuple[int, ...]:
    """The likeliest sequence over tokens 1.. of a length that contains no forbidden one."""

    def logp(tokens: tuple[int, ...]) -> float:
        return float(sum(log_probs[a, b] for a, b in itertools.pairwise((0, *tokens))))

    def clean(tokens: tuple[int, ...]) -> bool:
        return not any(list(tokens[i : i + len(f)]) == f for f in forbidden for i in range(len(tokens)))

    return max(filter(clean, itertools.product(range(4), repeat=limit)), key=logp)


@pytest.mark.parametrize("seed", range(8))
def test_wide_beams_find_the_best_sequence_without_a_forbidden_one(seed: int) -> None:
    log_probs = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)).mul(2).double().log_softmax(-1)
    free = beam_search(Chain(log_probs), 3, frozenset(), 64, restriction(".abc", []))
    assert free.tokens == best_by_hand(log_probs, 3, [])
    forbidden = [list(free.tokens[:2]), [free.tokens[2]]]
    held = beam_search(Chain(log_probs), 3, frozenset(), 64, restriction(".abc", ["".join(".abc"[i] for i in f) for f in forbidden]))
    assert held.tokens == best_by_hand(log_probs, 3, forbidden)
    assert sum(held.logp) == pytest.approx(sum(float(log_probs[a, b]) for a, b in itertools.pairwise((0, *held.tokens))))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_without_phrases_it_is_the_beam_search_of_the_library(name: str) -> None:
    model = makers.model(name)
    for ends in ([2], list(range(0, 400, 7))):
        wanted = model.generate(
            torch.tensor([PROMPT]), num_beams=5, length_penalty=0.0, max_new_tokens=12, do_sample=False, eos_token_id=ends, pad_token_id=0
        )[0, len(PROMPT) :].tolist()
        growing = started(model, [PROMPT], 0, mode_of(model, [PROMPT], 0))
        answer = beam_search(growing, 12, frozenset(ends), 5, Restriction(Pieces(makers.tokenizer()), []))
        assert list(answer.tokens) == [t for t in wanted if t not in ends]
        assert answer.ended == bool({*wanted} & {*ends})


def test_the_library_searches_under_the_same_restriction() -> None:
    """Both say the same beside a phrase, with beams and without; a free prompt of the batch is answered as ever."""
    model, pieces = makers.model("llama"), Pieces(makers.tokenizer())
    held, both = Restriction(pieces, []), torch.tensor([PROMPT, PROMPT])
    for beams, options in ((1, {}), (4, {"num_beams": 4, "length_penalty": 0.0})):
        options |= {"max_new_tokens": 10, "do_sample": False, "eos_token_id": 2, "pad_token_id": 0}
        free = model.generate(both[:1], **options)
        held.tree = ForbiddenTree([free[0, len(PROMPT) + 2 : len(PROMPT) + 4].tolist()])
        processor = LogitsProcessorList([RestrictedLogits([held, None], len(PROMPT))])
        restricted = model.generate(both, logits_processor=processor, **options)
        assert torch.equal(restricted[1:, : free.shape[1]], free)
        growing = started(model, [PROMPT], 0, mode_of(model, [PROMPT], 0))
        own = beam_search(growing, 10, frozenset({2}), beams, held)
        assert [t for t in restricted[0, len(PROMPT) :].tolist() if t not in (0, 2)] == list(own.tokens)
        assert restricted[0].tolist() != restricted[1].tolist()


def penalized(held: Restriction, text: str) -> dict[str, float]:
    """The penalty of each next letter after a text, where there is one."""
    letters, spoken = held.pieces.tokenizer.letters, Spoken()
    for character in text:
        spoken = held.after(spoken, letters.index(character))
    return {letters[i]: float(p) for i, p in enumerate(held.penalties(spoken, len(letters))) if p}


def test_a_phrase_is_blocked_at_its_last_token_or_at_a_share_of_it() -> None:
    infinite = float("inf")
    assert penalized(restriction("# abcd", ["abc"]), "ab") == {"c": infinite}
    assert penalized(restriction("# abcd", ["abc"]), "a") == {}
    assert penalized(restriction("# abcd", ["abc"], beta=0.6), "a") == {"b": infinite}
    assert penalized(restriction("# abcd", ["abc"], beta=1.1), "ab") == {}
    assert penalized(restriction("# abcd", ["Ab"]), "a") == {"b": infinite}, "lower case is blocked too"


def test_a_word_costs_its_similarity_when_it_ends_and_not_before() -> None:
    similar = {"ab": 0.3, "abc": 0.9}
    held = restriction("# abcd.", ["d"], similarity=lambda words: [similar.get(word, 0.0) for word in words], delta=0.5)
    over = {c: pytest.approx(0.3) for c in "# ."}
    assert penalized(held, "d ab") == {**over, "d": float("inf")}
    assert penalized(held, "ab c") == {"d": float("inf")}
    assert penalized(held, "abc") == {**dict.fromkeys("# .", float("inf")), "d": float("inf")}
    held.soft = False
    assert penalized(held, "ab") == {"d": float("inf")}
    held.delta = 2.0
    assert penalized(held, "abc") == {"d": float("inf")}


def test_similarity_of_equal_words_alone_is_a_ban_of_these_words() -> None:
    held = restriction("# abc", ["ab"], similarity=lambda words: [float(word == "ab") for word in words], beta=2.0)
    for text, blocked in (("ab", True), ("abc", False), ("c ab", True), ("ab c", False)):
        assert (penalized(held, text).get(" ") == float("inf")) == blocked, text


def test_a_dead_end_is_left_by_the_likeliest_token_that_begins_no_phrase() -> None:
    log_probs = torch.tensor([[0.1, 0.5, 0.3, 0.1]]).log().expand(4, 4)
    held = restriction(".abc", ["a", "b", "c", "."])
    assert beam_search(Chain(log_probs), 2, frozenset({3}), 2, held).ended, "nothing is left but the end"
    held.tree = ForbiddenTree([[1], [0], [2, 9], [3]])
    held.beta = 0.5  # the beginning of a phrase is forbidden too
    assert beam_search(Chain(log_probs), 2, frozenset({3}), 2, held).tokens == ()
    held.tree.children[0].pop(2)
    held.penalties = lambda spoken, classes: torch.full((classes,), float("inf"))  # type: ignore[method-assign]
    assert beam_search(Chain(log_probs), 2, frozenset({3}), 2, held).tokens == (2, 2)


def test_a_forbidden_word_at_the_end_of_the_room_is_cut() -> None:
    log_probs = torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]]).log()
    held = restriction("# ab", ["zz"], similarity=lambda words: [float(word == "abb") for word in words])
    held.tree = ForbiddenTree([[0]])
    answer = beam_search(Chain(log_probs), 3, frozenset(), 3, held)
    assert isinstance(answer, Beam)
    assert answer.tokens == ()
