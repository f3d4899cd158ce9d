"""Adapters of every kind in and out: the same logits as `peft` itself gives, and a result that `peft` and `transformers` load again."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import makers
import peft
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from expunge.core.errors import UserError
from expunge.engine import adapters, stored
from expunge.engine.trainable import choose
from expunge.modalities.common.files import quiet
from expunge.modalities.text.modality import Text
from expunge.modalities.text.pretrained import load

IDS = torch.tensor([[1, 5, 6, 7, 9]])
LORA: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank-stabilized": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "bias": {"bias": "lora_only", "target_modules": ["q_proj", "dense"]},
    "modules_to_save": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "patterns": {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"v_proj": 9}},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "PiSSA": {"init_lora_weights": "pissa"},
    "OLoRA": {"init_lora_weights": "olora"},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [5, 6]},
    "one layer": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
}
MERGED: dict[str, peft.PeftConfig] = {
    "ADALORA": peft.AdaLoraConfig(target_modules=["q_proj"], total_step=10, init_r=4),
    "LOHA": peft.LoHaConfig(r=2, target_modules=["q_proj"], init_weights=False),
    "LOKR": peft.LoKrConfig(r=2, target_modules=["q_proj"], init_weights=False),
    "IA3": peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], init_ia3_weights=False),
    "VERA": peft.VeraConfig(r=4, target_modules=["q_proj"]),
    "OFT": peft.OFTConfig(r=4, oft_block_size=0, target_modules=["q_proj"], init_weights=False),
}
REFUSED: dict[str, peft.PeftConfig] = {
    "PROMPT_TUNING": peft.PromptTuningConfig(num_virtual_tokens=4),
    "PREFIX_TUNING": peft.PrefixTuningConfig(num_virtual_tokens=4),
}


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return torch.as_tensor(model(input_ids=IDS).logits)


def stored_adapter(folder: Path, config: peft.PeftConfig, name: str = "llama") -> torch.Tensor:
    """Write a base model and an adapter as peft does, and return peft's own logits of the two loaded again."""
    Text(makers.tokenizer()).save(makers.model(name), folder / "base")
    config = copy.deepcopy(config)
    config.task_type = "CAUSAL_LM"
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        base: Any = AutoModelForCausalLM.from_pretrained(folder / "base")
        model: Any = peft.get_peft_model(base, config)
        for p in model.parameters():
            if p.requires_grad:
                p.data = (
                    p.data * 1.1
                    if str(getattr(config, "init_lora_weights", "")) in ("pissa", "olora")
                    else p.data + 0.1 * torch.randn_like(p)
                )
    with quiet():
        model.save_pretrained(folder / "adapter")
        again: Any = peft.AutoPeftModelForCausalLM.from_pretrained(folder / "adapter").eval()
    right = logits(again)
    assert not torch.allclose(right[:, -IDS.shape[1] :], logits(AutoModelForCausalLM.from_pretrained(folder / "base").eval()), atol=1e-3)
    return right


def trained(model: nn.Module) -> nn.Module:
    """The model after a step on what can be trained in it."""
    choose(model, ".*")
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.data * 1.05
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", LORA)
def test_lora_of_every_kind_goes_in_and_out(name: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"r": 2, "target_modules": "all-linear", **LORA[name]}
    right = stored_adapter(tmp_path, peft.LoraConfig(**settings), "phi" if name == "bias" else "llama")
    model, modality = load(str(tmp_path / "adapter"))
    assert torch.equal(logits(model), right)
    assert adapters.is_adapted(model)
    modality.save(trained(model), tmp_path / "out")
    after = logits(model)
    assert not torch.allclose(after, right, atol=1e-4)
    library: Any = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(logits(library), after, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits(load(str(tmp_path / "out"))[0]), after, atol=1e-5, rtol=0)
    modality.save(adapters.merged(model), tmp_path / "merged")
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()), after, atol=1e-4, rtol=0)


def test_an_adapter_is_written_without_the_empty_card_of_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored_adapter(tmp_path, peft.LoraConfig())
    model, modality = load(str(tmp_path / "adapter"))
    cards: list[str] = []
    monkeypatch.setattr(peft.PeftModel, "create_or_update_model_card", lambda self, folder: cards.append(folder))
    modality.save(model, tmp_path / "out")
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "out" / "README.md").exists()
    assert not cards
    whole: Any = model
    whole.create_or_update_model_card("afterwards")
    assert cards == ["afterwards"], "the model can still write one"


