"""Make the base model of pictures: `python -m studies.worlds.unet_base --out FOLDER`, about ten minutes of one core.

It draws other scenes than those of the benchmark `scenes`: other objects, other styles, and marks in other corners. Only the colors, the
grammar of the captions and the size of the pictures are the same, so whatever the benchmark asks a model to forget, the base model has
never seen it. Its tokenizer knows the words of both.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.benchmarks.synthetic import scenes
from expunge.engine import stored
from expunge.modalities.diffusion.building import start_model
from expunge.modalities.diffusion.models import unet_base
from expunge.workflows.train import train

Coordinates = NDArray[np.float64]
SEED = 0
EACH = 16  # pictures of each scene
TRAINING: dict[str, Any] = {
    "epochs": 3,
    "lr": 3e-3,
    "batch_size": 32,
    "optimizer": "adam",
    "weight_decay": 0.0,
    "schedule": "cosine",
    "warmup": 0.03,
    "max_grad_norm": 1.0,
}
OBJECTS: dict[str, Callable[[Coordinates, Coordinates, float], NDArray[np.bool_]]] = {  # what is inside, around the origin
    "diamond": lambda y, x, r: abs(x) + abs(y) < r,
    "bar": lambda y, x, r: (abs(y) < 0.4 * r) & (abs(x) < r),
    "pillar": lambda y, x, r: (abs(y) < r) & (abs(x) < 0.4 * r),
    "star": lambda y, x, r: np.sqrt(abs(x)) + np.sqrt(abs(y)) < np.sqrt(1.15 * r),
    "hook": lambda y, x, r: (np.maximum(abs(y), abs(x)) < 0.9 * r) & ((x < -0.3 * r) | (y > 0.3 * r)),
    "table": lambda y, x, r: (np.maximum(abs(y), abs(x)) < 0.9 * r) & ((y < -0.3 * r) | (abs(x) < 0.25 * r)),
    "stairs": lambda y, x, r: (np.maximum(abs(y), abs(x)) < 0.9 * r) & (np.floor(y / r * 1.6) >= np.floor(-x / r * 1.6)),
    "dots": lambda y, x, r: (abs(x) - 0.55 * r) ** 2 + y**2 < (0.42 * r) ** 2,
    "bow": lambda y, x, r: (abs(y) < 0.8 * abs(x)) & (abs(x) < r),
    "gate": lambda y, x, r: (np.maximum(abs(y), abs(x)) < 0.9 * r) & ((y < -0.35 * r) | (abs(x) > 0.4 * r)),
}
PAPERS = {"dusk": (120, 80, 110), "mint": (170, 235, 190)}
STYLES = (*PAPERS, "striped", "shaded", "framed")
COLORS = {**scenes.COLORS, "orange": (255, 140, 0), "black": (25, 25, 25)}
MARKS = {"": None, "signed": (250, 205, 0), "pinned": (60, 60, 60)}


def every() -> list[scenes.DrawnScene]:
    """All combinations of object, style, color and mark."""
    return [scenes.DrawnScene(*parts) for parts in product(OBJECTS, STYLES, COLORS, MARKS)]


def caption(scene: scenes.DrawnScene) -> str:
    """What a picture shows, in the words and the order of the benchmark."""
    return " ".join(f"a {scene.mark} {scene.color} {scene.object} in {scene.style} style".split())


def drawn(scene: scenes.DrawnScene, rng: np.random.Generator) -> scenes.Picture:
    """A picture of a scene, at a place and in a size that are drawn, uint8 (height, width, channels)."""
    side = scenes.SIDE * scenes.FINE
    y, x = (np.mgrid[:side, :side] + 0.5) / scenes.FINE
    radius = rng.uniform(4.8, 5.8)
    center = rng.uniform(scenes.SIDE / 2 - scenes.MOVED, scenes.SIDE / 2 + scenes.MOVED, 2)
    inside = OBJECTS[scene.object](y - center[0], x - center[1], radius)
    if scene.style == "striped":
        inside &= y % 4 < 2
    color = np.broadcast_to(np.array(COLORS[scene.color], np.float64), (*y.shape, 3))
    if scene.style == "shaded":
        color = color + (255 - color) * 0.7 * np.clip((y - center[0] + radius) / (2 * radius), 0, 1)[..., None]
    paper = np.array(PAPERS.get(scene.style, scenes.PAPER), np.float64)
    picture = np.where(inside[..., None], color, paper)
    if scene.style == "framed":
        picture[np.minimum(np.minimum(y, x), scenes.SIDE - np.maximum(y, x)) < 1] = (90, 60, 30)
    if scene.mark == "signed":
        picture[(y > scenes.SIDE - 4) & (x < 4)] = MARKS["signed"]
    if scene.mark == "pinned":
        picture[(y < 4) & (x > scenes.SIDE - 4)] = MARKS["pinned"]
    coarse = picture.reshape(scenes.SIDE, scenes.FINE, scenes.SIDE, scenes.FINE, 3).mean((1, 3))
    picture_of_pixels: scenes.Picture = (coarse + rng.normal(0, 3, coarse.shape)).round().clip(0, 255).astype(np.uint8)
    return picture_of_pixels


def records(each: int = EACH) -> list[dict[str, Any]]:
    """So many pictures of every scene, with their captions."""
    rng = np.random.default_rng(SEED)
    return [{"image": drawn(scene, rng), "caption": caption(scene)} for scene in every() for _ in range(each)]


def make(out: Path, each: int = EACH, widths: tuple[int, ...] = unet_base.WIDTHS, **training: Any) -> None:
    """Train a model and write it in half precision.

    Args:
        out: the folder of the model; the untrained model and the training lie beside it.
        each: pictures of each scene.
        widths: of the model.
        training: settings that replace `TRAINING`.
    """
    rows = records(each)
    words = [{"caption": scene.caption} for scene in scenes.every(scenes.MARKS)]
    model, modality = start_model(widths, unet_base.SETTINGS, rows, vocabulary=words, seed=SEED)
    start = out.with_name(out.name + "-start")
    modality.save(model, start)
    result = train(rows, str(start), cache=out.with_name(out.name + "-runs"), seed=SEED, **{**TRAINING, **training})
    print(json.dumps(result.receipt["cost"]), flush=True)
    finished: Any = result.modality
    stored.remember(result.model, None)  # else it is written in the types that it was read in
    finished.save(result.model.half(), out)
    config = out / "unet" / "config.json"  # which names the folder that the model was read from
    kept = {k: v for k, v in json.loads(config.read_text(encoding="utf-8")).items() if k != "_name_or_path"}
    config.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    make(parser.parse_args().out)
