"""Input filter: prompts that stand in the forget set are not answered. The weights stay as they are, and know what they knew.

A stopgap until the weights forget, and a control: it passes every test that only asks the listed questions, and must fail all others.

Equation: x is a hit iff some forget prompt f has |G(f) & G(x)| >= threshold |G(f)|, G: the word n-grams; p(.|hit) = uniform, or a refusal
Source: our own; as a baseline (input filtering): Thaker et al. 2024, arXiv 2403.03329
Needs: forget (prompts only)
Cost: one forward, with logits at all positions, and a set comparison an input and forget prompt
Differs: nothing
Status: reproduced

Prompts are kept as salted hashes of their n-grams, since a request to delete should not be stored in the clear. That hides them from a
reader, not from somebody who guesses whole prompts and tries them.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import unicodedata
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Categorical, Prompted
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality
from expunge.core.parts import Guard
from expunge.core.plan import Plan
from expunge.core.view import View
from expunge.engine.adapters import base_of

FILE = "guard.json"


@part
class InputFilter(Guard):
    """Answer no prompt that stands in the forget set, nor an input that contains one."""

    threshold: float = hp(0.9, "share of a forget prompt's n-grams that makes an input a hit; 1: all of them", gt=0, le=1)
    ngram: int = hp(3, "words in an n-gram", ge=1)
    refusal: str = hp("I have no answer to that.", "what is said instead of an answer", min_length=1)
    reads = frozenset({"forget"})
    requires = frozenset({Categorical, Prompted})

    def wrap(self, model: nn.Module, view: View) -> nn.Module:
        rows, modality = view.forget, view.modality
        salt = bytes(torch.randint(256, (16,), generator=view.rng()).tolist()).hex()
        prompts = []
        for question in dict.fromkeys(modality.questions(rows)):
            said = words(question)
            size = min(self.ngram, len(said))
            if not size:
                raise UserError("a row to forget has no prompt, and an input filter goes by prompts")
            prompts.append([size, sorted(hashed(said, size, salt))])
        refusal = modality.relabel(rows.select([0]), [self.refusal], "refusal")["answer"][0]
        told = {"threshold": self.threshold, "salt": salt, "prompts": prompts, "refusal": list(refusal)}
        return Filtered(model, modality, told)


def words(text: str) -> list[str]:
    """What counts of a text: its words without case, punctuation and ways to write the same letter."""
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())


def hashed(said: Sequence[str], size: int, salt: str) -> frozenset[str]:
    """Salted hashes of the word n-grams of one size."""
    grams = {" ".join(said[i : i + size]) for i in range(len(said) - size + 1)}
    return frozenset(hashlib.blake2b(g.encode(), key=bytes.fromhex(salt), digest_size=8).hexdigest() for g in grams)


@dataclass
class Refusing:
    """Which rows of a running generation are refused, and how much of the refusal has been said."""

    hits: Tensor  # (rows,)
    said: int = 0


class Filtered(nn.Module):
    """A model that does not answer some prompts; `unguarded` is the model itself, and names of weights and modules are its own.

    An input with cached keys is a generation: rows that hit when it began say the refusal, token by token. Any other input is scored: all
    logits of a row that hits are equal.
    """

    def __init__(self, unguarded: nn.Module, modality: Modality, told: Mapping[str, Any]) -> None:
        super().__init__()
        self.unguarded, self.modality, self.told = unguarded, modality, dict(told)
        self.prompts = [(int(size), frozenset(grams)) for size, grams in told["prompts"]]
        self.known = frozenset(inspect.signature(base_of(unguarded).forward).parameters)
        self.training = unguarded.training

    def forward(
        self, input_ids: Tensor, position_ids: Any = None, past_key_values: Any = None, logits_to_keep: Any = None, **more: Any
    ) -> Any:
        asked = {"position_ids": position_ids, "logits_to_keep": logits_to_keep}
        more.update({n: v for n, v in asked.items() if v is not None and n in self.known})
        if past_key_values is None:
            out = self.unguarded(input_ids=input_ids, **more)
            hits = self.hits(input_ids)[:, None, None]
            out.logits = torch.where(hits, torch.zeros_like(out.logits), out.logits)
            return out
        refusing = self._refusing(past_key_values, input_ids)
        out = self.unguarded(input_ids=input_ids, past_key_values=past_key_values, **more)
        refusal = self.told["refusal"]
        only = torch.full_like(out.logits, -torch.inf)
        only[..., refusal[min(refusing.said, len(refusal) - 1)]] = 0
        refusing.said += 1
        out.logits = torch.where(refusing.hits[:, None, None], only, out.logits)
        return out

    def hits(self, input_ids: Tensor) -> Tensor:
        """Which rows contain a forget prompt, (rows,)."""
        found = []
        for text in self.modality.decode(input_ids.tolist()):
            said = words(text)
            grams = {size: hashed(said, size, self.told["salt"]) for size in {s for s, _ in self.prompts}}
            found.append(any(len(mine & grams[size]) >= self.told["threshold"] * len(mine) for size, mine in self.prompts))
        return torch.tensor(found, device=input_ids.device)

    def _refusing(self, cache: Any, input_ids: Tensor) -> Refusing:
        """What this cache's generation refuses; when rows leave the cache, they leave it here too."""
        if not hasattr(cache, "refusing"):
            cache.refusing = Refusing(self.hits(input_ids))
            there = weakref.ref(cache)  # a cache that held itself would stay in memory

            def select(indices: Tensor) -> None:
                owner: Any = there()
                type(owner).batch_select_indices(owner, indices)
                owner.refusing.hits = owner.refusing.hits[indices]

            cache.batch_select_indices = select
        found: Refusing = cache.refusing
        return found

    # as the model itself

    @property
    def config(self) -> Any:
        return self.unguarded.config

    @property
    def generation_config(self) -> Any:
        return getattr(self.unguarded, "generation_config", None)

    def named_modules(self, *args: Any, **more: Any) -> Any:
        return self.unguarded.named_modules(*args, **more)

    def get_submodule(self, target: str) -> nn.Module:
        return self.unguarded.get_submodule(target)

    def state_dict(self, *args: Any, **more: Any) -> Any:
        return self.unguarded.state_dict(*args, **more)

    # files

    def describe(self) -> dict[str, Any]:
        """What the guard does, for receipts and files; the prompts as hashes."""
        return {"guard": "input_filter", **self.told}

    def save(self, folder: Path) -> None:
        """The guard alone; the model is where it was."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(json.dumps(self.describe(), indent=1) + "\n")


def restore(model: nn.Module, modality: Modality, folder: Path) -> nn.Module:
    """The guard that was saved in a folder, around a model."""
    told = json.loads((folder / FILE).read_text())
    return Filtered(model, modality, {k: v for k, v in told.items() if k != "guard"})


def plan() -> Plan:
    return Plan(InputFilter())
