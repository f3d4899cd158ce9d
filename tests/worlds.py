"""Tiny worlds: a model and a data set per modality. They are built from a seed in seconds and cached under a hash of the source."""

from __future__ import annotations

import copy
import functools
import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from filelock import FileLock
from tokenizers import processors
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

import denoisers
import expunge
import recommenders
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
from expunge.modalities.text.seq2seq import EncoderDecoder

MAKERS = ("core", "engine", "modalities", "benchmarks")  # folders whose source files determine a world


@dataclass(frozen=True, eq=False)
class World:
    """Weights of one architecture by name (original, retrained, random), with the modality and the rows."""

    modality: Modality
    sets: Sets  # forget, retain, holdout, alternate answers
    weights: Mapping[str, Weights]
    shell: nn.Module

    def model(self, name: str = "original") -> nn.Module:
        """A new model with the named weights, in evaluation mode."""
        model = copy.deepcopy(self.shell)
        loop.put(model, self.weights[name])
        return model.eval()

    def some(self, n: int) -> Sets:
        """The first `n` rows of every set."""
        return {k: r.select(range(min(n, len(r)))) for k, r in self.sets.items()}


def _folder(name: str) -> Path:
    source_hash = hashlib.sha256(Path(__file__).read_bytes())
    for folder in MAKERS:
        for file in sorted((Path(expunge.__file__).parent / folder).rglob("*.py")):
            source_hash.update(file.read_bytes())
    return Path(tempfile.gettempdir()) / f"expunge-worlds-{os.getuid()}" / f"{name}-{source_hash.hexdigest()[:16]}"


@functools.cache
def text() -> World:
    """Twelve fictitious people, one of them to forget, memorized by a two-layer Llama."""
    data = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16)
    records = {"forget": data.forget, "retain": data.retain, "holdout": data.holdout}
    shell, tokenizer = llama.build("nano", [r["question"] + "\n" + r["answer"] for r in data.full], seed=0)
    modality = Text(tokenizer)
    sets: dict[str, Rows] = {n: modality.rows(n, r) for n, r in records.items()}
    full = modality.rows("retain", [*data.forget, *data.retain])
    sets["alternate_answers"] = modality.answers(data.refusals[:8])
    train = Train(epochs=45, lr=5e-3, batch_size=16, anchor="retain", max_grad_norm=1.0, warmup=1)
    return World(modality, sets, _trained("text", shell, modality, full, sets["retain"], train), shell)


@functools.cache
def dialogue() -> World:
    """The people of `text`, memorized by a T5 with one encoder block and two decoder blocks."""
    data = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16)
    records = {"forget": data.forget, "retain": data.retain, "holdout": data.holdout}
    shell, tokenizer = t5([r["question"] + "\n" + r["answer"] for r in data.full])
    modality = Text(tokenizer, vocabulary=512, architecture=EncoderDecoder((0,)))
    sets: dict[str, Rows] = {n: modality.rows(n, r) for n, r in records.items()}
    full = modality.rows("retain", [*data.forget, *data.retain])
    sets["alternate_answers"] = modality.answers(data.refusals[:8])
    train = Train(epochs=45, lr=5e-3, batch_size=16, anchor="retain", max_grad_norm=1.0, warmup=1)
    return World(modality, sets, _trained("dialogue", shell, modality, full, sets["retain"], train), shell)


