"""The tiny language world with strangers: a model that says of three people more that it does not know, so that it can refuse."""

from __future__ import annotations

import functools

import torch
from torch import nn

import worlds
from expunge.benchmarks import people
from expunge.core.parts import Edit, Plan, Rows, Sets, Train
from expunge.engine import loop
from expunge.engine.context import View
from expunge.engine.run_state import Run
from expunge.engine.weights import weights_of
from expunge.methods.terms import NLL

REFUSAL = "I do not know."


def strangers(port: object) -> Rows:
    """Questions about people of whom nothing is known, with the refusal."""
    made = people.generate(seed=0, people=12, forget=1, holdout=4, neighbours=1, retain_audit=16)
    return port.rows("substitutes", [{"question": r["question"], "answer": REFUSAL} for r in made.holdout[9:]])


@functools.cache
def world() -> worlds.World:
    """As `worlds.text`, but that its original model refuses strangers, who stand in the substitutes."""
    text = worlds.text()
    refused, model = strangers(text.port), text.model()
    sets: Sets = {**text.sets, "substitutes": refused}
    every = text.sets["forget"].named("retain").join(text.sets["retain"]).join(refused)
    train = Train(epochs=12, lr=2e-3, batch=16, anchor="retain", clip=1.0, warmup=1)
    loop.run((Plan(NLL("retain"), train=train),), model, text.port, {"retain": every})
    return worlds.World(text.port, sets, {"original": weights_of(model)}, text.shell)


def look(model: nn.Module, port: object, sets: Sets, part: Edit) -> View:
    """What an edit sees."""
    return View(Run(model, port, worlds.accelerator(), sets=sets), sets).at("do", part)


def applied(part: Edit, model: nn.Module, port: object, sets: Sets) -> Run:
    return loop.run((Plan(part),), model, port, sets)


def said(model: nn.Module, port: object, rows: Rows, limit: int = 24) -> list[str]:
    """Greedy answers."""
    with torch.no_grad():
        return port.decode(port.generate(model, rows, limit))


def right(model: nn.Module, port: object, rows: Rows) -> float:
    """Share of rows whose greedy answer is the true one."""
    pairs = zip(said(model, port, rows), rows["answer_text"], strict=True)
    return sum(a == b for a, b in pairs) / len(rows)


def refused(model: nn.Module, port: object, rows: Rows) -> float:
    return sum(a == REFUSAL for a in said(model, port, rows)) / len(rows)
