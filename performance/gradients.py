"""Gradients of single rows without a loop over rows: norms, squares (Fisher information) and the gradients themselves, against the loop.

    python -m performance.gradients [--json FILE] [--quick] [--data FOLDER] [--model FOLDER]

The floor of all of them is one plain forward and backward pass over the same rows in batches, which gives the mean gradient alone; the
reference is a backward pass of each row. Text is what is audited; images are digits.
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
    model, modality = opened.model, opened.modality
    params = list(model.parameters())

    def ask(some: Rows) -> ModelOutput:
        return modality.forward(model, [some])[0]

    def plain() -> list[Tensor]:
        for places in batches(modality, rows, BACK):
            some = rows.select(places)
            (-ask(some).target_logp.mean().sum()).backward()
        found = [p.grad for p in params if p.grad is not None]
        model.zero_grad(set_to_none=True)
        return found

    def squares() -> list[Tensor]:
        return fisher.squared_gradients(model, ask, rows, lambda answer: [answer.target_logp.mean()])

    def no(*_: Any) -> bool:
        return False

    def by_row(call: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            rows_alone = mock.patch.multiple(per_example_grads, vectorises=no, watches=no)
            with rows_alone, mock.patch.object(ghost_norms, "_alike", no):
                return call()

        return run

    def norms() -> Any:
        return mean_gradient_norms(model, modality, rows)

    return {"mean gradient": plain, "norms": norms, "norms, loop": by_row(norms), "squares": squares, "squares, loop": by_row(squares)}


def main() -> None:
    given = bench.options(__doc__)
    made = bench.suite(given)
    many = given.items or (24 if given.quick else 200)
    text = bench.original(given, made, trained=False)
    records = digits.load().train["full"][:many]
    image = start("vit-nano", records)
    work = {
        "text": (text, text.modality.rows("forget", made.train["full"][:many])),
        "images": (image, image.modality.rows("forget", records)),
    }
    parts, table = {}, []
    for name, (opened, rows) in work.items():
        mine = ways(opened, rows)
        with evaluating(opened.model), torch.enable_grad():
            times = bench.interleaved(mine, given.rounds)
        parts[name] = {
            "rows": len(rows),
            "seconds": {n: round(times.seconds(n), 3) for n in mine},
            **{f"{k}, loop over ours": round(times.ratio(f"{k}, loop", k), 2) for k in ("norms", "squares")},
            "norms to mean gradient": round(times.ratio("norms", "mean gradient"), 3),
        }
        table += [[name, n, times.seconds(n), times.ratio(n, "mean gradient"), times.ratio(n, "mean gradient", "cpu")] for n in mine]
    bench.table(table, ("rows", "", "s", "/ mean gradient", "/ mean gradient, cpu"))
    found = {
        "ratio_to_floor": parts["text"]["norms to mean gradient"],
        "speedup_over_reference": parts["text"]["norms, loop over ours"],
        "parts": parts,
    }
    bench.finish(given, "gradients", found)


if __name__ == "__main__":
    main()
