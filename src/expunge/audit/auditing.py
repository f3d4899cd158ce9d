"""From a model to its scores, verdict and report: the workflow behind `expunge audit`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from expunge.core import catalog, receipt
from expunge.core.errors import UserError
from expunge.core.request import content, digest
from expunge.loading import Opened, Source, cache_home, load, records
from expunge.report.story import Asked, Role, Story, Verdict

from .judge import verdict
from .observe import Records
from .observed import Observed
from .subjects import Progress, Subject, controls, examine, judged, relearn, silent, spread, story


@dataclass(frozen=True, eq=False)
class Audit:
    """Scores of one model with what they mean, and the report's story."""

    scores: Mapping[str, Mapping[str, Any]]
    skipped: Mapping[str, str]
    verdict: Sequence[Mapping[str, Any]]
    observed: Observed
    story: Story
    attacks: Mapping[str, Any]
    folder: Path | None = None

    @property
    def passed(self) -> bool:
        """Nothing failed."""
        return all(v["level"] != "fail" for v in self.verdict)


def audit(
    model: str | Path | Opened,
    forget: Source | None = None,
    retain: Source | None = None,
    holdout: Source | None = None,
    *,
    suite: str = "",
    data: str = "",
    split: str = "",
    original: str | Path | Opened | None = None,
    reference: str | Path | Opened | None = None,
    attack: Sequence[str] = (),
    attack_knobs: Mapping[str, Any] | None = None,
    with_controls: bool = False,
    out: str | Path | None = None,
    prompt_format: str = "",
    limit: int = 400,
    overwrite: bool = False,
    allow_overlap: bool = False,
    progress: Progress = silent,
    load_options: Mapping[str, Any] | None = None,
) -> Audit:
    """Look at a model that is said to have forgotten, and say what that is worth.

    Args:
        model: a folder, hub id, run folder or opened model, or a folder of observations (`observed.json`), which needs no model.
        forget, retain, holdout: records; where a suite is named, the split's own fill what is not given.
        original, reference: the model before, and a model retrained without the forget set, each as a model or as observations.
        attack: interventions of the catalogue, followed by the same scores; attack_knobs are theirs.
        with_controls: also look at random weights and, where the original is given, at an input filter around it.
        limit: rows of retain and holdout that are looked at, evenly spread.

    Errors: UserError.
    """
    for name in attack:
        catalog.load(name, "attacks")
    folder = _run_folder(out, overwrite)
    sets = _sets(forget, retain, holdout, suite, data, split, limit, allow_overlap)
    options = dict(load_options or {})
    cache = cache_home() / "observations"

    def subject(what: str | Path | Opened, name: str, role: Role, retrained: Observed | None) -> tuple[Subject, Opened | None]:
        if not isinstance(what, Opened) and (Path(what) / "observed.json").exists():
            seen = Observed.load(Path(what))
            return judged(seen, name, role, seen if role == "retrained" else retrained), None
        opened = what if isinstance(what, Opened) else load(what, prompt_format, **options)
        known = _known(what)
        said = lambda done, total, text: progress(done, total, f"{name}: {text}")  # noqa: E731
        made = examine(opened.model, opened.port, sets, name=name, role=role, retrained=retrained, cache=cache, progress=said, **known)
        return made, opened

    subjects: list[Subject] = []
    retrained: Observed | None = None
    if reference is not None:
        there, _ = subject(reference, "retrained", "retrained", None)
        retrained = there.seen
        subjects.append(there)
    before: Opened | None = None
    if original is not None:
        first, before = subject(original, "original", "original", retrained)
        subjects.insert(0, first)
    mine, opened = subject(model, "audited model", "method", retrained)
    attacks: dict[str, Any] = {}
    if "relearn" in attack:
        if opened is None:
            raise UserError("relearning changes a model, and only observations were given")
        mine = replace(mine, relearned=relearn(opened.model, opened.port, sets, retrained, progress, **(attack_knobs or {})))
        attacks["relearn"] = list(mine.relearned)
    subjects.append(mine)
    if with_controls and (source := before or opened) is not None:
        rows = source.port.rows("forget", sets["forget"])
        found = controls(source, rows, sets, retrained, cache, progress)
        subjects += found if before else found[:1]
    originals = next((s.scores for s in subjects if s.role == "original"), None)
    findings = verdict(mine.scores, mine.skipped, originals)
    asked = Asked(
        **{n: len(r) for n, r in sets.items() if n in ("forget", "retain", "holdout")}, hash=digest([mine.seen.sets["forget"].ids])
    )
    told = story(
        subjects,
        title=f"Audit of {_label(model)}",
        subtitle=f"{suite} {split}".strip() or "your own data",
        request=asked,
        verdict=[Verdict(level=v["level"], text=v["text"]) for v in findings],
    )
    done = Audit(mine.scores, mine.skipped, findings, mine.seen, told, attacks, folder)
    if folder:
        _write(folder, done, subjects)
    return done


