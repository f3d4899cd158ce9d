"""One story from run folders: of audits and benchmarks as they were told, of unlearning as its receipt and log tell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge.core.errors import UserError
from expunge.report.report_data import Asked, Entry, Point, ReportData, ReportedCost, Verdict


def collect(folders: Sequence[Path]) -> ReportData:
    """The story of one folder, or of several on one page. Errors: UserError for a folder that holds no run."""
    stories = [_one(f) for f in folders]
    if len(stories) == 1:
        return stories[0]
    names: set[str] = set()
    models: list[Entry] = []
    for folder, report_data in zip(folders, stories, strict=True):
        for entry in report_data.models:
            name = entry.name if entry.name not in names else f"{entry.name} ({folder.name})"
            names.add(name)
            models.append(_with(entry, name=name))
    findings = [Verdict(level=v.level, text=f"{f.name}: {v.text}") for f, s in zip(folders, stories, strict=True) for v in s.verdict]
    samples = [sample for s in stories for sample in s.samples]
    return _with(stories[0], title=" and ".join(f.name for f in folders), models=models, verdict=findings, samples=samples)


def _with(what: Any, **changed: Any) -> Any:
    return type(what)(**{**{k: getattr(what, k) for k in type(what).__dataclass_fields__}, **changed})


def _one(folder: Path) -> ReportData:
    if (folder / "story.json").exists():
        return ReportData.from_json((folder / "story.json").read_text())
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    if not (folder / "receipt.json").exists():
        raise UserError(f"{folder} holds no finished run: there is neither a story.json nor a receipt.json in it")
    receipt = json.loads((folder / "receipt.json").read_text())
    log = folder / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    cost, source = receipt["cost"], Path(receipt["model"]["source"])
    entry = Entry(
        name=receipt["method"],
        method=receipt["method"],
        seed=receipt["seed"],
        curves=curves(lines),
        cost=ReportedCost(**{k: cost.get(k) for k in ("seconds", "tokens", "flops", "peak_memory_bytes")}),
        receipt=receipt,
    )
    sizes = receipt["request"]["sets"]
    unjudged = Verdict(level="warn", text="This run has not been audited: whether anything was forgotten is not known yet.")
    warned = [Verdict(level="warn", text=w) for w in (*receipt["request"]["findings"], *receipt["warnings"])]
    asked = Asked(**{n: k for n, k in sizes.items() if n in ("forget", "retain", "holdout")}, hash=receipt["request"]["hash"])
    return ReportData(
        title=f"{receipt['method']} on {source.name if source.is_absolute() else source}",
        models=[entry],
        request=asked,
        verdict=[unjudged, *warned],
        receipt=receipt,
    )


def curves(log: Sequence[dict[str, Any]]) -> list[Point]:
    """Training curves from the records of a log: losses by step, scores by epoch."""
    out = []
    for r in log:
        if "loss" in r:
            out.append(
                Point(step=r["done"], epoch=r["epoch"], loss=r["loss"], terms={n.split(" ", 1)[1]: v for n, v in r["terms"].items()})
            )
        elif "scores" in r:
            out.append(Point(step=r["done"], epoch=r["epoch"], scores=dict(r["scores"])))
    return out
