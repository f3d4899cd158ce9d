"""Keys that sign certificates: PEM files, so that other tools can read them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import CryptoSigner, SSlibKey

from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.service.vault import write_private

PASSPHRASE = "EXPUNGE_KEY_PASSPHRASE"  # variable of the environment
RSA_BITS = 3072


def _post_quantum() -> Any:
    """A new ML-DSA key. Raises: UserError where the installed cryptography has no ML-DSA."""
    try:
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

        return MLDSA65PrivateKey.generate()
    except (ImportError, UnsupportedAlgorithm):
        raise UserError("ML-DSA needs cryptography 48 or newer, built with an OpenSSL that has it: install that, or take ed25519") from None


KINDS: Mapping[str, Callable[[], Any]] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
    "rsa": lambda: rsa.generate_private_key(65537, RSA_BITS),
    "ml-dsa": _post_quantum,
}


def new(path: str | Path, kind: str = "ed25519") -> tuple[Path, Path]:
    """Make a pair of keys: PATH, which only its owner reads, and PATH.pub, for everybody who verifies.

    Args:
        path: of the private key, which is encrypted where $EXPUNGE_KEY_PASSPHRASE is set.
        kind: ed25519, ecdsa (P-256), rsa (3,072 bits) or ml-dsa (65), which stands against quantum computers.

    Raises:
        UserError: for an unknown kind, and where a file of that name exists: no key is ever replaced.
    """
    private, public = Path(path).expanduser(), Path(f"{Path(path).expanduser()}.pub")
    if kind not in KINDS:
        raise UserError(f"there is no kind of key called {kind!r}{did_you_mean(kind, KINDS)}; there are {', '.join(KINDS)}")
    if existing := next((p for p in (private, public) if p.exists()), None):
        raise UserError(f"{existing} exists, and no key is replaced: choose another name")
    if not private.parent.is_dir():
        raise UserError(f"there is no folder {private.parent} for the key")
    key = KINDS[kind]()
    word = os.environ.get(PASSPHRASE, "").encode()
    how = serialization.BestAvailableEncryption(word) if word else serialization.NoEncryption()
    write_private(private, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how))
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def signer(path: str | Path) -> CryptoSigner:
    """What signs with a private key. Raises: UserError for a file that is none, or whose passphrase is missing or wrong."""
    file, word = Path(path).expanduser(), os.environ.get(PASSPHRASE, "").encode()
    try:
        content = file.read_bytes()
        key: Any = serialization.load_pem_private_key(content, word if b"ENCRYPTED" in content else None)
        return CryptoSigner(key)
    except FileNotFoundError:
        raise UserError(f"there is no key {file}: expunge keys new {file} makes one") from None
    except (TypeError, ValueError, UnsupportedAlgorithm, UnsupportedLibraryError) as error:
        if b"ENCRYPTED" in content:
            raise UserError(f"{file} is encrypted: set ${PASSPHRASE} to its passphrase") from None
        raise UserError(f"{file} is no private key in PEM that can sign: {_short(error)}") from None


def public_key(path: str | Path) -> SSlibKey:
    """The public key in a PEM file. Raises: UserError for a file that is none; a private key is refused, since it belongs elsewhere."""
    file = Path(path).expanduser()
    try:
        content = file.read_bytes()
        if b"PRIVATE KEY" in content:
            raise UserError(f"{file} is a private key: verifying takes the public one, {file}.pub, and the private one stays where it is")
        return SSlibKey.from_crypto(serialization.load_pem_public_key(content))  # type: ignore[arg-type]
    except FileNotFoundError:
        raise UserError(f"there is no public key {file}") from None
    except (TypeError, ValueError, UnsupportedAlgorithm, UnsupportedLibraryError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} is no public key in PEM: {_short(error)}") from None


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
