"""One pass over shared questions against a forward of its own for each sequence: per label, on every architecture, traps included."""

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
from expunge.core.rows import Rows
from expunge.methods.guards.input_filter import InputFilter
from expunge.modalities.text import read, trie
from expunge.modalities.text.modality import Text
from expunge.modalities.text.trie import pack

SHARED = "answers share their questions"
FAMILIES = {"llama": SHARED, "llama-tied": SHARED, "gpt2": SHARED, "gpt_neox": SHARED, "qwen2": SHARED, "phi": SHARED, "adapted": SHARED}
WINDOWED = {"mistral": "looks back over 8", "gemma2": "looks back over 8"}
# Sequences where padding and the end of sequence are tokens like all others.
TRAPS = [([1, 5], [0, 0, 2]), ([1, 5], [0, 0]), ([1, 5], [2]), ([0], [5, 2]), ([0], [5, 2]), ([2, 2], [2, 2, 2]), ([1, 5], [])]


def questions(seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Questions with several answers that begin alike, repeat each other or stop early, in any order."""
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
def alone(model: Any, prompt: list[int], answer: list[int]) -> dict[str, Any]:
    """Log-probabilities, hits and moments of one answer, from a forward of its own, in 64 bits from the logits on."""
    logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].double()
    log, label = logits.log_softmax(-1), torch.tensor(answer, dtype=torch.long)
    mean = (log.exp() * log).sum(-1)
    std = ((log.exp() * log.square()).sum(-1) - mean.square()).clamp_min(1e-6).sqrt()
    return {"target_logp": log.gather(1, label[:, None])[:, 0], "hit": logits.argmax(-1) == label, "mean": mean, "std": std}


def equals_alone(reading: Any, model: Any, pairs: Any, tolerance: float = 2e-5) -> None:
    for i, (prompt, answer) in enumerate(pairs):
        got, wanted = reading.of(i, True), alone(model, prompt, answer)
        assert (got["hit"] == wanted["hit"].numpy()).all()
        for name in ("target_logp", "mean", "std"):
            assert got[name].dtype == np.float32
            assert np.allclose(got[name], wanted[name], atol=tolerance * (5 if name == "std" else 1), rtol=0), name


@pytest.mark.parametrize("name", [*FAMILIES, *WINDOWED])
def test_equals_a_forward_of_each_sequence(name: str, modality: Text) -> None:
    model = makers.adapted() if name == "adapted" else makers.model(name)
    pairs = questions()
    reading = modality.read(model, [rows_of(pairs[:9]), rows_of(pairs[9:])], [True, True])
    equals_alone(reading, model, pairs)
    if name in FAMILIES:
        assert reading.how == SHARED
        assert reading.packing.places < 0.7 * reading.packing.tokens
    else:
        assert WINDOWED[name] in reading.how
        assert reading.packing.places == reading.packing.tokens


def test_attention_written_out_is_shared_as_well(modality: Text) -> None:
    model = makers.model()
    model.config._attn_implementation = "eager"
    reading = modality.read(model, [rows_of(questions())], [True])
    assert reading.how == SHARED
    equals_alone(reading, model, questions())


def test_a_window_longer_than_all_sequences_is_none(modality: Text) -> None:
    model = makers.model("mistral")
    pairs = [([1, 9], [5, 6, 2]), ([1, 9], [5, 7, 2]), ([1], [4, 4, 2])]
    reading = modality.read(model, [rows_of(pairs)], [True])
    assert reading.how == SHARED
    equals_alone(reading, model, pairs)


def test_logits_of_some_positions_are_gone_before_the_next_are_made(modality: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(read.ROOM, "cpu", 0)
    monkeypatch.setattr(read, "FEWEST", 4)
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
    equals_alone(reading, model, questions())


# the tree


def test_a_packed_row_by_hand() -> None:
    """Two questions; the answers to the first begin alike, and one of them stands there twice."""
    pairs = [([1, 8], [5, 7, 2]), ([1, 8], [4]), ([1, 9], [6]), ([1, 8], [5, 6, 2]), ([1, 8], [5, 7, 2])]
    packing = pack(pairs, True, 100, 0)
    (batch,) = packing.batches
    assert batch.ids.tolist() == [[1, 8, 4, 5, 6, 2, 7, 2], [1, 9, 6, 0, 0, 0, 0, 0]]
    assert batch.position.tolist() == [[0, 1, 2, 2, 3, 4, 3, 4], [0, 1, 2, 0, 0, 0, 0, 0]]
    sees = (batch.mask(torch.float32)[0, 0] == 0).int().tolist()
    assert sees == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],  # 4
        [1, 1, 0, 1, 0, 0, 0, 0],  # 5
        [1, 1, 0, 1, 1, 0, 0, 0],  # 5 6
        [1, 1, 0, 1, 1, 1, 0, 0],  # 5 6 2
        [1, 1, 0, 1, 0, 0, 1, 0],  # 5 7
        [1, 1, 0, 1, 0, 0, 1, 1],  # 5 7 2
    ]
    assert batch.at.tolist() == [1, 3, 4, 6, 9]  # the places behind which something follows
    assert [(batch.by[k].item(), batch.label[k].item()) for k in range(7)] == [(0, 4), (0, 5), (1, 6), (1, 7), (2, 2), (3, 2), (4, 6)]
    assert [x.tolist() for x in packing.labels] == [[1, 3, 5], [0], [6], [1, 2, 4], [1, 3, 5]]
    assert (packing.places, packing.tokens, packing.predictions) == (11, 21, 5)


@pytest.mark.parametrize("largest", [1024, 16, 1])
@pytest.mark.parametrize("budget", [1, 60, 10**6])
def test_every_place_sees_its_own_sequence_and_nothing_else(largest: int, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trie, "LARGEST", largest)
    trie._known.clear()
    pairs = questions(1)
    packing = pack(pairs, True, budget, 0)
    trie._known.clear()
    spelled = set()
    for batch in packing.batches:
        sees = batch.mask(torch.float32)[:, 0] == 0
        for r, c in batch.real.nonzero().tolist():
            seen = sees[r, c].nonzero()[:, 0]
            assert batch.position[r, seen].tolist() == list(range(len(seen)))
            spelled.add(tuple(batch.ids[r, seen].tolist()))
        assert sees.any(-1).all()  # a place that saw nothing would be no number
        assert batch.ids.numel() <= max(budget, batch.ids.shape[1])
    assert spelled == {tuple([*p, *a][:n]) for p, a in pairs for n in range(1, len(p) + len(a) + 1)}


def test_long_trees_are_cut_into_rows(modality: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trie, "LARGEST", 24)
    trie._known.clear()
    model, pairs = makers.model(), questions()
    reading = modality.read(model, [rows_of(pairs)], [True])
    trie._known.clear()
    assert max(b.ids.shape[1] for b in reading.packing.batches) < 48
    equals_alone(reading, model, pairs)


def test_a_packing_serves_the_next_model(modality: Text) -> None:
    pairs = questions(2)
    first, again = (modality.read(makers.model("llama", seed), [rows_of(pairs)]) for seed in (0, 1))
    assert first.packing is again.packing
    assert not np.allclose(first.target_logp, again.target_logp)
    other = modality.read(makers.model(), [rows_of([(p, a[:-1]) for p, a in pairs if a])])
    assert other.packing is not first.packing
    assert len(trie._known) <= trie.KEPT


# models that cannot share


class Deaf(LlamaForCausalLM):
    """Counts places by itself."""

    def forward(self, input_ids: Any, position_ids: Any = None, **more: Any) -> Any:
        return super().forward(input_ids, **more)


class Blind(LlamaForCausalLM):
    """Sees all that came before."""

    def forward(self, input_ids: Any, attention_mask: Any = None, position_ids: Any = None, **more: Any) -> Any:
        mask = attention_mask if attention_mask is None or attention_mask.dim() == 2 else None
        return super().forward(input_ids, attention_mask=mask, position_ids=position_ids, **more)


def made(config: Any, seed: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for n, p in model.named_parameters():
            if n.endswith("weight") and p.dim() == 2:
                torch.nn.init.normal_(p, std=0.15)
    return model.eval()


def hooked() -> Any:
    model = makers.model()
    model.model.layers[0].register_forward_hook(lambda _, args, out: out)
    return model


def like(kind: Any) -> Any:
    model = makers.model()
    model.__class__ = kind
    return model


STRANGE = {
    "bloom": (lambda: made(BloomConfig(**makers.COMMON, hidden_size=32, n_layer=2, n_head=4)), "takes no positions"),
    "falcon-alibi": (
        lambda: made(
            FalconConfig(
                **makers.COMMON, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True, new_decoder_architecture=False
            )
        ),
        "",
    ),
    "mamba": (lambda: made(MambaConfig(**makers.COMMON, hidden_size=32, num_hidden_layers=2, state_size=4)), ""),
    "counts places": (lambda: like(Deaf), "would differ"),
    "sees branches": (lambda: like(Blind), "would differ"),
    "hooks": (hooked, "has hooks"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_models_that_cannot_share_fall_back_and_say_so(name: str, modality: Text) -> None:
    make, why = STRANGE[name]
    model, pairs = make(), [(p, a) for p, a in questions() if a]
    reading = modality.read(model, [rows_of(pairs)], [True])
    assert reading.how != SHARED
    assert why in reading.how
    assert reading.packing.places == reading.packing.tokens
    equals_alone(reading, model, pairs)


def test_a_guard_is_asked_sequence_by_sequence(text: worlds.World) -> None:
    """It looks at the whole input, and would take the answers to one question for one text."""
    view = SimpleNamespace(forget=text.sets["forget"], modality=text.modality, rng=lambda: torch.Generator().manual_seed(0))
    model = text.model()
    guarded = InputFilter().wrap(model, view)  # type: ignore[arg-type]
    rows = [text.sets["forget"].select(range(3)), text.sets["retain"].select(range(3))]
    reading = text.modality.read(guarded, rows)
    assert reading.how == "the model is wrapped"
    for i, row in enumerate([r.select([k]) for r in rows for k in range(3)]):
        with torch.no_grad():
            wanted = text.modality.forward(guarded, [row])[0].target_logp.values
        assert np.allclose(reading.of(i, False)["target_logp"], wanted, atol=2e-5)
    plain = text.modality.read(model, rows)
    assert not np.allclose(plain.of(0, False)["target_logp"], reading.of(0, False)["target_logp"], atol=1e-2)


def test_questions_with_one_answer_need_no_sharing(modality: Text) -> None:
    assert modality.read(makers.model(), [rows_of([([1, 5], [6, 2]), ([1, 6], [7, 2])])]).how == "no question has several answers"


def test_halved_numbers_share_within_their_noise(modality: Text) -> None:
    """In bfloat16 two batch sizes differ, too; a wrong mask differs by much more."""
    pairs = [(p, a) for p, a in questions() if a]
    right, wrong = makers.model().to(torch.bfloat16), like(Blind).to(torch.bfloat16)
    assert modality.read(right, [rows_of(pairs)]).how == SHARED
    assert modality.read(wrong, [rows_of(pairs)]).how != SHARED


# the head


@pytest.mark.parametrize("name", ["llama", "gemma2", "adapted"])
def test_few_logits_exist_at_a_time(name: str, modality: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    model = makers.adapted() if name == "adapted" else makers.model(name)
    pairs = questions()
    whole = modality.read(model, [rows_of(pairs)], [True])
    monkeypatch.setitem(read.ROOM, "cpu", 5 * makers.WORDS)
    monkeypatch.setattr(read, "FEWEST", 1)
    asked: list[int] = []
    read_logits = read._read
    monkeypatch.setattr(read, "_read", lambda logits, *more: asked.append(len(logits)) or read_logits(logits, *more))
    cut = modality.read(model, [rows_of(pairs)], [True])
    assert np.allclose(whole.target_logp, cut.target_logp, atol=1e-6)
    assert np.allclose(whole.std, cut.std, atol=1e-5)
    assert (max(asked) > 5) == (name == "gemma2")  # it caps the scores behind its head, so it must see them all


def test_moments_are_there_where_they_were_asked_for(modality: Text) -> None:
    pairs = questions()
    reading = modality.read(makers.model(), [rows_of(pairs[:5]), rows_of(pairs[5:])], [True, False])
    asked = {int(k) for i in range(5) for k in reading.packing.by[reading.packing.labels[i]]}
    assert {*np.flatnonzero(~np.isnan(reading.mean)).tolist()} == asked
    assert "mean" not in reading.of(0, False)


def test_of_labels_with_equal_scores_the_first_is_said(modality: Text) -> None:
    model = makers.model()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    reading = modality.read(model, [rows_of([([1], [0, 5, 0, 2]), ([1], [0, 0])])])
    assert reading.of(0, False)["hit"].tolist() == [True, False, True, False]
    assert reading.of(1, False)["hit"].all()


# drafts


def test_recited_answers_are_those_that_are_generated(text: worlds.World) -> None:
    model, sets = text.model(), [text.sets["retain"].select(range(16)), text.sets["holdout"].select(range(6))]
    unknown = text.modality.relabel(sets[0], ["He is a gardener."] * 16, "retain")
    reading = text.modality.read(model, [unknown, *sets])
    wanted = [text.modality.generate(model, rows, limit).ids for rows, limit in zip(sets, (40, 7), strict=True)]
    asked: list[int] = []
    hook = model.register_forward_hook(lambda _, args, kwargs, out: asked.append(len(kwargs["input_ids"])), with_kwargs=True)
    assert text.modality.recite(model, sets, [40, 7], reading) == (wanted, 0)  # with hooks, nothing is known of a model
    hook.remove()
    said, known = text.modality.recite(model, sets, [40, 7], reading)
    assert said == wanted
    assert known > 0.5 * sum(map(len, wanted[0]))
    assert text.modality.recite(model, sets, [40, 7]) == (wanted, 0)
    assert text.modality.recite(model, sets, [3, 0], reading)[0] == [[a[:3] for a in wanted[0]], [[]] * 6]


def test_what_was_read_is_not_said_again(text: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = text.model(), text.sets["retain"].select(range(24))
    reading = text.modality.read(model, [rows])
    forward, asked = type(model).forward, list[int]()
    monkeypatch.setattr(type(model), "forward", lambda self, **k: asked.append(len(k["input_ids"])) or forward(self, **k))
    known = inspect.signature(forward)
    monkeypatch.setattr("expunge.modalities.text.generate.inspect.signature", lambda _: known)
    (said,), _ = text.modality.recite(model, [rows], [40], reading)
    begun = sum(asked)
    asked.clear()
    assert said == text.modality.generate(model, rows, 40).ids
    assert begun < 0.5 * sum(asked)


def test_drafts_that_the_model_would_not_say_are_thrown_away(text: worlds.World) -> None:
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
