"""From a model to its scores, verdict and report: the workflow behind `expunge audit`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from expunge import catalog
from expunge.benchmarks.suite import SetSpec, Specs
from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.request import content, digest
from expunge.core.rows import Rows
from expunge.core.suggest import did_you_mean
from expunge.engine import receipt
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
    report_data,
    silent,
    spread,
)
from expunge.evaluation.observation import Observation
from expunge.evaluation.observe import Records
from expunge.evaluation.profiles.profile import Finding, profile_of
from expunge.evaluation.prompting import asked_as, way_of
from expunge.evaluation.verdict import LEVELS, verdict
from expunge.io.models import Opened, Source, cache_home, format_of, load, receipt_of, records
from expunge.report.report_data import Asked, ReportData, Role

AUDITED = "audited model"


@dataclass(frozen=True, eq=False)
class Audit:
    """Scores of one model, the verdict and the data of the report."""

    scores: Mapping[str, Mapping[str, Any]]
    skipped: Mapping[str, str]
    verdict: Sequence[Mapping[str, Any]]
    observed: Observation
    report_data: ReportData
    attacks: Mapping[str, Any]
    request_from: str = ""  # the method whose requests the audit made
    folder: Path | None = None

    @property
    def passed(self) -> bool:
        """Nothing failed."""
        return all(v["level"] != "fail" for v in self.verdict)


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
        allow_overlap: rows to forget may also stand in retain or holdout.
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
        _write(result.folder, result, audited_models)
    return result


class Auditor:
    """The state of one audit: the sets, how to ask them, and the attacks."""

    def __init__(self, model: str | Path | Opened, given: Mapping[str, Source | None], options: AuditOptions) -> None:
        """Raises: UserError where the options do not fit together; this happens before any model loads."""
        self.model, self.options = model, options
        self.attacks = chosen(options.attack, options.attack_hyperparameters)
        self.folder = _run_folder(options.out, options.overwrite)
        self.sets, self.specs = _sets(given, options, optional=self._observed_before)
        self._check()
        self.prompt_format = options.prompt_format or format_of(model)
        self.cache = cache_home() / "observations"
        self.alike = Alike()
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

    def judge(self, audited_models: Sequence[AuditedModel]) -> Audit:
        """The verdict on the audited model, beside the other models, and the report data."""
        options = self.options
        audited = next(m for m in audited_models if m.name == AUDITED)
        originals = next((m.scores for m in audited_models if m.role == "original"), None)
        own_findings = verdict(audited.scores, audited.unjudged, originals, audited.hits, audited.profile)
        findings = sorted([*_request_findings(audited.method, options.request_from), *own_findings], key=lambda f: LEVELS.index(f["level"]))
        sizes = {n: len(s) for n, s in audited.seen.sets.items()}
        subject = f"{options.suite} {options.split}".strip() or "your own data"
        if options.request_from:
            subject += f", asked as models of {options.request_from} want to be asked"
        data = report_data(
            audited_models,
            title=f"Audit of {_label(self.model)}",
            subtitle=subject,
            command=options.command,
            request=Asked(sizes["forget"], sizes.get("retain"), sizes.get("holdout"), digest([audited.seen.sets["forget"].ids])),
            notes=[f["text"] for f in findings],
        )
        attacks = {n: a.told(audited.yardstick.get(n)) for n, a in audited.attacks.items()}
        return Audit(audited.scores, audited.skipped, findings, audited.seen, data, attacks, options.request_from, self.folder)


def _request_findings(method: str, request_from: str) -> list[Finding]:
    """A warning for a model that forgets on request alone: whether the audit made the request."""
    if request_from:
        text = f"It was asked as models of {request_from} want to be asked; what it tells others is the attack bare_question."
    elif method in catalog.names() and way_of(method):
        text = f"Models of {method} forget on request alone, and this one got none: --request-from {method} makes the request."
    else:
        return []
    return [{"level": "warn", "score": None, "text": text}]


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


class Alike:
    """A check that all models read the rows to forget in the same way: audits compare them answer by answer, token by token."""

    def __init__(self) -> None:
        self.first: tuple[str, str, dict[str, int]] | None = None

    def check(self, name: str, subject: Rows | Observation, modality: Modality | None = None) -> None:
        """Compare a model with the first one.

        Raises:
            UserError: where the two read the rows to forget in different ways.
        """
        if isinstance(subject, Observation):
            scored, about = subject.sets["forget"].kinds["answer"], dict(subject.about.get("modality") or {})  # type: ignore[call-overload]
            label_counts = dict(zip(subject.sets["forget"].ids, scored.lengths.tolist(), strict=True))
        else:
            assert modality is not None
            about = dict(modality.about())
            label_counts = {i: int(modality.counts(subject.select([k]))["labels"]) for k, i in enumerate(subject.ids)}
        prompt_format = str(about.get("prompt_format", ""))
        if self.first is None:
            self.first = name, prompt_format, label_counts
            return
        first_name, first_format, first_labels = self.first
        shared = label_counts.keys() & first_labels.keys()
        if unequal := sum(label_counts[i] != first_labels[i] for i in shared):
            raise UserError(
                f"the {name} and the {first_name} have incompatible tokenizers: {unequal} of {len(shared)} answers to forget have "
                f"another number of tokens, so their scores cannot be compared. Give a model that shares the tokenizer"
            )
        if prompt_format != first_format:
            raise UserError(
                f"the {name} is asked by the prompt format {prompt_format!r} and the {first_name} by {first_format!r}, "
                f"so their scores cannot be compared. Give one for all with --prompt-format"
            )


def _sets(sources: Mapping[str, Source | None], options: AuditOptions, optional: bool) -> tuple[dict[str, Records], Specs]:
    """The sets of the audit, and how to ask them. optional: an audit of observations needs no sets."""
    sets: dict[str, Records] = {}
    specs: dict[str, SetSpec] = {}
    if options.suite:
        suite = catalog.load(options.suite, "benchmarks").load(options.data, **({"split": options.split} if options.split else {}))
        sets.update(suite.sets)
        specs = {name: suite.spec(name) for name in suite.sets}
    sets.update({n: records(source, n) for n, source in sources.items() if source is not None})
    if (options.data or options.split) and not options.suite:
        raise UserError(f"--{'data' if options.data else 'split'} belongs to a benchmark: name it with --suite")
    if "forget" not in sets:
        if optional and not sets:
            return {}, {}
        raise UserError("an audit needs the rows that were to be forgotten: give --forget FILE, or --suite with its --split")
    if not options.allow_overlap:
        _check_disjoint(sets)
    return {n: spread(r, options.limit) if n in ("retain", "holdout") else r for n, r in sets.items()}, specs


def _check_disjoint(sets: Mapping[str, Records]) -> None:
    forgotten = {content(digest(_plain(r))) for r in sets["forget"]}
    for name in ("retain", "holdout"):
        if shared := sum(content(digest(_plain(r))) in forgotten for r in sets.get(name, ())):
            raise UserError(
                f"{shared} of {len(sets[name])} rows of {name!r} also stand in 'forget', so the two cannot be told apart. "
                f"Take them out, or allow it with --allow-overlap"
            )


def _plain(record: Mapping[str, Any]) -> list[Any]:
    texts = [record.get(k) for k in ("prompt", "completion", "question", "answer", "messages", "text")]
    return texts if any(w is not None for w in texts) else sorted(record.items())


def _run_fields(source: str | Path | Opened) -> dict[str, Any]:
    """Fields of the audited model from the folder of its run; empty where it is no run."""
    if isinstance(source, Opened) or not (about := receipt_of(source)):
        return {}
    log = Path(source).expanduser() / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {"method": about.get("method", ""), "seed": about.get("seed"), "receipt": about, "log": lines}


def _label(model: str | Path | Opened) -> str:
    return model.source if isinstance(model, Opened) else str(model)


def _write(folder: Path, result: Audit, audited_models: Sequence[AuditedModel]) -> None:
    from expunge.report.page import write

    for audited in audited_models:
        audited.seen.save(folder / "observations" / audited.name.replace(" ", "_"))
    receipt.write(folder / "audit.json", summary(result))
    receipt.write(folder / "story.json", json.loads(result.report_data.to_json()))
    write(result.report_data, folder / "report.html")


def summary(result: Audit) -> dict[str, Any]:
    """The contents of audit.json."""
    return {
        "scores": result.scores,
        "skipped": result.skipped,
        "verdict": result.verdict,
        "passed": result.passed,
        "attacks": result.attacks,
        "observed": result.observed.about,
        "request_from": result.request_from,
        "versions": receipt.versions(),
        "machine": receipt.machine(),
    }
