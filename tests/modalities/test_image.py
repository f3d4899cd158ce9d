"""The modality of image classifiers: records to tensors, forwards, files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from torch import nn

import expunge
import worlds
from expunge.core.errors import UserError
from expunge.core.plan import Plan, Train
from expunge.engine import loop
from expunge.io.models import load
from expunge.methods.terms import Ascent
from expunge.modalities.common.labels import classes
from expunge.modalities.image.modality import Image
from expunge.modalities.image.models import vision

PORT = Image(("cat", "dog", "owl"))
GRAY = np.arange(16, dtype=np.uint8).reshape(4, 4)


def png(array: Any) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def tensor_of(picture: Any, label: Any = 0, modality: Image = PORT) -> torch.Tensor:
    return modality.rows("forget", [{"image": picture, "label": label}])["pixels"][0]


def test_all_kinds_of_pictures_give_the_same_tensor(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(GRAY))
    kinds = [GRAY, GRAY[None], GRAY[..., None], str(tmp_path / "a.png"), png(GRAY), {"bytes": png(GRAY), "path": None}]
    for picture in [*kinds, Pillow.fromarray(GRAY)]:
        assert torch.equal(tensor_of(picture), torch.from_numpy(GRAY)[None])
    for integers in (GRAY.astype(np.int64), GRAY.tolist()):
        assert torch.equal(tensor_of(integers), torch.from_numpy(GRAY)[None])
    rgb = np.stack([GRAY, GRAY + 1, GRAY + 2])
    assert torch.equal(tensor_of(rgb.transpose(1, 2, 0)), tensor_of(rgb))
    assert torch.equal(tensor_of(GRAY / 15), torch.from_numpy(17 * GRAY)[None])  # fractions that are whole bytes
    assert tensor_of(GRAY / 16).dtype == torch.float32


def test_classes_are_given_by_number_or_name() -> None:
    rows = PORT.rows("forget", [{"img": GRAY, "y": v} for v in ("dog", 1, "1", [1])])
    assert rows["answer"] == [[1]] * 4
    assert PORT.answer_texts(rows) == ["dog"] * 4
    assert len({i.split("#")[0] for i in rows.ids}) == 1
    assert PORT.relabel(rows, ["owl", 0, "cat", "dog"], "other")["answer"] == [[2], [0], [0], [1]]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"image": GRAY, "label": "dgo"}, "the model has no class of this name; it has 3, 'cat' first"),
        ({"image": GRAY, "label": 3}, "the model has no class of this number"),
        ({"image": GRAY, "label": -1}, "the model has no class of this number"),
        ({"image": GRAY}, "no class; it stands in a column"),
        ({"label": 1}, "no image; it stands in a column"),
        ({"image": "nowhere.png", "label": 1}, "there is no image file nowhere.png"),
        ({"image": b"no picture", "label": 1}, "not an image that can be read"),
        ({"image": np.zeros((2, 2, 2, 2)), "label": 1}, "neither (height, width)"),
        ({"image": np.full((4, 4), np.nan), "label": 1}, "values that are not finite"),
        ({"image": np.arange(249, 265).reshape(4, 4), "label": 1}, "whole numbers from 249 to 264, and they go from 0 to 255"),
        ({"image": GRAY[:2], "label": 1}, "a model with an image processor brings them to one size"),
    ],
)
def test_errors_name_the_row(record: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        PORT.rows("forget", [{"image": GRAY, "label": 0}, record], "a.npz")
    assert str(error.value).startswith("a.npz, row 2: ")
    assert message in str(error.value)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(UserError, match=r"row 2: an image of shape \(1, 2, 2\), and the first has \(1, 4, 4\)"):
        PORT.rows("forget", [{"image": GRAY, "label": 0}, {"image": GRAY[:2, :2], "label": 0}])


def test_other_columns_are_kept() -> None:
    rows = PORT.rows("forget", [{"image": GRAY, "label": 0, "identity": 7}, {"image": GRAY, "label": 1}])
    assert rows["identity"] == [7, None]


def test_values_are_scaled_and_normalized() -> None:
    modality = Image(("a", "b"), mean=(0.5,), std=(0.25,))
    rows = modality.rows("forget", [{"image": np.array([[0, 255]], np.uint8), "label": 0}])
    assert modality.pixels(rows, torch.zeros(())).flatten().tolist() == [-2.0, 2.0]
    floats = modality.rows("forget", [{"image": np.array([[0.0, 1.0]]), "label": 0}])
    assert modality.pixels(floats, torch.zeros((), dtype=torch.float64)).dtype == torch.float64
    assert modality.pixels(floats, torch.zeros(())).flatten().tolist() == [-2.0, 2.0]


def test_moved_images_are_read_in_either_unit() -> None:
    modality, like = Image(("a", "b"), mean=(0.5,), std=(0.25,)), torch.zeros(())
    rows = modality.rows("forget", [{"image": np.array([[0, 51]], np.uint8), "label": 0}])
    assert modality.inputs(rows).flatten().tolist() == pytest.approx([0, 0.2])
    x = torch.tensor([[[[0.5, 1.0]]]])
    assert modality.pixels(modality.moved(rows, x), like).flatten().tolist() == [0.0, 2.0]
    assert modality.pixels(modality.moved(rows, x, normalized=True), like).flatten().tolist() == [0.5, 1.0]
    assert modality.inputs(modality.moved(rows, x, normalized=True)).flatten().tolist() == [0.625, 0.75]
    both = modality.moved(rows, x).concat(rows)  # floats beside bytes
    assert modality.inputs(both).flatten().tolist() == pytest.approx([0.5, 1.0, 0, 0.2])


def test_outputs_equal_those_of_the_model(digits: worlds.World) -> None:
    model, rows = digits.model(), digits.sets["forget"].select(range(5))
    others = digits.sets["retain"].select(range(3))
    first, second = digits.modality.forward(model, [rows, others], hook_points=("vit.layers.1", digits.modality.head(model)))
    x = torch.stack(list(rows["pixels"]))
    with torch.no_grad():
        logits = model(pixel_values=x).logits
        hidden = model.vit(pixel_values=x).last_hidden_state[:, 0]
    assert torch.allclose(first.logits.values, logits, atol=1e-5)
    assert torch.allclose(first.target_logp.values, logits.log_softmax(-1)[torch.arange(5), 3], atol=1e-5)
    assert first.labels.tolist() == [3] * 5
    assert len(second.labels) == 3
    assert torch.allclose(first.input("classifier").values, hidden, atol=1e-5)
    assert first.hidden("vit.layers.1").values.shape == (5, 32)


def test_a_batch_normed_model_is_not_independent_in_training() -> None:
    model = vision.build("resnet-nano", (1, 8, 8), ("a", "b"))
    assert PORT.independent(model)
    assert not PORT.independent(model.train())


def test_fresh_weights_follow_the_seed_for_any_module() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    weights = [PORT.fresh(model, s) for s in (0, 0, 1)]
    assert torch.equal(weights[0]["1.weight"], weights[1]["1.weight"])
    assert not torch.equal(weights[0]["1.weight"], weights[2]["1.weight"])
    model.register_parameter("odd", nn.Parameter(torch.ones(1)))
    with pytest.raises(UserError, match="does not say how 'odd' begins"):
        PORT.fresh(model, 0)


@pytest.mark.parametrize("size", ["resnet-nano", "vit-nano"])
def test_a_saved_model_loads_with_its_classes(size: str, tmp_path: Path) -> None:
    from transformers import AutoModelForImageClassification

    model = vision.build(size, (1, 8, 8), PORT.labels)
    PORT.save(model, tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert loaded.modality.name == "image"
    assert loaded.modality.label("owl") == 2
    library_model = AutoModelForImageClassification.from_pretrained(tmp_path / "m")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), library_model.state_dict().values(), strict=True))


def test_an_image_processor_resizes_and_is_saved(tmp_path: Path) -> None:
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    model = vision.build("vit-nano", (3, 8, 8), PORT.labels)
    model.save_pretrained(tmp_path / "m")
    ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(tmp_path / "m")
    opened = load(tmp_path / "m")
    rows = opened.modality.rows("forget", [{"image": Pillow.fromarray(np.zeros((20, 30), np.uint8)), "label": "cat"}])
    assert rows["pixels"][0].shape == (3, 8, 8)
    like = next(opened.model.parameters())
    assert opened.modality.pixels(rows, like).unique().tolist() == [-2.0]
    opened.modality.save(opened.model, tmp_path / "again")
    assert load(tmp_path / "again").modality.std == (0.25,) * 3


def test_a_prompt_format_is_refused(tmp_path: Path) -> None:
    PORT.save(vision.build("vit-nano", (1, 8, 8), PORT.labels), tmp_path / "m")
    with pytest.raises(UserError, match="has no prompts"):
        load(tmp_path / "m", "{prompt}")


def test_a_method_that_generates_text_is_refused(digits: worlds.World) -> None:
    with pytest.raises(UserError, match="answers in the model's own words, which the modality 'image' does not have"):
        loop.run(expunge.plan("altpo"), digits.model(), digits.modality, digits.sets)


def test_a_plain_module_can_unlearn(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    opened = expunge.classifier(model, ["cat", "dog", "owl"])
    forget = [{"image": np.full((4, 4), v, np.float32), "label": "dog"} for v in (0.1, 0.2, 0.3)]
    rows = opened.modality.rows("forget", forget)
    before = worlds.nll(model, opened.modality, rows)
    done = expunge.unlearn(Plan(Ascent(), train=Train(epochs=3, lr=0.01)), opened, forget=forget, out=tmp_path / "run")
    assert worlds.nll(done.model, opened.modality, rows) > before
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_class_names_are_read_from_records() -> None:
    assert classes([{"y": 2}, {"y": 0}]) == ("0", "1", "2")
    assert classes([{"label": "b"}, {"label": "a"}]) == ("a", "b")
