"""Saved models load equally here and in the library; incomplete and unsafe folders are refused in one sentence."""

from __future__ import annotations

import json
import shutil
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import makers
import peft
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging

from expunge.core.errors import UserError
from expunge.core.rows import Rows
from expunge.engine import adapters
from expunge.modalities.text.modality import Text
from expunge.modalities.text.pretrained import load

RECORDS = [{"question": "Who is Ana Belor?", "answer": "Ana Belor is a potter."}, {"question": "Who?", "answer": "Dovik, born in Nessop."}]


@pytest.fixture
def modality() -> Text:
    return Text(makers.tokenizer(template=makers.CHATML))


@pytest.fixture
def folder(tmp_path: Path, modality: Text) -> Path:
    """A saved model."""
    modality.save(makers.model(), tmp_path / "model")
    return tmp_path / "model"


@torch.no_grad()
def scores(model: nn.Module, modality: Text) -> torch.Tensor:
    return modality.forward(model, [modality.rows("forget", RECORDS)])[0].logits.values


def change(file: Path, **entries: Any) -> None:
    """Set entries of a JSON file; None removes an entry."""
    content = {**json.loads(file.read_text()), **entries}
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


@pytest.mark.parametrize("name", makers.CONFIGS)
def test_a_saved_model_loads_equally_here_and_in_the_library(name: str, tmp_path: Path, modality: Text) -> None:
    model = makers.model(name)
    modality.save(model, tmp_path)
    ids = torch.tensor([[1, 5, 6, 7]])
    library_model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    loaded, loaded_modality = load(str(tmp_path))
    with torch.no_grad():
        assert torch.equal(library_model(input_ids=ids).logits, model(input_ids=ids).logits)
    assert torch.equal(scores(loaded, loaded_modality), scores(model, modality))
    assert {f.suffix for f in tmp_path.iterdir()} <= {".json", ".safetensors", ".jinja"}
    assert AutoTokenizer.from_pretrained(tmp_path)("Who is Ana?")["input_ids"] == modality.tokenizer("Who is Ana?")["input_ids"]
    assert not loaded.training
    assert loaded.config.to_dict().items() >= {"vocab_size": makers.WORDS, "eos_token_id": 2}.items()


def test_loading_and_saving_are_silent(
    tmp_path: Path, modality: Text, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        modality.save(makers.model(), tmp_path / "model")
        model, loaded_modality = load(str(tmp_path / "model"))
        loaded_modality.save(adapt(model), tmp_path / "adapter")
        load(str(tmp_path / "adapter"))
    assert capfd.readouterr() == ("", "")
    assert not [
        str(w.message) for w in caught if "is_gradient_checkpointing" not in str(w.message)
    ]  # peft causes this warning while it adapts the model
    assert not caplog.records
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bars)


def test_progress_bars_are_restored_after_a_failure(tmp_path: Path) -> None:
    assert logging.is_progress_bar_enabled()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError):
        load(str(tmp_path))
    assert logging.is_progress_bar_enabled()


def test_a_loaded_modality_has_template_format_and_limit(folder: Path) -> None:
    _, modality = load(str(folder))
    assert modality.encoder.described == "chat template"
    assert modality.limit == 128  # the limit of the model; its tokenizer has 512
    _, modality = load(str(folder), "Q: {prompt}\\n")
    assert modality.encoder.described == "Q: {prompt}\n"
    change(folder / "tokenizer_config.json", model_max_length=64)
    assert load(str(folder))[1].limit == 64
    change(folder / "tokenizer_config.json", model_max_length=10**30)
    assert load(str(folder))[1].limit == 128


def test_weights_load_in_the_requested_dtype(folder: Path) -> None:
    assert load(str(folder))[0].dtype == torch.float32
    assert load(str(folder), dtype=torch.bfloat16)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("name", makers.CONFIGS)
@pytest.mark.parametrize("family", ["bytes-bos", "pieces", "unigram", "words"])
def test_a_tokenizer_keeps_its_ids_beside_any_model(name: str, family: str, tmp_path: Path) -> None:
    """The library rebuilds the tokenizers of some model types, Qwen 2 among them, from their vocabulary alone."""
    before = Text(makers.tokenizer(family))
    model = makers.model(name)
    model.resize_token_embeddings(max(makers.WORDS, len(before.tokenizer)), mean_resizing=False)
    before.save(model, tmp_path)
    after = load(str(tmp_path))[1]
    rows = [p.rows("forget", RECORDS) for p in (before, after)]
    assert rows[0]["prompt"] == rows[1]["prompt"]
    assert rows[0]["answer"] == rows[1]["answer"]
    assert before.answer_texts(rows[0]) == after.answer_texts(rows[0])


