"""From a model to its scores, verdict and report: the workflow behind `expunge audit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from expunge import catalog
from expunge.core.capabilities import HoldsRows, offers, require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hyperparameters_of
from expunge.core.modality import Modality
from expunge.core.rows import Rows
from expunge.core.suggest import did_you_mean
from expunge.engine import memory, receipt
from expunge.engine.guarding import is_guarded
from expunge.engine.shared import sharing
from expunge.evaluation.alike import Alike
from expunge.evaluation.attack import chosen, is_intervention
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
from expunge.functional.brief import brief
from expunge.io import run_dirs
from expunge.io.models import Opened, Source, cache_home, format_of, receipt_of
from expunge.io.models import opened as open_model
from expunge.io.requested import ColumnMap, Conditions, notes_of, requested
from expunge.report import result_tables
from expunge.report.report_data import Role
from expunge.workflows.audit_keywords import AuditKeywords
from expunge.workflows.audit_result import AUDITED, Audit, concluded, write
from expunge.workflows.audited_sets import audited_sets, read_rows
from expunge.workflows.callbacks import Callbacks
from expunge.workflows.overlaps import Overlap
from expunge.workflows.room import room_of
from expunge.workflows.trackers import Track, listening

if TYPE_CHECKING:
    pass


@brief("suite", "split", "attack", "limit", "out")
@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """The options of an audit.

    Args:
        suite, data, split: a benchmark, where its data are, and its split, whose sets fill what is not given.
        original, retrained: the model before unlearning, and a model retrained without the forget set, each as a model or as observations.
        attack: interventions of the catalog, followed by the same scores.
        attack_hyperparameters: a plain name goes to every attack that has such a hyperparameter, `relearn:lr` to one.
        attacked_sets: sets that are scored under attack, besides the rows to forget.
        variants: by score, the definition to use where papers and codes differ; default: those of the suite.
        request_from: a method whose models forget on request alone, e.g. in_context: the audited model, and no other, is asked its way.
        with_controls: also look at random weights and, where the original is given, at an input filter around it.
        out: the folder of the results; None: nowhere.
        prompt_format: for all models; '' is what the audited model's run was given, else each model's own.
        limit: rows of retain and holdout that the audit reads, evenly spread; 0: all.
        overwrite: replace the results in the folder.
        allow_overlap: sets may share rows; the verdict then says so.
        where: conditions such as `customer_id=17`: the rows of `forget` that meet all of them are the forgotten ones, the others `retain`.
        map: columns by the names that the modality reads, such as `prompt=subject,answer=body` or a mapping.
        alpha: the chance that a verdict "removed" or "not removed" is wrong where the truth lies at a margin.
        margins: differences of scores that count as none, by score; default: those of the scores.
        progress: receives rows done, rows in all, and the activity.
        memory: the most memory of the process, on a GPU of its models, such as 4GB; language models are then asked in passes that fit.
        callbacks, track: objects that are told of the audit, and trackers that get its numbers (see `Callback` and `Tracker`).
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
    variants: Mapping[str, str] = field(default_factory=dict)
    request_from: str = ""
    with_controls: bool = False
    out: str | Path | None = None
    prompt_format: str = ""
    limit: int = 400
    overwrite: bool = False
    allow_overlap: bool = False
    where: Conditions = ()
    map: ColumnMap = ()
    alpha: float = 0.05
    margins: Mapping[str, float] = field(default_factory=dict)
    memory: str = ""
    progress: Progress = silent
    callbacks: Callbacks = ()
    track: Track = ()
    command: str = ""
    load_options: Mapping[str, Any] = field(default_factory=dict)