def _run_folder(out: str | Path | None, overwrite: bool) -> Path | None:
    if out is None:
        return None
    folder = Path(out)
    if (folder / "audit.json").exists() and not overwrite:
        raise UserError(f"the folder {folder} holds an audit already: give another one, or replace it with --overwrite")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _sets(
    forget: Source | None, retain: Source | None, holdout: Source | None, suite: str, data: str, split: str, limit: int, allow_overlap: bool
) -> dict[str, Records]:
    given = {"forget": forget, "retain": retain, "holdout": holdout}
    sets: dict[str, Records] = {}
    if suite:
        made = catalog.load(suite, "benchmarks").load(data, **({"split": split} if split else {}))
        sets.update(made.sets)
    sets.update({n: records(source, n) for n, source in given.items() if source is not None})
    if "forget" not in sets:
        raise UserError("an audit needs the rows that were to be forgotten: give --forget FILE, or --suite with its --split")
    if not allow_overlap:
        _apart(sets)
    return {n: spread(r, limit) if n in ("retain", "holdout") else r for n, r in sets.items()}


def _apart(sets: Mapping[str, Records]) -> None:
    gone = {content(digest(_plain(r))) for r in sets["forget"]}
    for name in ("retain", "holdout"):
        if both := sum(content(digest(_plain(r))) in gone for r in sets.get(name, ())):
            raise UserError(
                f"{both} rows of {name!r} also stand in 'forget', so the two cannot be told apart; allow it with --allow-overlap"
            )


def _plain(record: Mapping[str, Any]) -> list[Any]:
    return [record.get(k) for k in ("prompt", "completion", "question", "answer", "messages", "text")]


def _known(what: str | Path | Opened) -> dict[str, Any]:
    """What the folder of a run tells about the model in it."""
    if isinstance(what, Opened) or not (Path(what) / "receipt.json").exists():
        return {}
    about = json.loads((Path(what) / "receipt.json").read_text())
    log = Path(what) / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {"method": about.get("method", ""), "seed": about.get("seed"), "receipt": about, "log": lines}


def _label(model: str | Path | Opened) -> str:
    return model.source if isinstance(model, Opened) else str(model)


def _write(folder: Path, done: Audit, subjects: Sequence[Subject]) -> None:
    from expunge.report.page import write

    for s in subjects:
        s.seen.save(folder / "observations" / s.name.replace(" ", "_"))
    receipt.write(folder / "audit.json", summary(done))
    receipt.write(folder / "story.json", json.loads(done.story.to_json()))
    write(done.story, folder / "report.html")


def summary(done: Audit) -> dict[str, Any]:
    """What audit.json holds."""
    return {
        "scores": done.scores,
        "skipped": done.skipped,
        "verdict": done.verdict,
        "passed": done.passed,
        "attacks": done.attacks,
        "observed": done.observed.about,
        "versions": receipt.versions(),
        "machine": receipt.machine(),
    }