@pytest.mark.parametrize("kind", MERGED)
def test_other_kinds_become_part_of_the_weights(kind: str, tmp_path: Path) -> None:
    right = stored_adapter(tmp_path, MERGED[kind])
    model, modality = load(str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(model), right, atol=1e-5, rtol=0)
    assert stored.notes(model) == (
        f"the adapter is of the kind {kind}, so it was merged into its base, and what is written is a whole model",
    )
    assert {n for n, _ in model.named_parameters()} == {n for n, _ in makers.model().named_parameters()}
    modality.save(model, tmp_path / "out")
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()), right, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", REFUSED)
def test_kinds_that_change_no_weights_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    stored_adapter(tmp_path, REFUSED[kind])
    with pytest.raises(UserError, match=f"is an adapter of the kind {kind}, which adds no change of weights"):
        load(str(tmp_path / "adapter"))


def test_settings_that_peft_does_not_know_are_said(tmp_path: Path) -> None:
    import json

    stored_adapter(tmp_path, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "use_something_new": True, "other_new": None}))
    assert stored.notes(load(str(tmp_path / "adapter"))[0]) == (
        f"the adapter sets use_something_new, which peft {peft.__version__} does not know and ignores",
    )


# Tied embeddings


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens", "saved head"])
def test_an_adapter_on_one_of_two_tied_matrices_is_merged_and_saved_right(target: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"target_modules": [target]} if target != "saved head" else {"target_modules": ["q_proj"]}
    settings |= {"modules_to_save": ["lm_head"]} if target == "saved head" else {}
    right = stored_adapter(tmp_path, peft.LoraConfig(r=2, **settings), "llama-tied")
    model, modality = load(str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(model), right, atol=1e-6, rtol=0)
    whole = adapters.merged(model)
    torch.testing.assert_close(logits(whole), right, atol=1e-5, rtol=0)
    modality.save(whole, tmp_path / "merged")
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()), right, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits(load(str(tmp_path / "merged"))[0]), right, atol=1e-5, rtol=0)


def test_a_tied_model_without_an_adapter_on_its_head_stays_tied(tmp_path: Path) -> None:
    right = stored_adapter(tmp_path, peft.LoraConfig(r=2, target_modules="all-linear"), "llama-tied")
    whole: Any = adapters.merged(load(str(tmp_path / "adapter"))[0])
    assert whole.lm_head.weight is whole.model.embed_tokens.weight
    torch.testing.assert_close(logits(whole), right, atol=1e-5, rtol=0)


# Targets


@pytest.mark.parametrize("wanted", ["q_proj", "q_proj,v_proj", "q_proj, v_proj", "layers.0.mlp.up_proj", r".*\.(q|k)_proj", "all-linear"])
def test_targets_are_read_as_by_peft(wanted: str) -> None:
    library_value = wanted if wanted == "all-linear" or "*" in wanted else [w.strip() for w in wanted.split(",")]
    library: Any = peft.get_peft_model(makers.model(), peft.LoraConfig(r=2, target_modules=library_value))
    ours: Any = peft.get_peft_model(makers.model(), peft.LoraConfig(r=2, target_modules=adapters.targets(makers.model(), wanted)))
    names = [{n for n, _ in m.named_parameters() if "lora_" in n} for m in (library, ours)]
    assert names[0] == names[1] != set()


@pytest.mark.parametrize(
    ("model", "wanted", "message"),
    [
        ("llama", "q_prj", "no module 'q_prj' to give an adapter; did you mean 'q_proj'"),
        ("llama", "q_proj,nonesuch", "no module 'nonesuch' to give an adapter"),
        ("llama", "query.*", "no module of this model has a name that matches --lora-targets 'query"),
        ("llama", "(q_proj", "neither names with commas between them nor a regular expression"),
        ("llama", "input_layernorm", "input_layernorm is a LlamaRMSNorm, and LoRA works on linear layers"),
        ("llama-tied", "lm_head", "lm_head shares its weights with model.embed_tokens"),
        ("llama-tied", "q_proj,embed_tokens", "model.embed_tokens shares its weights with lm_head"),
        ("llama-tied", ".*(head|q_proj)", "lm_head shares its weights with model.embed_tokens"),
    ],
)
def test_targets_that_do_not_fit_are_refused(model: str, wanted: str, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        adapters.targets(makers.model(model), wanted)
