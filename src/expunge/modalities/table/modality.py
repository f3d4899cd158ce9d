"""The modality of tables with classes. A row is a list of numbers and categories; its class is the only label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Categorical, DifferentiableInputs, Displayable
from expunge.core.errors import UserError
from expunge.core.modality import ModelOutput, Patch, Weights
from expunge.core.request import content, digest, ids_of
from expunge.core.rows import Rows
from expunge.functional.brief import brief
from expunge.modalities.common.labels import LABELS, number_of
from expunge.modalities.common.network import Network
from expunge.modalities.common.packed import Layout, call, cut, watching
from expunge.modalities.common.records import column
from expunge.modalities.table.capabilities import GrowsTrees
from expunge.modalities.table.columns import Columns, encoded
from expunge.modalities.table.forest import Forest
from expunge.modalities.table.saving import save

NETWORK: frozenset[Any] = frozenset({Categorical, DifferentiableInputs, Displayable})  # what a network of a table can do
FOREST: frozenset[Any] = frozenset({Categorical, GrowsTrees, Displayable})


@brief("name", "columns", "labels")
@dataclass
class Tabular(Network):
    """The modality of tables with classes.

    Args:
        columns: that the model reads.
        labels: class names, in the order of the model's outputs.
        mean: of each input, which the model gets standardized; empty: as it is.
        std: standard deviation of each input, likewise.
        capabilities: `NETWORK`, or `FOREST` for a forest, whose outputs have no gradients.
    """

    columns: Columns
    labels: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    capabilities: frozenset[Any] = NETWORK
    name: str = "table"

    # Rows

    def rows(self, name: str, records: Sequence[Mapping[str, Any]], source: str = "") -> Rows:
        """Convert records with a cell for every column, and a class, to rows.

        Args:
            name: name of the set.
            source: name of the records in messages; default: `name`.

        Returns:
            Rows with the columns `x` (inputs, float32), `answer` (the class in a list) and `answer_text` (its name).

        Raises:
            UserError: when a record lacks a column or its class, or holds what the model does not know; the message names the row.
        """
        where = source or name
        x, cells = encoded(records, self.columns, where, name)
        labels = []
        for i, record in enumerate(records, 1):
            place = f"{where}, row {i}"
            labels.append(number_of(record[column(record, LABELS, "class", place)], self.labels, place))
        ids = ids_of([[c, self.labels[y]] for c, y in zip(cells, labels, strict=True)])
        return Rows(name, ids, {"x": list(torch.from_numpy(x)), **self._answer_columns(labels)})

    def _answer_columns(self, labels: Sequence[int]) -> dict[str, list[Any]]:
        return {"answer": [[y] for y in labels], "answer_text": [self.labels[y] for y in labels]}

    def relabel(self, rows: Rows, answers: Sequence[Any], name: str) -> Rows:
        """The same points with other classes, by name or number."""
        ids = tuple(f"{content(i)}~{digest(a)}" for i, a in zip(rows.ids, answers, strict=True))
        labels = [number_of(a, self.labels, f"{name}, row {i}") for i, a in enumerate(answers, 1)]
        return Rows(name, ids, {**rows.columns, **self._answer_columns(labels)}, rows.weight)

    def answers(self, texts: Sequence[Any], name: str = "alternate_answers") -> Rows:
        """Rows of classes without points, for selectors that draw from them."""
        labels = [number_of(t, self.labels, f"{name}, row {i}") for i, t in enumerate(texts, 1)]
        return Rows(name, ids_of(list(texts)), {"answer_text": [self.labels[y] for y in labels]})

    def refusals(self) -> list[str]:
        """All classes, to draw from."""
        return list(self.labels)

    def ended(self, rows: Rows) -> list[bool]:
        """False for each row: no label is an end of sequence."""
        return [False] * len(rows)

    def questions(self, rows: Rows) -> list[str]:
        """A text for each row; its cells stay out of reports."""
        return [f"row {k}" for k in range(1, len(rows) + 1)]

    def answer_texts(self, rows: Rows) -> list[str]:
        """The names of the classes."""
        return list(rows["answer_text"])

    def pictures(self, rows: Rows) -> Tensor | None:
        """None: there are no pictures."""
        return None

    def decode(self, answers: Sequence[Sequence[int]]) -> list[str]:
        """The names of classes."""
        return [" ".join(self.labels[y] for y in a) for a in answers]

    def counts(self, rows: Rows) -> Mapping[str, float]:
        """The number of rows, labels and tokens, which are equal."""
        return dict.fromkeys(("rows", "labels", "tokens"), float(len(rows)))

    # The model

    def points(self, rows: Rows) -> Tensor:
        """The inputs of rows as they stand in the table, (rows, inputs)."""
        return torch.stack(list(rows["x"]))

    def targets(self, rows: Rows) -> Tensor:
        """The class of each row, (rows,)."""
        return torch.tensor([y for (y,) in rows["answer"]], dtype=torch.long)

    def inputs(self, rows: Rows) -> Tensor:
        """The inputs of rows, (rows, inputs), which a gradient can change."""
        return self.points(rows)

    def moved(self, rows: Rows, x: Tensor, normalized: bool = False) -> Rows:
        """The same rows with other inputs. normalized: they are standardized, as the model reads them. Gradients flow through."""
        mean, std = self._units(x)
        return rows.add(x=list((x * std + mean if normalized else x).unbind()))

    def _units(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return like.new_tensor(self.mean or (0.0,)), like.new_tensor(self.std or (1.0,))

    def reshape(self, model: nn.Module, trees: int, depth: int) -> None:
        """Give a forest so many trees of this depth. It is untrained afterwards, unless it has that shape already.

        Raises:
            UserError: for a forest in another type than float32.
        """
        if isinstance(model, Forest) and model.threshold.dtype != torch.float32:
            raise UserError("a forest compares numbers in float32: leave --dtype out")
        if isinstance(model, Forest) and (model.trees, model.depth) != (trees, depth):
            model.reshape(trees, depth)

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]:
        """Run the model on all groups in one forward pass.

        Args:
            groups: rows; each group gets an output of its own.
            hook_points: modules whose inputs and outputs are recorded.
            patch: a change of the forward pass.
            weights: weights that replace those of the model, by name.

        Raises:
            UserError: when the model does not return logits of all classes.
        """
        like = next(t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point())
        x = torch.cat([self.points(g) for g in groups]).to(like.device)
        mean, std = self._units(x)
        labels = torch.cat([self.targets(g) for g in groups])
        at = torch.arange(len(labels))
        with watching(model, hook_points, patch) as hooked:
            logits = call(model, weights, ((x - mean) / std).to(like.dtype))
        if logits.dim() != 2 or logits.shape[1] != len(self.labels):
            raise UserError(f"the model answers with shape {tuple(logits.shape)}, and there are {len(self.labels)} classes")
        return list(cut(logits, Layout(labels, at, at, at, at).to(logits.device), hooked, groups))

    # Files

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write weights, columns and classes as `loader.load` reads them."""
        save(model, folder, self.columns, labels=list(self.labels), mean=list(self.mean), std=list(self.std))

    def about(self) -> dict[str, Any]:
        """How rows become the model's input, for the receipt."""
        names = {"columns": len(self.columns), "schema": digest([[c.name, c.categories] for c in self.columns])}
        classes = {"labels": len(self.labels), "classes": digest(self.labels)}
        return {"modality": self.name, **names, **classes, "standardized": bool(self.mean), "units": digest([self.mean, self.std])}
