"""Forget a digit: train a small image classifier on real handwritten digits, remove the threes, and audit the result.

Run it: python examples/images.py [FOLDER]. It takes less than a minute on two cores; a second run reuses the trained models.
"""

from __future__ import annotations

import sys
from pathlib import Path

import expunge
from expunge.benchmarks import digits

SCORES = ("forget_accuracy", "test_accuracy", "average_gap", "cka_retrained", "mia_loss")


def main(folder: Path) -> None:
    """Train, unlearn, audit; write the report into the folder."""
    suite = digits.load(split="class3")
    options = {"labels": suite.labels, "epochs": 8}  # the retrained model has never seen a three, and still has ten classes
    original = expunge.train(suite.train["full"], "resnet-nano", **options)
    retrained = expunge.train(suite.train["retain"], "resnet-nano", **options)

    forget, retain = suite.train["forget"], suite.train["retain"]
    unlearned = expunge.unlearn("ssd", original.folder, forget, retain, out=folder / "forgotten", overwrite=True, alpha=4.0, batch_size=1)
    print(f"forgot {len(forget)} images in {unlearned.receipt['cost']['seconds']:.1f} s")

    result = expunge.audit(
        unlearned.folder,
        forget,
        retain,
        suite.sets["holdout"],
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
    for check in result.verdict.checks:
        print(f"{check.state}: {check.text}")
    print(f"report: {folder / 'audit' / 'report.html'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/images"))
