"""Methods x seeds on a benchmark, against the four controls: the workflow behind `expunge bench` and `expunge demo`. Resumable.

A run folder holds `bench.json` (every number), `table.md`, `report.html`, and a folder a model. What is finished is not done again: trained
models and observations are kept by content, and the entry of each method and seed is a file that counts when its key fits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from expunge.benchmarks.suite import Specs, Suite
from expunge.core.errors import Interrupted, UserError
from expunge.core.request import digest
from expunge.engine import receipt
from expunge.engine.loop import Hooks
from expunge.evaluation import attack
from expunge.evaluation.audited_models import (
    AuditedModel,
    Progress,
    carry_out,
    compared,
    controls,
    examine,
    filtered,
    random_init,
    report_data,
    silent,
    spread,
)
from expunge.evaluation.observation import Observation
from expunge.evaluation.observe import Records
from expunge.evaluation.profiles.profile import profile_of
from expunge.evaluation.prompting import asked_as, way_of
from expunge.evaluation.verdict import verdict
from expunge.io.models import Opened, cache_home, load
from expunge.io.run_dirs import check_free, empty
from expunge.parallel import ray_cluster
from expunge.report.report_data import Asked, Entry, ReportData, Verdict
from expunge.workflows.sweep import Sweep as Sweep  # `bench.Sweep`
from expunge.workflows.train import texts_of, train
from expunge.workflows.unlearn import unlearn


@dataclass(frozen=True, eq=False)
class SweepResult:
    """What a sweep found."""

    entries: Sequence[Entry]
    report_data: ReportData
    folder: Path


@dataclass(frozen=True, eq=False)
class Setting:
    """What each method starts from and is held against: all that a job needs, in any process.

    original: folder or hub id of the model, of which every job opens a copy of its own. blank: what random weights say, for classifiers.
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

    def attacked(self, s: AuditedModel, opened: Opened, progress: Progress) -> AuditedModel:
        """A subject with what attacks found in its model, beside the original and the retrained one."""
        return compared(
            _attacked(self.sweep, self.folder, s, opened, self.asked(s.method), progress, self.specs), self.first, self.retrained
        )

    @property
    def specs(self) -> Specs:
        """How the sets are asked."""
        return {name: self.suite.spec(name) for name in self.sets}

    def asked(self, method: str) -> Mapping[str, Records]:
        """The sets as models of a method want to be asked."""
        return asked_as(method, self.sets) if method else self.sets

    def examined(self, made: Opened, progress: Progress, *, method: str, **known: Any) -> AuditedModel:
        """A model that a method made, looked at through its own modality, which may know more tokens, and attacked."""
        known |= {
            "retrained": self.retrained.seen,
            "original": self.first.seen,
            "random_init": self.random_init,
            "method": method,
            "specs": self.specs,
        }
        s = examine(made.model, made.modality, self.asked(method), role="method", cache=self.cache, progress=progress, **known)
        return self.attacked(s, made, progress)


