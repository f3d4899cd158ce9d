"""Methods x seeds on a benchmark, against the four controls: the workflow behind `expunge bench` and `expunge demo`. Resumable.

A run folder holds `bench.json` (every number), `table.md`, `report.html`, and a folder a model. What is finished is not done again: trained
models and observations are kept by content, and the entry of each method and seed is a file that counts when its key fits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from expunge.benchmarks.suite import Specs, Suite
from expunge.core.errors import Interrupted
from expunge.core.parts import ByDesign
from expunge.engine import receipt
from expunge.engine.distributed.process_group import ProcessGroup
from expunge.engine.guarding import is_guarded
from expunge.engine.hooks import Hooks
from expunge.engine.shared import sharing
from expunge.evaluation.audited_models import (
    AuditedModel,
    Progress,
    compared,
    controls,
    examine,
    filtered,
    random_init,
    silent,
    spread,
)
from expunge.evaluation.observation import Observation
from expunge.evaluation.observe import Records
from expunge.evaluation.profiles.profile import profile_of
from expunge.evaluation.prompting import asked_as
from expunge.evaluation.thresholds import Thresholds
from expunge.evaluation.verdict import Context
from expunge.functional.brief import brief
from expunge.io.copies import load_copy
from expunge.io.models import Opened, cache_home, load, receipt_of
from expunge.io.run_dirs import log_of
from expunge.parallel import ray_cluster
from expunge.report.report_data import Entry
from expunge.workflows import build_plan
from expunge.workflows.bench_events import model_run, numbers_of, run_folder, tell_entries
from expunge.workflows.callbacks import Callbacks
from expunge.workflows.sweep import Sweep as Sweep  # `bench.Sweep`
from expunge.workflows.sweep import SweepResult as SweepResult
from expunge.workflows.sweep import key_of
from expunge.workflows.sweep_folder import attacked, claim, entry_of, report_of, write
from expunge.workflows.trackers import Track, listening
from expunge.workflows.train import built_in, train
from expunge.workflows.unlearn import unlearn


@brief("sweep", "suite", "original", "sets")
@dataclass(frozen=True, eq=False)
class Setting:
    """The models and sets of a sweep: everything that a job needs, in any process.

    original: folder or hub id of the model, of which every job opens its own copy. random_init: observation of random weights, for
    classifiers. teach: how the original was trained, for methods that train a store of their own. device: where a job computes, see
    `engine.device.choose`.
    """

    sweep: Sweep
    suite: Suite
    folder: Path
    original: str
    sets: Mapping[str, Records]
    cache: Path
    random_init: Observation | None
    first: AuditedModel
    retrained: AuditedModel
    teach: Mapping[str, Any] = field(default_factory=dict)
    device: str = ""

    def load(self, path: str | Path) -> Opened:
        """A model of the sweep, with a modality of its own, which a method may teach new tokens."""
        return load(path, self.suite.prompt_format, dtype=self.sweep.dtype, device=self.device)

    def begin(self) -> Opened:
        """The original, likewise, which a job may change."""
        return load_copy(self.original, self.suite.prompt_format, dtype=self.sweep.dtype, device=self.device)

    def attacked(self, audited: AuditedModel, opened: Opened, progress: Progress) -> AuditedModel:
        """An audited model with the outcomes of attacks, beside the original and the retrained one."""
        with_attacks = attacked(self.sweep, self.folder, audited, opened, self.sets_for(audited.method), progress, self.specs)
        return _judged(compared(with_attacks, self.first, self.retrained), is_guarded(opened.modality))

    @property
    def specs(self) -> Specs:
        """How to ask the sets."""
        return {name: self.suite.spec(name) for name in self.sets}

    def sets_for(self, method: str) -> Mapping[str, Records]:
        """The sets in the form that a method's models need."""
        return asked_as(method, self.sets) if method else self.sets

    def examined(self, opened: Opened, progress: Progress, *, method: str, **fields: Any) -> AuditedModel:
        """An unlearned model, observed through its own modality, which may know more tokens, and attacked."""
        fields |= {"retrained": self.retrained.observation, "original": self.first.observation, "random_init": self.random_init}
        fields |= {"method": method, "specs": self.specs}
        audited = examine(
            opened.model, opened.modality, self.sets_for(method), role="method", cache=self.cache, progress=progress, **fields
        )
        return self.attacked(audited, opened, progress)


