"""What a pass takes of the memory, and passes that fit into a bound: smaller, and with the same results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

import worlds
from expunge.core.errors import UserError
from expunge.engine import memory
from expunge.evaluation.observation import Observation
from expunge.evaluation.observe import observe
from expunge.io.models import Opened
from expunge.workflows.audit import audit
from expunge.workflows.room import room_of

WIDTH, INNER, BLOCKS, WORDS = 8, 12, 3, 20
OUTPUTS = 5 * WIDTH + 2 * INNER  # of the linear layers of a block: four of the attention, two inner ones, one back
RECORDS = [{"question": f"Where does Ada {k} live?", "answer": f"In street number {k} of the town."} for k in range(12)]


def llama() -> LlamaForCausalLM:
    sizes = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": BLOCKS, "num_attention_heads": 1, "vocab_size": WORDS}
    return LlamaForCausalLM(LlamaConfig(**sizes))


@pytest.mark.parametrize(
    ("text", "number"),
    [("4GB", 4e9), ("4 GiB", 2**32), ("1.5g", 1.5e9), ("512MB", 512e6), ("100kb", 1e5), ("70000", 7e4), ("2 MiB", 2**21)],
)
def test_an_amount_of_memory_is_a_number_with_a_unit(text: str, number: float) -> None:
    assert memory.parse(text) == number


@pytest.mark.parametrize("text", ["", "much", "GB", "-4GB", "0GB", "4 apples", "4,5GB"])
def test_another_text_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(UserError, match="such as 4GB"):
        memory.parse(text)


def test_a_position_takes_twice_the_outputs_of_linear_layers() -> None:
    model = llama()
    assert memory.position_bytes(model) == 2 * OUTPUTS * 4
    assert memory.position_bytes(model, gradients=True) == 2 * OUTPUTS * 4 * BLOCKS
    assert memory.position_bytes(model.bfloat16()) == 2 * OUTPUTS * 2
    assert memory.logits_bytes(model) == 4 * 4 * WORDS, "four copies in float32"


def test_an_answer_takes_its_prompt_and_the_keys_and_values_of_all_tokens() -> None:
    model = llama()
    keys_and_values = 2 * (BLOCKS + 1) * WIDTH * 4
    assert memory.answer_bytes(model, 5, 7) == 5 * memory.position_bytes(model) + 12 * keys_and_values + memory.logits_bytes(model)
    with memory.bounded(3 * memory.answer_bytes(model, 5, 7)):
        assert memory.answers(model, 5, 7) == 3
        assert memory.answers(model, 5, 0) > 3
    assert memory.answers(model, 5, 7) == memory.ANSWERS, "without a bound"


def test_as_much_fits_as_the_room_holds_and_at_least_one() -> None:
    assert memory.fitting(100, 10) == 100
    with memory.bounded(75):
        assert (memory.fitting(100, 10), memory.fitting(5, 10), memory.fitting(100, 80)) == (7, 5, 1)
        with memory.bounded(0):
            assert memory.fitting(100, 10) == 100
    assert memory.fitting(100, 10) == 100


def test_bounded_passes_are_smaller_and_give_the_same(text: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    model, looked_up, embedding = text.model(), {True: [0], False: [0]}, F.embedding

    def watched(ids: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        looked_up[torch.is_grad_enabled()].append(ids.numel())
        return embedding(ids, *args, **options)

    def look(room: int) -> tuple[Observation, int, int]:
        """What is observed, and the most positions of a pass with gradients and of one without."""
        looked_up.update({True: [0], False: [0]})
        with memory.bounded(room):
            observation = observe(model, text.modality, {"forget": RECORDS, "holdout": RECORDS[:4]})
        return observation, max(looked_up[True]), max(looked_up[False])

    monkeypatch.setattr(F, "embedding", watched)
    longest = max(
        len(p) + len(a) for rows in [text.modality.rows("forget", RECORDS)] for p, a in zip(rows["prompt"], rows["answer"], strict=True)
    )
    room = longest * (memory.position_bytes(model, gradients=True) + memory.logits_bytes(model))
    free, most, most_plain = look(0)
    bounded, few, few_plain = look(room)
    assert few <= longest < most
    assert few_plain <= room // memory.position_bytes(model) < most_plain
    for name, observed in free.sets.items():
        ours, theirs = bounded.sets[name], observed
        np.testing.assert_allclose(ours.kinds["answer"].target_logp, theirs.kinds["answer"].target_logp, atol=2e-5)
        np.testing.assert_array_equal(ours.kinds["answer"].hit, theirs.kinds["answer"].hit)
        np.testing.assert_allclose(ours.gradient_norms, theirs.gradient_norms, rtol=1e-4)
        assert ours.generations == theirs.generations


def test_an_audit_says_what_it_will_need_and_what_is_too_little(text: worlds.World) -> None:
    opened, texts = Opened(text.model(), text.modality, ""), list[str]()
    used = memory.in_use(opened.model)
    assert room_of(opened, {"forget": RECORDS}, "audited model", 0, lambda done, total, activity: texts.append(activity)) == 0
    assert len(texts) == 1
    assert texts[0].startswith("audited model: about ")
    room = room_of(opened, {"forget": RECORDS}, "audited model", 2 * used, lambda *_: None)
    assert 0 < room < 2 * used
    with pytest.raises(UserError, match=r"an audit of the audited model needs at least .* give a larger --memory"):
        audit(opened, RECORDS, memory="1MB")


def test_a_bound_that_has_no_effect_is_refused(digits: worlds.World) -> None:
    opened = Opened(digits.model(), digits.modality, "")
    assert room_of(opened, {"forget": []}, "audited", 0, lambda *_: None) == 0
    with pytest.raises(UserError, match="leave it out"):
        room_of(opened, {"forget": []}, "audited", 10**12, lambda *_: None)