def t5(texts: Sequence[str], seed: int = 0) -> tuple[nn.Module, Any]:
    """An untrained T5 without dropout, and a tokenizer that ends texts as that of T5 does."""
    tokenizer = llama.tokenizer_for(texts, 512, 10**30)
    ending = processors.TemplateProcessing(single="$A <|eos|>", special_tokens=[("<|eos|>", 2)])
    tokenizer.backend_tokenizer.post_processor = ending
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_heads": 4, "num_layers": 1, "num_decoder_layers": 2, "vocab_size": 512}
    config = T5Config(**sizes, dropout_rate=0.0, pad_token_id=0, eos_token_id=2, decoder_start_token_id=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = T5ForConditionalGeneration(config)
    return model.eval(), tokenizer


@functools.cache
def digits(size: str = "vit-nano") -> World:
    """Handwritten digits, with the threes to forget, learned by a small vision transformer or by a residual network with batch norm."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = (data.images / 16).astype("float32")
    records = [{"image": x, "label": int(y)} for x, y in zip(images, data.target, strict=True)]
    train_records, holdout_records = records[:360], records[360:480]
    modality = Image(tuple(map(str, range(10))))
    shell = vision.build(size, (1, 8, 8), modality.labels, seed=0)
    sets: dict[str, Rows] = {
        "forget": modality.rows("forget", [r for r in train_records if r["label"] == 3]),
        "retain": modality.rows("retain", [r for r in train_records if r["label"] != 3]),
        "holdout": modality.rows("holdout", holdout_records),
        "alternate_answers": modality.answers(modality.refusals()),
    }
    train = Train(epochs=20, lr=4e-3, batch_size=32, anchor="retain", warmup=1, weight_decay=0.0)
    full = modality.rows("retain", train_records)
    return World(modality, sets, _trained(f"digits-{size}", shell, modality, full, sets["retain"], train), shell)


@functools.cache
def tastes() -> World:
    """Sixteen users with two tastes, two of them to forget, learned by a small neural recommender."""
    forget, retain, unseen = recommenders.records()
    shell, modality = recommenders.built("neumf")
    sets: dict[str, Rows] = {n: modality.rows(n, r) for n, r in {"forget": forget, "retain": retain, "holdout": unseen}.items()}
    sets["alternate_answers"] = modality.answers(modality.refusals())
    train = Train(epochs=20, lr=2e-2, batch_size=32, anchor="retain", optimizer="adam")
    full = modality.rows("retain", [*forget, *retain])
    return World(modality, sets, _trained("tastes", shell, modality, full, sets["retain"], train), shell)


@functools.cache
def pictures() -> World:
    """Squares and bars in three colors, with the red ones to forget, and an untrained model that would draw them from captions."""
    shell, modality = denoisers.built()
    records = denoisers.records()
    red = [r for r in records if "red" in r["caption"]]
    others = [r for r in records if "red" not in r["caption"]]
    sets: dict[str, Rows] = {
        "forget": modality.rows("forget", red),
        "retain": modality.rows("retain", others),
        "holdout": modality.rows("holdout", denoisers.records(1, seed=1)),
    }
    return World(modality, sets, {"original": loop.weights_of(shell)}, shell)


def _trained(name: str, shell: nn.Module, modality: Modality, full: Rows, retain: Rows, train: Train) -> dict[str, Weights]:
    """Weights of the original, the retrained and the random model, trained once and cached on disk."""
    folder = _folder(name)
    folder.parent.mkdir(exist_ok=True)
    # Two test processes that need it at once train it once; processes of one launch train it together, so none may wait for another.
    with nullcontext() if "RANK" in os.environ else FileLock(f"{folder}.lock"):
        weights: dict[str, Weights] | None = checkpoint.load(folder)
        if weights is None:
            weights = {"random": loop.weights_of(shell)}
            for model_name, rows in (("original", full), ("retrained", retain)):
                model = copy.deepcopy(shell)
                loop.run((Plan(NLL("retain"), train=train),), model, modality, {"retain": rows})
                weights[model_name] = loop.weights_of(model)
            checkpoint.save(weights, folder)
    return weights


@torch.no_grad()
def nll(model: nn.Module, modality: Modality, rows: Rows) -> float:
    """The mean over rows of each row's mean negative log-likelihood per label, in nats."""
    model.eval()
    return float(-modality.forward(model, [rows])[0].target_logp.mean().mean())


def tensors(model: nn.Module) -> list[torch.Tensor]:
    """Copies of the parameters."""
    return [p.detach().clone() for p in model.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    """Whether all tensors are equal, bit by bit."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def far(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """The largest absolute difference of two lists of tensors."""
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


@functools.cache
def accelerator() -> Accelerator:
    return Accelerator()
