"""Code that benchmarks with a spurious attribute share: rows with `label` and `attribute`, the class it usually goes with."""

from __future__ import annotations

from typing import Any

from expunge.benchmarks.suite import Record, Suite

Row = dict[str, Any]


def suite(name: str, train: list[Row], test: list[Row], forgotten: int, labels: tuple[str, ...]) -> Suite:
    """Build a suite in which one class is to be forgotten.

    Args:
        name: of the suite.
        train, test: rows with `label` and `attribute`.
        forgotten: label of the class to be forgotten.
        labels: names of the classes.
    """

    def split(rows: list[Row], in_class: bool) -> list[Record]:
        return [r for r in rows if (r["label"] == forgotten) == in_class]

    forget, retain, unseen = split(train, True), split(train, False), split(test, True)
    return Suite(
        name=name,
        sets={
            "forget": forget,
            "retain": retain,
            "holdout": test,
            "aligned": [r for r in unseen if r["attribute"] == forgotten],
            "conflicting": [r for r in unseen if r["attribute"] != forgotten],
        },
        train={"full": train, "forget": forget, "retain": retain},
        labels=labels,
    )
