"""Files of weights: what is missing or damaged is named, and types are kept. Expected values are those of the libraries."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import makers
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from expunge.core.errors import UserError
from expunge.engine import stored
from expunge.modalities.text.modality import Text
from expunge.modalities.text.pretrained import load

INDEX = "model.safetensors.index.json"


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model in several shards."""
    Text(makers.tokenizer()).save(makers.model(), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    makers.model().save_pretrained(tmp_path / "model", max_shard_size="40KB")
    assert len(shards(tmp_path / "model")) >= 4
    return tmp_path / "model"


def index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    file = folder / INDEX
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def without_one(file: Path) -> None:
    tensors = load_file(file)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, file, {"format": "pt"})


def test_shards_load_as_in_the_library(folder: Path) -> None:
    library = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    ours = load(str(folder))[0].state_dict()
    assert library.keys() == ours.keys()
    assert all(torch.equal(library[n], ours[n]) for n in library)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: shards(f)[1].unlink(), r"lacks model-00002-of-0000\d.safetensors: 1 of the \d files"),
        (lambda f: [s.unlink() for s in shards(f)[:2]], r"lacks model-00001-of-\d+.safetensors, model-00002-of-\d+.safetensors: 2 of the"),
        (lambda f: [s.unlink() for s in shards(f)], r"lacks model-00001-of"),
        (lambda f: cut(shards(f)[2]), r"model-00003-of-\d+.safetensors is damaged or was copied in part"),
        (lambda f: without_one(shards(f)[0]), r"model-00001-of-\d+.safetensors lacks 1 weights that .* promises in it, among them"),
        (lambda f: (f / INDEX).unlink(), rf"holds \d of the \d shards of a model and no {INDEX}"),
        (lambda f: (f / INDEX).write_text('{"weight_map": {'), f"{INDEX} is damaged"),
        (lambda f: index(f, lambda i: i["metadata"]), f"{INDEX} is damaged"),
        (lambda f: index(f, lambda i: {"weight_map": [1]}), f"{INDEX} is damaged"),
        (lambda f: index(f, lambda i: {"weight_map": {}}), "should name files beside it, and it names none"),
        (lambda f: index(f, lambda i: {"weight_map": {"w": "../other.safetensors"}}), "should name files beside it"),
        (
            lambda f: [s.rename(f / f"part{k}.safetensors") for k, s in enumerate(shards(f))] + [(f / INDEX).unlink()],
            "holds part0.safetensors",
        ),
    ],
)
def test_what_is_wrong_with_shards_is_said_by_name(folder: Path, spoil: Callable[[Path], Any], message: str) -> None:
    spoil(folder)
    with pytest.raises(UserError, match=message) as error:
        load(str(folder))
    assert "pickle" not in str(error.value)


# Types


def types(folder: Path, name: str = "*.safetensors") -> dict[str, torch.dtype]:
    return {n: t.dtype for file in folder.glob(name) for n, t in load_file(file).items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_types_of_the_files_come_out_again(dtype: torch.dtype, tmp_path: Path) -> None:
    makers.model().to(dtype).save_pretrained(tmp_path / "in")
    makers.tokenizer().save_pretrained(tmp_path / "in")
    model, modality = load(str(tmp_path / "in"))
    assert model.dtype == torch.float32  # what is computed
    modality.save(model, tmp_path / "out")
    assert types(tmp_path / "out") == types(tmp_path / "in")
    library = [AutoModelForCausalLM.from_pretrained(tmp_path / n).state_dict() for n in ("in", "out")]
    assert all(torch.equal(t, library[1][n]) and t.dtype == library[1][n].dtype for n, t in library[0].items())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    as_float32, _ = load(str(tmp_path / "in"), dtype=torch.float32)
    modality.save(as_float32, tmp_path / "asked")
    assert set(types(tmp_path / "asked").values()) == {torch.float32}


def test_mixed_types_are_kept_by_tensor_and_in_shards(tmp_path: Path) -> None:
    makers.model().to(torch.bfloat16).save_pretrained(tmp_path / "in", max_shard_size="20KB")
    makers.tokenizer().save_pretrained(tmp_path / "in")
    for file in (tmp_path / "in").glob("model-*"):
        save_file({n: t.float() if "norm" in n else t for n, t in load_file(file).items()}, file, {"format": "pt"})
    model, modality = load(str(tmp_path / "in"))
    modality.save(model, tmp_path / "out")
    assert types(tmp_path / "out") == types(tmp_path / "in")
    assert set(types(tmp_path / "out").values()) == {torch.bfloat16, torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_an_adapter_keeps_its_type_whatever_the_base_has(dtype: torch.dtype, tmp_path: Path) -> None:
    makers.model().to(torch.bfloat16).save_pretrained(tmp_path / "base")
    makers.tokenizer().save_pretrained(tmp_path / "base")
    adapted = makers.adapted()
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.to(dtype).save_pretrained(tmp_path / "in")
    model, modality = load(str(tmp_path / "in"))
    modality.save(model, tmp_path / "out")
    assert set(types(tmp_path / "out").values()) == {dtype}
    assert types(tmp_path / "out") == types(tmp_path / "in")
    for dtype in (torch.float32, torch.bfloat16):
        load(str(tmp_path / "in"))[1].save(load(str(tmp_path / "in"), dtype=dtype)[0], tmp_path / "asked")
        assert set(types(tmp_path / "asked").values()) == {dtype}
    library: Any = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")
    assert all(torch.equal(t, dict(model.named_parameters())[n].to(t.dtype)) for n, t in library.named_parameters())


def test_a_new_adapter_is_written_as_peft_writes_it(tmp_path: Path) -> None:
    makers.model().to(torch.bfloat16).save_pretrained(tmp_path / "base")
    makers.tokenizer().save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model, modality = load(str(tmp_path / "base"))
    adapted: Any = peft.get_peft_model(model, config)  # type: ignore[arg-type]
    assert stored.round_as_stored(adapted) == ""
    modality.save(adapted, tmp_path / "ours")
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), config).save_pretrained(tmp_path / "library")
    assert types(tmp_path / "ours") == types(tmp_path / "library")


