"""What benchmarks with a spurious attribute share: rows with `label` and `attribute`, the class that the attribute usually goes with."""

from __future__ import annotations

from typing import Any

from expunge.benchmarks.suite import Record, Suite

Row = dict[str, Any]


def suite(name: str, train: list[Row], test: list[Row], gone: int, labels: tuple[str, ...]) -> Suite:
    """What to train on and what to look at, where one class is to be forgotten; rows with `label` and `attribute`."""

    def of(rows: list[Row], forgotten: bool) -> list[Record]:
        return [r for r in rows if (r["label"] == gone) == forgotten]

    forget, retain, lost = of(train, True), of(train, False), of(test, True)
    return Suite(
        name=name,
        sets={
            "forget": forget,
            "retain": retain,
            "holdout": test,
            "aligned": [r for r in lost if r["attribute"] == gone],
            "conflicting": [r for r in lost if r["attribute"] != gone],
        },
        train={"full": train, "forget": forget, "retain": retain},
        labels=labels,
    )
