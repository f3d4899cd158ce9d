"""Streams: the pieces are those of the whole answer, and no piece holds half a character."""

from __future__ import annotations

import torch

import worlds
from expunge.modalities.text.streaming import stream


def test_pieces_are_the_answer(text: worlds.World) -> None:
    model, rows, modality = text.model(), text.some(2)["retain"], text.modality
    for i in range(2):
        pieces = list(modality.stream(model, rows.select([i]), 30))  # type: ignore[attr-defined]
        (whole,) = modality.decode(modality.generate(model, rows.select([i]), 30).ids)  # type: ignore[attr-defined]
        assert "".join(pieces) == whole
        assert len(pieces) > 3
    drawn = [torch.Generator().manual_seed(3) for _ in range(2)]
    pieces = list(modality.stream(model, rows.select([0]), 12, drawn[0], 2.0))  # type: ignore[attr-defined]
    (whole,) = modality.decode(modality.generate(model, rows.select([0]), 12, drawn[1], 2.0).ids)  # type: ignore[attr-defined]
    assert "".join(pieces) == whole


def test_a_character_of_several_tokens_comes_when_it_is_complete() -> None:
    written = list("a é".encode())

    class Bytes:
        ids = torch.zeros(1, 1)

        def __init__(self) -> None:
            self.at = 0

        def begin(self, rows: object) -> Bytes:
            return self

        def logits(self) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.tensor([[*written, 0][self.at]]), 256).float()

        def append(self, tokens: object) -> None:
            self.at += 1

    pieces = list(stream(Bytes(), 9, frozenset({0}), lambda z: z.argmax(-1), lambda ids: bytes(ids).decode(errors="replace")))  # type: ignore[arg-type]
    assert pieces == ["a", " ", "é"]
