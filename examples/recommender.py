"""Forget some users: train a small recommender on generated tastes, remove a tenth of its users, and audit the result.

Run it: python examples/recommender.py [FOLDER]. It takes about a minute on two cores; a second run reuses the trained models.
"""

from __future__ import annotations

import sys
from pathlib import Path

import expunge
from expunge.benchmarks import taste

SCORES = ("forget_recall", "test_recall", "test_ndcg", "forget_fit", "loss_attack")


def main(folder: Path) -> None:
    """Train, unlearn, audit; write the report into the folder."""
    suite = taste.load(split="user10")
    full, forget, retain = (suite.train[name] for name in ("full", "forget", "retain"))
    options = {"vocabulary": full, "epochs": 30}  # both models know the same users and items
    original = expunge.train(full, taste.MODEL, **options)
    retrained = expunge.train(retain, taste.MODEL, **options)

    unlearned = expunge.unlearn(
        "graddiff", original.folder, forget, retain, out=folder / "forgotten", overwrite=True, lr=0.05, epochs=12, batch_size=64
    )
    print(f"forgot {len(forget)} interactions in {unlearned.receipt['cost']['seconds']:.1f} s")

    result = expunge.audit(
        unlearned.folder,
        suite="taste",
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
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/recommender"))
