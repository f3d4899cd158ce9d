"""Forget a stamp: train a small model that draws scenes from captions, make it forget a stamp on some of them, and audit the result.

Run it: python examples/diffusion.py [FOLDER]. It needs the extra (pip install 'expunge[diffusion]') and takes two minutes on two cores; a
second run reuses the trained models.
"""

from __future__ import annotations

import sys
from pathlib import Path

import expunge
from expunge.benchmarks import scenes

SCORES = ("forget_drawn", "ua", "ira", "cra", "frechet", "forget_fit", "loss_attack")


def main(folder: Path) -> None:
    """Train, unlearn, audit; write the report into the folder."""
    suite = scenes.load(split="stamp")
    full, forget, retain = (suite.train[name] for name in ("full", "forget", "retain"))
    original = expunge.train(full, scenes.MODEL)  # from a base model that has never seen a stamp
    retrained = expunge.train(retain, scenes.MODEL)

    settings = {"concept": "stamped", "layers": "full", "eta": 3.0, "lr": 7e-4, "steps": 25, "batch_size": 4, "sampling_steps": 8}
    unlearned = expunge.unlearn("esd", original.folder, forget, out=folder / "forgotten", overwrite=True, **settings)
    print(f"forgot a stamp in {unlearned.receipt['cost']['seconds']:.1f} s")

    result = expunge.audit(
        unlearned.folder,
        suite="scenes",
        split="stamp",
        limit=60,
        original=original.folder,
        retrained=retrained.folder,
        out=folder / "audit",
        overwrite=True,
    )
    scores = {entry.role: entry.scores for entry in result.report_data.models}
    print(f"{'score':22}{'original':>10}{'forgotten':>11}{'retrained':>11}")
    for name in SCORES:
        values = [scores[role][name].value for role in ("original", "method", "retrained")]
        print(f"{name:20}" + "".join(f"{'-' if v is None else f'{v:.3f}':>11}" for v in values))
    print(f"{result.verdict.state}: {result.verdict.gone}")
    print(f"report: {folder / 'audit' / 'report.html'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/diffusion"))
