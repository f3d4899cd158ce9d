"""Tiny worlds: one model and data set a modality, built from a seed in seconds and kept on disk under a hash of what makes them."""

from __future__ import annotations

import copy
import functools
import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

import expunge
from expunge.benchmarks import people
from expunge.core.modality import Modality, Weights
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows, Sets
from expunge.engine import checkpoint, loop
from expunge.methods.terms import NLL
from expunge.modalities.image.modality import Image
from expunge.modalities.image.models import vision
from expunge.modalities.text.modality import Text
from expunge.modalities.text.models import llama

MAKERS = ("core", "engine", "modalities", "benchmarks")  # folders whose files decide what a world is


@dataclass(frozen=True, eq=False)
class World:
    """Models of one shape by name (original, retrained, random), the modality and the rows."""

    modality: Modality
    sets: Sets  # forget, retain, holdout, alternate answers
    weights: Mapping[str, Weights]
    shell: nn.Module

    def model(self, name: str = "original") -> nn.Module:
        """A fresh copy, in evaluation mode."""
        model = copy.deepcopy(self.shell)
        loop.put(model, self.weights[name])
        return model.eval()

    def some(self, n: int) -> Sets:
        """The first rows of every set."""
        return {k: r.select(range(min(n, len(r)))) for k, r in self.sets.items()}


def _folder(name: str) -> Path:
    h = hashlib.sha256(Path(__file__).read_bytes())
    for folder in MAKERS:
        for file in sorted((Path(expunge.__file__).parent / folder).rglob("*.py")):
            h.update(file.read_bytes())
    return Path(tempfile.gettempdir()) / f"expunge-worlds-{os.getuid()}" / f"{name}-{h.hexdigest()[:16]}"


@functools.cache
def text() -> World:
    """Twelve fictitious people, one to be forgotten, memorised by a two-layer Llama."""
    made = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16)
    records = {"forget": made.forget, "retain": made.retain, "holdout": made.holdout}
    shell, tokenizer = llama.build("nano", [r["question"] + "\n" + r["answer"] for r in made.full], seed=0)
    modality = Text(tokenizer)
    sets: dict[str, Rows] = {n: modality.rows(n, r) for n, r in records.items()}
    full = modality.rows("retain", [*made.forget, *made.retain])
    sets["alternate_answers"] = modality.answers(made.refusals[:8])
    train = Train(epochs=45, lr=5e-3, batch_size=16, anchor="retain", max_grad_norm=1.0, warmup=1)
    return World(modality, sets, _trained("text", shell, modality, full, sets["retain"], train), shell)


@functools.cache
def digits(size: str = "vit-nano") -> World:
    """Some drawn digits, the threes to be forgotten, as a small vision transformer (or, with batch norm, a residual network) knows them."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = (data.images / 16).astype("float32")
    records = [{"image": x, "label": int(y)} for x, y in zip(images, data.target, strict=True)]
    seen, unseen = records[:360], records[360:480]
    modality = Image(tuple(map(str, range(10))))
    shell = vision.build(size, (1, 8, 8), modality.labels, seed=0)
    sets: dict[str, Rows] = {
        "forget": modality.rows("forget", [r for r in seen if r["label"] == 3]),
        "retain": modality.rows("retain", [r for r in seen if r["label"] != 3]),
        "holdout": modality.rows("holdout", unseen),
        "alternate_answers": modality.answers(modality.refusals()),
    }
    train = Train(epochs=20, lr=4e-3, batch_size=32, anchor="retain", warmup=1, weight_decay=0.0)
    return World(modality, sets, _trained(f"digits-{size}", shell, modality, modality.rows("retain", seen), sets["retain"], train), shell)


def _trained(name: str, shell: nn.Module, modality: Modality, full: Rows, retain: Rows, train: Train) -> dict[str, Weights]:
    """Weights of the original, the retrained and the random model; trained once."""
    folder = _folder(name)
    weights: dict[str, Weights] | None = checkpoint.load(folder)
    if weights is None:
        weights = {"random": loop.weights_of(shell)}
        for which, rows in (("original", full), ("retrained", retain)):
            model = copy.deepcopy(shell)
            loop.run((Plan(NLL("retain"), train=train),), model, modality, {"retain": rows})
            weights[which] = loop.weights_of(model)
        checkpoint.save(weights, folder)
    return weights


@torch.no_grad()
def nll(model: nn.Module, modality: Modality, rows: Rows) -> float:
    """Mean over rows of the average loss of their labels."""
    model.eval()
    return float(-modality.forward(model, [rows])[0].target_logp.mean().mean())


def tensors(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def far(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """Largest absolute difference."""
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


@functools.cache
def accelerator() -> Accelerator:
    return Accelerator()
