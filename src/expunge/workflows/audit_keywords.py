"""The options of `audit` for editors and type checkers, which cannot read them off `AuditOptions`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from expunge.evaluation.audited_models import Progress
from expunge.io.models import Opened
from expunge.io.requested import ColumnMap, Conditions
from expunge.workflows.callbacks import Callbacks
from expunge.workflows.trackers import Track


class AuditKeywords(TypedDict, total=False):
    """The fields of `AuditOptions`, which says what they mean."""

    suite: str
    data: str
    split: str
    original: str | Path | Opened | None
    retrained: str | Path | Opened | None
    attack: Sequence[str]
    attack_hyperparameters: Mapping[str, Any]
    variants: Mapping[str, str]
    attacked_sets: Sequence[str]
    request_from: str
    with_controls: bool
    out: str | Path | None
    prompt_format: str
    limit: int
    overwrite: bool
    allow_overlap: bool
    where: Conditions
    map: ColumnMap
    alpha: float
    margins: Mapping[str, float]
    memory: str
    progress: Progress
    callbacks: Callbacks
    track: Track
    command: str
    load_options: Mapping[str, Any]
