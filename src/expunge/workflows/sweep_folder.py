"""The run folder of a benchmark: whose it is, the entries and outcomes of attacks that it keeps, its table and report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from expunge import catalog
from expunge.benchmarks.suite import Specs, Suite
from expunge.core.errors import UserError
from expunge.engine import receipt
from expunge.evaluation import attack, harness
from expunge.evaluation.audited_models import AuditedModel, Progress, attacks_on, report_data
from expunge.evaluation.observe import Memory
from expunge.evaluation.prompting import way_of
from expunge.io.models import Opened
from expunge.io.run_dirs import check_free, empty
from expunge.report.report_data import Asked, Entry, ReportData
from expunge.workflows.sweep import Sweep, SweepResult


def claim(folder: Path, key: str, resume: bool, overwrite: bool, sweep: Sweep) -> None:
    """Take a folder for a sweep. Raises: UserError where it holds something else, or this sweep where `resume` is False."""
    mark = folder / "sweep.json"
    if overwrite:
        check_free(folder, overwrite=True, reads=[p for p in (sweep.data, sweep.original, sweep.retrained, sweep.holdout) if p])
        empty(folder)
    if mark.exists():
        same = json.loads(mark.read_text(encoding="utf-8"))["key"] == key
        if not same and any(p != mark for p in folder.iterdir()):
            raise UserError(
                f"{folder} holds another sweep (methods, seeds, data or hyperparameters differ): give another folder, or --overwrite"
            )
        if same and not resume:
            raise UserError(f"{folder} holds this sweep already: give another folder, or --overwrite")
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} exists and is no benchmark run: give another folder")
    receipt.write(mark, {"key": key})


def entry_of(folder: Path, name: str, make: Any) -> Entry:
    """Read the entry from disk; without a file, make and write it."""
    path = folder / "entries" / f"{name.replace(' ', '_')}.json"
    if path.exists():
        return ReportData.from_json(path.read_text(encoding="utf-8")).models[0]
    entry: Entry = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    receipt.write(path, json.loads(ReportData(title=name, models=[entry]).to_json()))
    return entry


def attacked(
    sweep: Sweep, folder: Path, audited: AuditedModel, opened: Opened, sets: Mapping[str, Any], progress: Progress, specs: Specs
) -> AuditedModel:
    """An audited model with the outcomes of attacks; each outcome is kept on disk, so each attack runs once."""
    outcomes: dict[str, attack.AttackOutcome] = {}
    memory: Memory = {}
    attacks = attacks_on(sweep.attacks_of(len(sets["forget"]), audited.seed or 0), opened.modality, audited.role)
    for name, one in attacks.items():
        path = folder / "attacks" / f"{audited.name.replace(' ', '_')}-{name}.json"
        if path.exists():
            outcomes[name] = attack.AttackOutcome.read(json.loads(path.read_text(encoding="utf-8")))
            continue
        outcomes[name] = attack.intervene(name, one, opened.model, opened.modality, sets, specs=specs, progress=progress, memory=memory)
        path.parent.mkdir(parents=True, exist_ok=True)
        receipt.write(path, asdict(outcomes[name]))
    scores = {**audited.scores, **_utility(sweep, folder, audited, opened)}
    return replace(audited, attacks=outcomes, rated=bool(sweep.attacks), scores=scores)


def _utility(sweep: Sweep, folder: Path, audited: AuditedModel, opened: Opened) -> dict[str, Any]:
    """Scores of the harness's tasks, kept on disk; none of models that are the original with other weights or behind a filter."""
    if not sweep.utility or audited.role in ("random", "filter"):
        return {}
    path = folder / "utility" / f"{audited.name.replace(' ', '_')}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        receipt.write(path, harness.general_utility(opened, sweep.utility, sweep.utility_tasks))
    records = json.loads(path.read_text(encoding="utf-8"))
    return {f"utility_{task}": record for task, record in records.items()}


def report_of(
    sweep: Sweep,
    suite: Suite,
    entries: Sequence[Entry],
    audited_models: Sequence[AuditedModel],
    command: str,
    key: str,
    notes: Sequence[str],
) -> ReportData:
    """The data of the report.

    Args:
        entries: of all models, for the table.
        audited_models: those whose answers the report quotes.
        command: the command line.
        key: what identifies the sweep.
        notes: sentences for the reader, such as on a callback that failed.
    """
    own_ways = [f"{m} asked its own way" for m in sweep.methods if way_of(m)]
    methods, seeds = (f"{n} {word}{'s' if n != 1 else ''}" for n, word in ((len(sweep.methods), "method"), (sweep.seeds, "seed")))
    data = report_data(
        list(audited_models),
        title=f"{suite.name}: what was forgotten, and what it cost",
        subtitle=", ".join((f"{sweep.size} model", methods, seeds, *own_ways)),
        command=command,
        notes=list(notes),
        request=Asked(**{n: len(r) for n, r in suite.sets.items() if n in ("forget", "retain", "holdout")}, hash=key),
    )
    fields = {k: getattr(data, k) for k in ReportData.__dataclass_fields__}
    published = {method: dict(scores) for method, scores in suite.published.items()}
    own = {"models": list(entries), "main": _main(suite, entries, data.main), "published": published}
    return ReportData(**{**fields, **own, "published_about": suite.published_about})


def _main(suite: Suite, entries: Sequence[Entry], usual: Sequence[str]) -> list[str]:
    """The scores of the short table: of a benchmark with metrics of its own these, then the usual ones, as far as a model has them."""
    asked = [name for name in dict.fromkeys(n for entry in entries for n in entry.scores) if name.startswith("utility_")]
    if not suite.metrics:
        return [*usual, *asked]
    known = {name for entry in entries for name, score in entry.scores.items() if score.value is not None}
    own = [name for family in suite.metrics for name in catalog.load(family, "metrics").SCORES]
    return [name for name in dict.fromkeys([*own, *asked, *usual]) if name in known]


def write(result: SweepResult) -> None:
    """Write the numbers, the table and the report."""
    from expunge.report import page
    from expunge.report.table import markdown

    folder, data = result.folder, result.report_data
    receipt.write(folder / "bench.json", result.to_dict(), deep=False)
    (folder / "table.md").write_text(markdown(list(result.entries), list(data.main)) + "\n", encoding="utf-8")
    receipt.write(folder / "story.json", json.loads(data.to_json()))
    page.write(data, folder / "report.html")
