"""A step of `esd`, which samples before it learns, against the model calls that it cannot do without.

    python -m performance.esd_step [--json FILE] [--quick]

The floor takes the same steps of sampling with guidance by the library's scheduler, one pass of the weights before over two prompts, one
forward and backward pass, and one step of the same optimizer on the same layers.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from performance import _bench as bench

from expunge.core.plan import Plan
from expunge.engine import loop
from expunge.engine.trainable import choose
from expunge.modalities.diffusion.building import start_model
from expunge.modalities.diffusion.modality import Diffusion, Settings
from expunge.workflows import build_plan

MUST = 1.1
COLORS = ("red", "green", "blue", "black")


def records(side: int) -> list[dict[str, Any]]:
    """Pictures of one color each."""
    return [{"image": np.full((side, side, 3), 60 * i, np.uint8), "caption": f"a {c} square"} for i, c in enumerate(COLORS)]


def bare(model: Any, modality: Diffusion, plan: Plan, stops: list[int], sampling_steps: int) -> None:
    """The model calls of steps whose sampling stops where `stops` says."""
    student, before = copy.deepcopy(model).train(), copy.deepcopy(model)
    choose(student, plan.trainable)
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr=plan.train.lr)
    for seed, until in enumerate(stops):
        latents, at = modality.sample(student, ["a red square"], [seed], sampling_steps, 3.0, until)
        with torch.no_grad():
            empty, concept = modality.predict(
                before, latents.repeat(2, 1, 1, 1), at.repeat(2), modality.encode(before, ["", "a red square"])
            )
        predicted = modality.predict(student, latents, at, modality.encode(student, ["a red square"]))
        (predicted - (2 * empty - concept)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def main() -> None:
    arguments = bench.options(__doc__, rounds=(5, 3), steps={"type": int, "default": 20})
    steps, sampling_steps, side = (12, 10, 16) if arguments.quick else (arguments.steps, 20, 32)
    rows = records(side)
    model, modality = start_model((32, 64), Settings(), rows)
    plan = build_plan.plan("esd", {"steps": steps, "sampling_steps": sampling_steps})[0]
    sets = {"forget": modality.rows("forget", rows[:1])}
    stops: list[int] = []
    sample = modality.sample

    def listening(*args: Any, **how: Any) -> Any:
        stops.append(how["until"])
        return sample(*args, **how)

    modality.sample = listening  # type: ignore[method-assign]
    loop.run((plan,), copy.deepcopy(model), modality, sets)
    del modality.sample
    times = bench.interleaved(
        {
            "step": lambda: loop.run((plan,), copy.deepcopy(model), modality, sets),
            "model calls": lambda: bare(model, modality, plan, stops, sampling_steps),
        },
        arguments.rounds,
    )
    seconds = {name: times.seconds(name) / steps for name in ("step", "model calls")}
    ratio, cpu = times.ratio("step", "model calls"), times.ratio("step", "model calls", "cpu")
    bench.table(
        [["step", seconds["step"], ratio, cpu], ["model calls", seconds["model calls"], 1.0, 1.0]],
        ("", "seconds", "/ floor", "cpu / floor"),
    )
    parts = {
        "seconds": {n: round(s, 4) for n, s in seconds.items()},
        "ratios": {"step": round(ratio, 3)},
        "cpu_ratios": {"step": round(cpu, 3)},
    }
    sizes = {"must": MUST, "steps": steps, "sampling steps": sampling_steps, "forward passes": 2 * sum(stops) + 3 * steps, "side": side}
    bench.finish(arguments, "esd_step", {"ratio_to_floor": round(ratio, 3), "parts": {**parts, **sizes}})


if __name__ == "__main__":
    main()
