"""The result of an audit: the verdict on each model, the report, and the files that hold it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from expunge.benchmarks.suite import Specs
from expunge.core.request import digest
from expunge.engine import receipt
from expunge.evaluation.audited_models import AuditedModel, report_data
from expunge.evaluation.observation import Observation
from expunge.evaluation.thresholds import Thresholds
from expunge.evaluation.verdict import Context
from expunge.functional.brief import brief
from expunge.report import result_tables
from expunge.report.report_data import Asked, ReportData
from expunge.report.verdict_data import SCHEMA, Verdict

if TYPE_CHECKING:
    from pandas import DataFrame

AUDITED = "audited model"
EVIDENCE = "evidence.json"  # beside the observations
UNTRAINED = "untrained"  # observations of random weights that scores compare with


@brief("passed", "scores", "skipped", "attacks", "folder")
@dataclass(frozen=True, eq=False)
class Audit:
    """Scores of one model, the verdict and the data of the report."""

    scores: Mapping[str, Mapping[str, Any]]
    skipped: Mapping[str, str]
    verdict: Verdict
    observed: Observation
    report_data: ReportData
    attacks: Mapping[str, Any]
    request_from: str = ""  # the method whose requests the audit made
    folder: Path | None = None
    compute: Mapping[str, str] = field(default_factory=dict)  # device and dtype of the audited model; empty where it was observed before
    models: Sequence[AuditedModel] = ()  # all that were looked at, each with its verdict
    context: Context = field(default_factory=Context)

    @property
    def notes(self) -> Sequence[str]:
        """What to know about the audit: rows that were left out or repeat others, how the model was asked."""
        return self.context.notes

    @property
    def passed(self) -> bool:
        """Whether the state is "removed", and nothing else: "cannot tell" is no pass."""
        return self.verdict.passed

    def to_dict(self) -> dict[str, Any]:
        """What audit.json holds, as plain JSON values."""
        return receipt.as_json(summary(self))

    def to_pandas(self, of: Literal["scores", "attacks"] = "scores") -> DataFrame:
        """A data frame of numbers.

        Args:
            of: scores (a row a score, those that are missing too) or attacks (a row for each way and score, at its worst case).

        Returns:
            A `pandas.DataFrame`. Values have the unit of their score; `low` and `high` are the ends of the 95 % interval; `n` counts items.

        Raises:
            UserError: where pandas is not installed, or `of` is something else.
        """
        return result_tables.audit_frame(self.scores, self.skipped, self.attacks, of)

    def _repr_html_(self) -> str:
        return result_tables.audit_html(self.scores, self.skipped, self.verdict, self.report_data.main)


def concluded(
    audited_models: Sequence[AuditedModel],
    context: Context,
    thresholds: Thresholds,
    about: Mapping[str, str],
    request_from: str = "",
    folder: Path | None = None,
    compute: Mapping[str, str] = {},
) -> Audit:
    """The audit of models that were observed and attacked.

    Args:
        audited_models: with the audited one among them, by its name.
        context: of the audited model; the controls share what is known of the sets.
        about: title, subtitle, model and command of the report.
        request_from, folder, compute: as in the result.
    """
    shared = replace(context, guarded=False, notes=())
    models = [m.judge(context if m.name == AUDITED else shared, thresholds) for m in audited_models]
    audited = next(m for m in models if m.name == AUDITED)
    assert audited.verdict is not None
    sizes = {n: len(s) for n, s in audited.observation.sets.items()}
    request = Asked(sizes["forget"], sizes.get("retain"), sizes.get("holdout"), digest([audited.observation.sets["forget"].ids]))
    data = report_data(models, **about, request=request)
    attacks = {n: a.record(audited.yardstick.get(n)) for n, a in audited.attacks.items()}
    return Audit(
        audited.scores,
        audited.skipped,
        audited.verdict,
        audited.observation,
        data,
        attacks,
        request_from,
        folder,
        compute,
        models,
        context,
    )


def write(folder: Path, result: Audit, specs: Specs) -> None:
    """Write the observations, and all that a later verdict needs, beside the results."""
    for audited in result.models:
        audited.observation.save(folder / "observations" / audited.name.replace(" ", "_"))
    untrained = next((m.evidence.random for m in result.models if m.name == AUDITED and m.evidence), None)
    if untrained:
        untrained.save(folder / "observations" / UNTRAINED)
    receipt.write(folder / EVIDENCE, evidence_of(result, specs))
    write_verdict(folder, result)


def write_verdict(folder: Path, result: Audit) -> None:
    """Write audit.json, the data of the report, and its page."""
    from expunge.report import page

    receipt.write(folder / "audit.json", summary(result))
    receipt.write(folder / "story.json", json.loads(result.report_data.to_json()))
    page.write(result.report_data, folder / "report.html")


def evidence_of(result: Audit, specs: Specs) -> dict[str, Any]:
    """What `expunge verdict` needs besides the observations: the models with their attacks, and what is known of the audit."""
    models = [
        {
            "name": m.name,
            "role": m.role,
            "method": m.method,
            "seed": m.seed,
            "receipt": dict(m.receipt),
            "log": list(m.log),
            "attacks": {n: asdict(a) for n, a in m.attacks.items()},
        }
        for m in result.models
    ]
    return {
        "schema": SCHEMA,
        "models": models,
        "context": asdict(result.context),
        "specs": {name: asdict(spec) for name, spec in specs.items()},
        "about": {n: getattr(result.report_data, n) for n in ("title", "subtitle", "model", "command")},
        "request_from": result.request_from,
        "compute": dict(result.compute),
    }


def summary(result: Audit) -> dict[str, Any]:
    """The contents of audit.json, and what `--json` prints; docs/verdict.md says what each field means."""
    return {
        "schema": SCHEMA,
        "verdict": result.verdict.to_dict(),
        "passed": result.passed,
        "scores": result.scores,
        "skipped": result.skipped,
        "attacks": result.attacks,
        "controls": {m.name: m.verdict.state for m in result.models if m.verdict and m.name != AUDITED},
        "observed": result.observed.about,
        "request_from": result.request_from,
        "notes": list(result.notes),
        "versions": receipt.versions(),
        "machine": receipt.machine(),
        "compute": result.compute,
    }
