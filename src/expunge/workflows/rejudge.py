"""A new verdict on an audit that was made before, with other limits and without the model: the workflow behind `expunge verdict`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.benchmarks.suite import SetSpec
from expunge.core.errors import UserError
from expunge.evaluation.attack import AttackOutcome
from expunge.evaluation.audited_models import AuditedModel, compared, judged
from expunge.evaluation.observation import Observation
from expunge.evaluation.verdict import Context
from expunge.report.verdict_data import SCHEMA
from expunge.workflows.audit import thresholds_of
from expunge.workflows.audit_result import EVIDENCE, UNTRAINED, Audit, concluded


def verdict(audit: str | Path, *, alpha: float = 0.05, margins: Mapping[str, float] | None = None) -> Audit:
    """Judge an audit again.

    Args:
        audit: the folder of an audit.
        alpha: the chance that a verdict "removed" or "not removed" is wrong where the truth lies at a margin.
        margins: differences of scores that count as none, by score; default: those of the scores.

    Returns:
        The audit with the new verdict; the folder stays as it is.

    Raises:
        UserError: for a folder that holds no audit, or limits out of their range.
    """
    thresholds = thresholds_of(alpha, margins or {})
    folder = Path(audit).expanduser()
    if not (folder / EVIDENCE).is_file():
        older = " (the audit was made by an earlier version: make it again)" if (folder / "audit.json").is_file() else ""
        raise UserError(f"{folder} holds no audit that can be judged again: there is no {EVIDENCE} in it{older}")
    record = json.loads((folder / EVIDENCE).read_text(encoding="utf-8"))
    if record["schema"] > SCHEMA:
        raise UserError(f"the audit in {folder} was made by a later version (schema {record['schema']}, this one knows {SCHEMA})")
    models = _models(folder, record)
    context = Context(**{**record["context"], "overlaps": tuple(record["context"]["overlaps"]), "notes": tuple(record["context"]["notes"])})
    return concluded(models, context, thresholds, record["about"], record["request_from"], folder, record["compute"])


def _models(folder: Path, record: Mapping[str, Any]) -> list[AuditedModel]:
    """The models of an audit, scored again from their observations, with their attacks."""
    specs = {name: SetSpec(s["role"], tuple(s["ask"]), tuple(s["metrics"]), s["variants"]) for name, s in record["specs"].items()}
    observations = {m["name"]: Observation.load(folder / "observations" / m["name"].replace(" ", "_")) for m in record["models"]}
    untrained = folder / "observations" / UNTRAINED
    random_init = Observation.load(untrained) if untrained.is_dir() else None
    by_role = {m["role"]: observations[m["name"]] for m in record["models"]}
    models = []
    for m in record["models"]:
        attacks = {n: AttackOutcome.read(a) for n, a in m["attacks"].items()}
        fields = {k: m[k] for k in ("method", "seed", "receipt", "log")}
        beside = (by_role.get("retrained"), by_role.get("original"), random_init)
        models.append(judged(observations[m["name"]], m["name"], m["role"], *beside, specs, attacks=attacks, **fields))
    original, retrained = (next((m for m in models if m.role == role), None) for role in ("original", "retrained"))
    return [compared(m, original, retrained) for m in models]
