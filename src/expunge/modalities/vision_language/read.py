"""Score answers about pictures teacher-forced. A picture goes through the vision tower once, and answers share their question.

In what is packed, the first token of each picture is the number of its picture, so that equal questions about two pictures differ.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from expunge.engine.adapters import base_of
from expunge.functional.brief import brief
from expunge.modalities.text.decoding import disturbed
from expunge.modalities.text.reading import BUDGET, Inputs, Reading, difference_of, places_for, score
from expunge.modalities.text.trie import Batch, Pair, pack
from expunge.modalities.vision_language.pictures import separated
from expunge.modalities.vision_language.towers import SHARED, Pictures, Towers, accepts, shown

FEW = 4  # rows on which a shared pass is compared with a plain one


def numbered(ids: Sequence[int], pictures: Pictures, token: int) -> list[int]:
    """A sequence with the number of each picture, which is negative, in the place of its first token. token: id of the image token."""
    changed = list(ids)
    for place, picture in separated(ids, pictures, token):
        changed[place] = -1 - int(picture["key"][:15], 16)
    return changed


@brief("token", "pad")
class PictureReader:
    """Scores rows of one model.

    Args:
        prompts, answers: token ids of each row.
        pictures: of each row.
        token: id of the image token.
        pad: id of padding.
    """

    def __init__(
        self, model: nn.Module, prompts: Sequence[Any], answers: Sequence[Any], pictures: Sequence[Pictures], token: int, pad: int
    ) -> None:
        self.model, self.token, self.pad = model, token, pad
        self.pairs: list[Pair] = [(numbered(p, s, token), a) for p, a, s in zip(prompts, answers, pictures, strict=True)]
        self.by_number = {-1 - int(p["key"][:15], 16): p for of_row in pictures for p in of_row}
        self.towers = Towers(model)

    def read(self, moments: Sequence[bool], progress: Callable[[float], None]) -> Reading:
        """Score all labels; see `Text.read`."""
        first = [t for p, a in self.pairs[:1] for t in (*p, *a) if t >= 0 and t != self.token]
        alone = bool(first) and disturbed(self.model, first, self.pad)
        obstacle = "padding changes what the model predicts" if alone else self._obstacle()
        how = obstacle or "questions share what the tower makes of their picture, and answers their question"
        budget = 1 if alone else places_for(self.model)
        return self._score(self.pairs, moments, not obstacle, budget, progress, how)

    def _score(
        self,
        pairs: Sequence[Pair],
        moments: Sequence[bool],
        share: bool,
        budget: int,
        progress: Callable[[float], None] = lambda share: None,
        how: str = "",
    ) -> Reading:
        packing = pack(pairs, share, budget, self.pad)
        asked: list[Hashable] = [tuple(p) for p, _ in pairs]
        return score(self.model, pairs, packing, moments, self._inputs(share), progress, how, asked)

    def _inputs(self, share: bool) -> Inputs:
        dtype = getattr(base_of(self.model), "dtype", next(self.model.parameters()).dtype)

        def inputs(_: int, batch: Batch) -> dict[str, Any]:
            pictures = [self.by_number[n] for n in batch.ids[batch.ids < 0].tolist()]
            ids = batch.ids.masked_fill(batch.ids < 0, self.token)
            if share:
                places = {"attention_mask": batch.mask(dtype), "position_ids": batch.position}
                return {"input_ids": ids, **places, **self.towers.inputs(pictures, ids, self.token)}
            return {"input_ids": ids, "attention_mask": batch.real.long(), **shown(self.model, pictures, ids, self.token)}

        return inputs

    def _obstacle(self) -> str:
        """The reason why rows cannot share in this model; empty if they can. A few rows are scored both ways."""
        base: Any = base_of(self.model)
        if not isinstance(base, PreTrainedModel):
            return "the model is wrapped"
        if any(m._forward_hooks or m._forward_pre_hooks for m in base.get_decoder().modules()):  # those of the tower count no places
            return "the language model has hooks"
        if not accepts(self.model, SHARED) or not accepts(self.model, "position_ids"):
            return "the model takes no outputs of its vision tower"
        if "mrope_section" in str(base.config.get_text_config().to_dict()):
            return "the model gives parts of pictures places in three dimensions"
        longest = sorted(self.pairs, key=lambda pair: -len(pair[0]) - len(pair[1]))[:1]
        window = getattr(base.config.get_text_config(), "sliding_window", None)
        if longest and window and window < len(longest[0][0]) + len(longest[0][1]):
            return f"the model looks back over {window} tokens"
        few = list({id(pair): pair for pair in (*longest, *self.pairs[:FEW], *self._several())}.values())
        none = [False] * len(few)
        if not few:
            return ""
        try:
            shared, plain = (self._score(few, none, share, min(BUDGET["cpu"], places_for(self.model))) for share in (True, False))
            difference = difference_of(shared, plain, lambda: self._score(few, none, False, 1))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # models raise errors of any kind
            return f"the model refuses to share ({type(error).__name__})"
        return f"log-probabilities would differ by {difference:.2g} if rows shared their pictures" if difference else ""

    def _several(self) -> list[Pair]:
        """The answers to one question that has several."""
        groups: dict[tuple[int, ...], list[Pair]] = {}
        for pair in self.pairs:
            groups.setdefault(tuple(pair[0]), []).append(pair)
        return max(groups.values(), key=len)[:FEW] if groups else []