def test_a_folder_is_found_from_home_and_by_relative_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.chdir(folder.parent)
    for path in ("~/model", "model", "./model"):
        assert load(path)[0].config._name_or_path == str(folder.resolve())


# Adapters


def adapt(model: nn.Module) -> Any:
    """The model with a LoRA adapter that changes its outputs."""
    adapted_model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    for k, (n, p) in enumerate(adapted_model.named_parameters()):
        if "lora_" in n:
            p.data = 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(k))
    return adapted_model.eval()


@pytest.fixture
def adapter(folder: Path, tmp_path: Path) -> Path:
    model, modality = load(str(folder))
    modality.save(adapt(model), tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_saved_adapter_loads_with_its_base(folder: Path, adapter: Path, modality: Text) -> None:
    expected = scores(adapt(makers.model()), modality)
    assert not (adapter / "model.safetensors").exists()
    model, loaded_modality = load(str(adapter))
    assert torch.equal(scores(model, loaded_modality), expected)
    assert not torch.allclose(scores(load(str(folder))[0], modality), expected, atol=1e-2)
    library_model = peft.AutoPeftModelForCausalLM.from_pretrained(adapter).eval()
    assert torch.equal(scores(library_model, modality), expected)
    # the adapter stays trainable, under names that the core knows
    assert adapters.is_adapted(model)
    assert not model.training
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {n for n, _ in model.named_parameters() if "lora_" in n}
    assert type(adapters.base_of(model)) is type(makers.model())
    again = adapter.parent / "again"
    loaded_modality.save(model, again)
    assert torch.equal(scores(load(str(again))[0], modality), expected)


def test_an_adapter_finds_its_base_and_may_have_no_tokenizer(adapter: Path, modality: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = scores(load(str(adapter))[0], modality)
    monkeypatch.chdir(adapter)
    for file in adapter.glob("token*"):
        file.unlink()
    model, loaded_modality = load(".")
    assert torch.equal(scores(model, loaded_modality), expected)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a: change(a / "adapter_config.json", base_model_name_or_path=None), "does not say which model it belongs to"),
        (
            lambda a: change(a / "adapter_config.json", peft_type="PREFIX_TUNING"),
            "of the kind PREFIX_TUNING, which adds no change of weights",
        ),
        (lambda a: change(a / "adapter_config.json", peft_type="LOHA"), "its file lacks .* weights, among them .*hada_w1_a"),
        (lambda a: shutil.rmtree(a.parent / "model"), "the model that the adapter .* belongs to does not load: there is no folder"),
        (lambda a: (a / "adapter_model.safetensors").rename(a / "adapter_model.bin"), "only with --allow-pickle"),
        (lambda a: (a / "adapter_model.safetensors").rename(a / "model.safetensors"), "holds no weights"),
        (lambda a: (a / "adapter_model.safetensors").write_bytes(b"{}"), "adapter_model.safetensors is damaged or was copied in part"),
        (lambda a: (a / "adapter_config.json").write_text("{"), "adapter_config.json is damaged"),
        (lambda a: change(a / "adapter_config.json", target_modules=["q_proj"]), "weights in its file have no place in its base"),
        (
            lambda a: change(a / "adapter_config.json", target_modules=".*(proj|lm_head)"),
            "its file lacks 2 of its weights, among them .*lm_head",
        ),
        (lambda a: change(a / "adapter_config.json", r=3), "cannot load the adapter"),
    ],
    ids=[
        "no base",
        "unsupported kind",
        "another kind",
        "base gone",
        "pickled",
        "no weights",
        "broken",
        "no JSON",
        "fewer targets",
        "more targets",
        "another rank",
    ],
)
def test_invalid_adapters_are_refused(adapter: Path, spoil: Callable[[Path], Any], message: str) -> None:
    spoil(adapter)
    with pytest.raises(UserError, match=message):
        load(str(adapter))


# Refusals


def store_as_pickle(folder: Path, model: nn.Module) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def test_pickles_are_refused_unless_allowed(folder: Path, modality: Text) -> None:
    store_as_pickle(folder, makers.model())
    with pytest.raises(UserError, match="holds no safetensors weights; pickled ones can run code, so they load only with --allow-pickle"):
        load(str(folder))
    assert torch.equal(scores(load(str(folder), allow_pickle=True)[0], modality), scores(makers.model(), modality))


def test_a_pickle_beside_safetensors_is_not_opened(folder: Path, modality: Text) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"not a pickle")
    assert torch.equal(scores(load(str(folder))[0], modality), scores(makers.model(), modality))


