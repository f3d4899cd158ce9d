"""The logit lens: at the last block it is the model, and a block that changes nothing changes nothing."""

import pytest
import torch

import worlds
from expunge.engine.estimators.logit_lens import known, logit_lens, overtaken, skipping


@torch.no_grad()
def first(world: worlds.World, model: torch.nn.Module) -> float:
    return float(torch.stack([row[0].exp() for row in world.modality.forward(model, [world.sets["forget"]])[0].target_logp.split()]).mean())


def test_at_the_last_block_it_is_what_the_model_says(text: worlds.World) -> None:
    model = text.model()
    blocks = logit_lens(model, text.modality, {"answer": text.sets["forget"]})
    assert [r["block"] for r in blocks] == [0, 1]
    assert blocks[-1]["answer"] == pytest.approx(first(text, model), rel=1e-6)
    assert blocks[0]["answer"] < blocks[-1]["answer"] - 0.01
    assert first(text, model) == blocks[-1]["answer"]  # no hook is left


def test_an_earlier_block_goes_through_the_models_own_norm_and_head(text: worlds.World) -> None:
    model = text.model()
    with torch.no_grad():
        hidden = text.modality.forward(model, [text.sets["forget"]], ("block:0",))[0].hidden("block:0", answers=False)
        rows, prompts = text.sets["forget"], [len(p) for p in text.sets["forget"]["prompt"]]
        at = torch.stack([h[p - 1] for h, p in zip(hidden.split(), prompts, strict=True)])
        wanted = model.lm_head(model.model.norm(at)).softmax(-1)[range(len(rows)), [a[0] for a in rows["answer"]]].mean()
    assert logit_lens(model, text.modality, {"answer": rows})[0]["answer"] == pytest.approx(float(wanted), rel=1e-5)


def test_the_last_block_gives_what_the_earlier_one_gave() -> None:
    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    x = torch.ones(1, 2)
    with skipping(a, b):
        assert torch.equal(b(a(x)), a(x))
    assert not torch.equal(b(a(x)), a(x))


def test_where_one_label_overtakes_another() -> None:
    blocks = [{"answer": a, "forgot": f} for a, f in ((0.1, 0.2), (0.7, 0.1), (0.4, 0.5), (0.1, 0.9))]
    assert overtaken(blocks, "forgot") == 2
    assert overtaken(blocks[:2], "forgot") == 2
    assert overtaken(blocks[3:], "forgot") == 0
    assert known(blocks) == 0.7
    assert known(blocks[:1]) == 0
