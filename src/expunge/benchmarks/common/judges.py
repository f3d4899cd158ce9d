"""Judges of drawn pictures: classifiers that name what a picture shows, one a domain (object, style ...), and their features."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from expunge.functional.brief import brief

Pictures = NDArray[np.uint8]  # (pictures, channels, height, width)
AT_ONCE = 128  # pictures in one forward pass


@brief("classes")
class Judged(NamedTuple):
    """What a judge says of some pictures.

    Args:
        classes: by domain, the number of the class of each picture, (pictures,).
        features: of the classifiers' last layers, side by side, (pictures, width).
    """

    classes: Mapping[str, NDArray[np.int64]]
    features: NDArray[np.float32]


@brief("domains")
@dataclass(frozen=True, eq=False)
class Judge:
    """Classifiers of pictures.

    Args:
        domains: names of the classes, by domain.
        classifiers: model and modality of the classifier of each domain.
        default: the class of a caption that names none of a domain.
        scale: so many times larger, without smoothing, the classifiers see a picture.
    """

    domains: Mapping[str, tuple[str, ...]]
    classifiers: Mapping[str, tuple[nn.Module, Any]]
    default: Mapping[str, str] = field(default_factory=dict)
    scale: int = 1

    def expected(self, captions: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        """The class that each caption names, by domain, (captions,); -1 where it names none or several."""
        numbers: dict[str, NDArray[np.int64]] = {}
        for domain, names in self.domains.items():
            patterns = [re.compile(rf"\b{re.escape(n.lower())}\b") for n in names]
            named = [[k for k, p in enumerate(patterns) if p.search(c.lower())] for c in captions]
            usual = names.index(self.default[domain]) if domain in self.default else -1
            numbers[domain] = np.array([n[0] if len(n) == 1 else usual if not n else -1 for n in named], np.int64)
        return numbers

    @torch.no_grad()
    def judged(self, pictures: Pictures) -> Judged:
        """What the pictures show."""
        classes, features = {}, []
        for domain, (model, modality) in self.classifiers.items():
            head = modality.head(model)
            outputs = []
            for first in range(0, len(pictures), AT_ONCE):
                some = [enlarged(p.transpose(1, 2, 0), self.scale) for p in pictures[first : first + AT_ONCE]]
                rows = modality.rows("pictures", [{"image": p, "label": self.domains[domain][0]} for p in some])
                outputs.append(modality.forward(model, [rows], (head,))[0])
            classes[domain] = torch.cat([o.logits.values for o in outputs]).argmax(-1).cpu().numpy()
            features.append(torch.cat([o.input(head).values for o in outputs]).float().cpu().numpy())
        return Judged(classes, np.concatenate(features, 1))


def enlarged(picture: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """A picture (height, width, channels) with each pixel repeated."""
    return picture.repeat(scale, 0).repeat(scale, 1)
