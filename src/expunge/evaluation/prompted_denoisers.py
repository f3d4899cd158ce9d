"""Attacks on models that draw by their prompts alone: the weights stay, and vectors of words are trained on pictures of the concept."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Denoises, require
from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.plan import Plan
from expunge.core.rows import Rows
from expunge.engine.adapters import base_of
from expunge.evaluation.attack import Scene
from expunge.evaluation.attacks.relearn import fine_tune
from expunge.evaluation.learned_words import LearnedWords
from expunge.evaluation.measure import Missing
from expunge.evaluation.observe import Records

LEARNED = r"text_encoder\.weights$"  # the only parameters that train


def readable(records: Records, modality: Modality, pictures: int) -> Records:
    """The rows, where some have pictures and the model reads captions. Raises: Missing."""
    try:
        artist: Any = require(modality, Denoises)
    except UserError as error:
        raise Missing(str(error)) from None
    if not hasattr(artist.tokenizer, "get_vocab"):
        raise Missing("this searches for words, and the model reads none: it is given classes, or nothing")
    if sum(p is not None for p in modality.rows("forget", records)["picture"]) < pictures:
        raise Missing(f"the search starts from {pictures} pictures of what was to be forgotten, and the rows to forget have fewer")
    return records


def held_rows(modality: Modality, records: Records, many: int, seed: int) -> Rows:
    """Rows with pictures that the attacker holds, drawn."""
    rows = modality.rows("forget", records)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    return rows.select([k for k in order if rows["picture"][k] is not None][:many])


def with_words(scene: Scene, **settings: Any) -> nn.Module:
    """A copy of the model that reads learned words: see `LearnedWords`."""
    attacked = scene.bare(merged=True)
    base: Any = base_of(attacked)
    empty = tokens_of(scene.modality, "")
    base.text_encoder = LearnedWords(base.text_encoder, empty.to(next(base.parameters()).device), **settings)
    return attacked


def learn(
    how: Plan, attacked: nn.Module, scene: Scene, held: Rows, look: Callable[[int], None], when: Callable[[int], bool]
) -> LearnedWords:
    """Train the learned words on rows, and return them. No caption is dropped, as where a model learns to draw without one."""
    modality: Any = copy.copy(scene.weights_modality)
    modality.settings = replace(modality.settings, dropped=0.0)
    fine_tune(how, attacked, modality, held, look, when, scene.accelerator)
    base: Any = base_of(attacked)
    learned: LearnedWords = base.text_encoder
    return learned


def tokens_of(modality: Modality, caption: str) -> Tensor:
    """Tokens of a caption, padded to the length of the text encoder, (tokens,)."""
    tokenizer: Any = modality.tokenizer  # type: ignore[attr-defined]
    tokens: Tensor = tokenizer(
        [caption], padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids[0]
    return tokens


def content_of(modality: Modality, words: str) -> list[int]:
    """Tokens of some words, without start, end and padding."""
    around = set(tokens_of(modality, "").tolist())
    return [t for t in tokens_of(modality, words).tolist() if t not in around]


def shared_words(captions: Sequence[str], others: Sequence[str]) -> str:
    """The words of all captions that fewest other captions have, as they stand in the first one; '' where all share none.

    Args:
        captions: with the concept.
        others: without it.
    """
    sets = [set(words_of(c)) for c in captions]
    common = set.intersection(*sets) if sets else set()
    counts = Counter(w for c in others for w in set(words_of(c)))
    fewest = min((counts[w] for w in common), default=0)
    return " ".join(w for w in words_of(captions[0]) if w in common and counts[w] == fewest) if common else ""


def words_of(caption: str) -> list[str]:
    """Words of a caption."""
    return re.findall(r"\w+", caption.lower())
