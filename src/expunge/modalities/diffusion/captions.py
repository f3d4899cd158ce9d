"""From captions to what a denoiser is given: tokens of a text encoder, or numbers of classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.modalities.common.records import absent, columns_of, kind_of
from expunge.modalities.diffusion.columns import CAPTIONS, CLASSES


def captions_of(records: Sequence[Mapping[str, Any]], source: str, classes: Sequence[str] = (), silent: bool = False) -> list[str]:
    """The caption of each record; for a model of classes the name of its class.

    Args:
        source: name of the records in messages.
        classes: names of the model's classes; none: captions are texts.
        silent: the model is given nothing, so captions may be absent and are not read.

    Raises:
        UserError: for a record without a caption, and for a class that the model does not have.
    """
    if silent:
        return [""] * len(records)
    columns = CLASSES if classes else CAPTIONS
    captions = []
    for i, record in enumerate(records, 1):
        place = f"{source}, row {i}"
        column = next((c for c in columns if not absent(record.get(c))), "")
        if not column:
            what = "the class that the picture shows" if classes else "what the picture shows, in words"
            raise UserError(
                f"{place}: no caption; {what}, stands in a column {', '.join(columns)}, and this row has {columns_of(record)}; columns of "
                f"other names are given with --map, such as --map {columns[0]}=COLUMN"
            )
        value: Any = record[column]
        if classes:
            captions.append(class_name(value, classes, place))
        elif not isinstance(value, str):
            raise UserError(f"{place}, column {column!r}: a caption is a text, and this is {kind_of(value)}")
        else:
            captions.append(value.strip())
    return captions


def naming(captions: Sequence[str], concept: str, source: str) -> list[int]:
    """The places of the captions that name a concept as whole words, in any case.

    Args:
        captions: of all rows.
        concept: one or several words.
        source: name of the rows in messages.

    Raises:
        UserError: when none does.
    """
    pattern = re.compile(rf"(?<!\w){re.escape(concept.strip())}(?!\w)", re.IGNORECASE)
    places = [i for i, caption in enumerate(captions) if concept.strip() and pattern.search(caption)]
    if not places:
        words = sorted({w for caption in captions for w in re.findall(r"\w+", caption)})
        raise UserError(f"{source}: none of {len(captions)} captions holds {concept!r}{did_you_mean(concept, words)}")
    return places


def class_name(value: Any, classes: Sequence[str], place: str) -> str:
    """The name of a class that is named by name or number; '' is no class. Raises: UserError."""
    if isinstance(value, str) and (value in classes or value == ""):
        return value
    synonyms = [c for c in classes if isinstance(value, str) and value in c.split(", ")]  # names as of ImageNet: "tench, Tinca tinca"
    if len(synonyms) == 1:
        return synonyms[0]
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if isinstance(value, bool) or not 0 <= number < len(classes):
        raise UserError(f"{place}: the model has no class {str(value)[:40]!r}{did_you_mean(str(value)[:40], classes)}")
    return classes[number]


def cut_short(tokenizer: Any, captions: Sequence[str], name: str) -> list[str]:
    """A sentence on captions with more tokens than the text encoder reads, whose ends are left out. name: of the set."""
    distinct = list(dict.fromkeys(captions))
    lengths = dict(zip(distinct, map(len, tokenizer(distinct).input_ids if distinct else ()), strict=True))
    most = tokenizer.model_max_length
    longer = sum(lengths[c] > most for c in captions)
    return [f"{longer} of {len(captions)} captions of {name!r} are longer than the {most} tokens that are read"] if longer else []


def tokens_of(tokenizer: Any, captions: Sequence[str]) -> Tensor:
    """Tokens of captions, each padded and cut to the length of the text encoder, (captions, tokens)."""
    tokens: Tensor = tokenizer(
        list(captions), padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
    return tokens


def content_of(tokenizer: Any, caption: str) -> dict[int, int]:
    """The tokens of a caption by their position among `tokens_of`, without start, end and padding."""
    content, whole, first = tokenizer(caption, add_special_tokens=False).input_ids, tokenizer(caption).input_ids, starts_of(tokenizer)
    most = tokenizer.model_max_length - (len(whole) - len(content) - first)  # what follows the content is kept
    return {first + i: int(token) for i, token in enumerate(content) if first + i < most}


def starts_of(tokenizer: Any) -> int:
    """How many tokens stand before the words of a caption: one that starts it, or none."""
    return int(tokenizer.bos_token_id is not None and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id])


def numbers_of(classes: Sequence[str], captions: Sequence[str]) -> Tensor:
    """Numbers of classes, (captions,); that of '' is the one after the last class, which stands for none."""
    number = {name: i for i, name in enumerate(classes)}
    return torch.tensor([number.get(c, len(classes)) for c in captions], dtype=torch.long)
