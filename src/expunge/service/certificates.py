"""Certificates: what was measured of a model after a run, signed; and what everybody with the public key can check, offline.

A certificate is an in-toto Statement in a DSSE envelope: its subjects are the files of the model, its predicate says what was asked, done
and measured. It never says that rows are erased: it says against what they were measured, and what was not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.dsse import Envelope

from expunge.core.errors import UserError
from expunge.service import keys as key_files
from expunge.service.files import digest_of_model, digests, model_folder, sha256
from expunge.service.ledger import Ledger
from expunge.service.outcome import finite, outcome_of
from expunge.service.removal import AUDITS, SUMMARY, summary_name
from expunge.service.vault import canonical

STATEMENT, PREDICATE, PAYLOAD = "https://in-toto.io/Statement/v1", "urn:expunge:unlearning:v1", "application/vnd.in-toto+json"
VALID = 365  # days


def certify(
    run: str | Path,
    audit: str | Path,
    keys: Sequence[str | Path],
    out: str | Path,
    *,
    valid_days: int = VALID,
    supersedes: str | Path | None = None,
    now: datetime | None = None,
    **about: Any,
) -> Path:
    """Certify what an audit measured of the model of a run.

    Args:
        run: the run folder, with the receipt and the model.
        audit: the folder of its audit, or a file `outcome.json` that a ledger keeps.
        keys: private keys, each of which signs.
        out: file of the certificate; no file is replaced.
        valid_days: after which the certificate is no longer valid: attacks get better.
        supersedes: a certificate that this one replaces.
        now: the time of issue.
        about: `request` and `ledger_head`, from a ledger (see `certify_request`).

    Returns:
        The file.

    Raises:
        UserError: for a guard, which removes nothing; for an audit that says "not removed", or that is one of another model.
    """
    folder, file = Path(run).expanduser(), Path(out).expanduser()
    if file.exists():
        raise UserError(f"{file} exists, and no certificate is replaced: choose another name, and name the old one with --supersedes")
    if valid_days < 1:
        raise UserError("a certificate is valid for at least one day")
    receipt, outcome, evidence = _receipt(folder), *_outcome(Path(audit).expanduser())
    _check(receipt, outcome, folder)
    signers = [key_files.signer(key) for key in keys]
    if len({s.public_key.keyid for s in signers}) < len(signers) or not signers:
        raise UserError("name each key once with --key: one key twice is one signer" if signers else "name the key that signs with --key")
    issued = (now or datetime.now(UTC)).astimezone(UTC)
    predicate = {
        "issuer": {"keys": sorted(s.public_key.keyid for s in signers)},
        "issued_at": issued.isoformat(timespec="seconds"),
        "clock": "of the machine that issued it",
        "valid_until": (issued + timedelta(days=valid_days)).isoformat(timespec="seconds"),
        "ledger_head": about.get("ledger_head", ""),
        "supersedes": sha256(_existing(supersedes)) if supersedes else "",
        "request": about.get("request") or {"rows": receipt["request"]["sets"].get("forget", 0)},
        **_measured(receipt, outcome),
        "evidence": [{"file": RECEIPT_NAME, "sha256": sha256(folder / RECEIPT_NAME)}, evidence],
    }
    subject = [{"name": name, "digest": {"sha256": digest}} for name, digest in digests(model_folder(folder)).items()]
    statement = {"_type": STATEMENT, "subject": subject, "predicateType": PREDICATE, "predicate": finite(predicate)}
    envelope = Envelope(canonical(statement), PAYLOAD, {})
    for signer in signers:
        envelope.sign(signer)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(written(envelope))
    return file


RECEIPT_NAME = "receipt.json"


def certify_request(ledger: Ledger, request: int, keys: Sequence[str | Path], out: str | Path, **options: Any) -> Path:
    """Certify a request that is done, and note it in the ledger.

    Args:
        ledger: of the request.
        request: its number.
        keys, out, options: as for `certify`; and `by`.

    Raises:
        UserError: as `certify`; for a request that is not done, and for a model that was changed since its run.
    """
    row, by = ledger.request(request), str(options.pop("by", ""))
    if row["state"] == "guarded":
        raise UserError(f"request {request} is guarded: a guard hides rows and removes nothing, so it is never certified as a removal")
    if row["state"] not in ("done", "certified"):
        raise UserError(f"request {request} is {row['state']}: only what is done can be certified")
    own, (_, served) = ledger.run(row["run"]), ledger.serving()
    latest = ledger.run(served) if served else own
    if latest["id"] != own["id"] and str(request) not in latest["summary"].get("earlier", {}):
        raise UserError(f"run {latest['id']}, whose model is served, did not audit request {request} again, so nothing is known of it")
    folder = ledger.folder / latest["folder"]
    if digest_of_model(str(folder)) != latest["weights"]:
        raise UserError(f"the model of run {latest['id']} was changed since it was made: {folder}")
    names = ("id", "basis", "motive", "guarantee", "rows", "commitment", "received", "due")
    about = {"request": {name: row[name] for name in names}, "ledger_head": ledger.head}
    audits = folder / AUDITS / (SUMMARY if latest["id"] == own["id"] else summary_name(request))
    file = certify(folder, audits, keys, out, now=ledger.now(), **about, **options)
    body = {"run": latest["id"], "sha256": sha256(file), "head": about["ledger_head"]}
    ledger.append(request, "certified", body, by)
    return file


def written(envelope: Envelope) -> bytes:
    """The bytes of a certificate: canonical, so that any other byte is a change."""
    return canonical(envelope.to_dict()) + b"\n"


def _receipt(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / RECEIPT_NAME).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{folder} is no run: it holds no {RECEIPT_NAME}") from None
    except ValueError:
        raise UserError(f"{folder / RECEIPT_NAME} is damaged") from None


def _outcome(place: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The numbers of an audit, and the file that they come from with its digest."""
    file = place if place.is_file() else place / "audit.json"
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        outcome = outcome_of(record) if "verdict" in record else record
        assert isinstance(outcome["state"], str)
    except FileNotFoundError:
        raise UserError(f"{place} holds no audit: expunge audit makes one") from None
    except (ValueError, LookupError, TypeError, AssertionError):
        raise UserError(f"{file} is no audit that this version can read") from None
    return outcome, {"file": file.name, "sha256": sha256(file)}


