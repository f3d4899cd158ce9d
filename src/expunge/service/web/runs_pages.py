"""The pages of runs: all of them, one with what its audit measured, and its reports as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.responses import FileResponse, Response

from expunge.core.errors import UserError
from expunge.service.ledger import Ledger
from expunge.service.removal import AUDITS
from expunge.service.web.accounts import ROWS
from expunge.service.web.headers import REPORT_POLICY
from expunge.service.web.visit import RefusedVisit, Visit, log

REPORT = "report.html"


class RunPages:
    """The pages of runs."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def all(self, visit: Visit) -> Response:
        """All runs, the newest first, and which of their models is served."""
        source, served = self.ledger.serving()
        return visit.page("runs.html.j2", runs=self.ledger.runs()[::-1], served=served, original=bool(source) and served is None)

    def one(self, visit: Visit) -> Response:
        """A run: its verdict, the checks, the scores. Numbers and names of scores; no row, and no answer."""
        run = self._run(visit)
        summary = run["summary"]
        return visit.page(
            "run.html.j2",
            run=run,
            served=self.ledger.serving()[1] == run["id"],
            checks=summary.get("checks", []),
            attacks=summary.get("attacks", []),
            scores=summary.get("scores", {}),
            skipped=summary.get("skipped", {}),
            summary=summary,
            reports=self._reports(run) if visit.may(ROWS) else {},
        )

    def report(self, visit: Visit) -> Response:
        """A report as it is, in a sandbox."""
        run, name = self._run(visit), str(visit.request.path_params["name"])
        file = self._reports(run).get(name)
        if file is None:
            raise RefusedVisit("there is no such report; it goes when the key of its request is deleted", 404)
        log.info("%s reads the report %s of run %d", visit.name, name, run["id"])
        return FileResponse(file, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})

    def _run(self, visit: Visit) -> dict[str, Any]:
        try:
            return self.ledger.run(int(visit.request.path_params["number"]))
        except UserError as error:
            raise RefusedVisit(str(error), 404) from None

    def _reports(self, run: Mapping[str, Any]) -> dict[str, Path]:
        """The reports that a run has, by the name of their audit."""
        folder = self.ledger.folder / str(run["folder"]) / AUDITS
        return {path.parent.name: path for path in sorted(folder.glob(f"*/{REPORT}"))}
