"""Mending of knowledge holes: training on what the model said before unlearning, and unlearning again with the holes among kept rows."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from expunge import catalog
from expunge.core.capabilities import Categorical
from expunge.core.errors import UserError
from expunge.core.hyperparameters import override, part
from expunge.core.modality import Modality
from expunge.core.plan import Plan, Plans, Train, as_plans
from expunge.core.rows import Rows
from expunge.core.view import Step
from expunge.engine.loop import run as run_plans
from expunge.engine.run_state import RunState, evaluating
from expunge.methods.terms import NLL, SetTerm

By = Literal["cross_entropy", "kl"]


@part
class EarlierKL(SetTerm):
    """KL(earlier model || model) at the labels of rows, averaged over these labels.

    Args:
        over: name of the set.
        earlier: the model before unlearning, which stays as it is.
    """

    over: str = "retain"
    earlier: Any = None
    requires = frozenset({Categorical})
    role = "retain"

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        with torch.no_grad(), evaluating(self.earlier):
            (output,) = step.modality.forward(self.earlier, [rows])
        current = step.now(rows).log_probs
        return step.mean(output.log_probs.map(lambda log_probs: (log_probs.exp() * (log_probs - current.values)).sum(-1)), rows)


def mended(model: nn.Module, modality: Modality, rows: Rows, earlier: nn.Module, by: By, train: Train) -> nn.Module:
    """Train a model on answers of the model before unlearning, in place.

    Args:
        rows: questions with these answers.
        by: toward the words of the answers, or toward all probabilities of the earlier model behind them.

    Raises:
        UserError: for KL between models of different vocabularies.
    """
    if by == "kl" and (sizes := {_classes(m, modality, rows) for m in (model, earlier)}) and len(sizes) > 1:
        raise UserError(
            f"the models have {' and '.join(map(str, sorted(sizes)))} tokens, so there is no KL between them: mend by cross_entropy"
        )
    term = NLL("retain") if by == "cross_entropy" else EarlierKL("retain", earlier)
    run_plans((Plan(term, train=train),), model, modality, {"retain": rows})
    return model


def _classes(model: nn.Module, modality: Any, rows: Rows) -> int:
    with torch.no_grad(), evaluating(model):
        (output,) = modality.forward(model, [rows.select([0])])
    return int(output.log_probs.values.shape[-1])


def plans_of(text: str) -> Plans:
    """The plans of a method that is written as its name and settings, such as `npo lr=1e-4 epochs=5`.

    Raises:
        UserError: for an unknown method or setting, and for a setting that is no `name=value`.
    """
    name, *settings = text.split()
    if odd := next((s for s in settings if "=" not in s), ""):
        raise UserError(f"the setting {odd!r} of the method {name} has no value: write it as name=value, e.g. `{name} lr=1e-4`")
    return as_plans(override(catalog.load(name).plan(), dict(s.split("=", 1) for s in settings)))


def again(plans: Plans, model: nn.Module, modality: Modality, forget: Sequence[Any], kept: Sequence[Any]) -> RunState:
    """Unlearn rows from a copy of the model before unlearning.

    Args:
        kept: the rows to keep: questions of the holes with its answers, and some of the retained rows.

    Returns:
        The state of the run, with the model and how it is asked.
    """
    sets = {"forget": modality.rows("forget", forget), "retain": modality.rows("retain", kept)}
    return run_plans(plans, copy.deepcopy(model), modality, sets)
