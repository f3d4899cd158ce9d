"""Every family of language models in `transformers`: log-probabilities and greedy answers equal those of single rows without padding."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any

import makers
import numpy as np
import pytest
import torch
import zoo

from expunge.core.errors import UserError
from expunge.core.rows import Rows
from expunge.modalities.text.causal import Prompts
from expunge.modalities.text.decoding import PLAIN, DecodingMode, looks_ahead, mode_of
from expunge.modalities.text.generate import generate
from expunge.modalities.text.modality import Text
from expunge.modalities.text.pretrained import load
from expunge.modalities.text.read import read

PROMPTS = [[1, 40, 41, 42], [1, 7], [1, *range(60, 80)], [1], [1, 7], [1, 300, 20, 9, 8, 7, 6, 5, 250, 30], [1, *range(100, 109)]]
PAIRS = [(PROMPTS[2], [5, 6, 7]), (PROMPTS[0], [8, 9]), (PROMPTS[0], [8, 10, 11]), (PROMPTS[3], [1, 2, 3, 4]), (PROMPTS[5], [3, 4])]
LENGTH = 8
BOTH_WAYS = {"cpmant", "xlnet"}  # they predict a token from the tokens after it
FEWEST = 130  # families that can be built; a new version of the library has more
MODES = {
    "llama": DecodingMode(),
    "gpt2": DecodingMode(),
    "opt": DecodingMode(),
    "lfm2": DecodingMode(),
    "falcon_h1": DecodingMode(),
    "qwen3_next": DecodingMode(),
    "bart": DecodingMode(padded=False),  # it counts places from the first column
    "roberta": DecodingMode(padded=False),
    "mamba": DecodingMode(padded=False),
    "rwkv": PLAIN,
    "minimax": PLAIN,
}


def answers(model: Any) -> list[list[int]]:
    """Greedy answers, every token of which is the argmax of a plain forward pass over one row."""
    sequences = [list(p) for p in PROMPTS]
    with torch.no_grad():
        for ids in sequences * LENGTH:
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return [ids[len(p) :] for ids, p in zip(sequences, PROMPTS, strict=True)]


def log_probs(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    return logits.float().log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]


def check(model: Any) -> None:
    whole = answers(model)
    counts = Counter(t for answer in whole for t in set(answer))
    ends = set(sorted(counts, key=lambda t: (counts[t], t))[::4][:5])  # some answers end soon, some later and some never
    expected = [a[: next((i for i, t in enumerate(a) if t in ends), len(a))] for a in whole]
    assert generate(Prompts(model, PROMPTS, 0), [LENGTH] * len(PROMPTS), frozenset(ends)).ids == expected
    with torch.no_grad():
        reading, rows = (
            read(model, PAIRS, [False] * len(PAIRS), 0, lambda share: None),
            Rows("hand", tuple("abcde"), {"prompt": [p for p, _ in PAIRS], "answer": [a for _, a in PAIRS]}),
        )
        packed = Text(makers.tokenizer()).forward(model, [rows])[0].target_logp.split()
        for i, (prompt, answer) in enumerate(PAIRS):
            alone = log_probs(model, prompt, answer)
            np.testing.assert_allclose(reading.of(i, False)["target_logp"], alone, atol=1e-5, rtol=1e-6)
            torch.testing.assert_close(packed[i], alone, atol=1e-5, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODES)
def test_rows_of_known_families_equal_single_rows(name: str) -> None:
    model = zoo.build(name)
    check(model)
    assert mode_of(model, PROMPTS, 0) == MODES[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.FAMILIES)
def test_rows_of_all_families_equal_single_rows(name: str) -> None:
    try:
        model = zoo.build(name)
    except Exception as error:
        pytest.skip(f"no tiny {name}: {error}")
    assert looks_ahead(model, zoo.WORDS) == (name in BOTH_WAYS)
    if name not in BOTH_WAYS:
        check(model)


@pytest.mark.slow
def test_most_families_can_be_built() -> None:
    built = 0
    for name in zoo.FAMILIES:
        with suppress(Exception):
            zoo.build(name)
            built += 1
    assert built >= FEWEST


@pytest.mark.slow
def test_greedy_answers_equal_those_of_the_library() -> None:
    for name in ("lfm2", "falcon_h1", "mamba"):
        model = zoo.build(name)
        for prompt, answer in zip(
            PROMPTS, generate(Prompts(model, PROMPTS, 0), [LENGTH] * len(PROMPTS), frozenset({399})).ids, strict=True
        ):
            ids = torch.tensor([prompt])
            options = {"max_new_tokens": LENGTH, "do_sample": False, "eos_token_id": 399, "pad_token_id": 0}
            generated = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist()
            assert answer == [t for t in generated if t != 399], name


def test_a_model_that_reads_both_ways_is_refused(tmp_path: Any) -> None:
    config = zoo.config("bert")
    for is_decoder in (True, False):
        config.is_decoder = is_decoder
        folder = tmp_path / str(is_decoder)
        type(zoo.build("bert"))(config).save_pretrained(folder)
        makers.tokenizer().save_pretrained(folder)
    load(str(tmp_path / "True"))
    with pytest.raises(UserError, match=r"reads texts in both directions.*is no causal language model"):
        load(str(tmp_path / "False"))


def test_dropout_does_not_slow_generation_down() -> None:
    model = zoo.build("gpt2").train()
    assert model.config.resid_pdrop > 0
    assert mode_of(model, PROMPTS, 0) == DecodingMode()
    assert model.training
