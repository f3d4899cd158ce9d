"""Observations against the model's own logits, worked out apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import worlds
from expunge.audit.observe import observe

RECORDS = [
    {
        "question": "Who is it?",
        "answer": "It is nobody.",
        "paraphrased_answer": "Nobody it is.",
        "perturbed_answer": ["It is Ann.", "It is Bo."],
    },
    {"question": "Where was it?", "answer": "In the town of Pellgrove."},
]


def test_log_probs_hits_and_moments_by_hand(text: worlds.World) -> None:
    model = text.model()
    seen = observe(model, text.port, {"forget": RECORDS}).sets["forget"].kinds["answer"]
    rows = text.port.rows("forget", RECORDS)
    for i, (prompt, answer) in enumerate(zip(rows["prompt"], rows["answer"], strict=True)):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].double()
        log, labels = logits.log_softmax(-1), torch.tensor(answer)
        mean = (log.exp() * log).sum(-1)
        std = ((log.exp() * log.square()).sum(-1) - mean.square()).clamp_min(1e-6).sqrt()
        assert np.allclose(seen.answer(i, seen.logp), log.gather(-1, labels[:, None])[:, 0], atol=1e-4)
        assert (seen.answer(i, seen.hit) == (logits.argmax(-1) == labels).numpy()).all()
        assert np.allclose(seen.answer(i, seen.mean), mean, atol=1e-4)
        assert np.allclose(seen.answer(i, seen.std), std, atol=1e-3)
    assert seen.ended.all()


def test_answers_belong_to_their_items(text: worlds.World) -> None:
    kinds = observe(text.model(), text.port, {"forget": RECORDS}).sets["forget"].kinds
    assert [kinds[k].item.tolist() for k in ("answer", "paraphrase", "perturbed")] == [[0, 1], [0], [0, 0]]
    assert [t.strip() for t in kinds["perturbed"].text] == ["It is Ann.", "It is Bo."]


def test_a_model_that_says_everything_equally_hits_nothing_by_that(text: worlds.World) -> None:
    model = text.model()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    seen = observe(model, text.port, {"forget": RECORDS}).sets["forget"].kinds["answer"]
    assert not seen.hit.any()


def test_what_was_seen_is_kept_by_content(text: worlds.World, tmp_path: Path) -> None:
    model = text.model()
    first = observe(model, text.port, {"forget": RECORDS}, cache=tmp_path)
    again = observe(model, text.port, {"forget": RECORDS}, cache=tmp_path)
    other = observe(text.model("random"), text.port, {"forget": RECORDS}, cache=tmp_path)
    assert first.about["key"] == again.about["key"] != other.about["key"]
    assert len(list(tmp_path.iterdir())) == 2
