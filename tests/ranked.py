"""Runs of small plans, for one process and for several: `torchrun ranked.py FOLDER NAME ...` leaves the weights that each run ends with."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import worlds
from expunge.core.errors import Interrupted, UserError
from expunge.engine import checkpoint, loop
from expunge.engine.hooks import Hooks
from expunge.engine.weights import weights_of
from expunge.workflows import build_plan

FEW = {"epochs": 3, "batch_size": 6, "lr": 1e-3}
RUNS: dict[str, dict[str, Any]] = {  # the arguments of `resolve.plan`, and the world
    "npo": {"method": "npo"},  # remembered reference, two sets in one forward
    "micro": {"method": "npo", "micro_batch_size": 2},
    "kl": {"method": "kl"},  # a live reference: other weights in the same model
    "flat": {"method": "flat"},  # not linear in its means
    "sam": {"method": "npo", "update": ("sam",)},
    "averaged": {"method": "graddiff", "update": ("weight_averaging",)},
    "projected": {"method": "graddiff", "update": ("gradient_projection",)},
    "penalised": {"method": "graddiff", "update": ("gradient_penalty",)},  # second derivatives
    "steered": {"method": "rmu", "layer": 1},  # hidden states of one block, few weights move
    "dual": {"method": "pdu"},  # a state that follows notes
    "masked": {"method": "graddiff", "update": ("wagle",)},  # gradients over whole sets before the start
    "lora": {"method": "graddiff", "lora": 4},
    "pictures": {"method": "graddiff", "world": "resnet-nano"},  # batch norm: rows of a batch are no pieces
}


def run(name: str, hooks: Hooks | None = None, resume: Mapping[str, Any] | None = None) -> loop.RunState:
    """One of `RUNS`, in double precision."""
    wanted = {**RUNS[name]}
    world = worlds.digits(size) if (size := wanted.pop("world", "")) else worlds.text()
    model = world.model().double()
    plans = build_plan.plan(
        wanted.pop("method"), {**FEW, **{k: v for k, v in wanted.items() if k != "update"}}, update=wanted.get("update", ())
    )
    return loop.run(plans, model, world.modality, world.some(12), seed=3, hooks=hooks, resume=resume)


def weights(name: str) -> dict[str, Tensor]:
    return weights_of(run(name).model)


def stopped(name: str, folder: Path) -> dict[str, Tensor]:
    """The weights after a run that one of the processes was asked to stop in its second step, and that then went on."""
    polls = {"times": 0}

    def interrupted() -> bool:
        polls["times"] += 1
        return polls["times"] == 3 and torch.distributed.get_rank() == 1

    try:
        run(name, Hooks(save=lambda state: checkpoint.save(state, folder), interrupted=interrupted))
    except Interrupted:
        return weights_of(run(name, resume=checkpoint.load(folder)).model)
    raise AssertionError("nobody stopped")


def main(folder: Path, names: list[str]) -> None:
    for name in names:
        what, _, how = name.partition("-")
        try:
            outcome: Any = stopped(what, folder / f"{name}.checkpoint") if how == "stopped" else weights(what)
        except UserError as error:
            outcome = str(error)
        rank = torch.distributed.get_rank()
        checkpoint.save(outcome, folder / f"{name}.{rank}")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2:])
