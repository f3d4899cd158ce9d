"""Tell prompts to forget from other prompts: a small classifier on the model's hidden states, fitted once and kept with the guard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Displayable, Prompted, require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality
from expunge.core.rows import Rows
from expunge.core.view import View
from expunge.engine.estimators.mlp import MLP
from expunge.methods.sentences import mean_states
from expunge.modalities.text.records import asked_turns

HELD_OUT = 5  # one prompt of so many is left out of a first fit, which is then measured on it
THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)


class PromptClassifier:
    """The probability that a prompt asks for something to forget.

    Of a chat it is the largest one among the whole chat and each turn alone that is not the model's own, so that no question hides
    behind others.

    Args:
        mlp: over mean hidden states of the prompt's tokens.
        layer: of these states, see `layer_input`.
    """

    def __init__(self, mlp: MLP, layer: int) -> None:
        self.mlp, self.layer = mlp, layer

    def probabilities(self, model: nn.Module, modality: Modality, rows: Rows) -> Tensor:
        """The probability of each row's prompt, (rows,)."""
        if not len(rows):
            return torch.zeros(0)
        turns = enumerated_turns(rows)
        prompts = list(rows["prompt"])
        if turns:
            bare = {"context": [["", "question"]] * len(turns), "answer_text": ["?"] * len(turns)}
            asked = require(modality, Prompted).reask(rows.select([i for i, _ in turns]).add(**bare), [t for _, t in turns], "turns")
            prompts += asked["prompt"]
        p = self.mlp(mean_states(model, modality, prompts, self.layer))
        largest = p[: len(rows)].clone()
        for (i, _), value in zip(turns, p[len(rows) :], strict=True):
            largest[i] = torch.maximum(largest[i], value)
        return largest

    def tensors(self) -> dict[str, Tensor]:
        """All that it knows, by name."""
        return self.mlp.tensors()

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], layer: int) -> Self:
        """The classifier that `tensors` gave."""
        return cls(MLP.of(tensors), layer)


def enumerated_turns(rows: Rows) -> list[tuple[int, str]]:
    """Each turn that is not the model's own in chats of several turns, with the place of its row."""
    return [(i, turn) for i, context in enumerate(rows["context"]) if len(turns := asked_turns(context)) > 1 for turn in turns]


@part
class Detector:
    """Fit a classifier on the prompts of the rows to forget and to retain."""

    threshold: float = hp(0.5, "probability above which a prompt is flagged", ge=0, le=1)
    layer: int = hp(-2, "hidden states that the classifier reads: 0 the embeddings, -2 the last but one")
    general: bool = hp(False, "train the classifier on as many built-in questions about other things, too")
    hidden: int = hp(256, "units of a hidden layer of the classifier", ge=1)
    hidden_layers: int = hp(2, "hidden layers of the classifier", ge=0)
    dropout: float = hp(0.1, "dropout of the classifier", ge=0, lt=1)
    lr: float = hp(1e-3, "learning rate of the classifier", gt=0)
    batch_size: int = hp(32, "prompts in a step of the classifier", ge=1)
    epochs: int = hp(50, "passes of the classifier over all prompts", ge=1)

    def fit(self, view: View) -> PromptClassifier:
        """Fit it, and show how it does on prompts that it was not fitted on.

        Raises:
            UserError: when rows have no prompts, or when all prompts to retain are to be forgotten too.
        """
        prompted = require(view.modality, Prompted)
        unknown = [tuple(p) for p in prompted.unanswerable(["?"])["prompt"]]
        forget, retain = (prompts_of(view, name) for name in ("forget", "retain"))
        if not (retain := [p for p in retain if p not in set(forget)]):
            raise UserError("all prompts to retain are prompts to forget too, so no classifier can tell them apart")
        chosen = unknown[:: max(1, len(unknown) // len(forget))] if self.general else []
        rest = [p for p in unknown if p not in set(chosen)]
        states = [mean_states(view.model, view.modality, p, self.layer) for p in (forget, [*retain, *chosen])]
        parts = [(s[[i % HELD_OUT > 0 for i in range(len(s))]], s[::HELD_OUT]) for s in states]
        seed = int(torch.randint(2**31, (1,), generator=view.rng()))
        if min(len(fitted) for fitted, _ in parts):
            first = self._mlp([fitted for fitted, _ in parts], seed)
            rates = {"forget prompts": first(parts[0][1]), "retain prompts": first(parts[1][1])}
            rates |= {"other questions": first(mean_states(view.model, view.modality, rest, self.layer))} if rest else {}
            view.show(
                "share of unseen prompts that are flagged",
                [{"threshold": t, **{name: float((p > t).double().mean()) for name, p in rates.items()}} for t in THRESHOLDS],
            )
        return PromptClassifier(self._mlp(states, seed), self.layer)

    def _mlp(self, states: Sequence[Tensor], seed: int) -> MLP:
        y = torch.tensor([1] * len(states[0]) + [0] * len(states[1]))
        sizes: dict[str, Any] = {"hidden": self.hidden, "layers": self.hidden_layers, "dropout": self.dropout}
        return MLP.fit(torch.cat(list(states)), y, **sizes, lr=self.lr, batch_size=self.batch_size, epochs=self.epochs, seed=seed)


def prompts_of(view: View, name: str) -> list[tuple[int, ...]]:
    """The distinct prompts of a set, as token ids. Raises: UserError where a row has none."""
    rows = view.rows(name)
    check_prompts(view.modality, rows, name)
    return list(dict.fromkeys(map(tuple, rows["prompt"])))


def check_prompts(modality: Modality, rows: Rows, name: str) -> list[str]:
    """The questions of a set. Raises: UserError where a row has none."""
    questions = require(modality, Displayable).questions(rows)
    if empty := sum(not q.strip() for q in questions):
        raise UserError(f"{empty} of the {len(rows)} rows to {name} have no prompt, and a guard goes by prompts")
    return questions
