"""The modality of image classifiers. A row is an image and its class; the class is the only label, so an answer has one position."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
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
from expunge.engine.adapters import base_of
from expunge.functional.brief import brief
from expunge.modalities.common.files import opened, write
from expunge.modalities.common.fingerprint import fingerprint
from expunge.modalities.common.labels import LABELS, checked_names, names_in, number_of, renamed
from expunge.modalities.common.network import Network
from expunge.modalities.common.packed import (
    Layout,
    call,
    cut,
    independent,
    running_statistics,
    watching,
)
from expunge.modalities.common.records import column, ignored, note
from expunge.modalities.image.columns import IMAGES
from expunge.modalities.image.data import CLASSIFIER, input_shape, misfit, prepared
from expunge.modalities.image.decode import check_units
from expunge.modalities.image.losses import sentences as losses_in_words
from expunge.modalities.image.preprocessing import Units, units_of

PICTURE = 64  # longer side of a displayed picture, in pixels


@brief("name", "labels", "processor")
@dataclass
class Image(Network):
    """The modality of image classifiers: class names, and the preprocessing from a picture to the model's input.

    Args:
        labels: class names, in the order of the model's outputs.
        mean: of each channel, of values from 0 to 1; empty: no normalization. With a processor it is measured.
        std: standard deviation of each channel, likewise.
        processor: the model's image processor of `transformers`, whose `pixel_values` the model gets; None: pictures already have the size
            of the model's input.
        channels: that the model takes; None: unknown, and gray pictures stay gray.
    """

    labels: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    processor: Any = None
    channels: int | None = None
    name: str = "image"
    capabilities: frozenset[Any] = frozenset({Categorical, DifferentiableInputs, Displayable})

    def __post_init__(self) -> None:
        if self.processor is not None:
            units = units_of(self.processor, self.channels or 3)
            self.mean, self.std = units.mean, units.std

    # Rows

    def rows(self, name: str, records: Sequence[Mapping[str, Any]], source: str = "") -> Rows:
        """Convert records with an image and its class to rows.

        Args:
            name: name of the set.
            source: name of the records in messages; default: `name`.

        Returns:
            Rows with the columns `pixels` (channels, height, width; uint8, or floats in units from 0 to 1), `answer` (the class in a list),
            `answer_text` (its name), and every other column of the records unchanged.

        Raises:
            UserError: when a record lacks image or class, or images differ in size; the message names the row.
        """
        where = source or name
        pixels: list[Tensor] = []
        labels: list[int] = []
        losses: list[set[str]] = [set() for _ in records]
        check_units([next((r[c] for c in IMAGES if r.get(c) is not None), None) for r in records], where)
        for i, record in enumerate(records):
            place = f"{where}, row {i + 1}"
            picture = record[column(record, IMAGES, "image", place)]
            pixels.append(prepared(picture, self.processor, place, self.channels, Units(self.mean, self.std), losses[i]))
            labels.append(self.label(record[column(record, LABELS, "class", place)], place))
            if pixels[i].shape != pixels[0].shape:
                advice = (
                    "a model with an image processor brings them to one size, others take images of one size alone"
                    if self.processor is None
                    else "the model's image processor keeps their proportions: set do_center_crop in it, or crop the images"
                )
                raise UserError(
                    f"{place}: an image of shape {tuple(pixels[i].shape)}, and the first has {tuple(pixels[0].shape)}; {advice}"
                )
        note(records, losses_in_words(losses, name))
        read = {*IMAGES, *LABELS}
        note(records, ignored([{*_filled(r, IMAGES)[1:], *_filled(r, LABELS)[1:]} for r in records], name))
        others = {k: [r.get(k) for r in records] for k in dict.fromkeys(k for r in records for k in r if k not in read)}
        columns: dict[str, Sequence[Any]] = {**others, "pixels": pixels, **self._answer_columns(labels)}
        return Rows(name, ids_of([[_hash(p), y] for p, y in zip(pixels, labels, strict=True)]), columns)

    def label(self, value: Any, place: str = "a label") -> int:
        """The number of a class that is named by number or name.

        Args:
            value: the number or name, possibly in a list, array or tensor of one element.
            place: the record, for messages.

        Raises:
            UserError: when the model has no such class, or the value may mean two.
        """
        return number_of(value, self.labels, place)

    def _answer_columns(self, labels: Sequence[int]) -> dict[str, list[Any]]:
        return {"answer": [[y] for y in labels], "answer_text": [self.labels[y] for y in labels]}

    def relabel(self, rows: Rows, answers: Sequence[Any], name: str) -> Rows:
        """The same images with other classes, by name or number."""
        ids = tuple(f"{content(i)}~{digest(a)}" for i, a in zip(rows.ids, answers, strict=True))
        labels = [self.label(a, f"{name}, row {i}") for i, a in enumerate(answers, 1)]
        return Rows(name, ids, {**rows.columns, **self._answer_columns(labels)}, rows.weight)

    def answers(self, texts: Sequence[Any], name: str = "alternate_answers") -> Rows:
        """Rows of classes without images, for selectors that draw from them."""
        labels = [self.label(t, f"{name}, row {i}") for i, t in enumerate(texts, 1)]
        return Rows(name, ids_of(list(texts)), {"answer_text": [self.labels[y] for y in labels]})

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
        x = _values(rows["pixels"], like.double() if like.dtype == torch.float64 else like.float())  # rounded to fewer bits at the end
        mean, std = self._units(x)
        return ((x - mean) / std).to(like.dtype)

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
        x = torch.cat([self.pixels(g, like) for g in groups])
        statistics = running_statistics if not independent(model) and _alike([p for g in groups for p in g["pixels"]]) else nullcontext
        with watching(model, hook_points, patch) as hooked, statistics(model):
            try:
                logits = logits_of(call(model, weights, x))
            except (RuntimeError, ValueError) as error:
                raise misfit(base_of(model), x.shape[1:], error) or error from error
        if logits.dim() != 2 or logits.shape[1] < len(self.labels):
            raise UserError(f"the model answers with shape {tuple(logits.shape)}, and there are {len(self.labels)} classes")
        pooled = {n: (_pooled(i), _pooled(o)) for n, (i, o) in hooked.items()}
        return list(cut(logits, Layout(labels, at, at, at, at).to(logits.device), pooled, groups))

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
        names = {"labels": len(self.labels), "classes": digest(self.labels), "processor": fingerprint(self.processor)}
        return {"modality": self.name, **names, "mean": list(self.mean), "std": list(self.std)}


def _values(pixels: Sequence[Tensor], like: Tensor) -> Tensor:
    """One tensor of values from 0 to 1, with dtype and device of `like`. Images of bytes and of floats may be mixed."""
    mixed = len({p.dtype for p in pixels}) > 1
    x = torch.stack([p / 255 if mixed and p.dtype == torch.uint8 else p for p in pixels]).to(like.device)
    return x.to(like.dtype) / 255 if x.dtype == torch.uint8 else x.to(like.dtype)


def _alike(pixels: Sequence[Tensor]) -> bool:
    """Whether all images are one and the same."""
    return all(p is pixels[0] or torch.equal(p, pixels[0]) for p in pixels)


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


def _filled(record: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """The columns that a record has, of which the first is read."""
    return [c for c in columns if record.get(c) is not None]


def _hash(pixels: Tensor) -> str:
    return hashlib.sha256(pixels.contiguous().numpy().tobytes() + str(tuple(pixels.shape)).encode()).hexdigest()[:16]


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
        UserError: when there are no classes, a name is empty, or two classes have the same name.
    """
    return Image(checked_names(labels), tuple(mean), tuple(std))


def load(
    path: str,
    *,
    labels: int | Sequence[str] = (),
    dtype: torch.dtype | str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> tuple[nn.Module, Image]:
    """Load a model in evaluation mode and its modality from a folder or hub id.

    Args:
        path: a folder or hub id.
        labels: names of the classes, for a model without names, or how many classes it must have.
        dtype: see `common.files.opened`.
        trust_remote_code: allow code that comes with the model.
        allow_pickle: allow weights that are stored as pickles.

    Raises:
        UserError: when the model is missing, incomplete, no image classifier, of other classes, or stored as a pickle that is not allowed.
    """
    model, processor = opened(path, CLASSIFIER, dtype, trust_remote_code, allow_pickle)
    config: Any = getattr(base_of(model), "config")  # noqa: B009 - typed as a module
    names = names_in(config, path)
    names = renamed(config, names, labels, path) if labels != () else names
    return model, Image(names, processor=processor, channels=input_shape(base_of(model))[0])
