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
from expunge.report.report_data import Asked, ReportData, Role, Verdict

AUDITED = "audited model"


@dataclass(frozen=True, eq=False)
class Audit:
    """Scores of one model with what they mean, and the data of the report."""

    scores: Mapping[str, Mapping[str, Any]]
    skipped: Mapping[str, str]
    verdict: Sequence[Mapping[str, Any]]
    observed: Observation
    report_data: ReportData
    attacks: Mapping[str, Any]
    request_from: str = ""  # the method whose way of asking was used
    folder: Path | None = None

    @property
    def passed(self) -> bool:
        """Nothing failed."""
        return all(v["level"] != "fail" for v in self.verdict)


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """How an audit is made.

    Args:
        suite, data, split: a benchmark, where its data are, and its split, whose sets fill what is not given.
        original, retrained: the model before unlearning, and a model retrained without the forget set, each as a model or as observations.
        attack: interventions of the catalogue, followed by the same scores.
        attack_hyperparameters: a plain name goes to every attack that has such a hyperparameter, `relearn:lr` to one.
        attacked_sets: sets that are scored under attack, besides the rows to forget.
        request_from: a method whose models forget on request alone, e.g. in_context: the audited model, and no other, is asked its way.
        with_controls: also look at random weights and, where the original is given, at an input filter around it.
        out: the folder of the results; None: nowhere.
        prompt_format: for all models; '' is what the audited model's run was given, else each model's own.
        limit: rows of retain and holdout that are looked at, evenly spread; 0: all.
        overwrite: replace the results in the folder.
        allow_overlap: rows to forget may also stand in retain or holdout.
        progress: hears rows done, rows in all, and what is being done.
        command: what was typed, for the report.
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
    """Look at a model that is said to have forgotten, and say what that is worth.

    Args:
        model: a folder, hub id, run folder or opened model, or a folder of observations (`observed.json`), which needs no model.
        forget, retain, holdout: records; where a suite is named, the split's own fill what is not given. Observations need none.
        options: the fields of `AuditOptions`, by name.

    Returns:
        Scores with intervals, the verdict, attacks, and the data of the report; written to `out` where that is given.

    Raises:
        UserError: for everything that the user can mend.
    """
    chosen_options = AuditOptions(**options)
    auditor = Auditor(model, {"forget": forget, "retain": retain, "holdout": holdout}, chosen_options)
    audited_models = auditor.look_at_all()
    result = auditor.judge(audited_models)
    if result.folder:
        _write(result.folder, result, audited_models)
    return result


class Auditor:
    """The state of one audit: what is asked, and how the models are asked it."""

    def __init__(self, model: str | Path | Opened, given: Mapping[str, Source | None], options: AuditOptions) -> None:
        """Raises: UserError where what was asked does not fit together; nothing has been loaded then."""
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
        """The retrained and the original model where they are given, the audited one, and the controls."""
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
            found = controls(
                source, rows, self.sets, beside["retrained"], self.cache, options.progress, beside["original"], self.attacks, self.specs
            )
            models += found if opened_original else found[:1]
        return [compared(m, original, retrained) for m in models]

    def look_at(
        self, source: str | Path | Opened, name: str, role: Role, **beside: Observation | None
    ) -> tuple[AuditedModel, Opened | None]:
        """One model, observed, scored and attacked; and the model itself, unless only observations were given."""
        known = {**beside, **_known(source)}
        retrained = known.pop("retrained", None)
        if observation := _observed(source):
            self.alike.check(name, observation)
            yardstick = observation if role == "retrained" else retrained
            return judged(observation, name, role, yardstick, specs=self.specs, **known), None
        if not self.sets:
            raise UserError(f"there are no rows to ask the {name} model about: give --forget FILE")
        opened = source if isinstance(source, Opened) else load(source, self.prompt_format, **self.options.load_options)
        self.alike.check(name, opened.modality.rows("forget", self.sets["forget"]), opened.modality)
        profile = profile_of(opened.modality.name)
        if profile.needs_random_init:
            with suppress(UserError):  # not every module says how it begins; then the scores that need random weights are missing
                known["random_init"] = random_init(opened, self.sets, self.cache, self.specs)
        sets = self.own_way if role == "method" else self.sets

        def progress(done: int, total: int, text: str) -> None:
            self.options.progress(done, total, f"{name}: {text}")

        look: dict[str, Any] = {"specs": self.specs, "cache": self.cache, "progress": progress}
        audited = examine(opened.model, opened.modality, sets, name=name, role=role, retrained=retrained, **look, **known)
        scored = ("forget", *self.options.attacked_sets)
        attacks = carry_out(self.attacks, opened.model, opened.modality, sets, role, progress, self.specs, scored)
        return replace(audited, attacks=attacks), opened

    def judge(self, audited_models: Sequence[AuditedModel]) -> Audit:
        """What the scores of the audited model mean, beside the others."""
        options = self.options
        audited = next(m for m in audited_models if m.name == AUDITED)
        originals = next((m.scores for m in audited_models if m.role == "original"), None)
        own = verdict(audited.scores, audited.unjudged, originals, audited.hits, audited.profile)
        findings = sorted([*_unasked(audited.method, options.request_from), *own], key=lambda f: LEVELS.index(f["level"]))
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
            verdict=[Verdict(level=f["level"], text=f["text"]) for f in findings],
        )
        attacks = {n: a.told(audited.yardstick.get(n)) for n, a in audited.attacks.items()}
        return Audit(audited.scores, audited.skipped, findings, audited.seen, data, attacks, options.request_from, self.folder)


def _unasked(method: str, request_from: str) -> list[Finding]:
    """That a model which forgets on request alone got no request, or that it did."""
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


def _observed(what: str | Path | Opened) -> Observation | None:
    """Observations, where that is what was given."""
    if isinstance(what, Opened) or not (Path(what) / "observed.json").exists():
        return None
    return Observation.load(Path(what))


class Alike:
    """Models are compared answer by answer, token by token: all must read the rows to forget in the same way."""

    def __init__(self) -> None:
        self.first: tuple[str, str, dict[str, int]] | None = None

    def check(self, name: str, what: Rows | Observation, modality: Modality | None = None) -> None:
        """Errors: UserError where a model reads in another way than the first one did."""
        if isinstance(what, Observation):
            scored, about = what.sets["forget"].kinds["answer"], dict(what.about.get("modality") or {})  # type: ignore[call-overload]
            labels = dict(zip(what.sets["forget"].ids, scored.lengths.tolist(), strict=True))
        else:
            assert modality is not None
            about = dict(modality.about())
            labels = {i: int(modality.counts(what.select([k]))["labels"]) for k, i in enumerate(what.ids)}
        said = str(about.get("prompt_format", ""))
        if self.first is None:
            self.first = name, said, labels
            return
        other, other_said, other_labels = self.first
        both = labels.keys() & other_labels.keys()
        if odd := sum(labels[i] != other_labels[i] for i in both):
            raise UserError(
                f"the {name} and the {other} have incompatible tokenizers: {odd} of {len(both)} answers to forget have another number of "
                f"tokens, so their scores cannot be compared. Give a model that shares the tokenizer"
            )
        if said != other_said:
            raise UserError(
                f"the {name} is asked by the prompt format {said!r} and the {other} by {other_said!r}, so their scores cannot be compared. "
                f"Give one for all with --prompt-format"
            )


def _sets(given: Mapping[str, Source | None], options: AuditOptions, optional: bool) -> tuple[dict[str, Records], Specs]:
    """The sets of the audit, and how they are asked. optional: an audit of observations needs none."""
    sets: dict[str, Records] = {}
    specs: dict[str, SetSpec] = {}
    if options.suite:
        suite = catalog.load(options.suite, "benchmarks").load(options.data, **({"split": options.split} if options.split else {}))
        sets.update(suite.sets)
        specs = {name: suite.spec(name) for name in suite.sets}
    sets.update({n: records(source, n) for n, source in given.items() if source is not None})
    if (options.data or options.split) and not options.suite:
        raise UserError(f"--{'data' if options.data else 'split'} belongs to a benchmark: name it with --suite")
    if "forget" not in sets:
        if optional and not sets:
            return {}, {}
        raise UserError("an audit needs the rows that were to be forgotten: give --forget FILE, or --suite with its --split")
    if not options.allow_overlap:
        _apart(sets)
    return {n: spread(r, options.limit) if n in ("retain", "holdout") else r for n, r in sets.items()}, specs


def _apart(sets: Mapping[str, Records]) -> None:
    gone = {content(digest(_plain(r))) for r in sets["forget"]}
    for name in ("retain", "holdout"):
        if both := sum(content(digest(_plain(r))) in gone for r in sets.get(name, ())):
            raise UserError(
                f"{both} of {len(sets[name])} rows of {name!r} also stand in 'forget', so the two cannot be told apart. "
                f"Take them out, or allow it with --allow-overlap"
            )


def _plain(record: Mapping[str, Any]) -> list[Any]:
    words = [record.get(k) for k in ("prompt", "completion", "question", "answer", "messages", "text")]
    return words if any(w is not None for w in words) else sorted(record.items())


def _known(what: str | Path | Opened) -> dict[str, Any]:
    """What the folder of a run tells about the model in it."""
    if isinstance(what, Opened) or not (about := receipt_of(what)):
        return {}
    log = Path(what).expanduser() / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {"method": about.get("method", ""), "seed": about.get("seed"), "receipt": about, "log": lines}


def _label(model: str | Path | Opened) -> str:
    return model.source if isinstance(model, Opened) else str(model)


def _write(folder: Path, done: Audit, audited_models: Sequence[AuditedModel]) -> None:
    from expunge.report.page import write

    for s in audited_models:
        s.seen.save(folder / "observations" / s.name.replace(" ", "_"))
    receipt.write(folder / "audit.json", summary(done))
    receipt.write(folder / "story.json", json.loads(done.report_data.to_json()))
    write(done.report_data, folder / "report.html")


def summary(done: Audit) -> dict[str, Any]:
    """What audit.json holds."""
    return {
        "scores": done.scores,
        "skipped": done.skipped,
        "verdict": done.verdict,
        "passed": done.passed,
        "attacks": done.attacks,
        "observed": done.observed.about,
        "request_from": done.request_from,
        "versions": receipt.versions(),
        "machine": receipt.machine(),
    }
