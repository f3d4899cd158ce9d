"""A bill of materials of a model (CycloneDX 1.6, ML-BOM), written from the receipt of its run. It quotes no rows and no local paths."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from expunge.report.model_card import is_hub_id, without_private

FORMAT, VERSION = "CycloneDX", "1.6"


def bill(
    receipt: Mapping[str, Any],
    files: Mapping[str, str],
    at: str,
    scores: Mapping[str, Mapping[str, Any]] | None = None,
    verdict: str = "",
    not_checked: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The bill as plain JSON.

    Args:
        receipt: of the run.
        files: SHA-256 (64 hex digits) of the files of the model, by name.
        at: the time, in ISO 8601.
        scores: of an audit, each with `value` and perhaps `interval`.
        verdict: of that audit.
        not_checked: sentences of that audit.
    """
    public, kind = without_private(receipt), str(receipt["result"]["kind"])
    name = f"{kind}-{receipt['result']['weights']}"
    source = str(receipt["model"]["source"])
    base = {"type": "machine-learning-model", "bom-ref": "base", "name": source if is_hub_id(source) else "a local model"}
    base["properties"] = [_property("expunge:weights", receipt["model"]["weights"])]  # type: ignore[assignment]
    sets = [{"type": "data", "bom-ref": f"data-{n}", "name": n, "description": f"{rows} rows"} for n, rows in _sets(receipt).items()]
    libraries = [
        {"type": "library", "bom-ref": f"library-{n}", "name": n, "version": str(v), "purl": f"pkg:pypi/{n}@{str(v).replace('+', '%2B')}"}
        for n, v in receipt["versions"].items()
        if n != "python"
    ]
    model = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": name,
        "version": str(receipt["result"]["weights"]),
        "components": [
            {"type": "file", "bom-ref": f"file-{n}", "name": n, "hashes": [{"alg": "SHA-256", "content": d}]} for n, d in files.items()
        ],
        "pedigree": {"ancestors": [base], "notes": _notes(receipt)},
        "modelCard": _card(public, receipt, scores or {}, verdict, not_checked),
        "properties": [
            _property("expunge:method", receipt["method"]),
            *(
                _property(f"expunge:hyperparameter:{stage['name']}:{n}", v)
                for stage in public["stages"]
                for n, v in stage["hyperparameters"].items()
            ),
        ],
    }
    return {
        "bomFormat": FORMAT,
        "specVersion": VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'expunge:{name}:{at}')}",
        "version": 1,
        "metadata": {
            "timestamp": at,
            "tools": {"components": [{"type": "application", "name": "expunge", "version": str(receipt["expunge"])}]},
            "component": model,
        },
        "components": [*sets, *libraries],
        "dependencies": [{"ref": "model", "dependsOn": [c["bom-ref"] for c in (*sets, *libraries)]}],
    }


def _card(
    public: Mapping[str, Any],
    receipt: Mapping[str, Any],
    scores: Mapping[str, Mapping[str, Any]],
    verdict: str,
    not_checked: tuple[str, ...],
) -> dict[str, Any]:
    card: dict[str, Any] = {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": str(public["modality"].get("modality", "")),
            "datasets": [{"ref": f"data-{name}"} for name in _sets(receipt)],
        },
        "considerations": {
            "technicalLimitations": [
                "No guarantee that the rows are gone: most methods approximate what retraining without them does exactly.",
                *(f"Not checked: {sentence}" for sentence in not_checked),
            ]
        },
    }
    if verdict:
        card["considerations"]["technicalLimitations"].insert(0, f'The verdict of the audit is "{verdict}".')
    metrics = [_metric(name, score) for name, score in scores.items() if score.get("value") is not None]
    return {**card, "quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else card


def _metric(name: str, score: Mapping[str, Any]) -> dict[str, Any]:
    metric: dict[str, Any] = {"type": name, "value": str(score["value"])}
    low, high = score.get("interval") or (None, None)
    return {**metric, "confidenceInterval": {"lowerBound": str(low), "upperBound": str(high)}} if low is not None else metric


def _sets(receipt: Mapping[str, Any]) -> dict[str, int]:
    return dict(receipt["request"]["sets"])


def _notes(receipt: Mapping[str, Any]) -> str:
    forgot = _sets(receipt).get("forget")
    return f"{receipt['method']} was run to forget {forgot} rows." if forgot else f"It was trained by {receipt['method']}."


def _property(name: str, value: Any) -> dict[str, str]:
    return {"name": name, "value": str(value)}
