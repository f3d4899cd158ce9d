"""From a model to its scores, verdict and report: the workflow behind `expunge audit`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from expunge import catalog
from expunge.core.capabilities import Prompted, offers
from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.request import content, digest
from expunge.core.rows import Rows
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
from expunge.evaluation.prompting import asked_as, way_of
from expunge.evaluation.verdict import LEVELS, Finding, verdict
from expunge.io.models import Opened, Source, cache_home, format_of, load, receipt_of, records
from expunge.report.report_data import Asked, ReportData, Role, Verdict


@dataclass(frozen=True, eq=False)
class Audit:
    """Scores of one model with what they mean, and the report's story."""

    scores: Mapping[str, Mapping[str, Any]]
    skipped: Mapping[str, str]
    verdict: Sequence[Mapping[str, Any]]
    observed: Observation
    report_data: ReportData
    attacks: Mapping[str, Any]
    asked: str = ""  # the method whose way of asking was used
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
    retrained: str | Path | Opened | None = None,
    attack: Sequence[str] = (),
    attack_hyperparameters: Mapping[str, Any] | None = None,
    request_from: str = "",
    with_controls: bool = False,
    out: str | Path | None = None,
    prompt_format: str = "",
    limit: int = 400,
    overwrite: bool = False,
    allow_overlap: bool = False,
    progress: Progress = silent,
    command: str = "",
    load_options: Mapping[str, Any] | None = None,
) -> Audit:
    """Look at a model that is said to have forgotten, and say what that is worth.

    Args:
        model: a folder, hub id, run folder or opened model, or a folder of observations (`observed.json`), which needs no model.
        forget, retain, holdout: records; where a suite is named, the split's own fill what is not given. Observations need none.
        original, retrained: the model before, and a model retrained without the forget set, each as a model or as observations.
        attack: interventions of the catalogue, followed by the same scores; attack_knobs are theirs: a plain name goes to every attack
            that has such a hyperparameter, `relearn:lr` to one.
        request_from: a method whose models forget on request alone, e.g. in_context: the audited model, and no other, is asked its way.
        with_controls: also look at random weights and, where the original is given, at an input filter around it.
        prompt_format: for all models; '' is what the audited model's run was given, else each model's own.
        limit: rows of retain and holdout that are looked at, evenly spread; 0: all.
        command: what was typed, for the report.

    Errors: UserError.
    """
    attacks = chosen(attack, attack_hyperparameters or {})
    folder = _run_folder(out, overwrite)
    seen_before = _observed(model) is not None
    if seen_before and attacks:
        raise UserError(f"the attack {next(iter(attacks))!r} asks the model anew, and only observations were given: give the model")
    if request_from and not way_of(request_from):
        raise UserError(f"models of {request_from!r} are asked as any other: there is nothing that they want to hear before a question")
    if seen_before and request_from:
        raise UserError("observations were asked already, in their own way: give the model, or leave --request-from out")
    sets = _sets(forget, retain, holdout, suite, data, split, limit, allow_overlap, optional=seen_before)
    prompt_format = prompt_format or format_of(model)
    cache = cache_home() / "observations"
    alike = Alike()
    its_way = asked_as(request_from, sets) if request_from else sets

    def audited(what: str | Path | Opened, name: str, role: Role, **beside: Observation | None) -> tuple[AuditedModel, Opened | None]:
        known = {**beside, **_known(what)}
        retrained = known.pop("retrained", None)
        if seen := _observed(what):
            alike.check(name, seen)
            return judged(seen, name, role, seen if role == "retrained" else retrained, **known), None
        if not sets:
            raise UserError(f"there are no rows to ask the {name} model about: give --forget FILE")
        opened = what if isinstance(what, Opened) else load(what, prompt_format, **(load_options or {}))
        alike.check(name, opened.modality.rows("forget", sets["forget"]), opened.modality)
        said = lambda done, total, text: progress(done, total, f"{name}: {text}")  # noqa: E731
        if not offers(opened.modality, Prompted) and known.get("random_init") is None:
            with suppress(UserError):  # not every module says how it begins; then the scores that need random weights are missing
                known["random_init"] = random_init(opened, sets, cache)
        put = its_way if role == "method" else sets
        made = examine(opened.model, opened.modality, put, name=name, role=role, retrained=retrained, cache=cache, progress=said, **known)
        return replace(made, attacks=carry_out(attacks, opened.model, opened.modality, put, role, said)), opened

    audited_models: list[AuditedModel] = []
    retrained_seen: Observation | None = None
    there: AuditedModel | None = None
    if retrained is not None:
        there, _ = audited(retrained, "retrained", "retrained")
        retrained_seen = there.seen
        audited_models.append(there)
    before: Opened | None = None
    first: AuditedModel | None = None
    if original is not None:
        first, before = audited(original, "original", "original", retrained=retrained_seen)
        audited_models.insert(0, first)
    mine, opened = audited(model, "audited model", "method", retrained=retrained_seen, original=first.seen if first else None)
    audited_models.append(mine)
    if with_controls and (source := before or opened) is not None:
        rows = source.modality.rows("forget", sets["forget"])
        found = controls(source, rows, sets, retrained_seen, cache, progress, first.seen if first else None, attacks)
        audited_models += found if before else found[:1]
    audited_models = [compared(s, first, there) for s in audited_models]
    mine = next(s for s in audited_models if s.name == mine.name)
    originals = next((s.scores for s in audited_models if s.role == "original"), None)
    findings = [*_unasked(mine.method, request_from), *verdict(mine.scores, mine.unjudged, originals, mine.hits)]
    findings.sort(key=lambda f: LEVELS.index(f["level"]))
    sizes = {n: len(r) for n, r in mine.seen.sets.items()}
    request = Asked(sizes["forget"], sizes.get("retain"), sizes.get("holdout"), digest([mine.seen.sets["forget"].ids]))
    told = report_data(
        audited_models,
        title=f"Audit of {_label(model)}",
        subtitle=(f"{suite} {split}".strip() or "your own data")
        + (f", asked as models of {request_from} want to be asked" if request_from else ""),
        command=command,
        request=request,
        verdict=[Verdict(level=v["level"], text=v["text"]) for v in findings],
    )
    found_by = {n: a.told(mine.yardstick.get(n)) for n, a in mine.attacks.items()}
    done = Audit(mine.scores, mine.skipped, findings, mine.seen, told, found_by, request_from, folder)
    if folder:
        _write(folder, done, audited_models)
    return done