def bench(
    sweep: Sweep,
    out: str | Path,
    *,
    ray: str = "",
    resume: bool = True,
    overwrite: bool = False,
    progress: Progress = silent,
    interrupted: Callable[[], bool] = lambda: False,
    command: str = "",
) -> SweepResult:
    """Train the original and the retrained model, let every method forget with every seed, audit all of them, write table and report.

    ray: spread methods and seeds over this Ray cluster (see `cluster.connected`), whose machines share the run folder and the cache;
    '': one after the other, here. The numbers are the same, where as many threads compute them.
    interrupted: asked after each training step and each look at some rows; the same call goes on from there.
    Errors: UserError; a folder with another sweep in it is refused unless `overwrite`. Interrupted where that was asked for, of a cluster
    KeyboardInterrupt: its jobs go on from their last checkpoints.
    """
    sweep.check()
    folder, suite = Path(out), sweep.made()
    if ray:
        ray_cluster.check(ray)
    shown, progress = progress, _stopping(progress, interrupted)
    key = digest([repr(sweep), {n: [dict(r) for r in rows] for n, rows in suite.sets.items()}])
    _claim(folder, key, resume, overwrite, sweep)
    sets = {n: spread(r, sweep.limit) if n in ("retain", "holdout") else r for n, r in suite.sets.items()}
    teach = {**sweep.train, "prompt_format": suite.prompt_format, "labels": tuple(suite.labels)}
    texts = texts_of([*suite.train["full"], *(r for n, rows in suite.sets.items() if suite.spec(n).role == "general" for r in rows)])

    def trained(which: str, given: str) -> tuple[Opened, Mapping[str, Any]]:
        if given:
            return load(given, suite.prompt_format), {}
        what = f"training the {'original' if which == 'full' else 'retrained'} model"
        hooks = Hooks(progress=lambda d, t, _: progress(d, t, what), interrupted=interrupted)
        made = train(suite.train[which], sweep.size, texts=texts, hooks=hooks, **teach)
        return Opened(made.model, made.modality, str(made.folder)), made.receipt

    original, how = trained("full", sweep.original)
    again, how_again = trained("retain", sweep.retrained)
    cache = cache_home() / "observations"

    def look(name: str) -> Progress:
        return lambda done, total, what: progress(done, total, f"{name}: {what}")

    specs = {name: suite.spec(name) for name in sets}
    profile = profile_of(original.modality.name)
    none = random_init(original, sets, cache, specs) if profile.needs_random_init else None
    see = partial(examine, sets=sets, specs=specs, cache=cache, random_init=none)
    there = see(again.model, again.modality, name="retrained", role="retrained", progress=look("retrained"), receipt=how_again)
    see = partial(see, retrained=there.seen)
    first = see(original.model, original.modality, name="original", role="original", progress=look("original"), receipt=how)
    forget = original.modality.rows("forget", suite.train["forget"])
    others = controls(original, forget, sets, there.seen, cache, look("controls"), first.seen, specs=specs)
    there = _attacked(sweep, folder, there, again, sets, look("retrained"), specs)
    source = _place(sweep.original or original.source)
    setting = Setting(sweep, suite, folder.absolute(), source, sets, cache.absolute(), none, first, there)
    behind = Opened(original.model, filtered(original, forget), "") if any(s.role == "filter" for s in others) else original
    fixed = [setting.attacked(first, original, look("original")), compared(there, first, there)]
    fixed += [setting.attacked(s, behind, look(s.name)) for s in others]
    done: list[Entry] = [_kept(folder, s.name, s.entry) for s in fixed]
    jobs = {f"{m} seed {seed}" if sweep.seeds > 1 else m: (m, seed) for m in sweep.methods for seed in range(sweep.seeds)}
    if ray:
        reads = [Path(source)] if Path(source).exists() else []
        counted = lambda d, t: shown(d, t, "methods and seeds on the cluster")  # noqa: E731
        named = {name: (name, *job) for name, job in jobs.items()}
        made = ray_cluster.spread(partial(_job, setting), named, folder, ray, reads=reads, progress=counted, interrupted=interrupted)
    else:
        made = {name: _job(setting, name, *job, look(name), interrupted) for name, job in jobs.items()}
    done += [entry for entry, _ in made.values()]
    texts_said = [*fixed, *(s for _, s in made.values() if s)]
    told = _story(sweep, suite, done, texts_said, first, command, key)
    _write(folder, sweep, done, told, command)
    return SweepResult(done, told, folder)


def _place(model: str) -> str:
    """A model folder, from wherever one stands; a hub id as it is."""
    folder = Path(model).expanduser()
    return str(folder.absolute()) if folder.exists() else model


def _stopping(progress: Progress, interrupted: Callable[[], bool]) -> Progress:
    """Progress that raises Interrupted between two looks at rows; in training, the loop itself stops after its checkpoint."""

    def shown(done: int, total: int, what: str) -> None:
        progress(done, total, what)
        if interrupted() and not what.startswith("training") and "forgetting" not in what:
            raise Interrupted

    return shown


def _claim(folder: Path, key: str, resume: bool, overwrite: bool, sweep: Sweep) -> None:
    """Take a folder for a sweep, or refuse it."""
    mark = folder / "sweep.json"
    if overwrite:
        check_free(folder, overwrite=True, reads=[p for p in (sweep.data, sweep.original, sweep.retrained, sweep.holdout) if p])
        empty(folder)
    if mark.exists():
        same = json.loads(mark.read_text())["key"] == key
        if not same and any(p != mark for p in folder.iterdir()):
            raise UserError(
                f"{folder} holds another sweep (methods, seeds, data or hyperparameters differ): give another folder, or --overwrite"
            )
        if same and not resume:
            raise UserError(f"{folder} holds this sweep already: give another folder, or --overwrite")
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} exists and is no benchmark run: give another folder")
    receipt.write(mark, {"key": key})


def _kept(folder: Path, name: str, make: Any) -> Entry:
    """The entry on disk if there is one, else made and written."""
    path = folder / "entries" / f"{name.replace(' ', '_')}.json"
    if path.exists():
        return ReportData.from_json(path.read_text()).models[0]
    entry: Entry = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    receipt.write(path, json.loads(ReportData(title=name, models=[entry]).to_json()))
    return entry


