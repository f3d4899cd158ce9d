"""A tiny vision-language model with two tokens a side of a picture, drawn faces, and what is said about them."""

from __future__ import annotations

import functools
from typing import Any

import torch

from expunge.benchmarks.synthetic.citizens import citizens
from expunge.core.plan import Plan, Train
from expunge.core.rows import Sets
from expunge.engine import loop
from expunge.methods.terms import NLL
from expunge.modalities.text.models.llama import LlamaSize
from expunge.modalities.text.wider import known_tokens
from expunge.modalities.vision_language.modality import VisionLanguage, vision_language
from expunge.modalities.vision_language.models import llava

SIZE = llava.LlavaSize(LlamaSize(512, 32, 64, 2, 2, 96), 16, 8, 32, 2, 2)
KINDS = ("town", "job")
Record = dict[str, Any]


@functools.cache
def records() -> tuple[list[Record], list[Record]]:
    """Forget and retain: two questions about each of four people, the first of whom is to be forgotten."""
    import random

    people, rng = citizens(4, 2, seed=3, size=16), random.Random(0)
    rows = [[{**r, "other_images": [p.images[1]]} for r in p.rows(0, rng, 2, KINDS)] for p in people]
    return rows[0], [r for of_person in rows[1:] for r in of_person]


@functools.cache
def processor() -> Any:
    forget, retain = records()
    return llava.processor_for([" ".join(str(v) for v in r.values() if isinstance(v, str)) for r in [*forget, *retain]], SIZE)


def built(prompt_format: str = "", limit: int = SIZE.language.length) -> tuple[torch.nn.Module, VisionLanguage]:
    """An untrained model and its modality."""
    model = llava.untrained(SIZE, processor().tokenizer.convert_tokens_to_ids(llava.IMAGE))
    return model, vision_language(processor(), prompt_format, limit, known_tokens(model))


@functools.cache
def trained() -> tuple[torch.nn.Module, VisionLanguage, Sets]:
    """A model that knows the answers, its modality, and the sets of a request."""
    forget, retain = records()
    model, modality = built()
    sets = {"forget": modality.rows("forget", forget), "retain": modality.rows("retain", retain)}
    sets["alternate_answers"] = modality.answers(modality.refusals()[:4])
    train = Train(epochs=100, lr=5e-3, batch_size=4, anchor="retain", max_grad_norm=1.0)
    loop.run((Plan(NLL("retain"), train=train),), model, modality, {"retain": modality.rows("retain", [*forget, *retain])})
    return model.eval(), modality, sets


def copy_of() -> tuple[torch.nn.Module, VisionLanguage, Sets]:
    """A copy of the trained model, which may be changed."""
    model, modality, sets = trained()
    copied, _ = built()
    copied.load_state_dict(model.state_dict())
    return copied, modality, sets
