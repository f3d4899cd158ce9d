"""One attack on one model: the workflow behind `expunge attack`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from expunge import catalog
from expunge.io.models import Opened, Source
from expunge.workflows.audit import audit
from expunge.workflows.audit_keywords import AuditKeywords
from expunge.workflows.audit_result import Audit


def attack(
    name: str,
    model: str | Path | Opened,
    forget: Source | None = None,
    retain: Source | None = None,
    holdout: Source | None = None,
    *,
    hyperparameters: Mapping[str, Any] | None = None,
    **options: Unpack[AuditKeywords],
) -> Audit:
    """Audit a model under one attack, as `expunge attack` does.

    Args:
        name: an attack of the catalog: see `names("attacks")`.
        model: a folder, hub id, run folder or opened model.
        forget, retain, holdout: records; where a suite is named, the split's own fill what is not given.
        hyperparameters: of the attack, by name.
        options: the other fields of `AuditOptions`, by name.

    Returns:
        The audit; `attacks[name]` holds every case, and `to_pandas("attacks")` the worst ones.

    Raises:
        UserError: for every mistake that the user can correct.
    """
    catalog.load(name, "attacks")
    return audit(model, forget, retain, holdout, **{**options, "attack": (name,), "attack_hyperparameters": hyperparameters or {}})
