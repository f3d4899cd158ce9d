"""Who names what a drawn picture shows, how well it fits its caption, and whether a text is clean: models beside the audited one, opened
once by their name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from expunge import catalog
from expunge.benchmarks.common.judges import Judge, Pictures
from expunge.core.errors import UserError
from expunge.io.models import load
from expunge.modalities.image.modality import Image

JUDGE = "a folder or hub id of an image classifier, or a benchmark that has classifiers"  # in place of definitions, as `ENCODER`
CLIP = "a folder or hub id of a CLIP model"
TEXTS = "a folder or hub id of a classifier of texts"
CLEAN, LONGEST = "clean", 32  # its class of clean texts; tokens of a text that it reads
AT_ONCE = 32  # pictures or texts in one forward pass
Cleanness = Callable[[Sequence[str]], NDArray[np.float64]]  # texts -> probabilities that they are clean, (texts,)
Likeness = Callable[[Pictures, Sequence[str]], NDArray[np.float64]]  # pictures, captions -> cosines, (pictures,)


@cache
def judge_of(name: str) -> Judge:
    """The judge of a name.

    Args:
        name: of a benchmark that has classifiers, or a folder or hub id of an image classifier, whose classes captions name.

    Raises:
        UserError: when it is neither.
    """
    if name in catalog.names("benchmarks"):
        module = catalog.load(name, "benchmarks")
        if not hasattr(module, "judge"):
            raise UserError(f"the benchmark {name!r} has no classifiers of drawn pictures: name {JUDGE}")
        judge: Judge = module.judge()
        return judge
    opened = load(name)
    if not isinstance(opened.modality, Image):
        raise UserError(f"{name} is no image classifier, and drawn pictures are judged by one")
    return Judge({"class": opened.modality.labels}, {"class": (opened.model, opened.modality)})


@cache
def likeness_of(name: str) -> Likeness:
    """The cosines of pictures and captions under a CLIP model.

    Args:
        name: folder or hub id.

    Raises:
        UserError: when there is none.
    """
    from transformers import CLIPModel, CLIPProcessor

    try:
        model, processor = CLIPModel.from_pretrained(name, use_safetensors=True).eval(), CLIPProcessor.from_pretrained(name)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"there is no CLIP model {name!r}: give {CLIP} ({' '.join(str(error).split())[:150]})") from None

    @torch.no_grad()
    def likeness(pictures: Pictures, captions: Sequence[str]) -> NDArray[np.float64]:
        cosines = []
        for first in range(0, len(pictures), AT_ONCE):
            some = [p.transpose(1, 2, 0) for p in pictures[first : first + AT_ONCE]]
            texts = list(captions[first : first + AT_ONCE])
            output = model(**processor(text=texts, images=some, return_tensors="pt", padding=True, truncation=True))
            cosines.append(torch.nn.functional.cosine_similarity(output.image_embeds, output.text_embeds).double().numpy())
        return np.concatenate(cosines)

    return likeness


@cache
def cleanness_of(name: str) -> Cleanness:
    """The probability of clean text under a classifier of texts.

    Args:
        name: folder or hub id.

    Raises:
        UserError: when there is none.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        model = AutoModelForSequenceClassification.from_pretrained(name, use_safetensors=True).eval()
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"there is no classifier {name!r}: give {TEXTS} ({' '.join(str(error).split())[:150]})") from None
    clean = next((i for i, label in model.config.id2label.items() if str(label).lower() == CLEAN), 0)

    @torch.no_grad()
    def cleanness(texts: Sequence[str]) -> NDArray[np.float64]:
        shares = []
        for first in range(0, len(texts), AT_ONCE):
            some = list(texts[first : first + AT_ONCE])
            batch = tokenizer(some, return_tensors="pt", padding=True, truncation=True, max_length=LONGEST)
            shares.append(model(**batch).logits.double().softmax(-1)[:, clean].numpy())
        return np.concatenate(shares)

    return cleanness