@sharing()
def audit(
    model: str | Path | Opened,
    forget: Source | None = None,
    retain: Source | None = None,
    holdout: Source | None = None,
    **options: Unpack[AuditKeywords],
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
    listeners = listening(chosen_options.callbacks, chosen_options.track)
    chosen_options = replace(chosen_options, progress=listeners.progress(chosen_options.progress))
    auditor = Auditor(model, {"forget": forget, "retain": retain, "holdout": holdout}, chosen_options)
    with listeners.during(auditor.described) as ended:
        audited_models = auditor.look_at_all()
        result = auditor.judge(audited_models)
        if result.folder:
            write(result.folder, result, auditor.specs)
        ended |= result_tables.audit_numbers(result.scores, result.attacks, result.verdict)
    return result


class Auditor:
    """The state of one audit: the sets, how to ask them, and the attacks."""

    def __init__(self, model: str | Path | Opened, own_sources: Mapping[str, Source | None], options: AuditOptions) -> None:
        """Raises: UserError where the options do not fit together; this happens before any model loads."""
        self.model, self.options = model, options
        self.thresholds = thresholds_of(options.alpha, options.margins)
        self.memory = memory.parse(options.memory) if options.memory else 0
        self.attacks = chosen(options.attack, options.attack_hyperparameters)
        self.folder = run_dirs.audit_folder(options.out, options.overwrite)
        sources = requested(own_sources, options.where, options.map)
        self.own_sets = frozenset(n for n, source in sources.items() if source is not None)
        self.notes = notes_of(sources)
        self.sets, self.specs, left_out = audited_sets(
            sources,
            options.suite,
            options.data,
            options.split,
            optional=self._observed_before,
            limit=options.limit,
            allow_overlap=options.allow_overlap,
            variants=options.variants,
        )
        self.notes += left_out
        self.overlaps: list[Overlap] = []
        self.formats = ""
        self.guarded = False
        self._check()
        self.prompt_format = options.prompt_format or format_of(model)
        self.cache = cache_home() / "observations"
        self.alike = Alike()
        self.forgotten: Rows | None = None  # as the first model reads them
        self.compute: Mapping[str, str] = {}  # device and dtype of the audited model
        self.own_way = asked_as(options.request_from, self.sets) if options.request_from else self.sets

    @property
    def _observed_before(self) -> bool:
        return _observed(self.model) is not None

    @property
    def described(self) -> dict[str, Any]:
        """What callbacks hear of the audit before it begins."""
        settings = {n: {k.name: receipt.plain(k.value) for k in hyperparameters_of(a)} for n, a in self.attacks.items()}
        stages = [{"name": name, "hyperparameters": values} for name, values in settings.items()]
        rows = {name: len(records_of_set) for name, records_of_set in self.sets.items()}
        return {"name": "audit", "stages": stages, "rows": rows, "log": [], "folder": self.folder and str(self.folder)}

    def _check(self) -> None:
        request_from = self.options.request_from
        if self._observed_before and self.attacks:
            raise UserError(f"the attack {next(iter(self.attacks))!r} asks the model anew, and these are observations: give the model")
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
        if options.original is not None and _observed(options.original) is None and self.sets:
            opened_original = self._open(options.original)  # before the others, since it knows which rows a request stands for
            self._spell(opened_original.modality)
        if options.retrained is not None:
            retrained, _ = self.look_at(options.retrained, "retrained", "retrained")
        beside = {"retrained": retrained.observation if retrained else None}
        if options.original is not None:
            original, opened_original = self.look_at(options.original, "original", "original", opened_original, **beside)
        beside["original"] = original.observation if original else None
        audited, opened = self.look_at(self.model, AUDITED, "method", **beside)
        models = [m for m in (original, retrained, audited) if m]
        if options.with_controls and (source := opened_original or opened) is not None:
            rows = source.modality.rows("forget", self.sets["forget"])
            with memory.bounded(room_of(source, self.sets, "controls", self.memory, options.progress)):
                control_models = controls(
                    source, rows, self.sets, beside["retrained"], self.cache, options.progress, beside["original"], self.attacks, self.specs
                )
            models += control_models if opened_original else control_models[:1]
        return [compared(m, original, retrained) for m in models]

    def _open(self, source: str | Path | Opened) -> Opened:
        """The model of a source, asked by the prompt format of the audit."""
        is_open = isinstance(source, Opened)
        return open_model(source, *([self.options.prompt_format] if is_open else [self.prompt_format, self.options.load_options]))

    def _spell(self, modality: Modality) -> None:
        """Name the rows themselves where records stand for several, because a model that has forgotten them no longer knows which."""
        if offers(modality, HoldsRows):
            self.sets = {name: require(modality, HoldsRows).spelled(name, rows) for name, rows in self.sets.items()}
            self.own_way = asked_as(self.options.request_from, self.sets) if self.options.request_from else self.sets

    def look_at(
        self, source: str | Path | Opened, name: str, role: Role, opened: Opened | None = None, **beside: Observation | None
    ) -> tuple[AuditedModel, Opened | None]:
        """One model, observed, scored and attacked; and the opened model, None for observations. opened: the model, where it is open."""
        fields = {**beside, **_run_fields(source)}
        retrained = fields.pop("retrained", None)
        if observation := _observed(source):
            self._check_probes(observation.modality)
            self.alike.check(name, observation)
            yardstick = observation if role == "retrained" else retrained
            return judged(observation, name, role, yardstick, specs=self.specs, **fields), None
        if not self.sets:
            raise UserError(f"there are no rows to ask the {name} model about: give --forget FILE")
        opened = opened or self._open(source)
        self._check_probes(opened.modality.name)
        self.alike.check(name, self._look_into(opened, role), opened.modality)
        with memory.bounded(room_of(opened, self.sets, name, self.memory, self.options.progress)):
            return self._look_at(opened, name, role, retrained, fields)

    def _look_at(
        self, opened: Opened, name: str, role: Role, retrained: Observation | None, fields: dict[str, Any]
    ) -> tuple[AuditedModel, Opened]:
        """An opened model, observed, scored and attacked."""
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

    def _check_probes(self, modality: str) -> None:
        """Raises: UserError for a named probe that reads what no audit of such a model observes, since it would give nothing."""
        aspects = profile_of(modality).aspects
        for name in self.options.attack:
            reads = getattr(catalog.load(name, "attacks"), "READS", frozenset())
            if not is_intervention(name) and not reads <= aspects:
                lacking = ", ".join(sorted(reads - aspects)).replace("_", " ")
                raise UserError(f"the attack {name!r} reads {lacking}, which an audit of {modality} models does not observe: leave it out")

    def _look_into(self, opened: Opened, role: Role) -> Rows:
        """The rows to forget as a model reads them; what the first model tells of the sets, and the original of the prompt format."""
        if self.forgotten is None:
            forgotten, self.overlaps = read_rows(opened.modality, self.sets, self.own_sets, self.options.allow_overlap, self.notes)
            self.notes = list(dict.fromkeys([*self.notes, *notes_of(self.sets)]))
            self.forgotten = forgotten
        else:
            forgotten = opened.modality.rows("forget", self.sets["forget"])
        if role == "original":
            self.formats = better_format(opened.model, opened.modality, self.sets["forget"])
        elif role == "method":
            self.compute = receipt.compute(opened.model)
            self.guarded = is_guarded(opened.modality)
            if self.options.original is None and "retain" in self.sets and not self.options.request_from:
                self.formats = better_format(opened.model, opened.modality, self.sets["retain"], "model")
        return forgotten

    @property
    def context(self) -> Context:
        """What the verdict must know besides the numbers."""
        reason = " (allowed by request)" if self.options.allow_overlap else ""
        shared = [f"{o.text}{reason}." for o in self.overlaps]
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
        label = _label(self.model)
        about = {"title": f"Audit of {label}", "subtitle": subject, "model": label, "command": options.command}
        return concluded(audited_models, context, self.thresholds, about, options.request_from, self.folder, self.compute)


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


def _observed(source: str | Path | Opened) -> Observation | None:
    """The observations in a folder; None for a model."""
    if isinstance(source, Opened) or not (Path(source) / "observed.json").exists():
        return None
    return Observation.load(Path(source))


def _run_fields(source: str | Path | Opened) -> dict[str, Any]:
    """Fields of the audited model from the folder of its run; empty where it is no run."""
    if isinstance(source, Opened) or not (about := receipt_of(source)):
        return {}
    return {
        "method": about.get("method", ""),
        "seed": about.get("seed"),
        "receipt": about,
        "log": run_dirs.log_of(Path(source).expanduser()),
    }


def _label(model: str | Path | Opened) -> str:
    return model.source if isinstance(model, Opened) else str(model)
