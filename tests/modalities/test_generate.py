"""Generation equals `generate` of the library token for token, and the known answers of a chain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import makers
import pytest
import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer

from expunge.modalities.text.causal import Prompts
from expunge.modalities.text.decoding import SPARE, Roomy
from expunge.modalities.text.generate import generate
from expunge.modalities.text.modality import Text

# Prompts of unequal lengths, some longer than a sliding window, two of them equal.
PROMPTS = [
    [1, 40, 41, 42],
    [1, 7],
    [1, *range(60, 80)],
    [1],
    [1, 7],
    [1, 300, 20, 9, 8, 7, 6, 5, 250, 30],
    [1, *range(100, 109)],
]


def library_answers(model: Any, prompts: Sequence[list[int]], limit: int, ends: list[int], pad: int) -> list[list[int]]:
    """The answers of the library's `generate`, cut at the end of sequence."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    generated = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=limit, do_sample=False, eos_token_id=ends, pad_token_id=pad
    )
    cut = []
    for row in generated[:, width:].tolist():
        at = next((i for i, t in enumerate(row) if t in ends), len(row))
        cut.append(row[:at])
    return cut


def choose_ends(free: list[list[int]]) -> list[int]:
    """Choose tokens that end some answers soon, some later and some never."""
    counts = Counter(t for answer in free for t in set(answer))
    rare = sorted(counts, key=lambda t: (counts[t], t))
    return rare[:: max(1, len(rare) // 6)][:6]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*makers.CONFIGS, "adapted"])
def test_greedy_answers_equal_the_library(name: str) -> None:
    model = makers.adapted() if name == "adapted" else makers.model(name)
    unstopped = library_answers(model, PROMPTS, 24, [2], 0)
    ends = choose_ends(unstopped)
    expected = library_answers(model, PROMPTS, 24, ends, 0)
    lengths = {len(a) for a in expected}
    assert len(lengths) > 2, "the ends should fall at different places"
    for batch in (1, 3, 128):
        assert generate(Prompts(model, PROMPTS, 0), [24] * len(PROMPTS), frozenset(ends), batch_size=batch).ids == expected


def test_padding_may_be_the_end_of_sequence() -> None:
    model = makers.model()
    ends = choose_ends(library_answers(model, PROMPTS, 24, [2], 0))
    expected = library_answers(model, PROMPTS, 24, ends, 0)
    assert generate(Prompts(model, PROMPTS, ends[0]), [24] * len(PROMPTS), frozenset(ends)).ids == expected


def test_prompts_may_contain_ends_and_padding() -> None:
    model = makers.model()
    prompts = [[1, 2, 0, 2, 30], [2], [0, 0, 31], [1, 5]]
    assert generate(Prompts(model, prompts, 2), [8] * 4, frozenset({2})).ids == [library_answers(model, [p], 8, [2], 2)[0] for p in prompts]


def test_no_prompts_or_no_room_give_no_tokens() -> None:
    assert generate(Prompts(makers.model(), [], 0), [], frozenset({2})).ids == []
    assert generate(Prompts(makers.model(), [[1, 5]], 0), [0], frozenset({2})).ids == [[]]


class Chain(nn.Module):
    """A model that predicts the last token plus one, and records the shape of each call."""

    def __init__(self, words: int = 40) -> None:
        super().__init__()
        self.config = makers.CONFIGS["llama"]()
        self.table = nn.Parameter(10 * torch.eye(words).roll(1, 1))
        self.calls: list[tuple[int, int]] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor, past_key_values: Any, use_cache: bool) -> Any:
        self.calls.append(tuple(input_ids.shape))
        keys = torch.zeros(len(input_ids), 1, input_ids.shape[1], 1)
        past_key_values.update(keys, keys, 0)
        assert attention_mask.shape == (len(input_ids), past_key_values.get_seq_length())
        assert past_key_values.layers[0].keys.shape[0] == len(input_ids)
        return SimpleNamespace(logits=self.table[input_ids])


def test_finished_rows_are_dropped() -> None:
    chain = Chain()
    prompts = [[28], [25], [29], [20], [10]]  # 30 is the end, after 1, 4, 0, 9 and 19 tokens
    answers = generate(Prompts(chain, prompts, 0), [40] * 5, frozenset({30})).ids
    assert answers == [[29], [26, 27, 28, 29], [], list(range(21, 30)), list(range(11, 30))]
    rows = [r for r, _ in chain.calls]
    assert len(rows) == 20  # one call for each token of the longest answer, including its end
    assert rows == sorted(rows, reverse=True)
    assert (rows[0], rows[1], rows[2], rows[5], rows[-1]) == (5, 4, 3, 2, 1)
    assert all(width == 1 for _, width in chain.calls)


def test_each_row_has_its_own_limit_and_any_end_stops_it() -> None:
    chain = Chain()
    answers = generate(Prompts(chain, [[10], [10], [10], [24], [37]], 0), [3, 0, 30, 30, 2], frozenset({15, 30})).ids
    assert answers == [[11, 12, 13], [], [11, 12, 13, 14], [25, 26, 27, 28, 29], [38, 39]]


def test_draws_follow_the_generator_and_the_distribution() -> None:
    chain = Chain()
    with torch.no_grad():
        chain.table.copy_(torch.zeros(40, 40))
        chain.table[:, 3:] = -torch.inf  # only 0, 1 and 2, with odds 1 : 1 : 2
        chain.table[:, 2] = torch.log(torch.tensor(2.0))

    def draw(seed: int, temperature: float = 1.0) -> list[list[int]]:
        return generate(Prompts(chain, [[5]] * 4, 0), [500] * 4, frozenset({39}), torch.Generator().manual_seed(seed), temperature).ids

    assert draw(0) == draw(0) != draw(1)
    counts = Counter(t for a in draw(0) for t in a)
    assert counts.keys() == {0, 1, 2}
    assert counts[2] / 2000 == pytest.approx(0.5, abs=0.05)
    cold_counts = Counter(t for a in draw(0, temperature=0.5) for t in a)  # 1 : 1 : 4
    assert cold_counts[2] / 2000 == pytest.approx(4 / 6, abs=0.05)


def test_models_without_a_cache_read_all_tokens_again() -> None:
    class Recurrent(Chain):
        def forward(self, input_ids: Tensor, **_: Any) -> Any:
            self.calls.append(tuple(input_ids.shape))
            return SimpleNamespace(logits=self.table[input_ids])

    chain = Recurrent()
    assert generate(Prompts(chain, [[8, 9], [28], [29, 5]], 0), [3, 3, 2], frozenset({30})).ids == [[10, 11, 12], [29], [6, 7]]
    assert chain.calls == [(2, 2), (2, 3), (1, 4), (1, 1), (1, 2)]  # prompts of equal lengths share a batch, without padding


# The modality


def test_ends_come_from_tokenizer_template_and_model() -> None:
    model = makers.model()
    plain, chat = Text(makers.tokenizer()), Text(makers.tokenizer(template=makers.CHATML))
    turn = chat.tokenizer.convert_tokens_to_ids(makers.TURN)
    model.generation_config.eos_token_id = 2
    assert plain.ends(model) == {2}
    assert chat.ends(model) == {2, turn}
    model.generation_config.eos_token_id = [7, 8]
    assert plain.ends(model) == {2, 7, 8}
    model.generation_config.eos_token_id = None
    assert plain.ends(model) == {2}
    assert plain.ends(nn.Linear(2, 2)) == {2}


@pytest.mark.parametrize("pad", [makers.PAD, makers.EOS, None])
@pytest.mark.parametrize("build", [makers.model, makers.adapted])
def test_the_modality_equals_the_library_on_rows(build: Any, pad: str | None) -> None:
    model, modality = build(), Text(makers.tokenizer(pad_token=pad))
    records = [{"question": q, "answer": "x"} for q in ("Who is Ana Belor?", "Who?", "Where was Dovik born, in Nessop?")]
    rows = modality.rows("asked", records)
    unstopped = library_answers(model, rows["prompt"], 16, [2], 0)
    ends = choose_ends(unstopped)
    model.generation_config.eos_token_id = ends
    assert modality.generate(model, rows, 16).ids == library_answers(model, rows["prompt"], 16, [2, *ends], 0) != unstopped


def test_answers_stop_at_the_longest_sequence_of_the_model() -> None:
    """GPT-2 has no positions after its last one."""
    model, tokenizer = makers.model("gpt2"), makers.tokenizer()
    modality = Text(tokenizer, limit=128)
    rows = modality.rows("asked", [{"prompt": " Ana" * 100, "completion": "x"}, {"prompt": "Ana", "completion": "x"}])
    model.generation_config.eos_token_id = None
    long, short = modality.generate(model, rows, 120).ids
    assert len(rows["prompt"][0]) + len(long) == 128
    assert len(short) == 120


def test_a_trained_model_generates_its_answers_with_ends(text: Any) -> None:
    rows = text.sets["forget"]
    answers = text.modality.generate(text.model(), rows, 60).ids
    correct = sum(s == a[:-1] for s, a in zip(answers, rows["answer"], strict=True))
    assert correct >= 0.9 * len(rows)
    relabeled = text.modality.relabel(rows, answers, "generated")
    assert sum(a == b for a, b in zip(relabeled["answer"], rows["answer"], strict=True)) == correct


# The cache


def test_preallocated_cache_equals_the_library_cache() -> None:
    torch.manual_seed(0)
    preallocated, plain = Roomy(), DynamicLayer()
    rows, kept = 5, torch.tensor([2, 0, 1])
    for tokens in (7, 1, 1, SPARE - 2, 1, 0, 1, 3):
        if not tokens:  # some rows are finished
            rows = len(kept)
            preallocated.reorder_cache(kept)
            plain.reorder_cache(kept)
            continue
        new = torch.randn(rows, 2, tokens, 4), torch.randn(rows, 2, tokens, 4)
        for a, b in zip(preallocated.update(*new), plain.update(*new), strict=True):
            assert torch.equal(a, b)
        assert preallocated.get_seq_length() == plain.get_seq_length()


def test_keys_and_values_are_not_copied_for_every_token() -> None:
    layer = Roomy()
    layer.update(torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 4, 2))
    places = set()
    for _ in range(SPARE):
        layer.update(torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2))
        places.add(layer.keys.data_ptr())
    assert len(places) == 1