@sharing()
def bench(
    sweep: Sweep,
    out: str | Path,
    *,
    ray: str = "",
    resume: bool = True,
    overwrite: bool = False,
    progress: Progress = silent,
    interrupted: Callable[[], bool] = lambda: False,
    callbacks: Callbacks = (),
    track: Track = (),
    command: str = "",
    device: str = "",
) -> SweepResult:
    """Train the original and the retrained model, let every method forget with every seed, audit all of them, write table and report.

    Args:
        sweep: suite, methods, seeds, and their settings.
        out: the run folder.
        ray: spread methods and seeds over this Ray cluster (see `ray_cluster.connected`), whose machines share run folder and cache;
            '': one after the other, here. The numbers are the same with the same number of threads.
        device: cpu, cuda, mps or auto; '' is what was chosen before in this process, at first auto.
        resume: go on with the same sweep in the folder; False refuses a folder that holds it.
        overwrite: replace the benchmark run in the folder.
        progress: receives steps or rows done, how many in all, and the activity.
        callbacks: objects that are told of each run of the benchmark (see `Callback`); of jobs on a cluster when all have ended.
        track: tensorboard, mlflow, wandb, trackio, or a `Tracker`, which get the numbers of each run; several in a list.
        interrupted: checked after each training step and each look at rows; the same call resumes the sweep.
        command: the command line, for the report.

    Returns:
        An entry for each model, the data of the report, and the folder.

    Raises:
        UserError: for a wrong order, or a folder with another sweep without `overwrite`.
        Interrupted: where `interrupted` returns True; a cluster raises KeyboardInterrupt, and its jobs go on from their last checkpoints.
    """
    listeners = listening(callbacks, track, ProcessGroup().first)
    sweep.check()
    folder, suite = Path(out), sweep.load_suite()
    if ray:
        ray_cluster.check(ray)
    shown = listeners.progress(progress)
    progress = _stopping(shown, interrupted)
    load_options = {"dtype": sweep.dtype, "device": device}
    key = key_of(sweep, suite)
    claim(folder, key, resume, overwrite, sweep)
    sets = {n: spread(r, sweep.limit) if n in ("retain", "holdout") else r for n, r in suite.sets.items()}
    teach = {**sweep.train, "prompt_format": suite.prompt_format, "labels": tuple(suite.labels)}
    general = (r for n, rows in suite.sets.items() if suite.spec(n).role == "general" for r in rows)
    module = built_in(sweep.size)
    teach |= {"vocabulary": [*suite.train["full"], *general]} if module else {}
    usual = module.TRAINING[sweep.size] if module else {}

    def trained(split: str, source: str, start: str = "") -> tuple[Opened, Mapping[str, Any]]:
        if source:
            return load(source, suite.prompt_format, **load_options), {}
        activity = f"training the {'retrained' if split == 'retain' else 'original'} model"
        hooks = Hooks(progress=lambda d, t, _: progress(d, t, activity), interrupted=interrupted)
        with model_run(listeners, activity, run_folder(folder, activity), {"retain": len(suite.train[split])}) as run:
            rows, options = suite.train[split], teach
            if start:  # the corpus of the model to start from decided its vocabulary
                options = {**usual, **{k: v for k, v in teach.items() if k != "vocabulary"}}
            result = train(rows, start or sweep.size, hooks=hooks, callbacks=run, load_options=load_options, **options)
        return Opened(result.model, result.modality, str(result.folder)), result.receipt

    if suite.continued:
        retrained_opened, retrained_receipt = trained("retain", sweep.retrained)
        original, original_receipt = trained("forget", sweep.original, retrained_opened.source)
    else:
        original, original_receipt = trained("full", sweep.original)
        retrained_opened, retrained_receipt = trained("retain", sweep.retrained)
    cache = cache_home() / "observations"

    def look(name: str) -> Progress:
        return lambda done, total, activity: progress(done, total, f"{name}: {activity}")

    specs = {name: suite.spec(name) for name in sets}
    profile = profile_of(original.modality.name)
    blank = random_init(original, sets, cache, specs) if profile.needs_random_init else None
    look_at = partial(examine, sets=sets, specs=specs, cache=cache, random_init=blank)
    retrained_audited = look_at(
        retrained_opened.model,
        retrained_opened.modality,
        name="retrained",
        role="retrained",
        progress=look("retrained"),
        receipt=retrained_receipt,
    )
    look_at = partial(look_at, retrained=retrained_audited.observation)
    original_audited = look_at(
        original.model, original.modality, name="original", role="original", progress=look("original"), receipt=original_receipt
    )
    forget, retrained = original.modality.rows("forget", suite.train["forget"]), retrained_audited.observation
    control_models = controls(original, forget, sets, retrained, cache, look("controls"), original_audited.observation, specs=specs)
    retrained_audited = attacked(sweep, folder, retrained_audited, retrained_opened, sets, look("retrained"), specs)
    source = _absolute(sweep.original or original.source)
    models = source, sets, cache.absolute(), blank, original_audited, retrained_audited
    setting = Setting(sweep, suite, folder.absolute(), *models, teach, device)
    filter_source = Opened(original.model, filtered(original, forget), "") if any(s.role == "filter" for s in control_models) else original
    fixed = [setting.attacked(original_audited, original, look("original"))]
    fixed.append(_judged(compared(retrained_audited, original_audited, retrained_audited)))
    fixed += [setting.attacked(s, filter_source if s.role == "filter" else original, look(s.name)) for s in control_models]
    done: list[Entry] = [entry_of(folder, s.name, s.entry) for s in fixed]
    rows = {name: len(records) for name, records in sets.items()}
    tell_entries(listeners, done, folder, rows)
    jobs = {f"{m} seed {seed}" if sweep.seeds > 1 else m: (m, seed) for m in sweep.methods for seed in range(sweep.seeds)}
    if ray:
        reads = [Path(source)] if Path(source).exists() else []
        counted = lambda d, t: shown(d, t, "methods and seeds on the cluster")  # noqa: E731
        named = {name: (name, *job) for name, job in jobs.items()}
        job_results = ray_cluster.spread(partial(_job, setting), named, folder, ray, reads=reads, progress=counted, interrupted=interrupted)
        tell_entries(listeners, [entry for entry, _ in job_results.values()], folder, rows)
    else:
        job_results = {}
        for name, job in jobs.items():
            with model_run(listeners, name, run_folder(folder, name), rows) as run:
                job_results[name] = _job(setting, name, *job, look(name), interrupted, run)
                run.result |= numbers_of(job_results[name][0])
    done += [entry for entry, _ in job_results.values()]
    quoted = [*fixed, *(s for _, s in job_results.values() if s)]
    data = report_of(sweep, suite, done, quoted, command, key, listeners.failures)
    result = SweepResult(done, data, folder, sweep, receipt.compute(original.model))
    write(result)
    return result


