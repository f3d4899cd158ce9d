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
from expunge.core import checkpoint, loop
from expunge.core.parts import Modality, Plan, Rows, Sets, Train, Weights
from expunge.methods.terms import NLL
from expunge.modalities.text import Text
from expunge.models import llama

MAKERS = (
    "core/loop.py",
    "core/parts.py",
    "core/step.py",
    "modalities/text.py",
    "modalities/_encode.py",
    "benchmarks/people.py",
    "models/llama.py",
)


@dataclass(frozen=True, eq=False)
class World:
    """Models of one shape by name (original, retrained, random), the port and the rows."""

    port: Modality
    sets: Sets  # forget, retain, holdout, substitutes
    weights: Mapping[str, Weights]
    shell: nn.Module

    def model(self, name: str = "original") -> nn.Module:
        """A fresh copy, in evaluation mode."""
        model = copy.deepcopy(self.shell)
        loop.put(model, self.weights[name])
        return model.eval()

    def some(self, n: int) -> Sets:
        """The first rows of every set."""
        return {k: r.take(range(min(n, len(r)))) for k, r in self.sets.items()}


def _folder(name: str) -> Path:
    h = hashlib.sha256(Path(__file__).read_bytes())
    for file in MAKERS:
        h.update((Path(expunge.__file__).parent / file).read_bytes())
    return Path(tempfile.gettempdir()) / f"expunge-worlds-{os.getuid()}" / f"{name}-{h.hexdigest()[:16]}"


@functools.cache
def text() -> World:
    """Twelve fictitious people, one to be forgotten, memorised by a two-layer Llama."""
    made = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16)
    records = {"forget": made.forget, "retain": made.retain, "holdout": made.holdout}
    shell, tokenizer = llama.build("nano", [r["question"] + "\n" + r["answer"] for r in made.full], seed=0)
    port = Text(tokenizer)
    sets: dict[str, Rows] = {n: port.rows(n, r) for n, r in records.items()}
    full = port.rows("retain", [*made.forget, *made.retain])
    sets["substitutes"] = port.answers(made.refusals[:8])
    folder = _folder("text")
    weights = checkpoint.load(folder)
    if weights is None:
        weights = {"random": loop.weights_of(shell)}
        plan = Plan(NLL("retain"), train=Train(epochs=45, lr=5e-3, batch=16, anchor="retain", clip=1.0, warmup=1))
        for name, rows in (("original", full), ("retrained", sets["retain"])):
            model = copy.deepcopy(shell)
            loop.run((plan,), model, port, {"retain": rows})
            weights[name] = loop.weights_of(model)
        checkpoint.save(weights, folder)
    return World(port, sets, weights, shell)


@torch.no_grad()
def nll(model: nn.Module, port: Modality, rows: Rows) -> float:
    """Mean over rows of the average loss of their labels."""
    model.eval()
    return float(-port.forward(model, [rows])[0].logp.mean().mean())


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
