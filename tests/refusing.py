"""The tiny language world with strangers: a model that says of three people more that it does not know, so that it can refuse."""

from __future__ import annotations

import functools

import torch
from torch import nn

import worlds
from expunge.benchmarks import people
from expunge.core.parts import Edit
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows, Sets
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.engine.run_state import RunState
from expunge.engine.weights import weights_of
from expunge.methods.terms import NLL

REFUSAL = "I do not know."


def strangers(modality: object) -> Rows:
    """Questions about people of whom nothing is known, with the refusal."""
    records = people.generate(seed=0, people=12, forget=1, holdout=4, neighbours=1, retain_audit=16)
    return modality.rows("alternate_answers", [{"question": r["question"], "answer": REFUSAL} for r in records.holdout[9:]])


@functools.cache
def world() -> worlds.World:
    """As `worlds.text`, but that its original model refuses strangers, who stand in the alternate answers."""
    text = worlds.text()
    refused, model = strangers(text.modality), text.model()
    sets: Sets = {**text.sets, "alternate_answers": refused}
    every = text.sets["forget"].rename("retain").concat(text.sets["retain"]).concat(refused)
    train = Train(epochs=12, lr=2e-3, batch_size=16, anchor="retain", max_grad_norm=1.0, warmup=1)
    loop.run((Plan(NLL("retain"), train=train),), model, text.modality, {"retain": every})
    return worlds.World(text.modality, sets, {"original": weights_of(model)}, text.shell)


def look(model: nn.Module, modality: object, sets: Sets, part: Edit) -> RunView:
    """What an edit sees."""
    return RunView(loop.new_state(model, modality, worlds.accelerator(), sets=sets), sets).at("do", part)


def applied(part: Edit, model: nn.Module, modality: object, sets: Sets) -> RunState:
    return loop.run((Plan(part),), model, modality, sets)


def greedy_answers(model: nn.Module, modality: object, rows: Rows, limit: int = 24) -> list[str]:
    """Greedy answers."""
    with torch.no_grad():
        return modality.decode(modality.generate(model, rows, limit).ids)


def right(model: nn.Module, modality: object, rows: Rows) -> float:
    """Share of rows whose greedy answer is the true one."""
    pairs = zip(greedy_answers(model, modality, rows), rows["answer_text"], strict=True)
    return sum(a == b for a, b in pairs) / len(rows)


def refused(model: nn.Module, modality: object, rows: Rows) -> float:
    return sum(a == REFUSAL for a in greedy_answers(model, modality, rows)) / len(rows)