def _judged(audited: AuditedModel, guarded: bool = False) -> AuditedModel:
    """The model with the verdict on it."""
    return audited.judge(Context(guarded=guarded), Thresholds())


def _absolute(model: str) -> str:
    """The absolute path of a model folder; a hub id as it is."""
    folder = Path(model).expanduser()
    return str(folder.absolute()) if folder.exists() else model


def _stopping(progress: Progress, interrupted: Callable[[], bool]) -> Progress:
    """Progress that raises Interrupted between two looks at rows; in training, the loop itself stops after its checkpoint."""

    def checked(done: int, total: int, activity: str) -> None:
        progress(done, total, activity)
        if interrupted() and "training the " not in activity and "forgetting" not in activity:
            raise Interrupted

    return checked


def _job(
    setting: Setting,
    name: str,
    method: str,
    seed: int,
    progress: Progress = silent,
    interrupted: Callable[[], bool] = lambda: False,
    callbacks: Callbacks = (),
) -> tuple[Entry, AuditedModel | None]:
    """One method with one seed: forget, audit, attack. Finished work is read from the run folder.

    Returns:
        The entry of the table and, for the first seed, the audited model for the report.
    """
    run = run_folder(setting.folder, name)
    fields = {"name": name, "method": method, "seed": seed}
    audited: list[AuditedModel] = []

    def make() -> Entry:
        opened, about = _forgotten(setting, run, method, seed, progress, interrupted, callbacks)
        audited.append(setting.examined(opened, progress, log=log_of(run), receipt=about, **fields))
        return audited[0].entry()

    entry = entry_of(setting.folder, name, make)
    if not audited and seed == 0:  # the report of a resumed sweep still shows generations
        audited.append(setting.examined(setting.load(run), progress, **fields))
    return entry, audited[0] if seed == 0 else None


