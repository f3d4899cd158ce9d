"""What a user brings: the tiny world's models as folders, its rows as files of every kind. And the command line, in process."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import worlds
from expunge import catalog
from expunge.benchmarks import people
from expunge.cli import app
from expunge.io.data import write_jsonl
from expunge.workflows import build_plan

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Cases:
    """Folders `original` and `retrained`, files `forget.jsonl`, `retain.jsonl` and `holdout.jsonl`."""

    folder: Path

    def path(self, name: str) -> str:
        return str(self.folder / name)

    @property
    def model(self) -> str:
        return self.path("original")

    @property
    def retrained(self) -> str:
        return self.path("retrained")

    @property
    def forget(self) -> str:
        return self.path("forget.jsonl")

    @property
    def retain(self) -> str:
        return self.path("retain.jsonl")

    @property
    def holdout(self) -> str:
        return self.path("holdout.jsonl")

    def unlearn(self, method: str, out: Path, *more: object, forget: str = "", retain: str = "", model: object = "") -> Done:
        """`expunge unlearn` with the usual files; quick, since two steps are taken where nothing else is said."""
        trains = any(k.name == "lr" for k in build_plan.hyperparameters(method)) if method in catalog.names() else True
        steps = () if not trains or "--steps" in more or "--epochs" in more else ("--epochs", 2)
        rate = ("--lr", 1e-3) if trains else ()
        sets = ("--forget", forget or self.forget, "--retain", retain or self.retain)
        return expunge("unlearn", method, "--model", model or self.model, *sets, "--out", out, *rate, *steps, *more)

    def audit(self, model: object, out: Path, *more: object) -> Done:
        return expunge("audit", model, "--forget", self.forget, "--out", out, *more)


def make(folder: Path) -> Cases:
    world = worlds.text()
    for name in ("original", "retrained"):
        world.modality.save(world.model(name), folder / name)
    records = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16)
    for name in ("forget", "retain", "holdout"):
        write_jsonl(folder / f"{name}.jsonl", getattr(records, name))
    return Cases(folder)


def rows_of(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def receipt_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "receipt.json").read_text()))


def rewritten(path: str, kind: str, folder: Path) -> str:
    """The same questions and answers as another kind of file."""
    rows = [{n: r[n] for n in ("question", "answer")} for r in rows_of(path)]
    place = folder / f"{Path(path).stem}.{kind}"
    if kind == "csv":
        with place.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["question", "answer"])
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), place)
    elif kind == "saved":
        import datasets

        datasets.Dataset.from_list(rows).save_to_disk(place)
    elif kind == "folder":
        write_jsonl(place / "train.jsonl", rows)
    return str(place)


@dataclass(frozen=True)
class Done:
    """What a command left behind on the terminal."""

    code: int
    out: str
    err: str

    def fine(self) -> Done:
        """The command did its work; the verdict of an audit may still be "not removed"."""
        assert self.code in (0, 3), f"{self.out}\n{self.err}"
        return self

    @property
    def error(self) -> str:
        """The one sentence of a command that was refused, or whose run failed."""
        assert self.code in (1, 2), f"{self.code}\n{self.out}\n{self.err}"
        assert "Traceback" not in self.err
        last = self.err.strip().splitlines()[-1]
        assert last.startswith("error: ")
        return last.removeprefix("error: ")


def expunge(*argv: object) -> Done:
    """`expunge ARGV`, in this process."""
    out, err, words = io.StringIO(), io.StringIO(), ["expunge", *map(str, argv)]
    with (
        mock.patch.object(sys, "argv", words),
        mock.patch.dict(os.environ),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            app.main()
        except SystemExit as done:
            code = done.code if isinstance(done.code, int) else int(bool(done.code))
    return Done(code, out.getvalue(), err.getvalue())


def left(folder: Path) -> Sequence[str]:
    """Names of what lies in a run folder."""
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []
