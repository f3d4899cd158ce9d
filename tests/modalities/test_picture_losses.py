"""What a model does not get of a picture is said with the number of pictures, and what it gets is what Pillow reads."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from torch import nn

import expunge
from expunge.io.models import records, rows
from expunge.modalities.image import losses
from expunge.modalities.image.modality import Image

RNG = np.random.default_rng(3)
COLORS = RNG.integers(0, 256, (6, 10, 3)).astype(np.uint8)
PLAIN, OTHER = Pillow.fromarray(COLORS), Pillow.fromarray(255 - COLORS)


def saved(picture: Any, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def veiled(mode: str = "RGBA", alpha: int = 100) -> Any:
    picture = PLAIN.convert(mode)
    picture.putalpha(Pillow.fromarray(np.where(np.eye(6, 10), alpha, 255).astype(np.uint8)))
    return picture


def glass() -> Any:
    picture = PLAIN.convert("RGBA")
    picture.putalpha(100)
    return picture


def deep_png(values: Any) -> bytes:
    """A PNG of 16 bits a channel in three colors, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = values.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def transparent_color() -> bytes:
    return saved(PLAIN, "PNG", transparency=tuple(int(v) for v in COLORS[2, 3]))


def animated(kind: str, **options: Any) -> bytes:
    return saved(PLAIN, kind, save_all=True, append_images=[OTHER], **options)


WIDE = RNG.integers(0, 65536, (6, 10, 3)).astype(np.uint16)
LOSSY = {
    "RGBA": (saved(veiled(), "PNG"), losses.TRANSPARENT),
    "LA": (saved(veiled("L"), "PNG"), losses.TRANSPARENT),
    "WebP with alpha": (saved(veiled(), "WEBP", lossless=True, exact=True), losses.TRANSPARENT),
    "palette with alpha": (glass().quantize(16), losses.TRANSPARENT),
    "palette with a transparent entry": (
        saved(PLAIN.quantize(16), "PNG", transparency=int(np.asarray(PLAIN.quantize(16))[0, 0])),
        losses.TRANSPARENT,
    ),
    "transparent color": (transparent_color(), losses.TRANSPARENT),
    "premultiplied": (veiled().convert("RGBa"), losses.TRANSPARENT),
    "GIF": (animated("GIF"), losses.FRAMES),
    "APNG": (animated("PNG"), losses.FRAMES),
    "WebP": (animated("WEBP", lossless=True), losses.FRAMES),
    "TIFF": (animated("TIFF"), losses.FRAMES),
    "MPO": (animated("MPO"), losses.FRAMES),
    "16 bits in gray": (saved(Pillow.fromarray(WIDE[..., 0]), "PNG"), losses.DEEP),
    "16 bits in colors": (deep_png(WIDE), losses.DEEP),
    "CMYK": (saved(PLAIN.convert("CMYK"), "TIFF"), losses.CONVERTED.format("CMYK")),
    "HSV": (PLAIN.convert("HSV"), losses.CONVERTED.format("HSV")),
    "YCbCr": (PLAIN.convert("YCbCr"), losses.CONVERTED.format("YCbCr")),
}
EXIF = Pillow.Exif()
EXIF[274] = 6
LOSSLESS = {
    "RGB": saved(PLAIN, "PNG"),
    "gray": saved(PLAIN.convert("L"), "PNG"),
    "palette": saved(PLAIN.convert("P"), "PNG"),
    "opaque alpha": saved(PLAIN.convert("RGBA"), "PNG"),
    "opaque palette": saved(PLAIN.quantize(16), "PNG", transparency=255),
    "one frame": saved(PLAIN, "GIF"),
    "one page": saved(PLAIN, "TIFF"),
    "turned": saved(PLAIN, "PNG", exif=EXIF),
    "8 bits in 16": saved(Pillow.fromarray(COLORS[..., 0].astype(np.uint16) * 257), "PNG"),
    "two colors": saved(PLAIN.convert("1"), "PNG"),
    "JPEG": saved(PLAIN, "JPEG"),
}


def expected(picture: Any) -> Any:
    """The colors of a picture as Pillow alone reads them, (3, height, width)."""
    opened = Pillow.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
    if opened.mode == "I;16":
        return np.repeat((np.asarray(opened) >> 8).astype(np.uint8)[None], 3, 0)
    opened = opened.convert("RGBA") if opened.mode in ("RGBa", "P") else opened
    return np.asarray(opened.convert("RGB")).transpose(2, 0, 1)