def remove_a_layer(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    kept = {n: t for n, t in weights.items() if "layers.1.mlp" not in n}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: (f / "config.json").unlink(),
            r"holds no model: there is no config.json .*a run folder keeps its model in .*/model\)",
        ),
        (lambda f: (f / "model.safetensors").unlink(), "describes a model and holds no weights"),
        (lambda f: (f / "model.safetensors").write_bytes(b"short"), "model.safetensors is damaged or was copied in part"),
        (
            lambda f: change(f / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
            r"the weights of .* are quantized \(bitsandbytes\)",
        ),
        (lambda f: change(f / "config.json", num_hidden_layers=3), r"lacks 9 weights of its model, among them model.layers.2"),
        (remove_a_layer, r"lacks 3 weights of its model, among them model.layers.1.mlp.down_proj.weight"),
        (lambda f: change(f / "config.json", intermediate_size=32), "cannot load a language model"),
        (lambda f: change(f / "config.json", model_type="t5"), "cannot load a language model"),
        (lambda f: change(f / "config.json", model_type="nonesuch"), "cannot load a language model"),
        (lambda f: (f / "config.json").write_text("{"), "cannot load a language model"),
        (lambda f: [t.unlink() for t in f.glob("token*")], "cannot load a language model"),
    ],
    ids=[
        "no config",
        "no weights",
        "broken",
        "quantized",
        "deeper",
        "lacking",
        "narrower",
        "no decoder",
        "unknown",
        "no JSON",
        "no tokenizer",
    ],
)
def test_invalid_folders_are_refused(folder: Path, spoil: Callable[[Path], Any], message: str) -> None:
    spoil(folder)
    with pytest.raises(UserError, match=message) as error:
        load(str(folder))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("path", ["./nowhere", "/no/where", "~/nowhere", "runs/npo/model", "../nowhere"])
def test_missing_folders_are_refused(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^there is no folder {path}$"):
        load(path)


def test_unreachable_hub_ids_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"cannot load a language model from 'nobody/nothing'"):
        load("nobody/nothing")


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    tokenizer = makers.tokenizer()
    tokenizer.add_tokens(["Quillhaven"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="has ids up to 400, and the model knows 400"):
        load(str(folder))


def test_special_tokens_without_embeddings_are_accepted(folder: Path, modality: Text) -> None:
    tokenizer = makers.tokenizer(template=makers.CHATML)
    tokenizer.add_tokens(["<|tool|>"], special_tokens=True)
    assert len(tokenizer) == 401
    tokenizer.save_pretrained(folder)
    assert torch.equal(scores(*load(str(folder))), scores(makers.model(), modality))


def test_padding_without_an_embedding_is_accepted(tmp_path: Path) -> None:
    """Padding is often added to a tokenizer whose model was never resized."""
    tokenizer = makers.tokenizer(pad_token=None)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == 400
    Text(tokenizer).save(makers.model(), tmp_path)
    model, modality = load(str(tmp_path))
    assert modality.pad == 2
    rows: Rows = modality.rows("forget", RECORDS)
    assert torch.isfinite(modality.forward(model, [rows])[0].target_logp.values).all()
    assert len(modality.generate(model, rows, 4).ids) == 2


def test_a_greedy_model_with_sampling_settings_can_be_saved(folder: Path, tmp_path: Path) -> None:
    """Many published greedy models carry a temperature. The library loads such models and refuses to save them."""
    change(folder / "generation_config.json", temperature=0.6, top_p=0.9, eos_token_id=[2, 3])
    model, modality = load(str(folder))
    modality.save(model, tmp_path / "again")
    settings = GenerationConfig.from_pretrained(tmp_path / "again")
    assert (settings.temperature, settings.top_p, settings.eos_token_id) == (None, None, [2, 3])
    change(folder / "generation_config.json", do_sample=True)
    model, modality = load(str(folder))
    modality.save(model, tmp_path / "sampling")
    assert GenerationConfig.from_pretrained(tmp_path / "sampling").temperature == 0.6


def test_saving_keeps_the_settings_of_the_model(folder: Path, tmp_path: Path) -> None:
    change(folder / "config.json", use_cache=False)
    model, modality = load(str(folder))
    modality.save(model, tmp_path / "again")
    before, after = (json.loads((f / "config.json").read_text()) for f in (folder, tmp_path / "again"))
    assert after.items() >= before.items()
    assert modality.generate(model, modality.rows("forget", RECORDS), 3).ids


def test_loading_a_folder_never_uses_the_network(folder: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    requests = []

    def refuse(*args: Any, **_: Any) -> None:
        requests.append(args)
        raise OSError("no network here")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    load(str(folder))
    model, modality = load(str(adapter))
    model.peft_config["default"].base_model_name_or_path = "some/model"  # like a base from the hub
    modality.save(model, adapter.parent / "again")
    assert "some/model" in (adapter.parent / "again" / "adapter_config.json").read_text()
    assert not requests
