"""The pages of certificates and of verifying: certificates with their files, signatures under keys that the visitor brings, the ledger."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from starlette.responses import FileResponse, Response

from expunge.core.errors import UserError
from expunge.service.checking import check
from expunge.service.files import sha256
from expunge.service.ledger import Ledger
from expunge.service.removal import RECEIPT
from expunge.service.verifying import verify
from expunge.service.web.visit import RefusedVisit, Visit

FOLDER = "certificates"  # in the folder of the ledger, for those that people shall find
MOST = 5  # keys at a time


class EvidencePages:
    """The pages of certificates. No private key is ever in this process: certificates are issued by `expunge certify`."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def certificates(self, visit: Visit) -> Response:
        """All certificates that were issued."""
        files = self._files()
        return visit.page(
            "certificates.html.j2", certificates=self.ledger.certificates(), files=files, folder=FOLDER, head=self.ledger.head
        )

    def certificate(self, visit: Visit) -> Response:
        """The file of a certificate."""
        file = self._files().get(str(visit.request.path_params["digest"]))
        if file is None:
            raise RefusedVisit(f"the file of this certificate does not lie in {FOLDER}/ of the ledger", 404)
        return FileResponse(file, media_type="application/json", filename=file.name)

    def form(self, visit: Visit) -> Response:
        """The form that verifies."""
        return self._page(visit)

    def verify(self, visit: Visit) -> Response:
        """Verify a certificate against the model of a run."""
        form = visit.form
        runs = {str(run["id"]): run for run in self._runs()}
        if form["run"] not in runs:
            raise UserError("choose the run whose model the certificate is about")
        keys = [part.strip() + "\n" for part in form["keys"].split("-----END PUBLIC KEY-----") if part.strip()]
        if not form.files.get("certificate"):
            raise UserError("choose the file of the certificate")
        if not 1 <= len(keys) <= MOST:
            raise UserError(f"paste the public keys that you trust, one to {MOST} of them: a certificate cannot vouch for itself")
        with tempfile.TemporaryDirectory(prefix="expunge-verify") as folder:
            place = Path(folder)
            (place / "certificate.json").write_bytes(form.files["certificate"])
            for i, key in enumerate(keys):
                (place / f"{i}.pub").write_text(f"{key}-----END PUBLIC KEY-----\n", encoding="utf-8")
            paths = [place / f"{i}.pub" for i in range(len(keys))]
            try:
                result = verify(self.ledger.folder / runs[form["run"]]["folder"], place / "certificate.json", paths)
            except UserError as error:
                raise UserError(str(error).replace(f"{place}/", "")) from None
            faults = [fault.replace(f"{place}/", "") for fault in result.faults]
        return self._page(visit, result=result, faults=faults, predicate=result.predicate)

    def check(self, visit: Visit) -> Response:
        """Check the ledger: hashes, tables, rows, receipts and the served model."""
        faults = check(self.ledger, visit.form["head"])
        return self._page(visit, checked=True, ledger_faults=faults)

    def _page(self, visit: Visit, **values: Any) -> Response:
        empty = {"result": None, "faults": [], "predicate": {}, "checked": False, "ledger_faults": []}
        return visit.page("verify.html.j2", runs=self._runs(), served=self.ledger.serving()[1], **{**empty, **values})

    def _runs(self) -> list[dict[str, Any]]:
        return [run for run in self.ledger.runs()[::-1] if (self.ledger.folder / run["folder"] / RECEIPT).exists()]

    def _files(self) -> dict[str, Path]:
        known = {row["sha256"] for row in self.ledger.certificates()}
        folder = self.ledger.folder / FOLDER
        files = {sha256(path): path for path in sorted(folder.glob("*.json")) if path.is_file() and not path.is_symlink()}
        return {digest: path for digest, path in files.items() if digest in known}
