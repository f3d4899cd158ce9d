"""One pass over shared questions equals a forward pass of each sequence, for each label and on every architecture."""

from __future__ import annotations

import gc
import inspect
import random
from types import SimpleNamespace
from typing import Any

import makers
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, FalconConfig, LlamaForCausalLM, MambaConfig

import worlds
from expunge.core.capabilities import SharedReading, offers
from expunge.core.rows import Rows
from expunge.methods.guards.input_filter import InputFilter
from expunge.modalities.text import reading as reading_module
from expunge.modalities.text import trie
from expunge.modalities.text.modality import Text
from expunge.modalities.text.trie import pack

SHARED = "answers share their questions"
FAMILIES = {"llama": SHARED, "llama-tied": SHARED, "gpt2": SHARED, "gpt_neox": SHARED, "qwen2": SHARED, "phi": SHARED, "adapted": SHARED}
WINDOWED = {"mistral": "looks back over 8", "gemma2": "looks back over 8"}
# Sequences that contain padding and the end of sequence as ordinary tokens.
TRAPS = [([1, 5], [0, 0, 2]), ([1, 5], [0, 0]), ([1, 5], [2]), ([0], [5, 2]), ([0], [5, 2]), ([2, 2], [2, 2, 2]), ([1, 5], [])]


