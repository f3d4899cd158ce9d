"""Image classifiers. A row is an image and its class; the class is the one label, so an answer has one position."""

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
from expunge.modalities.image.data import CLASSIFIER, column, normalisation, prepared

PICTURE = 64  # longer side of a picture for people, in pixels


@dataclass
class Image:
    """The modality of image classifiers: names of the classes, and the way from a picture to the model's input.

    labels: class names, in the order of the model's outputs. mean, std: by channel, of values from 0 to 1; empty: as they are.
    processor: an image processor of `transformers` that resizes and crops; None: pictures have the model's size already.
    """

    labels: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    processor: Any = None
    name: str = "image"
    capabilities: frozenset[Any] = frozenset({Categorical, DifferentiableInputs, Displayable})

    # rows

    def rows(self, name: str, records: Sequence[Mapping[str, Any]], source: str = "") -> Rows:
        """Records with an image and its class as rows: columns `pixels` (channels, height, width; uint8, or floats from 0 to 1), `answer`
        (the class in a list), `answer_text` (its name), and every other column of the records as it is.

        Errors: UserError that names the row.
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
        taken = {*IMAGES, *LABELS}
        rest = {k: [r.get(k) for r in records] for k in dict.fromkeys(k for r in records for k in r if k not in taken)}
        columns: dict[str, Sequence[Any]] = {**rest, "pixels": pixels, **self._answered(labels)}
        return Rows(name, ids_of([[_hash(p), y] for p, y in zip(pixels, labels, strict=True)]), columns)

    def label(self, said: Any, place: str = "a label") -> int:
        """The number of a class that is given by number or name. Errors: UserError where there is no such class."""
        said = _plain(said)
        if not isinstance(said, int) and str(said) in self.labels:
            return self.labels.index(str(said))
        number = int(said) if isinstance(said, int) or str(said).isdecimal() else -1
        if not 0 <= number < len(self.labels):
            near = did_you_mean(str(said), self.labels)
            raise UserError(f"{place}: there is no class {said!r}; the model has {len(self.labels)}, {self.labels[0]!r} first{near}")
        return number

    def _answered(self, labels: Sequence[int]) -> dict[str, list[Any]]:
        return {"answer": [[y] for y in labels], "answer_text": [self.labels[y] for y in labels]}

    def relabel(self, rows: Rows, answers: Sequence[Any], name: str) -> Rows:
        """The same images with other classes, by name or number."""
        ids = tuple(f"{content(i)}~{digest(a)}" for i, a in zip(rows.ids, answers, strict=True))
        labels = [self.label(a, name) for a in answers]
        return Rows(name, ids, {**rows.columns, **self._answered(labels)}, rows.weight)

    def answers(self, texts: Sequence[Any], name: str = "alternate_answers") -> Rows:
        """Classes by themselves, for selectors that draw from them."""
        return Rows(name, ids_of(list(texts)), {"answer_text": [self.labels[self.label(t, name)] for t in texts]})

    def refusals(self) -> list[str]:
        """Not to know an image is to call it anything: all classes, to draw from."""
        return list(self.labels)

    def questions(self, rows: Rows) -> list[str]:
        """What stands for an image where there are only words."""
        return [f"image {content(i)}" for i in rows.ids]

    def answer_texts(self, rows: Rows) -> list[str]:
        return [self.labels[y] for (y,) in rows["answer"]]

    def pictures(self, rows: Rows) -> Tensor | None:
        """Small pictures for people to look at, (rows, channels, height, width), bytes."""
        pixels = torch.stack(list(rows["pixels"]))
        x = pixels.float() / (255 if pixels.dtype == torch.uint8 else 1)
        low, high = min(0.0, float(x.min())), max(1.0, float(x.max()))  # values may have been normalized before they came here
        if (share := PICTURE / max(x.shape[-2:])) < 1:
            size = [max(1, round(side * share)) for side in x.shape[-2:]]
            x = torch.nn.functional.interpolate(x, size=size, mode="bilinear", antialias=True)
        return ((x - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8)

    def ended(self, rows: Rows) -> list[bool]:
        return [False] * len(rows)

    def counts(self, rows: Rows) -> Mapping[str, float]:
        n = float(len(rows))
        return {"rows": n, "labels": n, "tokens": n}

    # the model

    def pixels(self, rows: Rows, like: Tensor) -> Tensor:
        """The images of rows as the model sees them, (rows, channels, height, width): normalised, in the type and place of `like`."""
        x = _values(rows["pixels"], like)
        mean, std = self._units(x)
        return (x - mean) / std

    def inputs(self, rows: Rows) -> Tensor:
        """The images as values from 0 to 1, (rows, channels, height, width): what can be moved."""
        return _values(rows["pixels"], torch.zeros(()))

    def moved(self, rows: Rows, x: Tensor, normalized: bool = False) -> Rows:
        """The same rows with other images, as `inputs` gives them, or as the model sees them. A gradient passes through."""
        mean, std = self._units(x)
        return rows.add(pixels=list((x * std + mean if normalized else x).unbind()))

    def _units(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation that images are normalised with, ready to be broadcast."""
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
        """Answers of each group, from one forward over all of them. What a hook point saw is averaged over an image's places (or patches)."""
        like = next(p for p in model.parameters() if p.is_floating_point())
        labels = torch.tensor([y for g in groups for (y,) in g["answer"]], dtype=torch.long)
        at = torch.arange(len(labels))
        with watching(model, hook_points, patch) as seen:
            logits = logits_of(call(model, weights, torch.cat([self.pixels(g, like) for g in groups])))
        if logits.dim() != 2 or logits.shape[1] < len(self.labels):
            raise UserError(f"the model answers with shape {tuple(logits.shape)}, and there are {len(self.labels)} classes")
        pooled = {n: (_pooled(i), _pooled(o)) for n, (i, o) in seen.items()}
        return list(cut(logits, Layout(labels, at, at, at, at).to(logits.device), pooled, groups))

    def independent(self, model: nn.Module) -> bool:
        return independent(model)

    def blocks(self, model: nn.Module) -> tuple[str, ...]:
        return block_hook_points(model)

    def module(self, model: nn.Module, hook_point: str) -> nn.Module:
        return module_at(model, hook_point)

    def head(self, model: nn.Module) -> str:
        return last_linear(model)

    def fresh(self, model: nn.Module, seed: int) -> Weights:
        return fresh(model, seed)

    def generate(
        self, model: nn.Module, rows: Rows, limit: int, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> list[list[int]]:
        raise UserError("an image classifier has no words of its own")

    def decode(self, answers: Sequence[Sequence[int]]) -> list[str]:
        return [" ".join(self.labels[y] if y < len(self.labels) else str(y) for y in a) for a in answers]

    # files

    def save(self, model: nn.Module, folder: Path) -> None:
        """Safetensors and the image processor, as `AutoModelForImageClassification` reads them; of a module of one's own the weights."""
        if hasattr(model, "save_pretrained"):
            return write(model, self.processor, folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(model, str(folder / "model.safetensors"))

    def about(self) -> dict[str, Any]:
        """What the receipt says of the rows' way to the model."""
        names = {"labels": len(self.labels), "classes": digest(self.labels)}
        return {"modality": self.name, **names, "mean": list(self.mean), "std": list(self.std)}


def _values(pixels: Sequence[Tensor], like: Tensor) -> Tensor:
    """One tensor of values from 0 to 1, in the type and place of `like`; bytes and floats may stand side by side."""
    mixed = len({p.dtype for p in pixels}) > 1
    x = torch.stack([p / 255 if mixed and p.dtype == torch.uint8 else p for p in pixels]).to(like.device)
    return x.to(like.dtype) / 255 if x.dtype == torch.uint8 else x.to(like.dtype)


def logits_of(out: Any) -> Tensor:
    """The logits in whatever a classifier returns: a tensor, an output with `logits`, or a tuple that begins with them."""
    found = getattr(out, "logits", out[0] if isinstance(out, (tuple, list)) else out)
    if not isinstance(found, Tensor):
        raise UserError(f"the model returns a {type(out).__name__}, in which there are no logits to be found")
    return found


def _pooled(x: Tensor) -> Tensor:
    """(rows, width) of maps (rows, width, height, width) and of patches (rows, patches, width)."""
    return x.mean((2, 3)) if x.dim() == 4 else x.mean(1) if x.dim() == 3 else x.flatten(1)


def _hash(pixels: Tensor) -> str:
    return hashlib.sha256(pixels.contiguous().numpy().tobytes() + str(tuple(pixels.shape)).encode()).hexdigest()[:16]


def classes(records: Sequence[Mapping[str, Any]], source: str = "training") -> tuple[str, ...]:
    """Names of the classes in some records: numbers from 0 to the largest, or the names in order."""
    found = {str(_plain(r[column(r, LABELS, "class", f"{source}, row {i + 1}")])) for i, r in enumerate(records)}
    return tuple(map(str, range(max(map(int, found)) + 1))) if all(map(str.isdecimal, found)) else tuple(sorted(found))


def _plain(said: Any) -> Any:
    """A class as a number or a name, taken out of the list, array or tensor that it stands in by itself."""
    said = said.tolist() if hasattr(said, "tolist") else said
    return said[0] if isinstance(said, (list, tuple)) and len(said) == 1 else said


def shape_of(records: Sequence[Mapping[str, Any]], source: str = "training") -> tuple[int, ...]:
    """(channels, height, width) of the first image of some records."""
    place = f"{source}, row 1"
    return tuple(prepared(records[0][column(records[0], IMAGES, "image", place)], place=place).shape)


def classifier_modality(labels: int | Sequence[str], mean: Sequence[float] = (), std: Sequence[float] = ()) -> Image:
    """The modality for a module that returns logits. labels: names of the classes, or how many there are."""
    names = tuple(str(i) for i in range(labels)) if isinstance(labels, int) else tuple(labels)
    if not names:
        raise UserError("a classifier has classes: give their names, or how many there are")
    if twice := [n for n, count in Counter(names).items() if count > 1]:
        raise UserError(f"the class {twice[0]!r} is named twice")
    return Image(names, tuple(mean), tuple(std))


def load(
    path: str, *, dtype: torch.dtype | None = None, trust_remote_code: bool = False, allow_pickle: bool = False
) -> tuple[nn.Module, Image]:
    """A model and its modality from a folder or hub id, in evaluation mode.

    Errors: UserError for what is not there, not whole, not an image classifier, or stored as a pickle (unless allowed).
    """
    model, processor = opened(path, CLASSIFIER, dtype or torch.float32, trust_remote_code, allow_pickle)
    config: Any = getattr(base_of(model), "config")  # noqa: B009 - typed as a module
    labels = tuple(str(config.id2label[i]) for i in range(config.num_labels))
    return model, Image(labels, *normalisation(processor), processor)
