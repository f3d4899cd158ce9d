"""Forget some faces: train a small model to answer questions about drawn faces, remove three people by their pictures, and look through
every door: is it gone by picture only, or also by name, by another picture, by a caption?

Run it: python examples/vision_language.py [FOLDER]. It takes about two minutes on two cores; a second run reuses the trained models.
"""

from __future__ import annotations

import sys
from pathlib import Path

import expunge
from expunge.benchmarks import fiubench

DOORS = ("picture", "name", "both", "other_picture", "caption", "other_words")
SCORES = (*(f"door_{door}" for door in DOORS), "retain_keywords", "fiu_utility")


def main(folder: Path) -> None:
    """Train, unlearn, audit; write the report into the folder."""
    suite = fiubench.load(split="forget5")
    full, forget, retain = (suite.train[name] for name in ("full", "forget", "retain"))
    original = expunge.train(full, fiubench.MODEL, vocabulary=full)
    retrained = expunge.train(retain, fiubench.MODEL, vocabulary=full)

    unlearned = expunge.unlearn(
        "kl", original.folder, forget, retain, out=folder / "forgotten", overwrite=True, lr=1e-3, epochs=5, batch_size=16
    )
    print(f"forgot {len(forget)} rows with pictures in {unlearned.receipt['cost']['seconds']:.1f} s")

    result = expunge.audit(
        unlearned.folder,
        suite="fiubench",
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
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/vision_language"))
