"""The bill of materials of a run, as a file."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from expunge.core.errors import UserError
from expunge.io.models import receipt_of
from expunge.report.bill import bill

SCORE = ("value", "interval")


def bill_of_materials(run: str | Path, out: str | Path, *, audit: str | Path | None = None, now: datetime | None = None) -> Path:
    """Write a CycloneDX ML-BOM of the model or adapter of a run.

    Args:
        run: its folder.
        out: the file; none is replaced.
        audit: the folder of an audit of this model, whose scores, verdict and gaps are taken in; no row is.
        now: the time.

    Returns:
        The file.

    Raises:
        UserError: for a folder that is no run of a model, a file that exists, and an audit of another model.
    """
    folder, file = Path(run).expanduser(), Path(out).expanduser()
    receipt = receipt_of(folder)
    if not receipt or not (folder / str(receipt["result"]["kind"])).is_dir():
        raise UserError(f"{folder} is no finished run with a model: give the folder of one, with its receipt.json")
    if file.exists():
        raise UserError(f"{file} exists: choose another name")
    inner = folder / str(receipt["result"]["kind"])
    paths = sorted(p for p in inner.rglob("*") if p.is_file())
    digests = {p.relative_to(inner).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}
    measured = _measured(Path(audit).expanduser(), receipt) if audit is not None else {}
    at = (now or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(bill(receipt, digests, at, **measured), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return file


def _measured(folder: Path, receipt: dict[str, Any]) -> dict[str, Any]:
    try:
        record = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
        weights, verdict = record["observed"]["weights"], record["verdict"]
        scores = {name: {field: score.get(field) for field in SCORE} for name, score in record["scores"].items()}
    except FileNotFoundError:
        raise UserError(f"{folder} holds no audit: expunge audit makes one") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise UserError(f"the audit in {folder} cannot be read") from None
    if weights != receipt["result"]["weights"]:
        raise UserError(f"the audit in {folder} is one of another model: its weights are others")
    return {"scores": scores, "verdict": verdict["state"], "not_checked": tuple(verdict["not_checked"])}
