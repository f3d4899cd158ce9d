"""Forget one person: train a small language model on twelve people who do not exist, remove one of them, and look at what is left.

Run it: python examples/text.py [FOLDER]. Less than a minute on two cores; a second run reuses the trained models.
"""

from __future__ import annotations

import sys
from pathlib import Path

import expunge
from expunge.benchmarks import people
from expunge.benchmarks.suite import QUESTION_ANSWER

SHOWN = ("forget_quality", "model_utility", "forget_probability", "extraction_strength")


def main(folder: Path) -> None:
    """Train, forget, audit; the report lands in the folder."""
    made = people.generate(people=12, forget=1, holdout=1, neighbours=1, retain_audit=40)
    texts = [f"{row['question']} {row['answer']}" for row in made.full]  # one tokenizer for both models, so that they can be compared
    teach = {"texts": texts, "prompt_format": QUESTION_ANSWER}
    original = expunge.train(made.full, "nano", **teach)
    retrained = expunge.train(made.retain, "nano", **teach)

    hyperparameters = {"lr": 1e-3, "epochs": 40, "retain_weight": 5.0}
    gone = expunge.unlearn("npo", original.folder, made.forget, made.retain, out=folder / "forgotten", overwrite=True, **hyperparameters)
    print(f"forgot {len(made.forget)} rows in {gone.receipt['cost']['seconds']:.1f} s")

    found = expunge.audit(
        gone.folder,
        made.forget,
        made.retain_audit,
        made.holdout,
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
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/text"))