def _forgotten(
    setting: Setting,
    run: Path,
    method: str,
    seed: int,
    progress: Progress,
    interrupted: Callable[[], bool],
    callbacks: Callbacks,
) -> tuple[Opened, Mapping[str, Any]]:
    """The model that has forgotten, with its receipt."""
    if (run / "receipt.json").exists():  # interrupted before it was audited
        return setting.load(run), receipt_of(run)
    suite, begun, hyperparameters = setting.suite, (run / "checkpoint").exists(), setting.sweep.hyperparameters_of(method)
    hooks = Hooks(progress=lambda d, t, _: progress(d, t, "forgetting"), interrupted=interrupted)
    common: dict[str, Any] = {"resume": begun, "overwrite": run.exists() and not begun, "callbacks": callbacks, "hooks": hooks}
    if isinstance(build_plan.plan(method, hyperparameters)[0].action, ByDesign):
        store = _store(setting, run.name, method, seed, progress, interrupted)
        result = unlearn(method, setting.load(store), suite.train["forget"], out=run, seed=seed, **common)
        return Opened(result.model, result.modality, str(run)), result.receipt
    common |= {"alternate_answers": suite.alternate_answers} if suite.alternate_answers else {}
    result = unlearn(
        method,
        setting.begin(),
        suite.train["forget"],
        suite.train.get("kept", suite.train["retain"]),
        holdout=suite.sets.get("holdout"),
        out=run,
        allow_overlap=True,
        **common,
        **{**hyperparameters, "seed": seed},
    )
    return Opened(result.model, result.modality, str(run)), result.receipt


def _store(setting: Setting, name: str, method: str, seed: int, progress: Progress, interrupted: Callable[[], bool]) -> Path:
    """The folder of the store that a by-design method makes of all rows, those to forget among them; it begins with the model's size."""
    folder, suite, sweep = setting.folder / "stores" / name, setting.suite, setting.sweep
    if not (folder / "receipt.json").exists():
        known = {h.name for h in build_plan.hyperparameters(method)}
        usual = {n: v for n, v in sweep.train.items() if n in known}
        others = {n: v for n, v in setting.teach.items() if n not in sweep.train}
        folder.parent.mkdir(parents=True, exist_ok=True)
        train(
            suite.train.get("full") or [*suite.train["retain"], *suite.train["forget"]],
            sweep.size,
            out=folder,
            method=method,
            seed=seed,
            overwrite=folder.exists(),
            cache=setting.cache.parent,
            hooks=Hooks(progress=lambda d, t, _: progress(d, t, "training the store"), interrupted=interrupted),
            load_options={"dtype": sweep.dtype, "device": setting.device},
            **{**others, **usual, **sweep.hyperparameters_of(method)},
        )
    return folder
