"""The modality of recommenders. A row is an interaction of a user with an item; its loss compares the item with others, drawn for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from expunge.core.capabilities import Categorical, Displayable, HoldsRows, LooksUp, Ranks, Redraws
from expunge.core.errors import UserError
from expunge.core.modality import ModelOutput, Patch, Weights
from expunge.core.request import content, digest, ids_of
from expunge.core.rows import Rows
from expunge.engine.adapters import base_of
from expunge.engine.committee import members_of
from expunge.functional.brief import brief
from expunge.modalities.common.network import Network
from expunge.modalities.common.packed import Layout, call, cut, watching
from expunge.modalities.common.records import Records, absent
from expunge.modalities.ranking.catalog import BROKEN, catalog, pieces, places
from expunge.modalities.ranking.columns import ITEM, USER
from expunge.modalities.ranking.interactions import Interactions, negatives
from expunge.modalities.ranking.requests import columns_beside, pairs_of
from expunge.modalities.ranking.saving import save
from expunge.modalities.ranking.tables import tables_of
from expunge.modalities.ranking.vocabulary import Vocabulary, counted

LABELS = ("irrelevant", "relevant")  # the classes of a comparison, by number
Loss = Literal["bpr", "bce"]


@brief("name", "vocabulary", "known", "loss")
@dataclass
class Ranking(Network):
    """The modality of recommenders.

    The loss of a row is computed against negatives: items that the user never interacted with. Each training step draws them anew, as a
    function of seed, epoch, step and row; everywhere else (audits, attacks, Fisher information) a row has fixed ones, a function of the
    row and of the items that its user has in the training interactions and in the row's set. So a row costs the same however many users
    and items there are.

    Args:
        vocabulary: the users and items that the model knows.
        known: the training interactions, which negatives avoid, rankings mask, and graphs have as edges.
        loss: bpr: -log sigmoid(score of the item - score of a negative), one label for each negative. bce: binary cross-entropy of the
            scores as logits, of the item (label 1) and of each negative (label 0). Both are log-probabilities of the classes `irrelevant`
            and `relevant`: under bpr, whether the item ranks before the negative.
        drawn: negatives of a row in a training step.
        evaluated: negatives of a row elsewhere.
    """

    vocabulary: Vocabulary
    known: Interactions
    loss: Loss = "bpr"
    drawn: int = 1
    evaluated: int = 20
    name: str = "ranking"
    capabilities: frozenset[Any] = frozenset({Categorical, Displayable, HoldsRows, LooksUp, Ranks, Redraws})

    # Rows

    def rows(self, name: str, records: Sequence[Mapping[str, Any]], source: str = "") -> Rows:
        """Convert records to interactions.

        Args:
            name: name of the set.
            records: with `user` and `item` (texts or whole numbers) and, if known, `rating` and `time`. A user or an item alone stands for
                all its training interactions.
            source: name of the records in messages; default: `name`.

        Returns:
            Rows with the columns `user` and `item` (numbers of the model), `negatives`, `answer` (a class for each label), `answer_text`,
            `record` (the record that the row comes from), `key` and `known` (what draws and masks depend on), and others of the records.

        Raises:
            UserError: when a record has no ids, or ids that the model does not know, or nothing is left to compare with.
        """
        where = source or name
        pairs = pairs_of(name, records, where, self.vocabulary, self.known)
        user, item = np.array(pairs.user, np.int64), np.array(pairs.item, np.int64)
        others = columns_beside(records, pairs, where, name)
        ids = ids_of([[self.vocabulary.users[u], self.vocabulary.items[i]] for u, i in zip(pairs.user, pairs.item, strict=True)])
        keys = [int(content(i), 16) ^ n for i, n in zip(ids, _copies(ids), strict=True)]
        taken = self.known.joined(user, item)
        if full := [self.vocabulary.users[u] for u in taken.without_free_items() if u in user]:
            raise UserError(
                f"{where}: {counted('user', full)} interacted with all {self.known.items} items, so none is left to compare with"
            )
        columns = {
            **others,
            "user": pairs.user,
            "item": pairs.item,
            "key": keys,
            "known": self.known.signature(user) if len(user) else [],
            "record": pairs.record,
            "answer": [[1]] * len(user),
            "answer_text": [LABELS[1]] * len(user),
        }
        return self._with_negatives(Rows(name, ids, columns), taken, seed=0, count=self.evaluated)

    def redraw(self, rows: Rows, seed: int) -> Rows:
        """The same rows with the negatives of a training step; rows that are no interactions, such as answers, as they are."""
        return self._with_negatives(rows, self.known, seed, self.drawn) if "key" in rows.columns else rows

    def avoiding(self, rows: Rows, others: Rows) -> Rows:
        """The same rows with fixed negatives that also avoid the interactions of other rows."""
        user, item = ([*rows[c], *others[c]] for c in ("user", "item"))
        return self._with_negatives(rows, self.known.joined(user, item), seed=0, count=self.evaluated)

    def _with_negatives(self, rows: Rows, known: Interactions, seed: int, count: int) -> Rows:
        if not len(rows):
            return rows.add(negatives=[])
        user, item = (np.array(list(rows[c]), np.int64) for c in ("user", "item"))
        drawn = negatives(known, user, item, np.array(list(rows["key"]), np.uint64), seed, count)
        relevant = [a[0] for a in rows["answer"]]
        return rows.add(negatives=drawn.tolist(), answer=[self._classes(r, count) for r in relevant])

    def _classes(self, relevant: int, count: int) -> list[int]:
        """The class of each label of a row."""
        return [relevant] * count if self.loss == "bpr" else [relevant, *[0] * count]

    def relabel(self, rows: Rows, answers: Sequence[Any], name: str) -> Rows:
        """The same interactions as other classes. An irrelevant item is to rank behind the negatives (under bce: to have a low score)."""
        relevant = [self.label(a, f"{name}, row {i}") for i, a in enumerate(answers, 1)]
        ids = tuple(f"{content(i)}~{digest(r)}" for i, r in zip(rows.ids, relevant, strict=True))
        classes = [self._classes(r, len(n)) for r, n in zip(relevant, rows["negatives"], strict=True)]
        return Rows(name, ids, {**rows.columns, "answer": classes, "answer_text": [LABELS[r] for r in relevant]}, rows.weight)

    def label(self, value: Any, place: str) -> int:
        """The number of a class, by number or name. Raises: UserError."""
        if isinstance(value, str) and value in LABELS:
            return LABELS.index(value)
        if value in (0, 1):
            return int(value)
        raise UserError(f"{place}: an interaction is {LABELS[0]!r} (0) or {LABELS[1]!r} (1)")

    def answers(self, texts: Sequence[Any], name: str = "alternate_answers") -> Rows:
        """Rows of classes without interactions, for selectors that draw from them."""
        labels = [self.label(t, f"{name}, row {i}") for i, t in enumerate(texts, 1)]
        return Rows(name, ids_of(list(texts)), {"answer_text": [LABELS[y] for y in labels]})

    def refusals(self) -> list[str]:
        """Both classes: methods draw other labels for forgotten rows from them."""
        return list(LABELS)

    def ended(self, rows: Rows) -> list[bool]:
        """False for each row: no label is an end of sequence."""
        return [False] * len(rows)

    def questions(self, rows: Rows) -> list[str]:
        """The users."""
        return [self.vocabulary.users[u] for u in rows["user"]]

    def answer_texts(self, rows: Rows) -> list[str]:
        """The items."""
        return [self.vocabulary.items[i] for i in rows["item"]]

    def pictures(self, rows: Rows) -> Tensor | None:
        return None

    def counts(self, rows: Rows) -> Mapping[str, float]:
        """The number of rows, of labels (comparisons, or scores with a class) and of tokens, which are the pairs that are scored."""
        if "negatives" not in rows.columns:  # answers without interactions
            return dict.fromkeys(("rows", "labels", "tokens"), float(len(rows)))
        drawn = float(sum(map(len, rows["negatives"])))
        return {"rows": float(len(rows)), "labels": drawn + (len(rows) if self.loss == "bce" else 0), "tokens": drawn + len(rows)}

    # The model

    def head(self, model: nn.Module) -> str:
        """The path of the linear layer that reads what the model knows of a pair. Raises: UserError for a model without one."""
        path: str = getattr(base_of(model), "head", "")
        return path or super().head(model)

    def lookups(self, model: nn.Module, rows: Rows) -> list[tuple[Tensor, tuple[str, ...]]]:
        """Where the vectors of each row's user stand, and those of its item. Raises: UserError for a model without tables of them."""
        tables = tables_of(base_of(model), self.known.users, self.known.items)
        return [(torch.tensor(list(rows[c]), dtype=torch.long), names) for c, names in zip((USER, ITEM), tables, strict=True)]

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]:
        """Score the item and the negatives of each row, in one forward pass over all groups.

        Args:
            groups: rows; each group gets an output of its own.
            hook_points: modules whose inputs and outputs are recorded; they must run once for each pair.
            patch: a change of the forward pass.
            weights: weights that replace those of the model, by name.

        Raises:
            UserError: when the model does not return one score for each pair, or a module does not run once for each pair.
        """
        lengths = torch.tensor([1 + len(n) for g in groups for n in g["negatives"]], dtype=torch.long)
        items = torch.tensor([j for g in groups for i, n in zip(g["item"], g["negatives"], strict=True) for j in (i, *n)], dtype=torch.long)
        users = torch.tensor([u for g in groups for u in g["user"]], dtype=torch.long).repeat_interleave(lengths)
        classes = torch.tensor([y for g in groups for a in g["answer"] for y in a], dtype=torch.long)
        device = next(model.parameters()).device
        with watching(model, hook_points, patch) as hooked:
            scores = call(model, weights, users.to(device), items.to(device))
        if not isinstance(scores, Tensor) or scores.shape != users.shape:
            shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise UserError(f"the model answers {len(users)} pairs of user and item with {shape}, and not with one score for each")
        row = torch.arange(len(lengths)).repeat_interleave(lengths)
        logits, label_row = self._logits(scores, lengths, row)
        at = torch.arange(len(users))
        layout = Layout(classes, label_row, torch.arange(len(label_row)), row, at).to(scores.device)
        states = {path: (_per_pair(i, len(users), path), _per_pair(o, len(users), path)) for path, (i, o) in hooked.items()}
        return list(cut(torch.stack([torch.zeros_like(logits), logits], -1), layout, states, groups))

    def _logits(self, scores: Tensor, lengths: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """The logit of `relevant` at each label, and the row of each label. scores: (pairs,), each row's item before its negatives."""
        if self.loss == "bce":
            return scores, row
        first = (lengths.cumsum(0) - lengths).repeat_interleave(lengths - 1)
        is_negative = torch.ones(len(row), dtype=torch.bool)
        is_negative[lengths.cumsum(0) - lengths] = False
        return scores[first.to(scores.device)] - scores[is_negative.nonzero()[:, 0].to(scores.device)], row[is_negative]

    def decode(self, answers: Sequence[Sequence[int]]) -> list[str]:
        """The class of each row, which is that of its first label: those of negatives follow from it."""
        return [LABELS[a[0]] if len(a) else "" for a in answers]

    # Rankings

    def score_items(self, model: nn.Module, rows: Rows) -> Tensor:
        """Scores of all items for each distinct user of the rows, in the order of the users' numbers, (users, items)."""
        return catalog(model, torch.unique(torch.tensor(list(rows["user"]), dtype=torch.long)))

    def ranks(self, model: nn.Module, rows: Rows, mask: bool = True, without: Rows | None = None) -> Tensor:
        """The place of each row's item among all items for its user; 0 is the best.

        Args:
            rows: interactions; those of one user are ranked together.
            mask: leave out the training interactions of the user, except those that stand in `rows`.
            without: further interactions to leave out, with the same exception.

        Returns:
            (rows,); items of one score share the mean of their places, rounded down; -1 where a score of the user is not a number.
        """
        result = torch.full((len(rows),), BROKEN, dtype=torch.long)
        for piece in pieces(model, self.known, rows, mask, without):
            result[torch.from_numpy(piece.rows)] = torch.from_numpy(places(piece))
        return result

    def lists(self, model: nn.Module, rows: Rows, count: int, without: Rows | None = None) -> dict[str, list[str]]:
        """The first `count` items that the model recommends to each user of the rows; candidates as in `ranks`."""
        return {
            self.vocabulary.users[user]: [self.vocabulary.items[i] for i in best]
            for piece in pieces(model, self.known, rows, True, without)
            for user, best in zip(piece.users, piece.scores.topk(min(count, piece.scores.shape[1])).indices.tolist(), strict=True)
        }

    # Training interactions

    def add_rows(self, model: nn.Module, rows: Rows) -> None:
        """Count interactions as training interactions from now on."""
        self.known.add(list(rows["user"]), list(rows["item"]))
        self.connect(model)

    def remove_rows(self, model: nn.Module, rows: Rows) -> list[str]:
        """Take interactions out of the graph of the model and out of what rankings mask.

        Returns:
            Sentences: how many were taken out, how many the model was never trained on, and how many users have nothing left.
        """
        places = self.known.places(list(rows["user"]), list(rows["item"]))
        removed, unknown = self.known.remove(list(rows["user"]), list(rows["item"])), int((places < 0).sum())
        self.connect(model)
        left = self.known.degrees()
        bare = [self.vocabulary.users[u] for u in sorted(set(rows["user"])) if not left[u]]
        sentences = [f"{removed} interactions to forget were taken out of the training interactions that are kept with the model"]
        sentences += [f"{unknown} of {len(rows)} interactions to forget are no training interactions of the model"] if unknown else []
        return sentences + (
            [
                f"{len(bare)} user{' has' if len(bare) == 1 else 's have'} no training interactions left; "
                f"{'its id stays' if len(bare) == 1 else 'their ids stay'} in the vocabulary of the model"
            ]
            if bare
            else []
        )

    def spelled(self, name: str, records: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Records that name a user or an item alone as the training interactions that they stand for; others as they are.

        Args:
            name: of the set.
            records: as in `rows`.

        Raises:
            UserError: as `rows`.
        """
        if not any(absent(record.get(USER)) or absent(record.get(ITEM)) for record in records):
            return records
        pairs = pairs_of(name, records, name, self.vocabulary, self.known)
        rows = [
            {**records[k], USER: self.vocabulary.users[u], ITEM: self.vocabulary.items[i]}
            for u, i, k in zip(pairs.user, pairs.item, pairs.record, strict=True)
        ]
        return records.replaced(rows) if isinstance(records, Records) else rows

    def alone(self, rows: Rows) -> tuple[Ranking, Rows]:
        """The modality and the rows as if these were all training interactions: masks and negatives depend on no others."""
        user = list(rows["user"])
        own = replace(self, known=Interactions(user, list(rows["item"]), self.known.users, self.known.items))
        rows = rows.add(known=own.known.signature(user) if user else [], record=list(range(len(user))))
        return own, own._with_negatives(rows, own.known, seed=0, count=self.evaluated)

    def connect(self, model: nn.Module) -> None:
        """Give the model's graph, or those of all members of a committee, the training interactions as edges."""
        user, item = (torch.from_numpy(numbers) for numbers in self.known.pairs)
        for member in members_of(model):
            base: Any = base_of(member)
            base.connect(user, item)

    # Files

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write weights, configuration with the vocabulary, and the training interactions that are kept."""
        save(model, self.vocabulary, self.known, self._settings, folder)

    @property
    def _settings(self) -> dict[str, Any]:
        return {"loss": self.loss, "negatives": self.drawn, "evaluation_negatives": self.evaluated}

    def about(self) -> dict[str, Any]:
        """How rows become losses and ranks, for the receipt."""
        sizes = {USER + "s": len(self.vocabulary.users), ITEM + "s": len(self.vocabulary.items), "interactions": self.known.count}
        vocabulary = digest([self.vocabulary.users, self.vocabulary.items])
        return {"modality": self.name, **sizes, "vocabulary": vocabulary, **self._settings}


def _copies(ids: Sequence[str]) -> list[int]:
    """Which copy of its content each row is, from 0."""
    return [int(i.partition("#")[2] or 1) - 1 for i in ids]


def _per_pair(states: Any, pairs: int, path: str) -> Tensor:
    """States of a module, (pairs, ...). Raises: UserError for a module that does not run once for each pair."""
    if not isinstance(states, Tensor) or states.dim() == 0 or states.shape[0] != pairs:
        shape = tuple(states.shape) if isinstance(states, Tensor) else type(states).__name__
        raise UserError(f"the module {path!r} does not run once for each pair of user and item (here {pairs}): its states are {shape}")
    return states if states.is_floating_point() else states[:, None]
