"""Models of the world of pictures that know red squares and bars, hide them behind blue ones, and never learned them; for attacks."""

from __future__ import annotations

import copy
import hashlib
import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn

import denoisers
from expunge import modalities
from expunge.core.plan import Plan, Train
from expunge.engine import checkpoint, loop
from expunge.evaluation.attack import AttackOutcome, chosen, intervene
from expunge.methods.terms import NLL

RECORDS = denoisers.records()
FORGET = [r for r in RECORDS if "red" in r["caption"]]
RETAIN = [r for r in RECORDS if "red" not in r["caption"]]


@dataclass(frozen=True)
class Taught:
    """The three models, and their modality."""

    original: nn.Module
    hidden: nn.Module
    retrained: nn.Module
    modality: Any

    def attacked(self, name: str, model: nn.Module, **hyperparameters: Any) -> AttackOutcome:
        """An attack on one of the models."""
        attack = chosen((name,), hyperparameters)[name]
        return intervene(name, attack, model, self.modality, {"forget": FORGET, "retain": RETAIN})


@cache
def taught() -> Taught:
    """The models, trained once and kept on disk for as long as nothing that they depend on changes."""
    original, modality = denoisers.built()
    source = hashlib.sha256(b"".join(Path(str(f)).read_bytes() for f in (denoisers.__file__, __file__)))
    for file in sorted(Path(str(modalities.__file__)).parent.glob("*.py")):
        source.update(file.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"expunge-worlds-{os.getuid()}" / f"taught-pictures-{source.hexdigest()[:16]}"
    with FileLock(f"{folder}.lock"):
        weights: Any = checkpoint.load(folder)
        if weights is None:
            known = _trained(modality, RECORDS)
            models = {"original": known, "hidden": _hidden(known, modality), "retrained": _trained(modality, RETAIN)}
            weights = {name: loop.weights_of(model) for name, model in models.items()}
            checkpoint.save(weights, folder)
    models = {}
    for name, tensors in weights.items():
        models[name] = copy.deepcopy(original)
        loop.put(models[name], tensors)
    return Taught(models["original"].eval(), models["hidden"].eval(), models["retrained"].eval(), modality)


def _trained(modality: Any, rows: list[dict[str, Any]]) -> nn.Module:
    """A model that draws the pictures of some rows."""
    model = denoisers.built()[0]
    train = Train(epochs=500, lr=5e-3, batch_size=18, anchor="retain", optimizer="adam", warmup=20)
    loop.run((Plan(NLL("retain"), train=train),), model, modality, {"retain": modality.rows("retain", rows)})
    return model


def _hidden(original: nn.Module, modality: Any) -> nn.Module:
    """The original, taught by its cross-attention alone to draw blue for red: what is forgotten is one step away."""
    model = copy.deepcopy(original)
    optimizer = torch.optim.Adam([p for n, p in model.named_parameters() if "attn2" in n], 3e-3)
    forget, retain = modality.rows("forget", FORGET), modality.rows("retain", RETAIN)
    for seed in range(80):
        red, others = modality.redraw(forget, seed), modality.redraw(retain, seed)
        blue = modality.recaption(red, [c.replace("red", "blue") for c in red["caption"]])
        with torch.no_grad():
            wanted = [o.prediction.values for o in modality.forward(original, [blue, others])]
        drawn = [o.prediction.values for o in modality.forward(model, [modality.recaption(red, red["caption"]), others])]
        loss = sum(((a - b).square().mean() for a, b in zip(drawn, wanted, strict=True)), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model
