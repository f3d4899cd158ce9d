"""Guards decorate the modality: a guarded modality changes the outputs, and the weights stay as they are."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from expunge.core.capabilities import Drafting, Generates, Samples, SharedReading, require
from expunge.core.modality import Modality
from expunge.core.rows import Packed, Rows
from expunge.core.view import View
from expunge.engine.decorated import Decorated
from expunge.engine.receipt import bytes_of

FILE, TENSORS = "guard.json", "guard.safetensors"
TRIAL_LENGTH = 32  # tokens of an answer of a trial at most


class Guarded(Decorated):
    """A modality with another `forward` or `generate`; everything else is that of the modality inside.

    A guard derives from this class, overrides `forward` or `generate`, and removes from `capabilities` what it no longer offers, such as
    fast paths around these two.
    """

    @property
    def unguarded(self) -> Modality:
        """The modality inside."""
        return self.inner

    @property
    def holds(self) -> str:
        """What the guard keeps of the rows to forget and in which form, in a sentence for the receipt and the folder of the guard."""
        return ""

    def describe(self) -> dict[str, Any]:
        """What the guard does, for receipts, cache keys and files."""
        raise NotImplementedError

    def about(self) -> dict[str, Any]:
        return {**self.unguarded.about(), "guard": self.describe()}

    def save_guard(self, folder: Path) -> None:
        """Write the guard alone, without the model."""
        raise NotImplementedError


class Flagging(Guarded):
    """A guard that looks at prompts: it answers those that it flags in its own way, and leaves all others to the modality inside.

    A guard derives from this class and defines `flags` and `answer_flagged`. The answers to other prompts are those of the model without
    the guard, token for token, also where they are sampled.
    """

    def __init__(self, inner: Modality) -> None:
        super().__init__(inner)
        self.capabilities = inner.capabilities - {SharedReading, Drafting}  # which would go around `forward` and `generate`

    def flags(self, model: nn.Module, rows: Rows) -> list[bool]:
        """Which prompts the guard takes for its own."""
        raise NotImplementedError

    def answer_flagged(
        self, model: nn.Module, rows: Rows, limit: int, generator: torch.Generator | None, temperature: float, with_logp: bool
    ) -> Samples:
        """Answers to prompts that are all flagged; the arguments are those of `generate`."""
        raise NotImplementedError

    def generate(
        self,
        model: nn.Module,
        rows: Rows,
        limit: int,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        with_logp: bool = False,
    ) -> Samples:
        """The guard's answers to the prompts that it flags, and those of the model to all others."""
        flags = self.flags(model, rows)
        flagged, free = ([i for i, flag in enumerate(flags) if flag is kind] for kind in (True, False))
        inner = require(self.unguarded, Generates)
        if generator is not None and free and flagged:  # the draws of a batch depend on all its rows
            everything = inner.generate(model, rows, limit, generator, temperature, with_logp)
            own = _selected(everything, free)
        else:
            own = inner.generate(model, rows.select(free), limit, generator, temperature, with_logp)
        guarded = Samples([], [], logp=Packed(torch.zeros(0), torch.zeros(0, dtype=torch.long), 0))
        if flagged:
            guarded = self.answer_flagged(model, rows.select(flagged), limit, generator, temperature, with_logp)
        return _merged([(free, own), (flagged, guarded)], len(rows), with_logp)

    def stream(
        self, model: nn.Module, rows: Rows, limit: int, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Iterator[str]:
        """The answer to one prompt, piece by piece. An answer to a flagged prompt comes whole, since its beginning may give it away."""
        inner: Any = self.unguarded
        if self.flags(model, rows)[0]:
            (text,) = inner.decode(self.answer_flagged(model, rows, limit, generator, temperature, False).ids)
            yield text
        else:
            yield from inner.stream(model, rows, limit, generator, temperature)


class StoredGuard(Flagging):
    """A guard that was fitted once and is plain data with tensors, which its folder holds.

    Args:
        settings: hyperparameters and what was learned of the rows, as JSON values; `salt` is drawn by `fitted`.
        tensors: by name.
    """

    method: ClassVar[str]  # the name of the method, whose module restores the guard
    hidden: ClassVar[frozenset[str]] = frozenset()  # settings that stand in the folder of the guard alone

    def __init__(self, inner: Modality, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__(inner)
        self.settings, self.stored_tensors = dict(settings), dict(tensors)

    @classmethod
    def fitted(cls, inner: Modality, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """A new guard, with a salt of its own."""
        return cls(inner, {**settings, "salt": secrets.token_hex(16)}, tensors)

    @classmethod
    def restored(cls, inner: Modality, folder: Path) -> Self:
        """The guard that was saved in a folder, around a modality."""
        settings, tensors = load(folder)
        return cls(inner, {k: v for k, v in settings.items() if k != "guard"}, tensors)

    def tensors_of(self, name: str) -> dict[str, Tensor]:
        """The tensors below a name: those of a classifier, for instance."""
        return {n.removeprefix(f"{name}."): t for n, t in self.stored_tensors.items() if n.startswith(f"{name}.")}

    def describe(self) -> dict[str, Any]:
        """The hyperparameters, and a keyed hash of all else: nobody who does not hold the guard can try rows against it."""
        key, secret = bytes.fromhex(self.settings["salt"]), {k: self.settings[k] for k in sorted(self.hidden)}
        fingerprint = hashlib.blake2b(json.dumps(secret, sort_keys=True).encode(), key=key, digest_size=16)
        for name, tensor in sorted(self.stored_tensors.items()):
            fingerprint.update(name.encode() + bytes_of(tensor))
        plain = {k: v for k, v in self.settings.items() if k not in {*self.hidden, "salt"}}
        return {"guard": self.method, **plain, "fingerprint": fingerprint.hexdigest()}

    def save_guard(self, folder: Path) -> None:
        save(folder, {"guard": self.method, **self.settings}, self.stored_tensors)


def below(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under a name, as `StoredGuard.tensors_of` finds them."""
    return {f"{name}.{n}": t for n, t in tensors.items()}


def unguarded(modality: Modality) -> Modality:
    """The modality without any guard: the one that an attacker with the weights uses."""
    while isinstance(modality, Guarded):
        modality = modality.unguarded
    return modality


def is_guarded(modality: Modality) -> bool:
    """Whether a guard decorates a modality."""
    return isinstance(modality, Guarded)


def save(folder: Path, settings: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
    """Write a guard into a folder, which is made if absent: JSON, and safetensors where it has tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if tensors:
        save_file({n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}, folder / TENSORS)


def load(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings and tensors that `save` wrote."""
    settings: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return settings, load_file(folder / TENSORS) if (folder / TENSORS).exists() else {}


def trial(guard: Flagging, view: View, sets: Mapping[str, Rows], count: int) -> None:
    """Answer a few prompts with and without the guard, and show what a flagged prompt and another one cost.

    Args:
        sets: rows by name, some of which the guard flags.
        count: prompts of each set; 0: no trial.
    """
    spent: dict[bool, list[tuple[float, float]]] = {}
    for rows in sets.values():
        for i in range(0, len(rows), max(1, len(rows) // count))[:count] if count else ():
            row, seconds = rows.select([i]), list[float]()
            flagged = guard.flags(view.model, row)[0]
            for modality in (guard.unguarded, guard):
                started = time.perf_counter()
                require(modality, Generates).generate(view.model, row, TRIAL_LENGTH)
                seconds.append(time.perf_counter() - started)
            spent.setdefault(flagged, []).append((seconds[0], seconds[1]))
    if spent:
        records = [
            {"flagged": float(flag), "bare": _mean(s, 0), "guarded": _mean(s, 1), "prompts": float(len(s))} for flag, s in spent.items()
        ]
        view.show("seconds of an answer", sorted(records, key=lambda r: r["flagged"]))


def _mean(pairs: Sequence[tuple[float, float]], which: int) -> float:
    return round(sum(pair[which] for pair in pairs) / len(pairs), 4)


def _selected(samples: Samples, places: Sequence[int]) -> Samples:
    """Some of the samples, in order."""
    logp = None if samples.logp is None else _packed([samples.logp.split()[i] for i in places])
    ends = [samples.ends[i] for i in places] if samples.ends else []
    return Samples([samples.ids[i] for i in places], [samples.ended[i] for i in places], ends, logp)


def _merged(parts: Sequence[tuple[Sequence[int], Samples]], rows: int, with_logp: bool) -> Samples:
    """Samples of several parts of a batch, each with its places, in the order of the batch."""
    ids, ended, ends, logp = list[list[int]]([[]] * rows), [True] * rows, [-1] * rows, [torch.zeros(0)] * rows
    for places, samples in parts:
        values = samples.logp.split() if with_logp and samples.logp is not None else [torch.zeros(0)] * len(places)
        for k, i in enumerate(places):
            ids[i], ended[i], logp[i] = samples.ids[k], samples.ended[k], values[k]
            ends[i] = samples.ends[k] if samples.ends else -1
    return Samples(ids, ended, ends, _packed(logp) if with_logp else None)


def _packed(values: Sequence[Tensor]) -> Packed:
    row = torch.tensor([i for i, v in enumerate(values) for _ in v], dtype=torch.long)
    return Packed(torch.cat([torch.zeros(0), *values]), row, len(values))
