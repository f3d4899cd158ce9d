"""Gradients of single rows without a loop over rows: norms, squares (Fisher information) and the gradients, compared with the loop.

    python -m performance.gradients [--json FILE] [--quick] [--data FOLDER] [--model FOLDER]

The floor is one plain forward and backward pass over the same rows in batches, which gives the mean gradient only; the reference is one
backward pass per row. The text rows are training rows of the audited suite; the images are digits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from performance import _bench as bench
from torch import Tensor

from expunge.benchmarks import digits
from expunge.core.modality import ModelOutput
from expunge.core.rows import Rows
from expunge.engine.estimators import fisher, ghost_norms, per_example_grads
from expunge.engine.run_state import evaluating
from expunge.evaluation.gradient_norms import BACK, mean_gradient_norms
from expunge.evaluation.teacher_forced import batches
from expunge.io.models import Opened
from expunge.workflows.train import start


def ways(opened: Opened, rows: Rows) -> dict[str, Callable[[], Any]]:
    """The ways to compute gradients, by name."""
    model, modality = opened.model, opened.modality
    params = list(model.parameters())

    def forward(batch: Rows) -> ModelOutput:
        return modality.forward(model, [batch])[0]

    def plain() -> list[Tensor]:
        for places in batches(modality, rows, BACK["cpu"]):
            batch = rows.select(places)
            (-forward(batch).target_logp.mean().sum()).backward()
        gradients = [p.grad for p in params if p.grad is not None]
        model.zero_grad(set_to_none=True)
        return gradients

    def squares() -> list[Tensor]:
        return fisher.squared_gradients(model, forward, rows, lambda output: [output.target_logp.mean()])

    def no(*_: Any) -> bool:
        return False

    def by_row(call: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            one_by_one = mock.patch.multiple(per_example_grads, vectorizes=no, watches=no)
            with one_by_one, mock.patch.object(ghost_norms, "_alike", no):
                return call()

        return run

    def norms() -> Any:
        return mean_gradient_norms(model, modality, rows)

    return {"mean gradient": plain, "norms": norms, "norms, loop": by_row(norms), "squares": squares, "squares, loop": by_row(squares)}


def main() -> None:
    arguments = bench.options(__doc__)
    suite = bench.suite(arguments)
    count = arguments.items or (24 if arguments.quick else 200)
    text = bench.original(arguments, suite, trained=False)
    records = digits.load().train["full"][:count]
    image = start("vit-nano", records)
    work = {
        "text": (text, text.modality.rows("forget", suite.train["full"][:count])),
        "images": (image, image.modality.rows("forget", records)),
    }
    parts, table = {}, []
    for name, (opened, rows) in work.items():
        ways_here = ways(opened, rows)
        with evaluating(opened.model), torch.enable_grad():
            times = bench.interleaved(ways_here, arguments.rounds)
        parts[name] = {
            "rows": len(rows),
            "seconds": {n: round(times.seconds(n), 3) for n in ways_here},
            **{f"{k}, loop over ours": round(times.ratio(f"{k}, loop", k), 2) for k in ("norms", "squares")},
            "norms to mean gradient": round(times.ratio("norms", "mean gradient"), 3),
        }
        table += [[name, n, times.seconds(n), times.ratio(n, "mean gradient"), times.ratio(n, "mean gradient", "cpu")] for n in ways_here]
    bench.table(table, ("rows", "", "s", "/ mean gradient", "/ mean gradient, cpu"))
    numbers = {
        "ratio_to_floor": parts["text"]["norms to mean gradient"],
        "speedup_over_reference": parts["text"]["norms, loop over ours"],
        "parts": parts,
    }
    bench.finish(arguments, "gradients", numbers)


if __name__ == "__main__":
    main()
