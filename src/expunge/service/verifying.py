"""Verifying a certificate offline: signatures by pinned keys, every file of the model, the time; and the rows, with their secret."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error, UnverifiedSignatureError, VerificationError

from expunge.core.errors import UserError
from expunge.functional.brief import brief
from expunge.io.models import Source
from expunge.io.requested import ColumnMap, Conditions, requested_records
from expunge.service import keys as key_files
from expunge.service.certificates import PAYLOAD, PREDICATE, STATEMENT, written
from expunge.service.files import digests, model_folder
from expunge.service.vault import commitment

LARGEST = 16 << 20  # bytes of a certificate that is read


@brief("signers", "faults")
@dataclass(frozen=True)
class Verified:
    """What a certificate says, and what is wrong with it or with the model.

    Args:
        predicate: of the statement; empty where no pinned key signed it: what it says is then nobody's word.
        signers: ids of the pinned keys that signed it.
        faults: a sentence each; none where all holds.
    """

    predicate: Mapping[str, Any]
    signers: Sequence[str]
    faults: Sequence[str]

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong. It says who claims what, and that the files are those; not that the claim is true."""
        return not self.faults


def verify(
    model: str | Path,
    certificate: str | Path,
    keys: Sequence[str | Path],
    *,
    threshold: int = 0,
    rows: Source | None = None,
    where: Conditions = (),
    map: ColumnMap = (),
    secret: str | Path | None = None,
    now: datetime | None = None,
) -> Verified:
    """Verify a certificate and the model that it is about.

    Args:
        model: its folder, or a run folder.
        certificate: the file.
        keys: public keys that the verifier trusts; none from the certificate counts.
        threshold: how many of them must have signed; 0: all.
        rows: rows that may be those of the request, with `where` and `map` as when they were added; needs `secret`.
        secret: a file with the secret of the request, which whoever keeps the ledger hands out.
        now: the time to judge validity at.

    Raises:
        UserError: where files cannot be read, or the arguments do not fit together.
    """
    pinned = {key.keyid: key for key in map_keys(keys)}
    if not pinned:
        raise UserError("name the public key that you trust with --key: a certificate cannot vouch for itself")
    needed = threshold or len(pinned)
    if not 1 <= needed <= len(pinned):
        raise UserError(f"{needed} signers are asked for and {len(pinned)} different keys are given; one key twice is one signer")
    envelope, faults = _envelope(Path(certificate).expanduser())
    if envelope is None:
        return Verified({}, (), faults)
    signers = _signers(envelope, list(pinned.values()))
    if len(signers) < needed:
        return Verified({}, signers, [*faults, f"{len(signers)} of the {needed} signatures that are asked for hold under the given keys"])
    statement = _statement(envelope.payload)
    if statement is None:
        return Verified({}, signers, [*faults, "it is signed, and it is no statement of this kind"])
    predicate = statement["predicate"]
    faults += _files(Path(model).expanduser(), statement["subject"])
    faults += _time(predicate, now or datetime.now(UTC))
    if (rows is None) is not (secret is None):
        raise UserError("--rows and --secret go together: the secret of the request makes rows comparable with the certificate")
    if rows is not None and secret is not None:
        faults += _rows(predicate, rows, where, map, Path(secret).expanduser())
    return Verified(predicate, signers, faults)


def map_keys(keys: Sequence[str | Path]) -> list[Any]:
    """The public keys of files."""
    return [key_files.public_key(key) for key in keys]


def unpack(certificate: str | Path, folder: str | Path) -> list[Path]:
    """Write what other tools need to check a certificate: `statement.json`, `signed.bin` (what was signed) and `KEYID.sig`.

    Raises:
        UserError: for a file that is no certificate.
    """
    envelope, faults = _envelope(Path(certificate).expanduser())
    if envelope is None:
        raise UserError(faults[0])
    target = Path(folder).expanduser()
    target.mkdir(parents=True, exist_ok=True)
    contents = {"statement.json": envelope.payload, "signed.bin": envelope.pae()}
    contents |= {f"{s.keyid}.sig": bytes.fromhex(s.signature) for s in envelope.signatures.values()}
    for name, content in contents.items():
        (target / name).write_bytes(content)
    return [target / name for name in contents]


def _envelope(file: Path) -> tuple[Envelope | None, list[str]]:
    """The envelope in a file, None where there is none in it; and what is wrong with its form."""
    if not file.is_file():
        raise UserError(f"there is no certificate {file}")
    if file.stat().st_size > LARGEST:
        return None, [f"{file} is larger than any certificate"]
    content = file.read_bytes()
    try:
        data = json.loads(content)
        ids = [s["keyid"] for s in data["signatures"]]
        if not all(isinstance(i, str) and i.isalnum() for i in ids):
            return None, [f"{file} names a key by something that is no id"]
        envelope = Envelope.from_dict(json.loads(content))
        exact = written(envelope) == content
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, Error):
        return None, [f"{file} is no certificate, or was damaged"]
    if not exact or envelope.payload_type != PAYLOAD:
        return None, [f"{file} was changed: it is not written as certificates are"]
    return envelope, []


def _signers(envelope: Envelope, pinned: Sequence[Any]) -> list[str]:
    valid = []
    for key in pinned:
        signature = envelope.signatures.get(key.keyid)
        if signature is None:
            continue
        try:
            key.verify_signature(signature, envelope.pae())
        except (UnverifiedSignatureError, VerificationError):
            continue
        valid.append(key.keyid)
    return valid


def _statement(payload: bytes) -> dict[str, Any] | None:
    try:
        statement: dict[str, Any] = json.loads(payload)
        right = statement["_type"] == STATEMENT and statement["predicateType"] == PREDICATE
        subjects = {entry["name"]: entry["digest"]["sha256"] for entry in statement["subject"]}
        return statement if right and subjects and isinstance(statement["predicate"], dict) else None
    except (ValueError, LookupError, TypeError):
        return None


def _files(model: Path, subject: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every file of the model beside those of the certificate."""
    certified = {str(entry["name"]): str(entry["digest"]["sha256"]) for entry in subject}
    try:
        present = digests(model_folder(model))
    except UserError as error:
        return [str(error)]
    missing, extra = sorted(certified.keys() - present.keys()), sorted(present.keys() - certified.keys())
    changed = sorted(name for name in certified.keys() & present.keys() if certified[name] != present[name])
    return [
        *(f"{name} is missing from the model" for name in missing),
        *(f"{name} is in the model and not in the certificate" for name in extra),
        *(f"{name} was changed since the certificate was issued" for name in changed),
    ]


def _time(predicate: Mapping[str, Any], now: datetime) -> list[str]:
    try:
        issued, until = (datetime.fromisoformat(str(predicate[name])) for name in ("issued_at", "valid_until"))
        if issued > now:
            return [f"it was issued on {issued.date()}, which has not come yet: one of the two clocks is wrong"]
        return [f"it was valid until {until.date()}"] if until < now else []
    except (LookupError, ValueError, TypeError):
        return ["it does not say from when to when it is valid"]


def _rows(predicate: Mapping[str, Any], rows: Source, where: Conditions, map: ColumnMap, secret: Path) -> list[str]:
    known = requested_records(rows, "rows", where, map)
    try:
        key = bytes.fromhex(secret.read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        raise UserError(f"{secret} holds no secret of a request: expunge request secret writes one") from None
    committed = predicate.get("request", {}).get("commitment")
    if not committed:
        return ["it names no request of a ledger, so it says nothing of which rows it is about"]
    return [] if commitment(key, list(known)) == committed else ["the rows are not those of the request, or the secret is another one"]
