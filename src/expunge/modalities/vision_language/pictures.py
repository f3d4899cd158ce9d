"""Pictures as a processor of `transformers` makes them inputs of a model, and the marks that stand for them in texts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.core.errors import UserError
from expunge.functional.brief import brief
from expunge.modalities.common.files import quiet
from expunge.modalities.image.decode import Array, decoded
from expunge.modalities.image.preprocessing import with_channels

MARK = re.compile(r"⟦picture ([0-9a-f]{16})⟧")  # in a text, the place of the picture with this key
SIDE = 64  # of a picture for people to look at, in pixels
NOISE = 0.2  # of a picture whose noise an attack draws, in standard deviations of its values
SHRUNK = 8  # a side that becomes this many times shorter is noted
Picture = dict[str, Any]  # `key`, `tokens` (how many), `shown` (a small picture, bytes), and the tensors that the processor returns
PLAIN = ("key", "tokens", "shown")
OF_TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")  # what processors return for the tokens of a text


def mark(key: str) -> str:
    """The text that stands for a picture."""
    return f"⟦picture {key}⟧"


def without_marks(text: str) -> str:
    """A text without its pictures, for people to read."""
    return MARK.sub("", text).strip("\n") if "⟦" in text else text


def marks_in(context: Any) -> list[str]:
    """The keys of the pictures of a context: a text, or the turns of a chat."""
    texts = [context] if isinstance(context, str) else [str(turn.get("content", "")) for turn in context]
    return [key for text in texts for key in MARK.findall(text)]


@brief("known")
@dataclass(eq=False)
class Album:
    """The pictures that a processor has read, by key.

    Args:
        processor: of `transformers`, with a tokenizer, an image processor and an image token.
        channels: that the model takes.
    """

    processor: Any
    channels: int = 3
    known: dict[str, Picture] = field(default_factory=dict, repr=False)
    texts: dict[str, str] = field(default_factory=dict, repr=False)  # by key, what stands for the picture in a prompt
    _paths: dict[str, str] = field(default_factory=dict, repr=False)  # keys of files that were read

    @property
    def token(self) -> str:
        """The token that stands for a picture, or for each of its parts."""
        return str(self.processor.image_token)

    @property
    def token_id(self) -> int:
        """Its id."""
        known = getattr(self.processor, "image_token_id", None)
        return int(known if known is not None else self.processor.tokenizer.convert_tokens_to_ids(self.token))

    def add(self, picture: Any, place: str, losses: set[str]) -> str:
        """Read a picture of any kind that `decoded` reads, and return its key.

        Args:
            place: the picture, for messages.
            losses: takes what the model does not get of it.

        Raises:
            UserError: when it cannot be read, or the processor does not take it.
        """
        if isinstance(picture, str) and picture in self._paths:
            return self._paths[picture]
        array = with_channels(decoded(picture, place, losses), self.channels, losses)
        key = hashlib.sha256(array.tobytes() + str((array.shape, array.dtype)).encode()).hexdigest()[:16]
        if key not in self.known:
            self.known[key], self.texts[key] = self._read(array, key, place)
        height, width = array.shape[1:]
        small = min(self.known[key]["shown"].shape[0], *_sides(self.known[key], (height, width)))
        if max(height, width) >= SHRUNK * small:
            losses.add(f"are shrunk to less than an eighth of their side ({height} x {width} pixels) before the model reads them")
        if isinstance(picture, str):
            self._paths[picture] = key
        return key

    def _read(self, array: Array, key: str, place: str) -> tuple[Picture, str]:
        from PIL import Image

        bytes_of = array if array.dtype == np.uint8 else (array.clip(0, 1) * 255).round().astype(np.uint8)
        image = Image.fromarray(np.ascontiguousarray(bytes_of.transpose(1, 2, 0)) if len(bytes_of) > 1 else bytes_of[0])
        try:
            with quiet():
                inputs = self.processor(images=[image], text=self.token, return_tensors="pt", add_special_tokens=False)
        except Exception as error:  # a processor may be any code, and raises what its libraries raise
            line = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise UserError(f"{place}: the processor {type(self.processor).__name__} does not take this picture: {line}") from None
        tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor) and name not in OF_TEXT}
        if "pixel_values" not in tensors or not tensors["pixel_values"].numel():
            raise UserError(
                f"{place}: the processor {type(self.processor).__name__} leaves nothing of a picture of {array.shape[1]} x "
                f"{array.shape[2]} pixels: check `size` in its preprocessor_config.json"
            )
        ids = inputs["input_ids"][0].tolist()
        text = self.processor.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        tokens = ids.count(self.token_id)
        if not tokens:
            raise UserError(
                f"{place}: the processor {type(self.processor).__name__} gives the picture no tokens, so no text can refer to it"
            )
        return {"key": key, "tokens": tokens, "shown": _small(bytes_of), **tensors}, text

    def check_distinct(self, keys: Iterable[str], where: str) -> None:
        """Refuse different pictures that are one and the same to the model.

        Raises:
            UserError: says how many there are.
        """
        distinct = list(dict.fromkeys(keys))
        inputs = {hashlib.sha256(self.known[k]["pixel_values"].contiguous().numpy().tobytes()).hexdigest() for k in distinct}
        if len(distinct) > 1 and len(inputs) < len(distinct):
            shape = tuple(self.known[distinct[0]]["pixel_values"].shape)
            raise UserError(
                f"{where}: {len(distinct)} different pictures are only {len(inputs)} to the model, because its processor resizes away what "
                f"tells them apart (to {shape}): check `size` in its preprocessor_config.json"
            )


def _sides(picture: Picture, raw: tuple[int, int]) -> tuple[int, ...]:
    """Height and width of what the model reads; those of the picture where the inputs are patches."""
    shape = picture["pixel_values"].shape
    return tuple(shape[-2:]) if len(shape) >= 4 else raw


def _small(array: Array) -> Tensor:
    """A picture of SIDE x SIDE pixels, uint8 (3, SIDE, SIDE)."""
    x = torch.from_numpy(np.array(array))[None].float().expand(1, 3, -1, -1)
    sized = torch.nn.functional.interpolate(x, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    return sized[0].round().clamp(0, 255).to(torch.uint8)


def joined(pictures: Sequence[Mapping[str, Any]], like: Tensor) -> dict[str, Tensor]:
    """The inputs of a model for some pictures, one behind the other; sides that differ are filled with zeros.

    Args:
        like: has the device and the floating type of the inputs.
    """
    inputs = {}
    for name in dict.fromkeys(n for p in pictures for n in p if n not in PLAIN):
        tensors = [p[name] for p in pictures]
        sides = [max(sizes) for sizes in zip(*(t.shape[1:] for t in tensors), strict=True)]
        padded = [
            torch.nn.functional.pad(t, [x for a, b in zip(t.shape[:0:-1], sides[::-1], strict=True) for x in (0, b - a)]) for t in tensors
        ]
        whole = torch.cat(padded).to(like.device)
        inputs[name] = whole.to(like.dtype) if whole.is_floating_point() else whole
    return inputs


def rekeyed(picture: Mapping[str, Any], values: Tensor) -> Picture:
    """A picture with other pixel values, which a gradient may flow through."""
    key = hashlib.sha256(values.detach().cpu().contiguous().float().numpy().tobytes()).hexdigest()[:16]
    return {**picture, "key": key, "pixel_values": values}


def noisy(picture: Mapping[str, Any], size: float = NOISE) -> Picture:
    """A picture with normal noise, which depends on the picture alone. size: standard deviation, as a share of the picture's own."""
    values = picture["pixel_values"]
    drawn = torch.randn(values.shape, generator=torch.Generator().manual_seed(int(picture["key"], 16) % 2**62))
    return rekeyed(picture, values + size * values.float().std() * drawn.to(values.device, values.dtype))


def separated(ids: Sequence[int], pictures: Sequence[Mapping[str, Any]], token: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The place of the first token of each picture in a sequence, with the picture. token: id of the image token."""
    places = [i for i, t in enumerate(ids) if t == token]
    at = 0
    for picture in pictures:
        yield places[at], picture
        at += picture["tokens"]
