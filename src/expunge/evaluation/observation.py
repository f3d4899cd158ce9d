"""What a model was seen to do: plain arrays, made once by `observe` and read by every metric and probe, never by touching the model again.

A *set* of an audit (forget, retain, holdout, real_authors ...) has items; an item is a question with one or more answers of several
*kinds*: `answer` (the true one), `paraphrase` (the true one in other words) and `perturbed` (wrong ones, several an item). Classifiers
have answers of one position. Everything is float32, stored without pickles.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
WHOLE = ("gradient_norms", "log_probs", "label", "pictures")  # arrays of a set as a whole
HEAD = "head"  # the name of the features that the last linear layer reads
PICTURED = {"forget": 8, "retain": 4}  # items of a set that pictures are kept of


def few(items: int, many: int) -> range:
    """Places of about so many items, evenly spread."""
    return range(0, items, max(1, items // many))[:many]


@dataclass(frozen=True, eq=False)
class Scored:
    """Teacher-forced answers, packed: answer k owns positions `start[k]:start[k+1]`; the end-of-sequence label is one of them."""

    item: NDArray[np.int64]  # (answers,) the item that an answer belongs to
    start: NDArray[np.int64]  # (answers + 1,)
    target_logp: Array  # (positions,) log-probability of the label, in nats
    hit: NDArray[np.bool_]  # (positions,) the label is the argmax
    ended: NDArray[np.bool_]  # (answers,) the last label is the end of the sequence
    text: tuple[str, ...] = ()  # (answers,) the labelled tokens as plain text, end of sequence left out
    mean: Array | None = None  # (positions,) E[log p] under the model's own distribution, where it was asked for
    std: Array | None = None  # (positions,) its standard deviation, variance clamped at 1e-6

    def __len__(self) -> int:
        return len(self.item)

    def answer(self, k: int, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """The values of answer k, e.g. `scored.answer(0, scored.logp)`."""
        return values[self.start[k] : self.start[k + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Labels an answer, (answers,)."""
        return np.diff(self.start)

    def mean_logp(self) -> NDArray[np.float64]:
        """Mean log-probability a label, (answers,): minus the average loss; nan for an answer without labels."""
        means, labelled = np.full(len(self), np.nan), self.lengths > 0
        if labelled.any():  # reduceat reads an empty segment as its neighbour's first value, so empty answers are left out
            means[labelled] = np.add.reduceat(self.target_logp.astype(np.float64), self.start[:-1][labelled]) / self.lengths[labelled]
        return means


@dataclass(frozen=True, eq=False)
class SetObservation:
    """One set of an audit as one model answered it."""

    ids: tuple[str, ...]  # (items,) content hashes: equal ids in two models' observations are the same item
    question: tuple[str, ...]
    answer: tuple[str, ...]  # the true answers as text
    kinds: Mapping[str, Scored]  # answer | paraphrase | perturbed
    generations: tuple[str, ...] = ()  # (items,) greedy generations, where they were asked for
    gradient_norms: Array | None = None  # (items,) mean over weight tensors of the gradient's L2 norm, where it was asked for
    log_probs: Array | None = None  # (items, classes) log-probabilities, of classifiers
    label: NDArray[np.int64] | None = None  # (items,) the true class, of classifiers
    features: Mapping[str, Array] = field(default_factory=dict)  # by block and HEAD, (items, width), of classifiers
    pictures: NDArray[np.uint8] | None = None  # (few, channels, height, width), 0 to 255: small ones of the items that `few` names

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Observation:
    """Everything that was seen of one model. `about` holds what it was made of: hash of weights, prompt format, counts, seconds."""

    sets: Mapping[str, SetObservation]
    about: Mapping[str, object] = field(default_factory=dict)

    @property
    def modality(self) -> str:
        """The kind of model that was looked at: text, image ..."""
        modality = self.about.get("modality")
        return str(modality.get("modality", "text")) if isinstance(modality, Mapping) else "text"

    def save(self, folder: Path) -> None:
        """Write `observed.npz` and `observed.json` under a folder, which is made if absent."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, NDArray[np.generic]] = {}
        texts: dict[str, object] = {}
        for name, seen in self.sets.items():
            for kind, scored in seen.kinds.items():
                for part in ("item", "start", "target_logp", "hit", "ended", "mean", "std"):
                    if (value := getattr(scored, part)) is not None:
                        arrays[f"{name}/{kind}/{part}"] = value
            for part in WHOLE:
                if (value := getattr(seen, part)) is not None:
                    arrays[f"{name}//{part}"] = value
            arrays |= {f"{name}//features/{i} {module}": x for i, (module, x) in enumerate(seen.features.items())}
            texts[name] = {
                "ids": seen.ids,
                "question": seen.question,
                "answer": seen.answer,
                "generations": seen.generations,
                "kinds": {k: s.text for k, s in seen.kinds.items()},
            }
        mine = folder / f"observed-{uuid.uuid4().hex}"  # another process may have looked at the same model, and save it now
        np.savez(mine.with_suffix(".npz"), allow_pickle=False, **arrays)
        mine.with_suffix(".npz").replace(folder / "observed.npz")
        mine.with_suffix(".json").write_text(json.dumps({"about": dict(self.about), "sets": texts}, ensure_ascii=False))
        mine.with_suffix(".json").replace(folder / "observed.json")

    @classmethod
    def load(cls, folder: Path) -> Observation:
        """Read what `save` wrote. Errors: FileNotFoundError where nothing was saved."""
        texts = json.loads((folder / "observed.json").read_text())
        with np.load(folder / "observed.npz", allow_pickle=False) as arrays:
            sets = {}
            for name, t in texts["sets"].items():
                kinds = {}
                for kind, text in t["kinds"].items():
                    got = {
                        p: arrays[key]
                        for p in ("item", "start", "target_logp", "hit", "ended", "mean", "std")
                        if (key := f"{name}/{kind}/{p}") in arrays
                    }
                    kinds[kind] = Scored(text=tuple(text), **got)
                whole = {p: arrays.get(f"{name}//{p}") for p in WHOLE}
                placed = sorted(
                    (k for k in arrays if k.startswith(f"{name}//features/")), key=lambda k: int(k.split("/")[-1].split(" ")[0])
                )
                features = {k.split("/", 3)[-1].split(" ", 1)[1]: arrays[k] for k in placed}
                words = (tuple(t[k]) for k in ("ids", "question", "answer"))
                sets[name] = SetObservation(*words, kinds=kinds, generations=tuple(t["generations"]), features=features, **whole)
        return cls(sets, texts["about"])
