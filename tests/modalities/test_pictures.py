"""One picture gives the model one input, whichever way it comes, and that input is what the model's own image processor makes of it."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pytest
import torch
import transformers
from PIL import Image as Pillow
from PIL import ImageOps
from pyarrow import parquet
from torch import nn

import expunge
from expunge.core.errors import UserError
from expunge.io import models
from expunge.modalities.image import decode
from expunge.modalities.image.modality import Image
from expunge.modalities.image.models import vision

RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)
GRAY = np.arange(256, dtype=np.uint8).reshape(16, 16)
LIKE = torch.zeros(())
SMALL = {"height": 12, "width": 16}

PROCESSORS: list[tuple[str, dict[str, Any]]] = [
    ("ViT", {}),
    ("ViT", {"size": SMALL, "resample": 0, "do_normalize": False}),
    ("ViT", {"do_rescale": False, "do_resize": False}),
    ("ViT", {"do_rescale": False, "do_normalize": False, "size": SMALL}),
    ("ViT", {"rescale_factor": 1 / 127.5, "size": SMALL}),
    ("ConvNext", {"size": {"shortest_edge": 32}}),
    ("ConvNext", {"size": {"shortest_edge": 400}}),
    ("CLIP", {"size": {"shortest_edge": 16}, "crop_size": SMALL}),
    ("Siglip", {"size": SMALL, "image_std": [0.1, 0.2, 0.3]}),
    ("DeiT", {"resample": 2}),
    ("Beit", {"size": SMALL, "do_center_crop": True, "crop_size": {"height": 50, "width": 50}}),
    ("MobileNetV1", {}),
    ("MobileNetV2", {"do_center_crop": False, "size": {"shortest_edge": 10}}),
    ("MobileViT", {}),
    ("EfficientNet", {"rescale_factor": 1 / 127.5, "rescale_offset": True, "size": SMALL}),
    ("EfficientNet", {"include_top": False, "size": SMALL}),
    ("Bit", {"size": {"shortest_edge": 16}, "crop_size": SMALL}),
    ("Levit", {"size": {"shortest_edge": 16}, "crop_size": SMALL}),
]


def fed(picture: Any, modality: Image) -> torch.Tensor:
    return modality.pixels(modality.rows("forget", [{"image": picture, "label": 0}]), LIKE)


def saved(picture: Any, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("family", "options"), PROCESSORS, ids=lambda v: v if isinstance(v, str) else ",".join(v) or "defaults")
def test_the_model_gets_what_its_processor_returns(family: str, options: dict[str, Any]) -> None:
    processor = getattr(transformers, f"{family}ImageProcessorPil")(**options)
    modality, picture = Image(("a", "b"), processor=processor), Pillow.fromarray(COLORS)
    expected = torch.tensor(processor(picture, return_tensors="np")["pixel_values"]).float()
    for same in (picture, COLORS, COLORS / 255, COLORS.astype(np.float32), COLORS.transpose(2, 0, 1), saved(picture)):
        torch.testing.assert_close(fed(same, modality), expected, rtol=1e-5, atol=2e-6 * float(expected.abs().max()))


def test_fractions_between_bytes_are_processed_exactly_or_refused() -> None:
    fractions = RNG.random((3, 20, 30)).astype(np.float32)
    keep = transformers.ViTImageProcessorPil(do_resize=False)
    expected = keep(fractions * 255, return_tensors="np", input_data_format="channels_first")["pixel_values"]
    torch.testing.assert_close(fed(fractions, Image(("a",), processor=keep)), torch.tensor(expected), rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="round it to 8 bits"):
        fed(fractions, Image(("a",), processor=transformers.ViTImageProcessorPil(size=SMALL)))


def test_a_processor_of_further_inputs_is_refused() -> None:
    with pytest.raises(UserError, match="Siglip2ImageProcessorPil returns pixel_attention_mask, spatial_shapes"):
        Image(("a",), processor=transformers.Siglip2ImageProcessorPil())


def test_a_gray_picture_stays_gray_for_a_model_of_one_channel(tmp_path: Path) -> None:
    vision.build("resnet-nano", (1, 8, 8), ("a", "b")).save_pretrained(tmp_path)
    processor = transformers.ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.25])
    processor.save_pretrained(tmp_path)
    opened = models.load(tmp_path)
    picture = Pillow.fromarray(GRAY)
    expected = torch.tensor(processor(picture, return_tensors="np")["pixel_values"])
    for same in (picture, picture.convert("RGB"), picture.convert("LA"), saved(picture)):
        assert torch.equal(fed(same, opened.modality), expected)
    with pytest.raises(UserError, match=r"row 1: .*does not take an image of shape \(3, 20, 30\)"):
        fed(COLORS, opened.modality)


MODES = ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "I", "F", "RGB", "HSV"]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_equals_the_conversion_of_the_library(mode: str) -> None:
    picture = Pillow.fromarray(COLORS).convert("P").convert("PA") if mode == "PA" else Pillow.fromarray(COLORS).convert(mode)
    expected = np.asarray(picture.convert("L").convert("RGB") if mode in ("I", "F") else picture.convert("RGB")).transpose(2, 0, 1)
    if mode == "F":  # fractions of bytes
        picture = Pillow.fromarray(np.asarray(Pillow.fromarray(COLORS).convert("L"), np.float32))
        expected = np.repeat(np.asarray(Pillow.fromarray(COLORS).convert("L"))[None], 3, 0)
    modality = Image(("a",), channels=3)
    assert np.array_equal((fed(picture, modality)[0] * 255).round().numpy(), expected)


@pytest.mark.parametrize("order", range(1, 9))
def test_photographs_are_turned_by_every_door(tmp_path: Path, order: int) -> None:
    exif = Pillow.Exif()
    exif[274] = order
    data = saved(Pillow.fromarray(COLORS), exif=exif)
    (tmp_path / "a.png").write_bytes(data)
    expected = np.asarray(ImageOps.exif_transpose(Pillow.open(io.BytesIO(data)))).transpose(2, 0, 1)
    doors = [data, str(tmp_path / "a.png"), tmp_path / "a.png", {"bytes": data, "path": None}, Pillow.open(tmp_path / "a.png")]
    rows = Image(("a",)).rows("forget", [{"image": d, "label": 0} for d in doors])
    assert all(np.array_equal(p.numpy(), expected) for p in rows["pixels"])
    assert len({i.split("#")[0] for i in rows.ids}) == 1


def test_sixteen_bits_keep_their_levels() -> None:
    wide = GRAY.astype(np.uint16) * 257
    for picture in (wide, Pillow.fromarray(wide), saved(Pillow.fromarray(wide)), wide[..., None], Pillow.fromarray(wide.astype(">u2"))):
        assert torch.equal(fed(picture, Image(("a",)))[0, 0] * 255, torch.from_numpy(GRAY).float())
    with pytest.raises(UserError, match="largest value is 255, which is black"):
        fed(GRAY.astype(np.uint16), Image(("a",)))


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ([[1, 2], [3]], "the lists of an image are of unequal length"),
        ([["a", "b"]], "consists of numbers"),
        ("a\0b.png", "not an image that can be read"),
        ("x" * 5000, "not an image that can be read"),
        (np.zeros((0, 4)), "no pixels"),
        (np.full((4, 4), 200.5), "floats from 200.5 to 200.5"),
        ({"bytes": None, "path": None}, "it is nothing"),
        (saved(Pillow.fromarray(COLORS))[:200], "not an image that can be read"),
        (7, "it is a int"),
    ],
)
def test_what_is_no_picture_is_a_sentence(picture: Any, message: str) -> None:
    with pytest.raises(UserError, match="forget, row 1: ") as error:
        fed(picture, Image(("a",)))
    assert message in str(error.value)
    assert len(str(error.value)) < 600


def test_a_decompression_bomb_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Pillow.fromarray(COLORS).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"bomb\.png has more pixels than are read safely"):
        fed(tmp_path / "bomb.png", Image(("a",)))


def test_floats_of_two_scales_in_one_set_are_refused() -> None:
    records = [{"image": np.full((2, 2), v), "label": 0} for v in (250.0, 1.0)]
    with pytest.raises(UserError, match="row 2: an image of floats up to 1, while row 1 goes further"):
        Image(("a",)).rows("forget", records)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 16, 16), (1, 6, 8)])
def test_a_shape_that_does_not_fit_is_a_sentence_with_both(shape: tuple[int, int, int]) -> None:
    model = vision.build("vit-nano", (1, 8, 8), ("a", "b"))
    rows = Image(("a", "b")).rows("forget", [{"image": RNG.random(shape), "label": 0}])
    with pytest.raises(UserError) as error:
        Image(("a", "b")).forward(model, [rows])
    assert str(shape) in str(error.value)
    assert "1 channels of 8 x 8 pixels" in str(error.value)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(7, 2))
    with pytest.raises(UserError, match="does not take images of shape"):
        Image(("a", "b")).forward(plain, [rows])


def test_every_container_gives_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, labels = ["a.png", "b.png"], ["cat", "dog"]
    pictures = [COLORS, 255 - COLORS]
    for name, label, picture in zip(names, labels, pictures, strict=True):
        for path in (tmp_path / "folder" / label / name, tmp_path / name):
            path.parent.mkdir(parents=True, exist_ok=True)
            Pillow.fromarray(picture).save(path)
    files = [(tmp_path / n).read_bytes() for n in names]
    with (tmp_path / "list.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, lineterminator="\r\n").writerows([("image", "label"), *zip(names, labels, strict=True)])
    by_bytes = [{"bytes": f, "path": None} for f in files]
    parquet.write_table(pyarrow.table({"image": by_bytes, "label": labels}), tmp_path / "bytes.parquet")
    parquet.write_table(pyarrow.table({"image": [{"bytes": None, "path": n} for n in names], "label": labels}), tmp_path / "paths.parquet")
    np.savez(tmp_path / "a.npz", image=np.stack(pictures), label=np.array(labels))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    dataset = datasets.Dataset.from_dict({"image": [str(tmp_path / n) for n in names], "label": labels}, features)
    dataset.save_to_disk(str(tmp_path / "saved"))
    elsewhere = tmp_path / "elsewhere"  # another picture of the same name lies in the working folder
    elsewhere.mkdir()
    Pillow.fromarray(COLORS // 2).save(elsewhere / "a.png")
    monkeypatch.chdir(elsewhere)
    modality = Image(("cat", "dog"))
    sources = [tmp_path / n for n in ("folder", "list.csv", "bytes.parquet", "paths.parquet", "a.npz", "saved")]
    rows = [models.rows(modality, "forget", source) for source in [*sources, dataset]]
    assert all(r is not None and r.ids == rows[0].ids for r in rows)  # type: ignore[union-attr]
    assert [p.permute(1, 2, 0).numpy().tolist() for p in rows[0]["pixels"]] == [p.tolist() for p in pictures]  # type: ignore[index]


def test_pictures_are_decoded_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gc

    for i in range(6):
        (tmp_path / f"c{i}").mkdir()
        Pillow.fromarray(COLORS + i).save(tmp_path / f"c{i}" / "a.png")
    alive: list[int] = []

    def counting(picture: Any, place: str, losses: Any) -> Any:
        alive.append(sum(issubclass(type(o), Pillow.Image) for o in gc.get_objects()))
        return original(picture, place, losses)

    original = decode.decoded
    monkeypatch.setattr("expunge.modalities.image.data.decoded", counting)
    processor = transformers.ViTImageProcessorPil(size=SMALL)
    rows = models.rows(Image(tuple(f"c{i}" for i in range(6)), processor=processor), "forget", tmp_path)
    assert rows is not None
    assert len(rows) == len(alive) == 6
    assert max(alive) - alive[0] <= 1


def test_a_module_in_data_parallel_unlearns_like_the_module(tmp_path: Path) -> None:
    records = [{"image": RNG.random((4, 4)).astype(np.float32), "label": i % 3} for i in range(6)]
    weights = []
    for wrap in (nn.Identity, nn.DataParallel):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        opened = expunge.classifier(wrap(model) if wrap is nn.DataParallel else model, ["a", "b", "c"])
        expunge.unlearn("scrub", opened, forget=records[:2], retain=records[2:], out=tmp_path / wrap.__name__, epochs=2)
        weights.append(model[1].weight.detach().clone())
    assert torch.equal(*weights)
