"""One story from run folders: audits and benchmarks have saved theirs, an unlearning run has a receipt and a log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from expunge.core.errors import UserError
from expunge.report.report_data import Asked, Entry, Point, ReportData, ReportedCost


def collect(folders: Sequence[Path]) -> ReportData:
    """The story of one folder, or of several on one page.

    Raises:
        UserError: for a folder that holds no finished run.
    """
    stories = [_story(folder) for folder in folders]
    if len(stories) == 1:
        return stories[0]
    names: set[str] = set()
    models: list[Entry] = []
    for folder, story in zip(folders, stories, strict=True):
        for entry in story.models:
            name = entry.name if entry.name not in names else f"{entry.name} ({folder.name})"
            names.add(name)
            models.append(replace(entry, name=name))
    notes = [f"{folder.name}: {note}" for folder, story in zip(folders, stories, strict=True) for note in story.notes]
    return replace(
        stories[0],
        title=" and ".join(folder.name for folder in folders),
        models=models,
        notes=notes,
        samples=[sample for story in stories for sample in story.samples],
        utility=next((story.utility for story in stories if story.utility), ""),
        quality=next((story.quality for story in stories if story.quality), ""),
        panels=list(dict.fromkeys(panel for story in stories for panel in story.shown_panels)),
    )


def _story(folder: Path) -> ReportData:
    if folder.is_file():
        raise UserError(f"{folder} is a file, and a run is a folder: give the one that it lies in")
    try:
        return _read(folder)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        name = "story.json" if (folder / "story.json").exists() else "receipt.json"
        reason = " ".join(str(error).partition(" [type=")[0].split())
        raise UserError(f"{folder / name} is damaged: {reason}") from None


def _read(folder: Path) -> ReportData:
    if (folder / "story.json").exists():
        return ReportData.from_json((folder / "story.json").read_text(encoding="utf-8"))
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    if not (folder / "receipt.json").exists():
        raise UserError(f"{folder} holds no finished run: there is neither a story.json nor a receipt.json in it")
    receipt = json.loads((folder / "receipt.json").read_text(encoding="utf-8"))
    log = folder / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    cost, source = receipt["cost"], Path(receipt["model"]["source"])
    entry = Entry(
        name=receipt["method"],
        method=receipt["method"],
        seed=receipt["seed"],
        curves=curves(lines),
        cost=ReportedCost(**{f.name: cost[f.name] for f in fields(ReportedCost) if f.name in cost}),
        receipt=receipt,
    )
    sizes = receipt["request"]["sets"]
    unaudited = "This run has not been audited: whether anything was forgotten is not known yet."
    request = Asked(**{n: k for n, k in sizes.items() if n in ("forget", "retain", "holdout")}, hash=receipt["request"]["hash"])
    return ReportData(
        title=f"{receipt['method']} on {source.name if source.is_absolute() else source}",
        models=[entry],
        request=request,
        notes=[unaudited, *receipt["request"]["findings"], *receipt["warnings"]],
        receipt=receipt,
    )


def curves(log: Sequence[dict[str, Any]]) -> list[Point]:
    """Training curves from the records of a log: losses by step, scores by epoch."""
    points = []
    for record in log:
        if "loss" in record:
            terms = {name.split(" ", 1)[1]: value for name, value in record["terms"].items()}
            points.append(Point(step=record["done"], epoch=record["epoch"], loss=record["loss"], terms=terms))
        elif "scores" in record:
            points.append(Point(step=record["done"], epoch=record["epoch"], scores=dict(record["scores"])))
    return points
