"""Committees: several models of one architecture that answer together as one, as the shards of a by-design method do.

The committee is a module, so that its weights are hashed, moved and saved like any model's. `Voting` decorates the modality of one member.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from expunge.core.capabilities import (
    Categorical,
    DifferentiableInputs,
    Displayable,
    Generates,
    HoldsRows,
    LooksUp,
    Prompted,
    Ranks,
    Redraws,
)
from expunge.core.errors import UserError
from expunge.core.modality import Modality, ModelOutput, Patch, Weights
from expunge.core.random import seed_of
from expunge.core.rows import Rows
from expunge.engine import stored
from expunge.engine.decorated import Decorated
from expunge.engine.weights import put
from expunge.functional.voting import majority, mean_of_softmax

Answer = Literal["mean", "majority"]
FILE = "ensemble.json"
MEMBER = re.compile(r"^members\.\d+\.")
KEPT = frozenset(  # what several models can do together
    {Categorical, DifferentiableInputs, Displayable, Generates, HoldsRows, LooksUp, Prompted, Ranks, Redraws}
)


class Committee(nn.Module):
    """Models of one architecture. Its tensors are named `members.0.NAME`, `members.1.NAME` ..., and perhaps `shares`.

    Args:
        members: the models.
        shares: what each counts in the mean of all, which sum to 1; none: all alike.
    """

    shares: Tensor | None

    def __init__(self, members: Sequence[nn.Module], shares: Sequence[float] = ()) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("shares", torch.tensor(shares) if shares else None)

    def __getitem__(self, k: int) -> nn.Module:
        return self.members[k]

    def __len__(self) -> int:
        return len(self.members)

    @property
    def config(self) -> Any:
        """The configuration of the architecture, where the members have one."""
        return getattr(self.members[0], "config", None)

    @property
    def generation_config(self) -> Any:
        """How members generate, where they do."""
        return getattr(self.members[0], "generation_config", None)


class Voting(Decorated):
    """The modality of a committee: every member answers by itself, and their answers are combined.

    Args:
        inner: the modality of one member.
        answer: mean: of the probabilities; majority: of the votes for the likeliest class.
    """

    def __init__(self, inner: Modality, answer: Answer = "mean") -> None:
        super().__init__(inner)
        if answer == "majority" and Generates in inner.capabilities:
            raise UserError("models that answer in words cannot vote for classes: give --answer mean, the mean of their probabilities")
        self.answer = answer
        self.capabilities = inner.capabilities & KEPT

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]:
        """The combined output for each group. Recorded states of the members are side by side, member by member."""
        bare = {MEMBER.sub("", path): path for path in hook_points}
        by_member: list[list[Any]] = []
        for k, member in enumerate(members_of(model)):
            prefix = f"members.{k}."
            own = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)} if weights else None
            by_member.append(list(self.inner.forward(member, groups, tuple(bare), patch, own or None)))
        shares = getattr(model, "shares", None)
        return [self._combined(outputs, bare, shares) for outputs in zip(*by_member, strict=True)]

    def _combined(self, outputs: Sequence[Any], paths: Mapping[str, str], shares: Tensor | None) -> ModelOutput:
        """The output of the committee. paths: hook points as they were asked for, by the hook point in a member."""
        hooked = {paths.get(n, n): tuple(_joined([o.hooked[n][side] for o in outputs]) for side in (0, 1)) for n in outputs[0].hooked}
        each = [o.scores for o in outputs]
        scores = majority(each) if self.answer == "majority" else mean_of_softmax(each, shares)
        return cast(ModelOutput, replace(outputs[0].with_scores(scores), hooked=hooked))

    def independent(self, model: nn.Module) -> bool:
        return all(self.inner.independent(member) for member in members_of(model))

    def blocks(self, model: nn.Module) -> tuple[str, ...]:
        return self.inner.blocks(members_of(model)[0])

    def module(self, model: nn.Module, hook_point: str) -> nn.Module:
        return self.inner.module(members_of(model)[0], MEMBER.sub("", hook_point))

    def head(self, model: nn.Module) -> str:
        return f"members.0.{self.inner.head(members_of(model)[0])}"

    def fresh(self, model: nn.Module, seed: int) -> Weights:
        drawn = [self.inner.fresh(member, seed_of(seed, k)) for k, member in enumerate(members_of(model))]
        return named(drawn)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write every member as a model of its own, in folders 0, 1 ..., and how they answer together."""
        folder.mkdir(parents=True, exist_ok=True)
        members = members_of(model)
        for k, member in enumerate(members):
            self.inner.save(member, folder / str(k))
        shares = getattr(model, "shares", None)
        settings = {"members": len(members), "answer": self.answer, **({"shares": shares.tolist()} if shares is not None else {})}
        (folder / FILE).write_text(json.dumps(settings) + "\n", encoding="utf-8")

    def formats(self) -> dict[str, Modality]:
        inner: Any = self.inner
        return {name: self.around(other) for name, other in inner.formats().items()}

    def admit(self, model: nn.Module, symbols: Sequence[str], seed: int) -> None:
        raise UserError("an ensemble takes no new tokens: change one model")

    def about(self) -> dict[str, Any]:
        return {**self.inner.about(), "ensemble": self.answer}


