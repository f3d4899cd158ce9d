"""From a model to its scores, verdict and report: the workflow behind `expunge audit`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from expunge import catalog
from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.engine.guarding import is_guarded
from expunge.evaluation.attack import chosen
from expunge.evaluation.audited_models import (
    AuditedModel,
    Progress,
    carry_out,
    compared,
    controls,
    examine,
    judged,
    random_init,
    silent,
)
from expunge.evaluation.formats import better_format
from expunge.evaluation.observation import Observation
from expunge.evaluation.profiles.profile import profile_of
from expunge.evaluation.prompting import asked_as, way_of
from expunge.evaluation.scoring import score_specs
from expunge.evaluation.thresholds import Thresholds
from expunge.evaluation.verdict import Context
from expunge.io.models import Opened, Source, cache_home, format_of, load, receipt_of
from expunge.report.report_data import Role
from expunge.workflows.audit_result import AUDITED, Audit, concluded, write_audit
from expunge.workflows.audit_sets import Alike, sets_of
from expunge.workflows.overlaps import Overlap, overlaps, refuse, same_questions


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """The options of an audit.

    Args:
        suite, data, split: a benchmark, where its data are, and its split, whose sets fill what is not given.
        original, retrained: the model before unlearning, and a model retrained without the forget set, each as a model or as observations.
        attack: interventions of the catalog, followed by the same scores.
        attack_hyperparameters: a plain name goes to every attack that has such a hyperparameter, `relearn:lr` to one.
        attacked_sets: sets that are scored under attack, besides the rows to forget.
        request_from: a method whose models forget on request alone, e.g. in_context: the audited model, and no other, is asked its way.
        with_controls: also look at random weights and, where the original is given, at an input filter around it.
        out: the folder of the results; None: nowhere.
        prompt_format: for all models; '' is what the audited model's run was given, else each model's own.
        limit: rows of retain and holdout that the audit reads, evenly spread; 0: all.
        overwrite: replace the results in the folder.
        allow_overlap: sets may share rows; the verdict then says so.
        alpha: the chance that a verdict "removed" or "not removed" is wrong where the truth lies at a margin.
        margins: differences of scores that count as none, by score; default: those of the scores.
        progress: receives rows done, rows in all, and the activity.
        command: the command line, for the report.
        load_options: of `expunge.load`.
    """

    suite: str = ""
    data: str = ""
    split: str = ""
    original: str | Path | Opened | None = None
    retrained: str | Path | Opened | None = None
    attack: Sequence[str] = ()
    attack_hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    attacked_sets: Sequence[str] = ()
    request_from: str = ""
    with_controls: bool = False
    out: str | Path | None = None
    prompt_format: str = ""
    limit: int = 400
    overwrite: bool = False
    allow_overlap: bool = False
    alpha: float = 0.05
    margins: Mapping[str, float] = field(default_factory=dict)
    progress: Progress = silent
    command: str = ""
    load_options: Mapping[str, Any] = field(default_factory=dict)


def audit(
    model: str | Path | Opened,
    forget: Source | None = None,
    retain: Source | None = None,
    holdout: Source | None = None,
    **options: Any,
) -> Audit:
    """Audit a model after unlearning: scores, attacks and a verdict.

    Args:
        model: a folder, hub id, run folder or opened model, or a folder of observations (`observed.json`), which needs no model.
        forget, retain, holdout: records; where a suite is named, the split's own fill what is not given. Observations need none.
        options: the fields of `AuditOptions`, by name.

    Returns:
        Scores with intervals, the verdict, attacks, and the data of the report; written to `out` where that is given.

    Raises:
        UserError: for every mistake that the user can correct.
    """
    chosen_options = AuditOptions(**options)
    auditor = Auditor(model, {"forget": forget, "retain": retain, "holdout": holdout}, chosen_options)
    audited_models = auditor.look_at_all()
    result = auditor.judge(audited_models)
    if result.folder:
        write_audit(result.folder, result, auditor.specs)
    return result


class Auditor:
    """The state of one audit: the sets, how to ask them, and the attacks."""

    def __init__(self, model: str | Path | Opened, given: Mapping[str, Source | None], options: AuditOptions) -> None:
        """Raises: UserError where the options do not fit together; this happens before any model loads."""
        self.model, self.options = model, options
        self.thresholds = thresholds_of(options.alpha, options.margins)
        self.attacks = chosen(options.attack, options.attack_hyperparameters)
        self.folder = _run_folder(options.out, options.overwrite)
        self.sets, self.specs, self.notes = sets_of(
            given, options.suite, options.data, options.split, options.limit, optional=self._observed_before
        )
        self.overlaps: list[Overlap] = []
        self.formats = ""
        self.guarded = False
        self._check()
        self.prompt_format = options.prompt_format or format_of(model)
        self.cache = cache_home() / "observations"
        self.alike = Alike()
        self.compared_sets = False
        self.own_way = asked_as(options.request_from, self.sets) if options.request_from else self.sets

    @property
    def _observed_before(self) -> bool:
        return _observed(self.model) is not None

    def _check(self) -> None:
        request_from = self.options.request_from
        if self._observed_before and self.attacks:
            raise UserError(
                f"the attack {next(iter(self.attacks))!r} asks the model anew, and only observations were given: give the model"
            )
        if request_from and not way_of(request_from):
            raise UserError(f"models of {request_from!r} are asked as any other: there is nothing that they want to hear before a question")
        if self._observed_before and request_from:
            raise UserError("observations were asked already, in their own way: give the model, or leave --request-from out")
        if unknown := [name for name in self.options.attacked_sets if name not in self.sets]:
            raise UserError(f"there is no set {unknown[0]!r} to be scored under attack{did_you_mean(unknown[0], self.sets)}")

    def look_at_all(self) -> list[AuditedModel]:
        """Observe, score and attack the original and the retrained model, where given, the audited model and the controls."""
        options = self.options
        retrained = original = None
        opened_original: Opened | None = None
        if options.retrained is not None:
            retrained, _ = self.look_at(options.retrained, "retrained", "retrained")
        beside = {"retrained": retrained.seen if retrained else None}
        if options.original is not None:
            original, opened_original = self.look_at(options.original, "original", "original", **beside)
        beside["original"] = original.seen if original else None
        audited, opened = self.look_at(self.model, AUDITED, "method", **beside)
        models = [m for m in (original, retrained, audited) if m]
        if options.with_controls and (source := opened_original or opened) is not None:
            rows = source.modality.rows("forget", self.sets["forget"])
            control_models = controls(
                source, rows, self.sets, beside["retrained"], self.cache, options.progress, beside["original"], self.attacks, self.specs
            )
            models += control_models if opened_original else control_models[:1]
        return [compared(m, original, retrained) for m in models]

    def look_at(
        self, source: str | Path | Opened, name: str, role: Role, **beside: Observation | None
    ) -> tuple[AuditedModel, Opened | None]:
        """One model, observed, scored and attacked; and the opened model, None for observations."""
        fields = {**beside, **_run_fields(source)}
        retrained = fields.pop("retrained", None)
        if observation := _observed(source):
            self.alike.check(name, observation)
            yardstick = observation if role == "retrained" else retrained
            return judged(observation, name, role, yardstick, specs=self.specs, **fields), None
        if not self.sets:
            raise UserError(f"there are no rows to ask the {name} model about: give --forget FILE")
        opened = source if isinstance(source, Opened) else load(source, self.prompt_format, **self.options.load_options)
        self.alike.check(name, opened.modality.rows("forget", self.sets["forget"]), opened.modality)
        self._look_into(opened, role)
        profile = profile_of(opened.modality.name)
        if profile.needs_random_init:
            with suppress(UserError):  # not every module can initialize itself; then the scores that need random weights are missing
                fields["random_init"] = random_init(opened, self.sets, self.cache, self.specs)
        sets = self.own_way if role == "method" else self.sets

        def progress(done: int, total: int, text: str) -> None:
            self.options.progress(done, total, f"{name}: {text}")

        look: dict[str, Any] = {"specs": self.specs, "cache": self.cache, "progress": progress}
        audited = examine(opened.model, opened.modality, sets, name=name, role=role, retrained=retrained, **look, **fields)
        scored = ("forget", *self.options.attacked_sets)
        attacks = carry_out(self.attacks, opened.model, opened.modality, sets, role, progress, self.specs, scored)
        return replace(audited, attacks=attacks), opened

    def _look_into(self, opened: Opened, role: Role) -> None:
        """What the first opened model tells of the sets, and the original of the prompt format."""
        if not self.compared_sets:
            rows = {n: opened.modality.rows(n, r) for n, r in self.sets.items()}
            self.overlaps = overlaps(opened.modality, rows)
            if not self.options.allow_overlap:
                refuse(self.overlaps)
            self.notes += same_questions(opened.modality, rows)
            self.compared_sets = True
        if role == "original":
            self.formats = better_format(opened.model, opened.modality, self.sets["forget"])
        elif role == "method":
            self.guarded = is_guarded(opened.modality)
            if self.options.original is None and "retain" in self.sets and not self.options.request_from:
                self.formats = better_format(opened.model, opened.modality, self.sets["retain"], "model")

    @property
    def context(self) -> Context:
        """What the verdict must know besides the numbers."""
        shared = [f"{o.text}{' (allowed by request)' if o.usual else ''}." for o in self.overlaps]
        mixed = any(o.usual and "holdout" in (o.first, o.second) for o in self.overlaps)
        return Context(self.options.command, shared, mixed, self.formats, self.guarded, self.notes)

    def judge(self, audited_models: Sequence[AuditedModel]) -> Audit:
        """The verdict on each model beside the others, and the report data."""
        options = self.options
        method = next(m.method for m in audited_models if m.name == AUDITED)
        context = replace(self.context, notes=[*_request_notes(method, options.request_from), *self.notes])
        subject = f"{options.suite} {options.split}".strip() or "your own data"
        if options.request_from:
            subject += f", asked as models of {options.request_from} want to be asked"
        about = {"title": f"Audit of {_label(self.model)}", "subtitle": subject, "command": options.command}
        return concluded(audited_models, context, self.thresholds, about, options.request_from, self.folder)


def thresholds_of(alpha: float, margins: Mapping[str, float]) -> Thresholds:
    """The limits of a verdict. Raises: UserError for one that no check has, or out of its range."""
    thresholds = Thresholds(alpha, dict(margins))
    thresholds.check(name for name, spec in score_specs().items() if spec.margin is not None)
    return thresholds


def _request_notes(method: str, request_from: str) -> list[str]:
    """A sentence on a model that forgets on request alone: whether the audit made the request."""
    if request_from:
        return [f"It was asked as models of {request_from} want to be asked; what it tells others is the attack bare_question."]
    if method in catalog.names() and way_of(method):
        return [f"Models of {method} forget on request alone, and this one got none: --request-from {method} makes the request."]
    return []


def _run_folder(out: str | Path | None, overwrite: bool) -> Path | None:
    if out is None:
        return None
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, and an audit needs a folder: give another name")
    if (folder / "audit.json").exists() and not overwrite:
        raise UserError(f"the folder {folder} holds an audit already: give another one, or replace it with --overwrite")
    return folder


def _observed(source: str | Path | Opened) -> Observation | None:
    """The observations in a folder; None for a model."""
    if isinstance(source, Opened) or not (Path(source) / "observed.json").exists():
        return None
    return Observation.load(Path(source))


def _run_fields(source: str | Path | Opened) -> dict[str, Any]:
    """Fields of the audited model from the folder of its run; empty where it is no run."""
    if isinstance(source, Opened) or not (about := receipt_of(source)):
        return {}
    log = Path(source).expanduser() / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {"method": about.get("method", ""), "seed": about.get("seed"), "receipt": about, "log": lines}


def _label(model: str | Path | Opened) -> str:
    return model.source if isinstance(model, Opened) else str(model)
