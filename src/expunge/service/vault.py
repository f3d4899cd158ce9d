"""The rows of requests: encrypted files beside the ledger, each with a key of its own that can be deleted."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from expunge.core.errors import UserError

KEY, NONCE = 32, 12  # bytes
ABOUT_LEAF, ABOUT_NODE = b"\x00", b"\x01"  # leaves and nodes of a Merkle tree are hashed apart (RFC 6962)


class Vault:
    """Encrypted contents by request. A key file holds the key of the cipher and the secret of the HMACs, 32 bytes each."""

    def __init__(self, folder: Path) -> None:
        self.rows, self.keys = folder / "rows", folder / "keys"

    def put(self, request: int, content: Mapping[str, Any]) -> bytes:
        """Encrypt the content of a request under a new key, on disk before this returns.

        Returns:
            The secret of its HMACs.

        Raises:
            UserError: for values that JSON cannot hold, such as arrays.
        """
        try:
            plain = json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError):
            raise UserError("a request holds rows of texts, numbers and names of files; arrays and pictures are given as files") from None
        key, secret, nonce = secrets.token_bytes(KEY), secrets.token_bytes(KEY), secrets.token_bytes(NONCE)
        for folder in (self.rows, self.keys):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(self.keys / str(request), key + secret)
        write_private(self.rows / str(request), nonce + AESGCM(key).encrypt(nonce, plain, b"%d" % request))
        return secret

    def has_key(self, request: int) -> bool:
        """Whether the rows of a request can be read."""
        return (self.keys / str(request)).exists()

    def secret(self, request: int) -> bytes:
        """The secret of a request's HMACs. Raises: UserError where it was deleted."""
        return self._key(request)[KEY:]

    def get(self, request: int) -> dict[str, Any]:
        """The content of a request. Raises: UserError where its key is gone, or the file was changed."""
        key, file = self._key(request)[:KEY], self.rows / str(request)
        try:
            sealed = file.read_bytes()
            plain = AESGCM(key).decrypt(sealed[:NONCE], sealed[NONCE:], b"%d" % request)
        except FileNotFoundError:
            raise UserError(f"the rows of request {request} are missing: {file} is gone") from None
        except (InvalidTag, ValueError):
            raise UserError(f"the rows of request {request} were changed or damaged: {file} does not decrypt") from None
        content: dict[str, Any] = json.loads(plain)
        return content

    def delete(self, request: int) -> None:
        """Delete key and rows. The key is overwritten first; what a file system or a backup keeps of it is beyond this."""
        file = self.keys / str(request)
        if file.exists():
            with file.open("r+b") as opened:
                opened.write(secrets.token_bytes(2 * KEY))
                opened.flush()
                os.fsync(opened.fileno())
            file.unlink()
        (self.rows / str(request)).unlink(missing_ok=True)
        for folder in (self.keys, self.rows):
            if folder.exists():
                _sync(folder)

    def _key(self, request: int) -> bytes:
        try:
            return (self.keys / str(request)).read_bytes()
        except FileNotFoundError:
            raise UserError(f"the key of request {request} was deleted, so its rows cannot be read") from None


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner reads; it is on disk, whole or not at all, when this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    temporary.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Put the names of a folder on disk; a system without handles of folders does so by itself."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def canonical(value: Any) -> bytes:
    """Canonical JSON (RFC 8785): equal bytes for equal values. Whole numbers beyond 2^53, which it does not know, become texts."""
    return bytes(rfc8785.dumps(_small(value)))


def _small(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _small(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_small(v) for v in value]
    return str(value) if isinstance(value, int) and abs(value) >= 2**53 else value


def keyed(secret: bytes, value: Any) -> str:
    """An HMAC (SHA-256, 64 hex digits) of a value: nobody without the secret can try rows against it."""
    return hmac.new(secret, canonical(value), hashlib.sha256).hexdigest()


def commitment(secret: bytes, rows: Sequence[Mapping[str, Any]]) -> str:
    """The Merkle root (64 hex digits) over the HMACs of rows, in their order."""
    level = [hashlib.sha256(ABOUT_LEAF + bytes.fromhex(keyed(secret, row))).digest() for row in rows]
    if not level:
        raise UserError("there are no rows to commit to")
    while len(level) > 1:
        pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
        level = [hashlib.sha256(ABOUT_NODE + b"".join(pair)).digest() if len(pair) == 2 else pair[0] for pair in pairs]
    return level[0].hex()
