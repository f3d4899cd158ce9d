"""log.jsonl of a run folder: one record per step, kept right across a stop."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge.functional.brief import brief


@brief("folder")
@dataclass
class RunLog:
    """log.jsonl: one record per step."""

    folder: Path | None
    records: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def path(self) -> Path | None:
        return self.folder / "log.jsonl" if self.folder else None

    def __call__(self, record: Mapping[str, Any]) -> None:
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """The records on disk; none where nothing is written."""
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()] if self.path and self.path.exists() else []

    def keep_until(self, saved: Mapping[str, Any] | None) -> None:
        """Drop what a killed run wrote after its last checkpoint."""
        if not self.path or not self.path.exists():
            return
        stage, done = (saved["stage"], saved["done"]) if saved else (-1, 0)
        lines = []
        for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True):
            if not line.endswith("\n"):  # the process died while it wrote the line
                break
            record = json.loads(line)
            # A checkpoint is older than the scores and the end that follow its step; both come again.
            if record["stage"] < stage or (record["stage"] == stage and record.get("done", done) < done + ("loss" in record)):
                lines.append(line)
        self.path.write_text("".join(lines), encoding="utf-8")
