"""Observations of a model: plain arrays. `observe` makes them once; metrics and probes read them and never touch the model.

A *set* of an audit (forget, retain, holdout, or any other name) has items; an item has one or more answers of several *kinds*: `answer`
(the true one), `paraphrase` (the true one in other words), `perturbed` (wrong ones, several per item) and `choice` (the choices).
Classifiers have answers of one position. Everything is float32, stored without pickles.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from expunge.functional.brief import brief

Array = NDArray[np.float32]
WHOLE = (
    "gradient_norms",
    "log_probs",
    "label",
    "pictures",
    "loss",
    "correct",
    "ranks",
    "predicted",
    "document",
    "samples",
    "originals",
)  # of a whole set
HEAD = "head"  # the name of the features that the last linear layer reads


def few(items: int, many: int) -> range:
    """Indices of about `many` of the items, evenly spread."""
    return range(0, items, max(1, items // many))[:many]


@brief("item", "target_logp")
@dataclass(frozen=True, eq=False)
class Scored:
    """Teacher-forced answers, packed: answer k owns positions `start[k]:start[k+1]`; the end-of-sequence label is one of them."""

    item: NDArray[np.int64]  # (answers,) the item that an answer belongs to
    start: NDArray[np.int64]  # (answers + 1,)
    target_logp: Array  # (positions,) log-probability of the label, in nats
    hit: NDArray[np.bool_]  # (positions,) the label is the argmax
    ended: NDArray[np.bool_]  # (answers,) the last label is the end of the sequence
    text: tuple[str, ...] = ()  # (answers,) the labeled tokens as plain text, end of sequence left out
    mean: Array | None = None  # (positions,) E[log p] under the model's own distribution, where it was asked for
    std: Array | None = None  # (positions,) its standard deviation, variance clamped at 1e-6

    def __len__(self) -> int:
        return len(self.item)

    def answer(self, k: int, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """The values of answer k, e.g. `scored.answer(0, scored.logp)`."""
        return values[self.start[k] : self.start[k + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of labels of each answer, (answers,)."""
        return np.diff(self.start)

    def mean_logp(self) -> NDArray[np.float64]:
        """Mean log-probability per label, (answers,), in nats: minus the average loss; nan for an answer without labels."""
        means, labeled = np.full(len(self), np.nan), self.lengths > 0
        if labeled.any():  # reduceat reads an empty segment as its neighbor's first value, so empty answers are left out
            means[labeled] = np.add.reduceat(self.target_logp.astype(np.float64), self.start[:-1][labeled]) / self.lengths[labeled]
        return means


@brief("ids", "kinds", "features")
@dataclass(frozen=True, eq=False)
class SetObservation:
    """One set of an audit as one model answered it."""

    ids: tuple[str, ...]  # (items,) content hashes: equal ids in two models' observations are the same item
    question: tuple[str, ...]
    answer: tuple[str, ...]  # the true answers as text
    kinds: Mapping[str, Scored]  # answer | paraphrase | perturbed | choice
    generations: tuple[str, ...] = ()  # (items,) greedy generations, where they were asked for
    gradient_norms: Array | None = None  # (items,) mean over weight tensors of the gradient's L2 norm, where it was asked for
    log_probs: Array | None = None  # (items, classes) log-probabilities, of classifiers
    label: NDArray[np.int64] | None = None  # (items,) the true class, of classifiers
    features: Mapping[str, Array] = field(default_factory=dict)  # by block and HEAD, (items, width), of classifiers
    pictures: NDArray[np.uint8] | None = None  # (few, channels, height, width), 0 to 255: small ones of the items that `few` names
    loss: Array | None = None  # (items,) mean loss, of modalities without labels
    correct: NDArray[np.int64] | None = None  # (items,) which choice is the right one, where items are choices
    ranks: NDArray[np.int64] | None = None  # (items,) place of the row's own item among all items, 0 the first, where items are ranked
    predicted: Array | None = None  # (items, classes) log-probabilities at the first label of the true answer, where they were asked for
    draws: tuple[tuple[str, ...], ...] = ()  # (items, draws) sampled answers, where they were asked for
    samples: NDArray[np.uint8] | None = None  # (prompts, seeds, channels, height, width): pictures drawn for the items with `draws`
    originals: NDArray[np.uint8] | None = None  # (few, channels, height, width): pictures of the set itself, as large as the samples
    document: NDArray[np.int64] | None = None  # (items,) which document of the set an item is a piece of, where the rows tell

    def __len__(self) -> int:
        return len(self.ids)


