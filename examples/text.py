"""Forget one person: train a small language model on twelve people who do not exist, remove one of them, and audit the result.

Run it: python examples/text.py [FOLDER]. It takes less than a minute on two cores; a second run reuses the trained models.
"""

from __future__ import annotations

import sys
from pathlib import Path

import expunge
from expunge.benchmarks import people
from expunge.benchmarks.suite import QUESTION_ANSWER

SCORES = ("forget_quality", "model_utility", "forget_probability", "extraction_strength")


def main(folder: Path) -> None:
    """Train, unlearn, audit; write the report into the folder."""
    data = people.generate(people=12, forget=1, holdout=1, neighbours=1, retain_audit=40)
    texts = [f"{row['question']} {row['answer']}" for row in data.full]  # one tokenizer for both models, so that they can be compared
    options = {"texts": texts, "prompt_format": QUESTION_ANSWER}
    original = expunge.train(data.full, "nano", **options)
    retrained = expunge.train(data.retain, "nano", **options)

    hyperparameters = {"lr": 1e-3, "epochs": 40, "retain_weight": 5.0}
    unlearned = expunge.unlearn(
        "npo", original.folder, data.forget, data.retain, out=folder / "forgotten", overwrite=True, **hyperparameters
    )
    print(f"forgot {len(data.forget)} rows in {unlearned.receipt['cost']['seconds']:.1f} s")

    result = expunge.audit(
        unlearned.folder,
        data.forget,
        data.retain_audit,
        data.holdout,
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
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/text"))