def questions(seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Questions with several answers that share a beginning, repeat each other or stop early, in random order."""
    r = random.Random(seed)
    pairs = []
    for _ in range(6):
        prompt = [1, *(r.randrange(5, makers.WORDS) for _ in range(r.randrange(14)))]
        stem = [r.randrange(5, makers.WORDS) for _ in range(20)]
        for _ in range(r.randrange(1, 6)):
            pairs.append((prompt, [*stem[: r.randrange(20)], *(r.randrange(5, makers.WORDS) for _ in range(r.randrange(12))), 2]))
        pairs.append(pairs[-1])
    r.shuffle(pairs)
    return pairs + TRAPS


def rows_of(pairs: Any) -> Rows:
    columns = {"prompt": [p for p, _ in pairs], "answer": [a for _, a in pairs]}
    return Rows("forget", tuple(map(str, range(len(pairs)))), columns)


@pytest.fixture(scope="module")
def modality() -> Text:
    return Text(makers.tokenizer(), limit=128)


@torch.no_grad()
def score_alone(model: Any, prompt: list[int], answer: list[int]) -> dict[str, Any]:
    """Log-probabilities, hits and moments of one answer, from its own forward pass, in 64 bits from the logits on."""
    logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].double()
    log_probs, label = logits.log_softmax(-1), torch.tensor(answer, dtype=torch.long)
    mean = (log_probs.exp() * log_probs).sum(-1)
    std = ((log_probs.exp() * log_probs.square()).sum(-1) - mean.square()).clamp_min(1e-6).sqrt()
    return {"target_logp": log_probs.gather(1, label[:, None])[:, 0], "hit": logits.argmax(-1) == label, "mean": mean, "std": std}


def assert_equals_alone(reading: Any, model: Any, pairs: Any, tolerance: float = 2e-5) -> None:
    for i, (prompt, answer) in enumerate(pairs):
        scores, expected = reading.of(i, True), score_alone(model, prompt, answer)
        assert (scores["hit"] == expected["hit"].numpy()).all()
        for name in ("target_logp", "mean", "std"):
            assert scores[name].dtype == np.float32
            assert np.allclose(scores[name], expected[name], atol=tolerance * (5 if name == "std" else 1), rtol=0), name


@pytest.mark.parametrize("name", [*FAMILIES, *WINDOWED])
def test_a_reading_equals_a_forward_pass_of_each_sequence(name: str, modality: Text) -> None:
    model = makers.adapted() if name == "adapted" else makers.model(name)
    pairs = questions()
    reading = modality.read(model, [rows_of(pairs[:9]), rows_of(pairs[9:])], [True, True])
    assert_equals_alone(reading, model, pairs)
    if name in FAMILIES:
        assert reading.how == SHARED
        assert reading.packing.places < 0.7 * reading.packing.tokens
    else:
        assert WINDOWED[name] in reading.how
        assert reading.packing.places == reading.packing.tokens


def test_eager_attention_shares_questions(modality: Text) -> None:
    model = makers.model()
    model.config._attn_implementation = "eager"
    reading = modality.read(model, [rows_of(questions())], [True])
    assert reading.how == SHARED
    assert_equals_alone(reading, model, questions())


def test_an_attention_window_longer_than_all_sequences_does_not_matter(modality: Text) -> None:
    model = makers.model("mistral")
    pairs = [([1, 9], [5, 6, 2]), ([1, 9], [5, 7, 2]), ([1], [4, 4, 2])]
    reading = modality.read(model, [rows_of(pairs)], [True])
    assert reading.how == SHARED
    assert_equals_alone(reading, model, pairs)


@pytest.mark.slow
def test_logits_of_a_chunk_are_freed_before_the_next_chunk(modality: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reading_module.ROOM, "cpu", 0)
    monkeypatch.setattr(reading_module, "FEWEST", 4)
    model, alive = makers.model(), list[int]()
    head = model.get_output_embeddings()
    plain = head.forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        alive.append(sum(type(o) is torch.Tensor and o.shape == (4, makers.WORDS) for o in gc.get_objects()))
        return plain(x)

    gc.collect()
    monkeypatch.setattr(head, "forward", forward)
    reading = modality.read(model, [rows_of(questions())], [True])
    assert len(alive) > 10
    assert set(alive) == {0}
    monkeypatch.undo()
    assert_equals_alone(reading, model, questions())


# The tree


def test_a_packed_row_equals_the_expected_layout() -> None:
    """Two questions. The answers to the first share a beginning, and one of them occurs twice."""
    pairs = [([1, 8], [5, 7, 2]), ([1, 8], [4]), ([1, 9], [6]), ([1, 8], [5, 6, 2]), ([1, 8], [5, 7, 2])]
    packing = pack(pairs, True, 100, 0)
    (batch,) = packing.batches
    assert batch.ids.tolist() == [[1, 8, 4, 5, 6, 2, 7, 2], [1, 9, 6, 0, 0, 0, 0, 0]]
    assert batch.position.tolist() == [[0, 1, 2, 2, 3, 4, 3, 4], [0, 1, 2, 0, 0, 0, 0, 0]]
    attends = (batch.mask(torch.float32)[0, 0] == 0).int().tolist()
    assert attends == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],  # 4
        [1, 1, 0, 1, 0, 0, 0, 0],  # 5
        [1, 1, 0, 1, 1, 0, 0, 0],  # 5 6
        [1, 1, 0, 1, 1, 1, 0, 0],  # 5 6 2
        [1, 1, 0, 1, 0, 0, 1, 0],  # 5 7
        [1, 1, 0, 1, 0, 0, 1, 1],  # 5 7 2
    ]
    assert batch.at.tolist() == [1, 3, 4, 6, 9]  # the places with a successor
    assert [(batch.by[k].item(), batch.label[k].item()) for k in range(7)] == [(0, 4), (0, 5), (1, 6), (1, 7), (2, 2), (3, 2), (4, 6)]
    assert [x.tolist() for x in packing.labels] == [[1, 3, 5], [0], [6], [1, 2, 4], [1, 3, 5]]
    assert (packing.places, packing.tokens, packing.predictions) == (11, 21, 5)


@pytest.mark.parametrize("largest", [1024, 16, 1])
@pytest.mark.parametrize("budget", [1, 60, 10**6])
def test_every_place_attends_to_its_own_sequence_only(largest: int, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trie, "LARGEST", largest)
    trie._cache.clear()
    pairs = questions(1)
    packing = pack(pairs, True, budget, 0)
    trie._cache.clear()
    prefixes = set()
    for batch in packing.batches:
        attends = batch.mask(torch.float32)[:, 0] == 0
        for r, c in batch.real.nonzero().tolist():
            visible = attends[r, c].nonzero()[:, 0]
            assert batch.position[r, visible].tolist() == list(range(len(visible)))
            prefixes.add(tuple(batch.ids[r, visible].tolist()))
        assert attends.any(-1).all()  # attention to nothing would give nan
        assert batch.ids.numel() <= max(budget, batch.ids.shape[1])
    assert prefixes == {tuple([*p, *a][:n]) for p, a in pairs for n in range(1, len(p) + len(a) + 1)}


def test_long_trees_are_split_into_rows(modality: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trie, "LARGEST", 24)
    trie._cache.clear()
    model, pairs = makers.model(), questions()
    reading = modality.read(model, [rows_of(pairs)], [True])
    trie._cache.clear()
    assert max(b.ids.shape[1] for b in reading.packing.batches) < 48
    assert_equals_alone(reading, model, pairs)


def test_a_packing_is_cached_for_the_next_model(modality: Text) -> None:
    pairs = questions(2)
    first, second = (modality.read(makers.model("llama", seed), [rows_of(pairs)]) for seed in (0, 1))
    assert first.packing is second.packing
    assert not np.allclose(first.target_logp, second.target_logp)
    different = modality.read(makers.model(), [rows_of([(p, a[:-1]) for p, a in pairs if a])])
    assert different.packing is not first.packing
    assert len(trie._cache) <= trie.KEPT


# Models that cannot share


class IgnoresPositions(LlamaForCausalLM):
    """A model that ignores position ids."""

    def forward(self, input_ids: Any, position_ids: Any = None, **options: Any) -> Any:
        return super().forward(input_ids, **options)


class IgnoresMask(LlamaForCausalLM):
    """A model that ignores a mask of four dimensions."""

    def forward(self, input_ids: Any, attention_mask: Any = None, position_ids: Any = None, **options: Any) -> Any:
        mask = attention_mask if attention_mask is None or attention_mask.dim() == 2 else None
        return super().forward(input_ids, attention_mask=mask, position_ids=position_ids, **options)


def random_model(config: Any, seed: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for n, p in model.named_parameters():
            if n.endswith("weight") and p.dim() == 2:
                torch.nn.init.normal_(p, std=0.15)
    return model.eval()


def model_with_hook() -> Any:
    model = makers.model()
    model.model.layers[0].register_forward_hook(lambda _, args, out: out)
    return model


def model_of_class(kind: Any) -> Any:
    model = makers.model()
    model.__class__ = kind
    return model


UNSHAREABLE = {
    "bloom": (lambda: random_model(BloomConfig(**makers.COMMON, hidden_size=32, n_layer=2, n_head=4)), "takes no positions"),
    "falcon-alibi": (
        lambda: random_model(
            FalconConfig(
                **makers.COMMON, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True, new_decoder_architecture=False
            )
        ),
        "",
    ),
    "mamba": (lambda: random_model(MambaConfig(**makers.COMMON, hidden_size=32, num_hidden_layers=2, state_size=4)), ""),
    "counts places": (lambda: model_of_class(IgnoresPositions), "would differ"),
    "sees branches": (lambda: model_of_class(IgnoresMask), "would differ"),
    "hooks": (model_with_hook, "has hooks"),
}


@pytest.mark.parametrize("name", UNSHAREABLE)
def test_models_that_cannot_share_fall_back_and_report_why(name: str, modality: Text) -> None:
    build, reason = UNSHAREABLE[name]
    model, pairs = build(), [(p, a) for p, a in questions() if a]
    reading = modality.read(model, [rows_of(pairs)], [True])
    assert reading.how != SHARED
    assert reason in reading.how
    assert reading.packing.places == reading.packing.tokens
    assert_equals_alone(reading, model, pairs)


def test_a_wrapped_model_is_read_sequence_by_sequence(text: worlds.World) -> None:
    """What stands between the model and its forward pass may read the whole input, and would read answers that share a question as one."""

    class Wrapped(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner, self.config = inner, inner.config

        def forward(self, **inputs: object) -> object:
            output = self.inner(**inputs)
            output.logits = output.logits / 2
            return output

    model = text.model()
    wrapped = Wrapped(model)
    rows = [text.sets["forget"].select(range(3)), text.sets["retain"].select(range(3))]
    reading = text.modality.read(wrapped, rows)
    assert reading.how == "the model is wrapped"
    for i, row in enumerate([r.select([k]) for r in rows for k in range(3)]):
        with torch.no_grad():
            expected = text.modality.forward(wrapped, [row])[0].target_logp.values
        assert np.allclose(reading.of(i, False)["target_logp"], expected, atol=2e-5)
    plain = text.modality.read(model, rows)
    assert not np.allclose(plain.of(0, False)["target_logp"], reading.of(0, False)["target_logp"], atol=1e-2)


def test_a_guard_offers_no_shared_reading(text: worlds.World) -> None:
    view = SimpleNamespace(forget=text.sets["forget"], rng=lambda: torch.Generator().manual_seed(0))
    guarded = InputFilter().wrap(text.modality, view)  # type: ignore[arg-type]
    assert offers(text.modality, SharedReading)
    assert not offers(guarded, SharedReading)


def test_questions_with_one_answer_need_no_sharing(modality: Text) -> None:
    assert modality.read(makers.model(), [rows_of([([1, 5], [6, 2]), ([1, 6], [7, 2])])]).how == "no question has several answers"


def test_bfloat16_models_share_questions_within_rounding(modality: Text) -> None:
    """In bfloat16 two batch sizes also differ; a wrong mask differs by much more."""
    pairs = [(p, a) for p, a in questions() if a]
    right, wrong = makers.model().to(torch.bfloat16), model_of_class(IgnoresMask).to(torch.bfloat16)
    assert modality.read(right, [rows_of(pairs)]).how == SHARED
    assert modality.read(wrong, [rows_of(pairs)]).how != SHARED


# The head


@pytest.mark.parametrize("name", ["llama", "gemma2", "adapted"])
def test_the_head_runs_on_few_positions_at_a_time(name: str, modality: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    model = makers.adapted() if name == "adapted" else makers.model(name)
    pairs = questions()
    unchunked = modality.read(model, [rows_of(pairs)], [True])
    monkeypatch.setitem(reading_module.ROOM, "cpu", 5 * makers.WORDS)
    monkeypatch.setattr(reading_module, "FEWEST", 1)
    chunk_sizes: list[int] = []
    read_logits = reading_module._read
    monkeypatch.setattr(reading_module, "_read", lambda logits, *args: chunk_sizes.append(len(logits)) or read_logits(logits, *args))
    chunked = modality.read(model, [rows_of(pairs)], [True])
    assert np.allclose(unchunked.target_logp, chunked.target_logp, atol=1e-6)
    assert np.allclose(unchunked.std, chunked.std, atol=1e-5)
    assert (max(chunk_sizes) > 5) == (name == "gemma2")  # it caps the scores after its head, so it must compute all of them


def test_moments_exist_only_where_requested(modality: Text) -> None:
    pairs = questions()
    reading = modality.read(makers.model(), [rows_of(pairs[:5]), rows_of(pairs[5:])], [True, False])
    wanted = {int(k) for i in range(5) for k in reading.packing.by[reading.packing.labels[i]]}
    assert {*np.flatnonzero(~np.isnan(reading.mean)).tolist()} == wanted
    assert "mean" not in reading.of(0, False)


def test_the_first_of_labels_with_equal_scores_is_the_hit(modality: Text) -> None:
    model = makers.model()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    reading = modality.read(model, [rows_of([([1], [0, 5, 0, 2]), ([1], [0, 0])])])
    assert reading.of(0, False)["hit"].tolist() == [True, False, True, False]
    assert reading.of(1, False)["hit"].all()


# Drafts


def test_recited_answers_equal_generated_answers(text: worlds.World) -> None:
    model, sets = text.model(), [text.sets["retain"].select(range(16)), text.sets["holdout"].select(range(6))]
    wrong = text.modality.relabel(sets[0], ["He is a gardener."] * 16, "retain")
    reading = text.modality.read(model, [wrong, *sets])
    expected = [text.modality.generate(model, rows, limit).ids for rows, limit in zip(sets, (40, 7), strict=True)]
    batch_sizes: list[int] = []
    hook = model.register_forward_hook(lambda _, args, kwargs, out: batch_sizes.append(len(kwargs["input_ids"])), with_kwargs=True)
    assert text.modality.recite(model, sets, [40, 7], reading) == (expected, 0)  # a model with hooks gets no drafts
    hook.remove()
    answers, drafted = text.modality.recite(model, sets, [40, 7], reading)
    assert answers == expected
    assert drafted > 0.5 * sum(map(len, expected[0]))
    assert text.modality.recite(model, sets, [40, 7]) == (expected, 0)
    assert text.modality.recite(model, sets, [3, 0], reading)[0] == [[a[:3] for a in expected[0]], [[]] * 6]


def test_drafted_tokens_are_not_generated_again(text: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = text.model(), text.sets["retain"].select(range(24))
    reading = text.modality.read(model, [rows])
    forward, batch_sizes = type(model).forward, list[int]()
    monkeypatch.setattr(type(model), "forward", lambda self, **k: batch_sizes.append(len(k["input_ids"])) or forward(self, **k))
    signature = inspect.signature(forward)
    monkeypatch.setattr("expunge.modalities.text.decoding.inspect.signature", lambda _: signature)
    (answers,), _ = text.modality.recite(model, [rows], [40], reading)
    drafted_rows = sum(batch_sizes)
    batch_sizes.clear()
    assert answers == text.modality.generate(model, rows, 40).ids
    assert drafted_rows < 0.5 * sum(batch_sizes)


def test_wrong_drafts_are_discarded(text: worlds.World) -> None:
    model, rows = text.model(), text.sets["retain"].select(range(12))
    reading = text.modality.read(model, [text.modality.relabel(rows, ["He is a gardener."] * 12, "retain")])
    reading.hit[:] = True
    assert text.modality.recite(model, [rows], [40], reading) == ([text.modality.generate(model, rows, 40).ids], 0)


def test_drafts_need_exact_numbers(text: worlds.World) -> None:
    rows = text.sets["retain"].select(range(6))
    model, half = text.model(), text.model().to(torch.bfloat16)
    reading = text.modality.read(model, [rows])
    assert text.modality.recite(model, [rows], [20], reading)[1] > 0
    assert text.modality.recite(half, [rows], [20], reading) == ([text.modality.generate(half, rows, 20).ids], 0)