@brief("modality", "sets")
@dataclass(frozen=True, eq=False)
class Observation:
    """All observations of one model. `about` holds their origin: hash of weights, prompt format, counts, seconds."""

    sets: Mapping[str, SetObservation]
    about: Mapping[str, object] = field(default_factory=dict)

    @property
    def modality(self) -> str:
        """The modality of the observed model, which names the profile; '' where it is unknown."""
        modality = self.about.get("modality")
        return str(modality.get("modality", "")) if isinstance(modality, Mapping) else ""

    def save(self, folder: Path) -> None:
        """Write `observed.npz` and `observed.json` under a folder, which is made if absent."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, NDArray[np.generic]] = {}
        texts: dict[str, object] = {}
        for name, observation in self.sets.items():
            for kind, scored in observation.kinds.items():
                for part in ("item", "start", "target_logp", "hit", "ended", "mean", "std"):
                    if (value := getattr(scored, part)) is not None:
                        arrays[f"{name}/{kind}/{part}"] = value
            for part in WHOLE:
                if (value := getattr(observation, part)) is not None:
                    arrays[f"{name}//{part}"] = value
            arrays |= {f"{name}//features/{i} {module}": x for i, (module, x) in enumerate(observation.features.items())}
            texts[name] = {
                "ids": observation.ids,
                "question": observation.question,
                "answer": observation.answer,
                "generations": observation.generations,
                "draws": observation.draws,
                "kinds": {k: s.text for k, s in observation.kinds.items()},
            }
        unique = folder / f"observed-{uuid.uuid4().hex}"  # another process may save an observation of the same model now
        np.savez(unique.with_suffix(".npz"), allow_pickle=False, **arrays)
        unique.with_suffix(".npz").replace(folder / "observed.npz")
        unique.with_suffix(".json").write_text(json.dumps({"about": dict(self.about), "sets": texts}, ensure_ascii=False), encoding="utf-8")
        unique.with_suffix(".json").replace(folder / "observed.json")

    @classmethod
    def load(cls, folder: Path) -> Observation:
        """Read what `save` wrote. Raises: FileNotFoundError where nothing was saved."""
        texts = json.loads((folder / "observed.json").read_text(encoding="utf-8"))
        with np.load(folder / "observed.npz", allow_pickle=False) as arrays:
            sets = {}
            for name, t in texts["sets"].items():
                kinds = {}
                for kind, text in t["kinds"].items():
                    fields = {
                        p: arrays[key]
                        for p in ("item", "start", "target_logp", "hit", "ended", "mean", "std")
                        if (key := f"{name}/{kind}/{p}") in arrays
                    }
                    kinds[kind] = Scored(text=tuple(text), **fields)
                set_arrays = {p: arrays.get(f"{name}//{p}") for p in WHOLE}
                placed = sorted(
                    (k for k in arrays if k.startswith(f"{name}//features/")), key=lambda k: int(k.split("/")[-1].split(" ")[0])
                )
                features = {k.split("/", 3)[-1].split(" ", 1)[1]: arrays[k] for k in placed}
                draws = tuple(map(tuple, t.get("draws", ())))
                texts_of_set = (tuple(t[k]) for k in ("ids", "question", "answer"))
                sets[name] = SetObservation(
                    *texts_of_set, kinds=kinds, generations=tuple(t["generations"]), features=features, draws=draws, **set_arrays
                )
        return cls(sets, texts["about"])
