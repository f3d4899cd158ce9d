"""Quantization: what is rounded and what is not, the library's own dynamic int8, and knowledge that hides in small changes of weights."""

from __future__ import annotations

import copy
import warnings

import peft
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import worlds
from classified import digits as images
from expunge.benchmarks import people
from expunge.core.errors import UserError
from expunge.evaluation.attack import chosen, intervene
from expunge.evaluation.attacks.quantize import Quantize, plan, quantized
from expunge.functional import quantization

RECORDS = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16)


def values(outcome: object) -> dict[str, float]:
    return {t.way: t.scores["extraction_strength"]["value"] for t in outcome.tries}  # type: ignore[attr-defined]


def test_layers_are_rounded_and_everything_else_stays(text: worlds.World) -> None:
    model = text.model()
    before = copy.deepcopy(model.state_dict())
    quantized(model, 4, group=8)
    layers = {n for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    for name, w in model.state_dict().items():
        if name.removesuffix(".weight") in layers:
            assert torch.equal(w, quantization.weights(before[name], 4, 8)), name
            assert not torch.equal(w, before[name])
        else:
            assert torch.equal(w, before[name]), name


def test_a_tied_head_is_rounded_and_the_embedding_it_is_tied_to_is_not() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=8, n_embd=8, n_layer=1, n_head=2)).eval()
    before = model.transformer.wte.weight.detach().clone()
    turned = model.transformer.h[0].attn.c_attn.weight.detach().clone()  # (inputs, outputs)
    quantized(model, 4)
    assert torch.equal(model.transformer.wte.weight, before)
    assert torch.equal(model.lm_head.weight, quantization.weights(before, 4))
    assert torch.equal(model.transformer.h[0].attn.c_attn.weight, quantization.weights(turned.T, 4).T)


def test_convolutions_have_a_scale_an_output() -> None:
    world = worlds.digits("resnet-nano")
    model = world.model()
    (name, before), *_ = [(n, m.weight.detach().clone()) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    quantized(model, 4)
    weight = model.get_submodule(name).weight
    assert torch.equal(weight, quantization.weights(before.flatten(1), 4).view(before.shape))


def test_int8_is_the_library_s_dynamic_int8() -> None:
    """A linear layer, asked one row at a time, as that is what has a scale there; `reduce_range` off, a concession to old processors."""
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 16), torch.randn(5, 24)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scales = layer.weight.detach().abs().amax(1) / 127.5
        rounded = quantization.weights(layer.weight.detach(), 8)
        whole = torch.quantize_per_channel(rounded, scales, torch.zeros(16, dtype=torch.int64), 0, torch.qint8)
        assert torch.allclose(whole.dequantize(), rounded, atol=1e-6)
        packed = torch.ops.quantized.linear_prepack(whole, layer.bias)
        theirs = torch.cat([torch.ops.quantized.linear_dynamic(row, packed, False) for row in x.split(1)])
    model = quantized(nn.Sequential(copy.deepcopy(layer)), 8)
    assert torch.allclose(model(x), theirs, atol=1e-5)
    assert not torch.allclose(layer(x), theirs, atol=1e-5)


def test_the_company_of_a_row_changes_nothing(text: worlds.World) -> None:
    model, rows = quantized(text.model(), 8), text.sets["forget"]
    together = text.modality.forward(model, [rows])[0].target_logp.sum()
    alone = torch.cat([text.modality.forward(model, [rows.select([i])])[0].target_logp.sum() for i in range(len(rows))])
    assert torch.allclose(together, alone, atol=1e-4)


def test_adapters_are_merged_on_a_copy(text: worlds.World) -> None:
    torch.manual_seed(0)
    model = peft.get_peft_model(text.model(), peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    for n, p in model.named_parameters():
        if "lora_B" in n:
            p.data.normal_(std=0.02)
    before = worlds.tensors(model)
    outcome = intervene("quantize", Quantize(bits=(16,)), model, text.modality, {"forget": RECORDS.forget})
    assert worlds.same(before, worlds.tensors(model))
    same = outcome.tries[0].scores["forget_probability"]["value"]
    assert same == pytest.approx(outcome.before["forget_probability"]["value"], abs=1e-3)
    assert same != pytest.approx(0.983, abs=1e-3), "the adapter counts"


def test_many_bits_change_nothing_in_words_and_images(text: worlds.World, digits: worlds.World) -> None:
    outcome = intervene("quantize", Quantize(bits=(16,)), text.model(), text.modality, {"forget": RECORDS.forget})
    assert values(outcome) == {"16 bits": outcome.before["extraction_strength"]["value"]}
    outcome = intervene("quantize", Quantize(bits=(16,)), digits.model(), digits.modality, {"forget": images()["forget"]})
    assert outcome.tries[0].scores["forget_accuracy"] == outcome.before["forget_accuracy"]


def test_what_a_small_nudge_hides_comes_back(digits: worlds.World) -> None:
    """Ascent on the forgotten images that moves no weight further than the step that it is rounded to: hidden, and all there in 4 bits."""
    model, rounded = digits.model(), quantized(digits.model(), 4)
    layers = [(m, rounded.get_submodule(n).weight) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    for _ in range(20):
        loss = -digits.modality.forward(model, [digits.sets["forget"]])[0].target_logp.values.mean()
        grads = torch.autograd.grad(loss, [m.weight for m, _ in layers])
        with torch.no_grad():
            for (m, w), g in zip(layers, grads, strict=True):
                step = quantization.step(m.weight.abs().amax(1, keepdim=True), 4)
                moved = w + (m.weight + 0.1 * step * g.sign() - w).clamp(-0.45 * step, 0.45 * step)
                m.weight.copy_(torch.where(w.abs() < 6.5 * step, moved, m.weight))  # the largest weights set the step, and stay
    again = quantized(copy.deepcopy(model), 4)
    assert worlds.far(worlds.tensors(again), worlds.tensors(rounded)) < 1e-5
    outcome = intervene("quantize", Quantize(bits=(4,), group=0), model, digits.modality, {"forget": images()["forget"]})
    hidden, back = outcome.before["forget_accuracy"]["value"], outcome.tries[0].scores["forget_accuracy"]["value"]
    assert hidden < 0.5
    assert back > 0.9


@pytest.mark.parametrize("bits", ["0", "1", "17", "four"])
def test_bits_that_make_no_sense(bits: str) -> None:
    with pytest.raises(UserError, match=f"hyperparameter 'bits' = '{bits}'"):
        chosen(("quantize",), {"bits": bits})


def test_defaults() -> None:
    assert (plan().bits, plan().group) == ((8, 4), 64)
