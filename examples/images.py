"""Forget a digit: train a small image classifier on real handwritten digits, remove the threes, and look at what is left.

Run it: python examples/images.py [FOLDER]. Less than a minute on two cores; a second run reuses the trained models.
"""

from __future__ import annotations

import sys
from pathlib import Path

import expunge
from expunge.benchmarks import digits

SHOWN = ("forget_accuracy", "test_accuracy", "average_gap", "cka_retrained", "mia_loss")


def main(folder: Path) -> None:
    """Train, forget, audit; the report lands in the folder."""
    made = digits.load(split="class3")
    teach = {"labels": made.labels, "epochs": 8}  # the retrained model has never seen a three, and still has ten classes
    original = expunge.train(made.train["full"], "resnet-nano", **teach)
    retrained = expunge.train(made.train["retain"], "resnet-nano", **teach)

    forget, retain = made.train["forget"], made.train["retain"]
    gone = expunge.unlearn("ssd", original.folder, forget, retain, out=folder / "forgotten", overwrite=True, alpha=4.0, batch_size=1)
    print(f"forgot {len(forget)} images in {gone.receipt['cost']['seconds']:.1f} s")

    found = expunge.audit(
        gone.folder,
        forget,
        retain,
        made.sets["holdout"],
        original=original.folder,
        retrained=retrained.folder,
        out=folder / "audit",
        overwrite=True,
    )
    before = {entry.role: entry.scores for entry in found.report_data.models}
    print(f"{'score':22}{'original':>10}{'forgotten':>11}{'retrained':>11}")
    for name in SHOWN:
        values = [before[role][name].value for role in ("original", "method", "retrained")]
        print(f"{name:20}" + "".join(f"{'-' if v is None else f'{v:.3f}':>11}" for v in values))
    for verdict in found.verdict:
        print(f"{verdict['level']}: {verdict['text']}")
    print(f"report: {folder / 'audit' / 'report.html'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/images"))