def _unasked(method: str, asked: str) -> list[Finding]:
    """That a model which forgets on request alone got no request, or that it did."""
    if asked:
        text = f"It was asked as models of {asked} want to be asked; what it tells others is the attack bare_question."
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


def _sets(
    forget: Source | None,
    retain: Source | None,
    holdout: Source | None,
    suite: str,
    data: str,
    split: str,
    limit: int,
    allow_overlap: bool,
    optional: bool,
) -> dict[str, Records]:
    given = {"forget": forget, "retain": retain, "holdout": holdout}
    sets: dict[str, Records] = {}
    if suite:
        made = catalog.load(suite, "benchmarks").load(data, **({"split": split} if split else {}))
        sets.update(made.sets)
    sets.update({n: records(source, n) for n, source in given.items() if source is not None})
    if (data or split) and not suite:
        raise UserError(f"--{'data' if data else 'split'} belongs to a benchmark: name it with --suite")
    if "forget" not in sets:
        if optional and not sets:
            return {}
        raise UserError("an audit needs the rows that were to be forgotten: give --forget FILE, or --suite with its --split")
    if not allow_overlap:
        _apart(sets)
    return {n: spread(r, limit) if n in ("retain", "holdout") else r for n, r in sets.items()}


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
        "asked": done.asked,
        "versions": receipt.versions(),
        "machine": receipt.machine(),
    }
