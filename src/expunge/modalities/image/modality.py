"""The modality of image classifiers. A row is an image and its class; the class is the only label, so an answer has one position."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from expunge.core.capabilities import Categorical, DifferentiableInputs, Displayable
from expunge.core.errors import UserError
from expunge.core.modality import ModelOutput, Patch, Weights
from expunge.core.request import content, digest, ids_of
from expunge.core.rows import Rows
from expunge.core.suggest import did_you_mean
from expunge.engine.adapters import base_of
from expunge.modalities.common.files import opened, write
from expunge.modalities.common.fresh import fresh
from expunge.modalities.common.packed import Layout, block_hook_points, call, cut, independent, last_linear, module_at, watching
from expunge.modalities.image.columns import IMAGES, LABELS
from expunge.modalities.image.data import CLASSIFIER, column, normalization, prepared

PICTURE = 64  # longer side of a displayed picture, in pixels


@dataclass
class Image:
    """The modality of image classifiers: class names, and the preprocessing from a picture to the model's input.

    Args:
        labels: class names, in the order of the model's outputs.
        mean: of each channel, of values from 0 to 1; empty: no normalization.
        std: standard deviation of each channel, likewise.
        processor: an image processor of `transformers` that resizes and crops; None: pictures already have the size of the model's input.
    """

    labels: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    processor: Any = None
    name: str = "image"
    capabilities: frozenset[Any] = frozenset({Categorical, DifferentiableInputs, Displayable})

    # Rows

    def rows(self, name: str, records: Sequence[Mapping[str, Any]], source: str = "") -> Rows:
        """Convert records with an image and its class to rows.

        Args:
            name: name of the set.
            source: name of the records in messages; default: `name`.

        Returns:
            Rows with the columns `pixels` (channels, height, width; uint8, or floats from 0 to 1), `answer` (the class in a list),
            `answer_text` (its name), and every other column of the records unchanged.

        Raises:
            UserError: when a record lacks image or class, or images differ in size; the message names the row.
        """
        where = source or name
        pixels: list[Tensor] = []
        labels: list[int] = []
        for i, record in enumerate(records):
            place = f"{where}, row {i + 1}"
            pixels.append(prepared(record[column(record, IMAGES, "image", place)], self.processor, place))
            labels.append(self.label(record[column(record, LABELS, "class", place)], place))
            if pixels[i].shape != pixels[0].shape:
                raise UserError(
                    f"{place}: an image of shape {tuple(pixels[i].shape)}, and the first has {tuple(pixels[0].shape)}; a model with an "
                    f"image processor brings them to one size, others take images of one size alone"
                )
        read = {*IMAGES, *LABELS}
        others = {k: [r.get(k) for r in records] for k in dict.fromkeys(k for r in records for k in r if k not in read)}
        columns: dict[str, Sequence[Any]] = {**others, "pixels": pixels, **self._answer_columns(labels)}
        return Rows(name, ids_of([[_hash(p), y] for p, y in zip(pixels, labels, strict=True)]), columns)

    def label(self, value: Any, place: str = "a label") -> int:
        """The number of a class that is named by number or name.

        Args:
            value: the number or name, possibly in a list, array or tensor of one element.
            place: the record, for messages.

        Raises:
            UserError: when the model has no such class.
        """
        value = _plain(value)
        if not isinstance(value, int) and str(value) in self.labels:
            return self.labels.index(str(value))
        number = int(value) if isinstance(value, int) or str(value).isdecimal() else -1
        if not 0 <= number < len(self.labels):
            near = did_you_mean(str(value), self.labels)
            raise UserError(f"{place}: there is no class {value!r}; the model has {len(self.labels)}, {self.labels[0]!r} first{near}")
        return number

    def _answer_columns(self, labels: Sequence[int]) -> dict[str, list[Any]]:
        return {"answer": [[y] for y in labels], "answer_text": [self.labels[y] for y in labels]}

    def relabel(self, rows: Rows, answers: Sequence[Any], name: str) -> Rows:
        """The same images with other classes, by name or number."""
        ids = tuple(f"{content(i)}~{digest(a)}" for i, a in zip(rows.ids, answers, strict=True))
        labels = [self.label(a, name) for a in answers]
        return Rows(name, ids, {**rows.columns, **self._answer_columns(labels)}, rows.weight)

    def answers(self, texts: Sequence[Any], name: str = "alternate_answers") -> Rows:
        """Rows of classes without images, for selectors that draw from them."""
        return Rows(name, ids_of(list(texts)), {"answer_text": [self.labels[self.label(t, name)] for t in texts]})

    def refusals(self) -> list[str]:
        """All classes, to draw from: a classifier that does not know an image may name any class."""
        return list(self.labels)

    def questions(self, rows: Rows) -> list[str]:
        """A text for each image, for places that show text only."""
        return [f"image {k}" for k in range(1, len(rows) + 1)]

    def answer_texts(self, rows: Rows) -> list[str]:
        """The names of the classes."""
        return [self.labels[y] for (y,) in rows["answer"]]

    def pictures(self, rows: Rows) -> Tensor | None:
        """Small pictures for people to look at, uint8 (rows, channels, height, width)."""
        pixels = torch.stack(list(rows["pixels"]))
        x = pixels.float() / (255 if pixels.dtype == torch.uint8 else 1)
        low, high = min(0.0, float(x.min())), max(1.0, float(x.max()))  # the values of the records may be normalized already
        if (share := PICTURE / max(x.shape[-2:])) < 1:
            size = [max(1, round(side * share)) for side in x.shape[-2:]]
            x = torch.nn.functional.interpolate(x, size=size, mode="bilinear", antialias=True)
        return ((x - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8)

    def ended(self, rows: Rows) -> list[bool]:
        """False for each row: no label is an end of sequence."""
        return [False] * len(rows)

    def counts(self, rows: Rows) -> Mapping[str, float]:
        """The number of rows, labels and tokens, which are equal."""
        n = float(len(rows))
        return {"rows": n, "labels": n, "tokens": n}

    # The model

    def pixels(self, rows: Rows, like: Tensor) -> Tensor:
        """The images of rows as the model sees them, (rows, channels, height, width): normalized, with dtype and device of `like`."""
        x = _values(rows["pixels"], like)
        mean, std = self._units(x)
        return (x - mean) / std

    def inputs(self, rows: Rows) -> Tensor:
        """The images as values from 0 to 1, (rows, channels, height, width), which a gradient can change."""
        return _values(rows["pixels"], torch.zeros(()))

    def moved(self, rows: Rows, x: Tensor, normalized: bool = False) -> Rows:
        """The same rows with other images. Gradients flow through.

        Args:
            x: images as `inputs` returns them, (rows, channels, height, width).
            normalized: the images are normalized, as `pixels` returns them.
        """
        mean, std = self._units(x)
        return rows.add(pixels=list((x * std + mean if normalized else x).unbind()))

    def _units(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the normalization, each (channels, 1, 1)."""
        mean, std = self.mean or (0.0,), self.std or (1.0,)
        return like.new_tensor(mean).view(-1, 1, 1), like.new_tensor(std).view(-1, 1, 1)

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]:
        """Run the model on all groups in one forward pass. Recorded hidden states are averaged over the positions (or patches) of an image.

        Args:
            groups: rows; each group gets an output of its own.
            hook_points: modules whose inputs and outputs are recorded.
            patch: a change of the forward pass.
            weights: weights that replace those of the model, by name.

        Raises:
            UserError: when the model does not return logits of all classes.
        """
        like = next(p for p in model.parameters() if p.is_floating_point())
        labels = torch.tensor([y for g in groups for (y,) in g["answer"]], dtype=torch.long)
        at = torch.arange(len(labels))
        with watching(model, hook_points, patch) as hooked:
            logits = logits_of(call(model, weights, torch.cat([self.pixels(g, like) for g in groups])))
        if logits.dim() != 2 or logits.shape[1] < len(self.labels):
            raise UserError(f"the model answers with shape {tuple(logits.shape)}, and there are {len(self.labels)} classes")
        pooled = {n: (_pooled(i), _pooled(o)) for n, (i, o) in hooked.items()}
        return list(cut(logits, Layout(labels, at, at, at, at).to(logits.device), pooled, groups))

    def independent(self, model: nn.Module) -> bool:
        """Whether the rows of one forward pass do not affect each other."""
        return independent(model)

    def blocks(self, model: nn.Module) -> tuple[str, ...]:
        """Hook points of all blocks, first to last."""
        return block_hook_points(model)

    def module(self, model: nn.Module, hook_point: str) -> nn.Module:
        """The module at a hook point."""
        return module_at(model, hook_point)

    def head(self, model: nn.Module) -> str:
        """The path of the last linear layer."""
        return last_linear(model)

    def fresh(self, model: nn.Module, seed: int) -> Weights:
        """Weights of an untrained model of the same architecture."""
        return fresh(model, seed)

    def decode(self, answers: Sequence[Sequence[int]]) -> list[str]:
        """The names of classes."""
        return [" ".join(self.labels[y] if y < len(self.labels) else str(y) for y in a) for a in answers]

    # Files

    def save(self, model: nn.Module, folder: Path) -> None:
        """Save weights and image processor as `AutoModelForImageClassification` reads them; of a plain module only the weights."""
        if hasattr(model, "save_pretrained"):
            return write(model, self.processor, folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(model, str(folder / "model.safetensors"))

    def about(self) -> dict[str, Any]:
        """How rows become the model's input, for the receipt."""
        names = {"labels": len(self.labels), "classes": digest(self.labels)}
        return {"modality": self.name, **names, "mean": list(self.mean), "std": list(self.std)}


def _values(pixels: Sequence[Tensor], like: Tensor) -> Tensor:
    """One tensor of values from 0 to 1, with dtype and device of `like`. Images of bytes and of floats may be mixed."""
    mixed = len({p.dtype for p in pixels}) > 1
    x = torch.stack([p / 255 if mixed and p.dtype == torch.uint8 else p for p in pixels]).to(like.device)
    return x.to(like.dtype) / 255 if x.dtype == torch.uint8 else x.to(like.dtype)


def logits_of(out: Any) -> Tensor:
    """The logits in the result of a classifier: a tensor, an output with `logits`, or a tuple that begins with logits.

    Raises:
        UserError: when the result has no logits.
    """
    logits = getattr(out, "logits", out[0] if isinstance(out, (tuple, list)) else out)
    if not isinstance(logits, Tensor):
        raise UserError(
            f"the model returns a {type(out).__name__} without logits: return a tensor, an output with `logits`, or a tuple that begins "
            "with logits"
        )
    return logits


def _pooled(x: Tensor) -> Tensor:
    """Average maps (rows, channels, height, width) or patches (rows, patches, width) to (rows, width)."""
    return x.mean((2, 3)) if x.dim() == 4 else x.mean(1) if x.dim() == 3 else x.flatten(1)


def _hash(pixels: Tensor) -> str:
    return hashlib.sha256(pixels.contiguous().numpy().tobytes() + str(tuple(pixels.shape)).encode()).hexdigest()[:16]


def classes(records: Sequence[Mapping[str, Any]], source: str = "training") -> tuple[str, ...]:
    """Names of the classes in records: all numbers from 0 to the largest, or the names in sorted order.

    Args:
        source: name of the records in messages.
    """
    names = {str(_plain(r[column(r, LABELS, "class", f"{source}, row {i + 1}")])) for i, r in enumerate(records)}
    return tuple(map(str, range(max(map(int, names)) + 1))) if all(map(str.isdecimal, names)) else tuple(sorted(names))


def _plain(value: Any) -> Any:
    """A class as a number or a name, unwrapped from a list, array or tensor of one element."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value


def shape_of(records: Sequence[Mapping[str, Any]], source: str = "training") -> tuple[int, ...]:
    """The shape of the first image of records, (channels, height, width). source: name of the records in messages."""
    place = f"{source}, row 1"
    return tuple(prepared(records[0][column(records[0], IMAGES, "image", place)], place=place).shape)


def classifier_modality(labels: int | Sequence[str], mean: Sequence[float] = (), std: Sequence[float] = ()) -> Image:
    """Build the modality for a module that returns logits.

    Args:
        labels: names of the classes, or their number.
        mean: of each channel, of values from 0 to 1; empty: no normalization.
        std: standard deviation of each channel, likewise.

    Raises:
        UserError: when there are no classes, or two classes have the same name.
    """
    names = tuple(str(i) for i in range(labels)) if isinstance(labels, int) else tuple(labels)
    if not names:
        raise UserError("a classifier has classes: give their names, or how many there are")
    if duplicates := [n for n, count in Counter(names).items() if count > 1]:
        raise UserError(f"the class {duplicates[0]!r} is named twice")
    return Image(names, tuple(mean), tuple(std))


def load(
    path: str, *, dtype: torch.dtype | None = None, trust_remote_code: bool = False, allow_pickle: bool = False
) -> tuple[nn.Module, Image]:
    """Load a model in evaluation mode and its modality from a folder or hub id.

    Args:
        path: a folder or hub id.
        dtype: dtype of the weights; default: float32.
        trust_remote_code: allow code that comes with the model.
        allow_pickle: allow weights that are stored as pickles.

    Raises:
        UserError: when the model is missing, incomplete, no image classifier, or stored as a pickle that is not allowed.
    """
    model, processor = opened(path, CLASSIFIER, dtype or torch.float32, trust_remote_code, allow_pickle)
    config: Any = getattr(base_of(model), "config")  # noqa: B009 - typed as a module
    labels = tuple(str(config.id2label[i]) for i in range(config.num_labels))
    return model, Image(labels, *normalization(processor), processor)