def read(pictures: list[Any]) -> tuple[list[Any], list[str]]:
    """The pictures as a model of three channels gets them, and what is said about them."""
    given = records([{"image": p, "label": 0} for p in pictures], "forget")
    encoded = rows(Image(("a",), channels=3), "forget", given)
    assert encoded is not None
    return [p.numpy() for p in encoded["pixels"]], given.notes


@pytest.mark.parametrize("name", LOSSY)
def test_a_loss_is_said_with_the_number_of_pictures(name: str) -> None:
    picture, loss = LOSSY[name]
    pixels, notes = read([picture, saved(PLAIN, "PNG"), picture])
    assert notes == [f"2 of 3 pictures of 'forget' {loss}"]
    assert np.array_equal(pixels[0], expected(picture))
    assert np.array_equal(pixels[1], COLORS.transpose(2, 0, 1))


@pytest.mark.parametrize("name", LOSSLESS)
def test_nothing_is_said_where_nothing_is_lost(name: str) -> None:
    assert read([LOSSLESS[name]])[1] == []


def test_one_picture_may_lose_several_things_and_layers_are_no_frames() -> None:
    picture = saved(veiled(), "WEBP", save_all=True, append_images=[OTHER], lossless=True, exact=True)
    assert read([picture, COLORS])[1] == [f"1 of 2 pictures of 'forget' {loss}" for loss in (losses.TRANSPARENT, losses.FRAMES)]
    layered = Pillow.open(io.BytesIO(animated("GIF")))
    layered.format = "PSD"
    assert losses.FRAMES not in losses.of_picture(layered)


def test_arrays_lose_alpha_and_bits_alike() -> None:
    assert read([np.asarray(veiled()), COLORS])[1] == [f"1 of 2 pictures of 'forget' {losses.TRANSPARENT}"]
    assert read([np.asarray(veiled()) / 255, COLORS])[1] == [f"1 of 2 pictures of 'forget' {losses.TRANSPARENT}"]
    assert read([WIDE, COLORS])[1] == [f"1 of 2 pictures of 'forget' {losses.DEEP}"]


def test_alpha_that_the_model_reads_is_not_lost() -> None:
    given = records([{"image": veiled(), "label": 0}], "forget")
    encoded = rows(Image(("a",), channels=4), "forget", given)
    assert encoded is not None
    assert np.array_equal(encoded["pixels"][0].numpy(), np.asarray(veiled()).transpose(2, 0, 1))
    assert given.notes == []


def classifier() -> Any:
    opened = expunge.classifier(nn.Sequential(nn.Flatten(), nn.Linear(180, 2)), ["a", "b"])
    opened.modality.channels = 3  # type: ignore[attr-defined]
    return opened


def test_receipt_and_verdict_say_what_pictures_lost(tmp_path: Path) -> None:
    for name, shift in (("forget", 0), ("retain", 50)):
        for i in range(4):
            picture = Pillow.fromarray((COLORS + shift + i).astype(np.uint8))
            picture.putalpha(90 if i < 2 else 255)
            path = tmp_path / name / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    sets = [str(tmp_path / name) for name in ("forget", "retain")]
    notes = [f"2 of 4 pictures of {name!r} {losses.TRANSPARENT}" for name in ("forget", "retain")]
    result = expunge.unlearn("neggrad_plus", classifier(), *sets, out=tmp_path / "run", epochs=1, batch_size=4, lr=1e-3)
    assert result.receipt["request"]["findings"] == notes
    assert json.loads((tmp_path / "run" / "receipt.json").read_text())["request"]["findings"] == notes
    audit = expunge.audit(classifier(), *sets)
    assert [note for note in audit.notes if "pictures" in note] == notes


def test_a_cached_training_says_what_the_pictures_of_this_one_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    shades = [Pillow.fromarray((np.full((8, 8, 3), 40 * i)).astype(np.uint8)) for i in range(4)]
    animations = [saved(s, "PNG", save_all=True, append_images=[OTHER.resize((8, 8))]) for s in shades]
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 4}
    for name, pictures in (("plain", shades), ("animated", animations)):
        data = [{"image": p, "label": i % 2} for i, p in enumerate(pictures)]
        result = expunge.train(data, "resnet-nano", out=tmp_path / name, **settings)
        findings = json.loads((tmp_path / name / "receipt.json").read_text())["request"]["findings"]
        assert findings == result.receipt["request"]["findings"]
        assert [f for f in findings if "pictures" in f] == ([f"4 of 4 pictures of 'retain' {losses.FRAMES}"] if name == "animated" else [])
    assert len(list((tmp_path / "cache" / "models").iterdir())) == 1, "the pictures are the same"
