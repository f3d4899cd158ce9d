"""Vision-language models: a row is one sequence, in which tokens stand for pictures and the answer continues the prompt."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from expunge.core.errors import UserError
from expunge.core.modality import ModelOutput, Patch, Weights
from expunge.core.rows import Rows
from expunge.engine.blocks import spelled_path
from expunge.engine.sides import side_of
from expunge.functional.brief import brief
from expunge.modalities.common.packed import spelled_out
from expunge.modalities.text.causal import Causal
from expunge.modalities.text.reading import Reading
from expunge.modalities.vision_language.encode import PictureEncoder
from expunge.modalities.vision_language.generate import PicturedPrompts
from expunge.modalities.vision_language.pictures import Album
from expunge.modalities.vision_language.read import PictureReader, numbered
from expunge.modalities.vision_language.towers import shown


@brief("album")
@dataclass(frozen=True)
class Pictured(Causal):
    """How rows go through a model that continues a sequence of texts and pictures."""

    album: Album | None = None

    @property
    def token(self) -> int:
        """The id of the token that stands for a picture."""
        assert self.album is not None
        return self.album.token_id

    def encoder(self, tokenizer: Any, prompt_format: str, limit: int, vocabulary: int) -> PictureEncoder:
        """What turns records into token ids."""
        return PictureEncoder(tokenizer, prompt_format, limit, vocabulary, album=self.album)

    def asked(self, rows: Rows) -> list[Hashable]:
        """What the model is asked in each row: pictures and question."""
        return [tuple(numbered(p, s, self.token)) for p, s in zip(rows["prompt"], rows["pictures"], strict=True)]

    def words(self, ids: list[int]) -> list[int]:
        """The token ids that stand for text alone."""
        return [t for t in ids if t != self.token]

    def beside(self, model: nn.Module, groups: Sequence[Rows], ids: Tensor) -> dict[str, Any]:
        """The pictures of all rows, in order."""
        return shown(model, [p for g in groups for of_row in g["pictures"] for p in of_row], ids, self.token)

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        pad: int,
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]:
        """See `Text.forward`. Raises: UserError for a hook point in the vision tower, which has states of pictures and not of tokens."""
        for path in spelled_out(model, hook_points):
            if (side := side_of(model, spelled_path(model, path))) in ("vision", "projector"):
                raise UserError(
                    f"{path!r} is a module of the {side} part, which reads pictures and no tokens: name a block of the language part"
                )
        return super().forward(model, groups, pad, hook_points, patch, weights)

    def read(self, model: nn.Module, rows: Rows, moments: Sequence[bool], pad: int, progress: Callable[[float], None]) -> Reading:
        """Score the labels of rows. moments: for each row, whether to compute mean and deviation of the log-probabilities."""
        reader = PictureReader(model, rows["prompt"], rows["answer"], rows["pictures"], self.token, pad)
        return reader.read(moments, progress)

    def beginnings(self, model: nn.Module, rows: Rows, pad: int) -> PicturedPrompts:
        """What answers to rows begin from."""
        return PicturedPrompts(model, rows["prompt"], pad, rows["pictures"], self.token)
