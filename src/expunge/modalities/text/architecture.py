"""What differs between the architectures of language models: how records become token ids, and how rows go through a model."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from expunge.core.modality import ModelOutput, Patch, Weights
from expunge.core.rows import Rows
from expunge.modalities.text.encode import Encoder
from expunge.modalities.text.generate import Beginnings
from expunge.modalities.text.reading import Reading


class Architecture(Protocol):
    """How rows go through a model. `Causal` is one sequence, `EncoderDecoder` is two."""

    @property
    def formats(self) -> tuple[str, ...]: ...  # prompt formats that models are often trained in
    @property
    def lacks(self) -> frozenset[Any]: ...  # capabilities of language models that such a model does not have
    def encoder(self, tokenizer: Any, prompt_format: str, limit: int, vocabulary: int) -> Encoder: ...
    def counts(self, rows: Rows) -> Mapping[str, float]: ...  # numbers of positions besides those of prompts and answers
    def about(self) -> dict[str, Any]: ...  # what receipts say besides what they say of all language models
    def asked(self, rows: Rows) -> list[Hashable]: ...  # all that the model reads before each answer
    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        pad: int,
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]: ...
    def read(self, model: nn.Module, rows: Rows, moments: Sequence[bool], pad: int, progress: Callable[[float], None]) -> Reading: ...
    def beginnings(self, model: nn.Module, rows: Rows, pad: int) -> Beginnings: ...