def _attacked(
    sweep: Sweep, folder: Path, s: AuditedModel, opened: Opened, sets: Mapping[str, Any], progress: Progress, specs: Specs
) -> AuditedModel:
    """A subject with what attacks found in its model; each outcome is kept on disk, so that it is had once."""
    found: dict[str, attack.AttackOutcome] = {}
    for name, plan in sweep.attacks_of(len(sets["forget"]), s.seed or 0).items():
        path = folder / "attacks" / f"{s.name.replace(' ', '_')}-{name}.json"
        if path.exists():
            found[name] = attack.AttackOutcome.read(json.loads(path.read_text()))
        elif made := carry_out({name: plan}, opened.model, opened.modality, sets, s.role, progress, specs):
            path.parent.mkdir(parents=True, exist_ok=True)
            receipt.write(path, asdict(made[name]))
            found |= made
    return replace(s, attacks=found, rated=bool(sweep.attacks))


def _job(
    setting: Setting,
    name: str,
    method: str,
    seed: int,
    progress: Progress = silent,
    interrupted: Callable[[], bool] = lambda: False,
) -> tuple[Entry, AuditedModel | None]:
    """One method with one seed: forget, audit, attack. All that was done before is read from the run folder.

    Returns what the table shows and, of the first seed, what the report quotes.
    """
    run = setting.folder / "runs" / name.replace(" ", "_")
    known = {"name": name, "method": method, "seed": seed}
    made: list[AuditedModel] = []

    def make() -> Entry:
        opened, about = _forgotten(setting, run, method, seed, progress, interrupted)
        log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] if (run / "log.jsonl").exists() else []
        made.append(setting.examined(opened, progress, log=log, receipt=about, **known))
        return made[0].entry()

    entry = _kept(setting.folder, name, make)
    if not made and seed == 0:  # a resumed sweep still shows what was said
        made.append(setting.examined(load(run, setting.suite.prompt_format), progress, **known))
    return entry, made[0] if seed == 0 else None


def _forgotten(
    setting: Setting, run: Path, method: str, seed: int, progress: Progress, interrupted: Callable[[], bool]
) -> tuple[Opened, Mapping[str, Any]]:
    """The model that has forgotten, with its receipt."""
    if (run / "receipt.json").exists():  # interrupted before it was audited
        return load(run, setting.suite.prompt_format), json.loads((run / "receipt.json").read_text())
    suite, begun = setting.suite, (run / "checkpoint").exists()
    more = {"alternate_answers": suite.alternate_answers} if suite.alternate_answers else {}
    made = unlearn(
        method,
        load(setting.original, suite.prompt_format),  # with a modality of its own, which a method may teach new tokens
        suite.train["forget"],
        suite.train["retain"],
        holdout=suite.sets.get("holdout"),
        out=run,
        resume=begun,
        overwrite=run.exists() and not begun,
        allow_overlap=True,
        hooks=Hooks(progress=lambda d, t, _: progress(d, t, "forgetting"), interrupted=interrupted),
        **more,
        **{**setting.sweep.hyperparameters_of(method), "seed": seed},
    )
    return Opened(made.model, made.modality, str(run)), made.receipt


def _story(
    sweep: Sweep, suite: Suite, entries: Sequence[Entry], said: Sequence[AuditedModel], first: AuditedModel, command: str, key: str
) -> ReportData:
    found = []
    for s in said:
        if s.role == "method":
            findings = verdict(s.scores, s.unjudged, first.scores, s.hits, s.profile)
            worst = [f for f in findings if f["level"] == "fail"] or [f for f in findings if f["level"] == "warn"] or findings
            found += [Verdict(level=f["level"], text=f"{s.name}: {f['text']}") for f in worst[:2]]
    order = {"fail": 0, "warn": 1, "pass": 2}
    own = [f"{m} asked its own way" for m in sweep.methods if way_of(m)]
    seeds = f"{sweep.seeds} seed{'s' if sweep.seeds > 1 else ''}"
    told = report_data(
        list(said),
        title=f"{suite.name}: what was forgotten, and what it cost",
        subtitle=", ".join((f"{sweep.size} model", f"{len(sweep.methods)} methods", seeds, *own)),
        command=command,
        request=Asked(**{n: len(r) for n, r in suite.sets.items() if n in ("forget", "retain", "holdout")}, hash=key),
        verdict=sorted(found, key=lambda v: order[v.level]),
    )
    return ReportData(**{**{k: getattr(told, k) for k in ReportData.__dataclass_fields__}, "models": list(entries)})


def _write(folder: Path, sweep: Sweep, entries: Sequence[Entry], told: ReportData, command: str) -> None:
    from expunge.report.page import write
    from expunge.report.table import markdown

    receipt.write(
        folder / "bench.json",
        {
            "command": command,
            "sweep": {k: getattr(sweep, k) for k in Sweep.__dataclass_fields__},
            "entries": [json.loads(ReportData(title=e.name, models=[e]).to_json())["models"][0] for e in entries],
            "versions": receipt.versions(),
            "machine": receipt.machine(),
        },
        deep=False,
    )
    (folder / "table.md").write_text(markdown(list(entries), list(told.main)) + "\n")
    receipt.write(folder / "story.json", json.loads(told.to_json()))
    write(told, folder / "report.html")
