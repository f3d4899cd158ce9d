"""The modality of vision-language models. A row is a prompt, in which tokens stand for pictures, and an answer of token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.capabilities import (
    Categorical,
    DifferentiableInputs,
    Displayable,
    Drafting,
    Generates,
    OneSequence,
    Prompted,
    SharedReading,
)
from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.request import digest
from expunge.core.rows import Rows
from expunge.functional.brief import brief
from expunge.modalities.common.files import write
from expunge.modalities.common.fingerprint import fingerprint
from expunge.modalities.common.records import Records, note
from expunge.modalities.image.decode import check_units
from expunge.modalities.image.losses import sentences
from expunge.modalities.text.modality import Text
from expunge.modalities.text.records import Pair, answering
from expunge.modalities.vision_language.columns import CAPTION, KEYWORDS, NAME, OTHERS, REWORDED
from expunge.modalities.vision_language.doors import DOORS, NOISY, Door
from expunge.modalities.vision_language.pictured import Pictured
from expunge.modalities.vision_language.pictures import SIDE, Album, mark, marks_in, noisy, rekeyed, without_marks
from expunge.modalities.vision_language.placing import asked, marked, pictures_of


@brief("name")
@dataclass
class VisionLanguage(Text):
    """The modality of vision-language models: a processor and a prompt format for any image-text model of `transformers`."""

    name: str = "vision_language"
    capabilities: frozenset[Any] = frozenset(
        {Categorical, Generates, Prompted, SharedReading, Drafting, Displayable, OneSequence, DifferentiableInputs}
    )

    @property
    def album(self) -> Album:
        """The pictures that were read."""
        album: Album = self.encoder.pictures  # type: ignore[attr-defined]
        return album

    # Rows

    def rows(self, name: str, records: Sequence[Mapping[str, Any]], source: str = "") -> Rows:
        """Convert records (see `records.LISTED`) with pictures to rows.

        A record has a picture, or a list of them, in one of the columns `PICTURES`, and the place for it in its question is the image token
        of the model (`<image>`) or else the beginning. A record without a picture is asked in words alone.

        Args:
            name: name of the set.
            source: name of the records in messages; default: `name`.

        Returns:
            Rows as those of texts, with the column `pictures` (for each row, the inputs of its pictures) and `about` (the other ways to the
            same fact that a record names, see `doors`).

        Raises:
            UserError: when a record cannot be encoded, or its pictures cannot be read; the message names the row.
        """
        where = source or name
        losses: list[set[str]] = [set() for _ in records]
        raw = [pictures_of(r, f"{where}, row {i}") for i, r in enumerate(records, 1)]
        check_units([p for of_row in raw for p in of_row], where)
        keys = [[self.album.add(p, f"{where}, row {i + 1}", losses[i]) for p in of_row] for i, of_row in enumerate(raw)]
        self.album.check_distinct([k for of_row in keys for k in of_row], where)
        placed = [marked(r, k, self.album.token, f"{where}, row {i}") for i, (r, k) in enumerate(zip(records, keys, strict=True), 1)]
        before = self._crowded
        rows = super().rows(name, records.replaced(placed) if isinstance(records, Records) else placed, source)
        note(records, sentences([x for x, k in zip(losses, keys, strict=True) if k], name))
        if (without := sum(not k for k in keys)) > 0 and any(keys):
            note(records, [f"{without} of {len(keys)} rows of {name!r} have no picture and are asked in words alone"])
        if crowded := self._crowded - before:
            note(
                records,
                [f"{crowded} answers of {name!r} were cut, because pictures fill most of the {self.limit} tokens that the model takes"],
            )
        of_record = rows.columns.get("record", range(len(rows)))
        ways = [self._ways(r, f"{where}, row {i}") for i, r in enumerate(records, 1)]
        return rows.add(about=[ways[i] for i in of_record])

    @property
    def _crowded(self) -> int:
        return int(getattr(self.encoder, "crowded", 0))

    def _ways(self, record: Mapping[str, Any], place: str) -> dict[str, Any]:
        """The other ways to the fact of a record that it names."""
        others = record.get(OTHERS)
        others = [] if others is None else others if isinstance(others, (list, tuple)) else [others]
        words = {c: str(record[c]) for c in (NAME, CAPTION) if record.get(c)}
        lists = {c: [str(w) for w in record[c]] for c in (KEYWORDS, REWORDED) if isinstance(record.get(c), (list, tuple))}
        return {**words, **lists, OTHERS: [self.album.add(p, place, set()) for p in others]}

    def _contents(self, pairs: Sequence[Pair]) -> list[tuple[str, ...]]:
        """Hashes as of texts, of rows with pictures together with these."""
        shown = [marks_in(p.context) for p in pairs]
        return [
            tuple(digest([h, keys]) for h in of_row) if keys else of_row
            for of_row, keys in zip(super()._contents(pairs), shown, strict=True)
        ]

    def relabel(self, rows: Rows, answers: Sequence[Any], name: str) -> Rows:
        """The same prompts with other answers, each a text or the token ids of a generated answer."""
        return super().relabel(rows, answers, name).add(pictures=rows["pictures"])  # which may have been moved

    def placed(self, context: Sequence[Any], question: str) -> str:
        """A question in the place of that of a row, about the same pictures. context: of the row."""
        last = answering(context, "").question
        return asked(marks_in(last), question)

    def questions(self, rows: Rows) -> list[str]:
        """The questions as text, without pictures."""
        return [without_marks(q) for q in super().questions(rows)]

    def pictures(self, rows: Rows) -> Tensor | None:
        """The first picture of each row, small, for people to look at: uint8 (rows, 3, side, side); gray where a row has none."""
        if not any(rows["pictures"]):
            return None
        blank = torch.full((3, SIDE, SIDE), 128, dtype=torch.uint8)
        return torch.stack([of_row[0]["shown"] if of_row else blank for of_row in rows["pictures"]])

    def formats(self) -> dict[str, Modality]:
        """The same modality with other formats around a question, by format."""
        return {f: replace(self, prompt_format=f) for f in self.architecture.formats}

    # Inputs

    def inputs(self, rows: Rows) -> Tensor:
        """The first picture of each row as the model reads it, normalized, which a gradient can change: (rows, ...).

        Raises:
            UserError: when a row has no picture, or pictures differ in shape.
        """
        if not all(rows["pictures"]):
            raise UserError(
                f"{sum(not p for p in rows['pictures'])} of {len(rows)} rows of {rows.name!r} have no picture that could be moved"
            )
        values = [of_row[0]["pixel_values"] for of_row in rows["pictures"]]
        if len({v.shape for v in values}) > 1:
            raise UserError(f"the pictures of {rows.name!r} become inputs of several shapes, so they cannot be moved together")
        return torch.stack(values)

    def moved(self, rows: Rows, x: Tensor, normalized: bool = False) -> Rows:
        """The same rows with other first pictures. Gradients flow through.

        Args:
            x: as `inputs` returns them, (rows, ...).
            normalized: of no effect, since inputs are normalized.
        """
        changed = [[rekeyed(of_row[0], value), *of_row[1:]] for of_row, value in zip(rows["pictures"], x.unbind(), strict=True)]
        return rows.add(pictures=changed)

    # Doors

    def doors(self, rows: Rows) -> dict[str, Rows]:
        """The rows to the same facts through every door that they leave open, by door (see `doors`).

        Rows whose record does not name what a door needs are left out; a door without rows is left out.
        """
        opened = {}
        for door, way in DOORS.items():
            through = [(i, context) for i in range(len(rows)) if (context := self._through(way, rows, i)) is not None]
            if not through:
                continue
            places = [i for i, _ in through]
            pairs = [Pair(context, rows["answer_text"][i]) for i, context in through]
            asked_rows = self._rows(f"{rows.name} {door}", pairs, tuple(rows.ids[i] for i in places))
            opened[door] = asked_rows.add(about=[rows["about"][i] for i in places], place=places)
        if "picture" in opened:
            shown = opened["picture"]
            opened[NOISY] = shown.add(pictures=[[noisy(p) for p in of_row] for of_row in shown["pictures"]])
        return opened

    def _through(self, way: Door, rows: Rows, i: int) -> str | None:
        """The question of a row through a door; None where the door is closed, or gives the answer away."""
        last = answering(rows["context"][i], "").question
        asked_so = way(without_marks(last), [mark(k) for k in marks_in(last)], rows["about"][i])
        facts = rows["about"][i].get(KEYWORDS) or [rows["answer_text"][i]]
        given = asked_so is not None and all(str(f).lower() in without_marks(asked_so).lower() for f in facts)
        return None if given else asked_so

    # Files

    def save(self, model: nn.Module, folder: Path) -> None:
        """Save weights and processor as the auto classes of `transformers` read them; of an adapted model only the adapter."""
        write(model, self.album.processor, folder)

    def about(self) -> dict[str, Any]:
        """How rows become inputs, for the receipt."""
        image_processor = fingerprint(getattr(self.album.processor, "image_processor", None))
        return {**super().about(), "image_processor": image_processor, "answers_cut_for_pictures": self._crowded}


def vision_language(processor: Any, prompt_format: str = "", limit: int = 0, vocabulary: int = 0, channels: int = 3) -> VisionLanguage:
    """Build the modality for a processor.

    Args:
        processor: of `transformers`: tokenizer, image processor and image token.
        limit: longest sequence in tokens; 0: no limit.
        vocabulary: how many tokens the model knows; 0: unknown.
        channels: of the pictures that it takes.
    """
    return VisionLanguage(processor.tokenizer, prompt_format, limit, vocabulary, architecture=Pictured(album=Album(processor, channels)))