def _check(receipt: Mapping[str, Any], outcome: Mapping[str, Any], folder: Path) -> None:
    """Raises: UserError for what cannot be certified."""
    if receipt["result"]["kind"] == "guard" or (folder / "guard").exists():
        raise UserError(f"{folder} is a guard, which hides rows and removes nothing: it is never certified as a removal")
    if outcome["state"] == "not removed":
        raise UserError('the audit says "not removed", so there is nothing to certify')
    if outcome["weights"] != receipt["result"]["weights"]:
        raise UserError(f"the audit is not one of the model in {folder}: its weights are others")


def _measured(receipt: Mapping[str, Any], outcome: Mapping[str, Any]) -> dict[str, Any]:
    kind = receipt["result"]["kind"]
    return {
        "before": {"weights": receipt["model"]["weights"]},
        "method": {
            "name": receipt["method"],
            "hyperparameters": [stage.get("hyperparameters", {}) for stage in receipt.get("stages", [])],
            "version": receipt.get("expunge", ""),
        },
        "scores": [{"score": name, **score} for name, score in outcome["scores"].items()],
        "controls": outcome["controls"],
        "attacks": outcome["attacks"],
        "verdict": {key: outcome[key] for key in ("state", "checks", "leaks", "damage", "thresholds")},
        "earlier_requests": outcome.get("earlier", {}),
        "not_checked": [*outcome["not_checked"], *(f"{name}: {why}" for name, why in sorted(outcome["skipped"].items()))],
        "scope": {
            "files": "the files that are listed as subjects, and no other copy",
            "weights": "adapter" if kind == "adapter" else "whole model",
            "base_model": "not covered: it lies elsewhere and may hold the rows" if kind == "adapter" else "contained in the files",
            "guard": "none: the claim rests on no guard",
            "other_copies": "not covered: backups, caches, quantized or distilled models, data",
        },
        "claim": claim(receipt, outcome),
    }


def claim(receipt: Mapping[str, Any], outcome: Mapping[str, Any]) -> str:
    """What the certificate says in words: against what was measured, and what came out. It never says that anything is erased."""
    deciding = [c for c in outcome["checks"] if c.get("decides")]
    against = sorted({str(c["against"]) for c in deciding if c.get("against")})
    yardsticks = {
        "retrained": "a model retrained without the rows",
        "original": "the model before unlearning",
        "random": "untrained weights",
    }
    beside = " and ".join(yardsticks[a] for a in against) or "no other model"
    worked = [a["attack"] for a in outcome["attacks"] if a["state"] == "not removed"]
    tried = (
        f"{len(outcome['attacks'])} attack{'' if len(outcome['attacks']) == 1 else 's'} tried"
        if outcome["attacks"]
        else "no attack was tried"
    )
    brought = f", of which {', '.join(worked)} brought something back" if worked else ""
    held = sum(c["state"] == "removed" for c in deciding)
    rows = outcome.get("rows") or receipt["request"]["sets"].get("forget", 0)
    alpha = float(outcome["thresholds"].get("alpha") or 0.05)
    return (
        f'{rows} row{"" if rows == 1 else "s"}, measured against {beside}: the verdict is "{outcome["state"]}". {held} of {len(deciding)} '
        f"deciding checks hold at a chance of error of {alpha:.0%}; {tried}{brought}. What was not checked is listed."
    )


def _existing(file: str | Path) -> Path:
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"there is no certificate {path} to supersede")
    return path