def test_rounding_is_counted_and_the_model_is_what_is_written(tmp_path: Path) -> None:
    makers.model().to(torch.bfloat16).save_pretrained(tmp_path / "in")
    makers.tokenizer().save_pretrained(tmp_path / "in")
    model, modality = load(str(tmp_path / "in"))
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    with torch.no_grad():
        model.lm_head.weight.add_(1e-5)  # type: ignore[union-attr, operator]
        model.model.norm.weight.add_(0.5)  # type: ignore[union-attr, operator]
    moved = {n: p.detach().clone() for n, p in model.named_parameters()}
    changed = sum(int((moved[n] != start[n]).sum()) for n in moved)
    lost = sum(int(((moved[n] != start[n]) & (moved[n].bfloat16().float() == start[n])).sum()) for n in moved)
    sentence = stored.round_as_stored(model)
    assert 0 < lost < changed
    assert f"rounding took back {lost:,} of {changed:,} changed values" in sentence
    assert "--dtype float32" in sentence
    modality.save(model, tmp_path / "out")
    again = dict(load(str(tmp_path / "out"))[0].named_parameters())
    assert all(torch.equal(p, again[n]) and torch.equal(p, moved[n].bfloat16().float()) for n, p in model.named_parameters())


def test_values_that_half_precision_cannot_hold_stay_float32(tmp_path: Path) -> None:
    makers.model().half().save_pretrained(tmp_path / "in")
    makers.tokenizer().save_pretrained(tmp_path / "in")
    model, modality = load(str(tmp_path / "in"))
    head: nn.Linear = model.lm_head  # type: ignore[assignment]
    with torch.no_grad():
        head.weight[0, 0] = 1e6
    assert "1 tensors stay float32, because their values do not fit, among them lm_head.weight" in stored.round_as_stored(model)
    modality.save(model, tmp_path / "out")
    assert [n for n, d in types(tmp_path / "out").items() if d == torch.float32] == ["lm_head.weight"]
    assert float(load_file(tmp_path / "out" / "model.safetensors")["lm_head.weight"][0, 0]) == 1e6
    assert float(load(str(tmp_path / "out"))[0].state_dict()["lm_head.weight"][0, 0]) == 1e6


def test_an_old_or_wrong_dtype_in_the_configuration_changes_nothing(tmp_path: Path) -> None:
    makers.model().to(torch.bfloat16).save_pretrained(tmp_path / "in")
    makers.tokenizer().save_pretrained(tmp_path / "in")
    for name, entries in {
        "old": {"torch_dtype": "bfloat16", "dtype": None},
        "wrong": {"dtype": "float32"},
        "none": {"dtype": None},
    }.items():
        shutil.copytree(tmp_path / "in", tmp_path / name)
        file = tmp_path / name / "config.json"
        config = {**json.loads(file.read_text()), **entries}
        file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        model, modality = load(str(tmp_path / name))
        modality.save(model, tmp_path / name / "out")
        assert set(types(tmp_path / name / "out").values()) == {torch.bfloat16}
