"""Everything that changes an answer changes the identity, and nothing else does. Answers are the library's own logits."""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import makers
import numpy as np
import peft
import pytest
import torch
from torch import nn

from expunge.engine import identity
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.evaluation.observe import observe
from expunge.modalities.text.modality import Text
from expunge.modalities.text.pretrained import load

RECORDS = [{"question": "Who is Ana Belor?", "answer": "Ana Belor is a potter."}]
WANTS = ObservationSpec(moments=False, gradient_norms=False, features=False)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, and an adapter of it."""
    root = tmp_path_factory.mktemp("identity")
    modality = Text(makers.tokenizer(template=makers.CHATML))
    modality.save(makers.model(), root / "model")
    model = makers.adapted()
    model.peft_config["default"].base_model_name_or_path = str(root / "model")
    modality.save(model, root / "adapter")
    return root


def edit(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(makers.BLANK)


def shorter(folder: Path) -> None:
    config = json.loads((folder / "tokenizer.json").read_text())
    config["model"]["merges"] = config["model"]["merges"][:-30]
    (folder / "tokenizer.json").write_text(json.dumps(config))


CHANGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "lora_alpha": ("adapter", lambda f: edit(f / "adapter_config.json", lora_alpha=2)),
    "use_rslora": ("adapter", lambda f: edit(f / "adapter_config.json", use_rslora=True)),
    "rope": ("model", lambda f: edit(f / "config.json", rope_parameters={"rope_type": "default", "rope_theta": 100.0})),
    "epsilon": ("model", lambda f: edit(f / "config.json", rms_norm_eps=0.5)),
    "activation": ("model", lambda f: edit(f / "config.json", hidden_act="gelu")),
    "end of answers": ("model", lambda f: edit(f / "generation_config.json", eos_token_id=[2, 3])),
    "template": ("adapter", template),
    "merges": ("adapter", shorter),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_file_is_never_answered_from_the_cache(name: str, saved: Path, tmp_path: Path) -> None:
    """An audit, a change of one file, and the same audit again: the second answers are those of an audit without a cache."""
    shutil.copytree(saved, tmp_path / "case")
    folder, (part, change) = tmp_path / "case", CHANGES[name]
    edit(folder / "adapter" / "adapter_config.json", base_model_name_or_path=str(folder / "model"))

    def look(cache: Path | None) -> Any:
        return observe(*load(str(folder / "adapter")), {"forget": RECORDS}, wants=WANTS, cache=cache)

    first = look(tmp_path / "cache")
    assert look(tmp_path / "cache").about["seconds"] == first.about["seconds"]  # unchanged: from the cache
    change(folder / part)
    again, right = look(tmp_path / "cache"), look(None)
    assert again.about["key"] != first.about["key"]
    values = [o.sets["forget"].kinds["answer"].target_logp for o in (first, again, right)]
    assert np.array_equal(values[1], values[2])
    if name != "end of answers":
        assert values[0].shape != values[1].shape or not np.allclose(values[0], values[1], atol=1e-4)


def test_where_a_model_lies_and_how_it_came_in_change_nothing(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "model", tmp_path / "elsewhere")
    by_path = [load(str(f)) for f in (saved / "model", tmp_path / "elsewhere")]
    assert identity.of_model(by_path[0][0]) == identity.of_model(by_path[1][0])
    assert by_path[0][1].about() == by_path[1][1].about()
    library: Any = peft.AutoPeftModelForCausalLM.from_pretrained(saved / "adapter", is_trainable=True).eval()
    assert identity.of_model(load(str(saved / "adapter"))[0]) == identity.of_model(library)
    training = copy.deepcopy(library).train()
    assert identity.of_model(training.eval()) == identity.of_model(library)


class Scaled(nn.Module):
    """A module of the user's own, with a factor that is no weight and a buffer that is not saved."""

    def __init__(self, factor: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.linear, self.factor = nn.Linear(2, 2), factor
        self.register_buffer("shift", torch.tensor(shift), persistent=False)
        nn.init.ones_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)


def test_factors_and_unsaved_buffers_of_own_modules_count() -> None:
    ids = [identity.of_model(m) for m in (Scaled(), Scaled(), Scaled(2.0), Scaled(shift=1.0))]
    assert ids[0] == ids[1]
    assert len({i["weights"] for i in ids}) == 1
    assert len({i["modules"] for i in ids}) == 3


def test_changed_code_of_an_own_module_is_another_model(tmp_path: Path) -> None:
    ids = []
    for factor in (1, 2):
        file = tmp_path / str(factor) / "own.py"
        file.parent.mkdir()
        file.write_text(f"import torch\n\nclass Own(torch.nn.Module):\n    def forward(self, x):\n        return {factor} * x\n")
        spec = importlib.util.spec_from_file_location("own_module", file)
        assert spec is not None
        assert spec.loader is not None
        sys.modules["own_module"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        ids.append(identity.of_model(module.Own()))
    del sys.modules["own_module"]
    assert ids[0] | {"code": ""} == ids[1] | {"code": ""}
    assert ids[0]["code"] != ids[1]["code"]


def test_an_adapter_that_is_switched_off_or_scaled_is_another_model() -> None:
    model = makers.adapted()
    before = identity.of_model(model)
    for module in model.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.scaling["default"] *= 2
    scaled = identity.of_model(model)
    model.base_model.disable_adapter_layers()
    assert len({m["modules"] for m in (before, scaled, identity.of_model(model))}) == 3


def test_rows_are_told_apart_by_every_column_and_weight() -> None:
    rows = Text(makers.tokenizer()).rows("forget", RECORDS)
    variants = [rows, rows.add(alternate=["No."]), rows.add(alternate=["Yes."]), rows.rename("retain"), rows.add(x=[torch.tensor([1.0])])]
    variants += [rows.add(x=[torch.tensor([[1.0]])]), rows.add(x=[torch.arange(5000) + k for k in (0,)])]
    assert len({identity.of_rows(r) for r in variants}) == len(variants)
    long = [rows.add(x=[torch.arange(5000).index_fill(0, torch.tensor([2500]), k)]) for k in (1, 2)]
    assert identity.of_rows(long[0]) != identity.of_rows(long[1])


def test_files_are_told_apart_by_name_and_content(tmp_path: Path) -> None:
    digests = []
    for name, text in (("a", "x"), ("a", "y"), ("b", "x")):
        folder = tmp_path / f"{name}{text}"
        folder.mkdir()
        (folder / name).write_text(text)
        digests.append(identity.of_files(folder))
    assert len(set(digests)) == 3
    assert identity.of_files(tmp_path / "none") == identity.of_files("") == ""