def members_of(model: nn.Module) -> list[nn.Module]:
    """The members of a committee; a single model is its only member."""
    return list(model.members) if isinstance(model, Committee) else [model]


def shares_of(model: nn.Module) -> list[float]:
    """What each member counts in the mean of all, in the order of `members_of`; they sum to 1."""
    shares: Tensor | None = getattr(model, "shares", None) if isinstance(model, Committee) else None
    count = len(members_of(model))
    return [1 / count] * count if shares is None else [float(share) for share in shares]


def named(weights: Sequence[Weights]) -> Weights:
    """The weights of a committee from those of its members."""
    return {f"members.{k}.{n}": w for k, of_member in enumerate(weights) for n, w in of_member.items()}


def seated(
    model: nn.Module, modality: Modality, weights: Sequence[Weights], answer: Answer, shares: Sequence[float] = ()
) -> tuple[nn.Module, Modality]:
    """A committee of models with these weights, or the model itself where there is one.

    Args:
        model: of their architecture; it becomes the first member, in place.
        modality: of one member.
        shares: what each counts in the mean of all; none: all alike.

    Returns:
        The committee with its modality. Members are written in the type that they have in memory.
    """
    if len(weights) == 1:
        put(model, weights[0])
        return model, modality
    members = [model, *(copy.deepcopy(model) for _ in weights[1:])]
    for member, own in zip(members, weights, strict=True):
        put(member, own)
        stored.remember(member, None)
    if shares and Generates in modality.capabilities:
        raise UserError("models that answer in words count alike: shares of them are not supported")
    return Committee(members, shares).eval(), Voting(modality, answer)


def single(model: nn.Module, modality: Modality) -> tuple[nn.Module, Modality]:
    """A copy of the first member of a committee, with its modality; another model as it is."""
    if isinstance(model, Committee) and isinstance(modality, Voting):
        return copy.deepcopy(model[0]), modality.inner
    return model, modality


def restored(folder: Path, load: Callable[[str], tuple[nn.Module, Modality]]) -> tuple[nn.Module, Modality]:
    """The committee in a folder. load: loads one member from its folder.

    Raises:
        UserError: where a member is missing.
    """
    settings = json.loads((folder / FILE).read_text(encoding="utf-8"))
    places = [folder / str(k) for k in range(int(settings["members"]))]
    if missing := [p for p in places if not p.is_dir()]:
        raise UserError(f"the ensemble in {folder} lacks {missing[0].name}, one of its {len(places)} models")
    loaded = [load(str(p)) for p in places]
    return Committee([model for model, _ in loaded], settings.get("shares", ())).eval(), Voting(loaded[0][1], settings["answer"])


def _joined(states: Sequence[Tensor]) -> Tensor:
    """States side by side, (positions, members * width); token ids, which all members share, once."""
    return torch.cat(list(states), -1) if states[0].is_floating_point() else states[0]
