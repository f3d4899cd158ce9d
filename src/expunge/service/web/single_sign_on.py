"""Signing in by another server (OpenID Connect), by the code flow with PKCE.

That server says who somebody is, and an account here says which role.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.oidc.core import CodeIDToken
from httpx2 import AsyncClient, HTTPError
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from expunge.core.errors import UserError
from expunge.functional.brief import brief
from expunge.service.serving import is_loopback

RETURN = "/sign-in/return"  # where the other server sends people back to
SIGNATURES = ["RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519"]  # with a public key; never none, and no shared secret
LONGEST, MOST = 600.0, 1000  # seconds that signing in may take, and people who are at it at once
SECONDS = 10.0  # that the other server has for an answer
LEEWAY = 60  # seconds by which its clock may differ


class NotSignedIn(Exception):
    """Why somebody is not signed in, as a sentence for them."""


@brief("issuer", "claim")
@dataclass(frozen=True)
class Provider:
    """The other server, as it knows us.

    Args:
        issuer: its address, such as https://login.example.org.
        client_id: our name there.
        secret: our password there; '': none, where it asks for none.
        address: our own, as browsers know it.
        claim: what names a person: `email` (which it must have verified), `preferred_username` or `sub`.

    Raises:
        UserError: for addresses without TLS that are not of this machine.
    """

    issuer: str
    client_id: str
    secret: str = field(repr=False)
    address: str
    claim: str = "email"

    def __post_init__(self) -> None:
        for what, address in (("the server that signs people in", self.issuer), ("the address of these pages", self.address)):
            parts = urlsplit(address)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise UserError(f"{what} is given as https://NAME, and {address!r} is no such address")
            if parts.scheme == "http" and not is_loopback(parts.hostname):
                raise UserError(f"{what} must be reached over TLS: {address} is not")
        if not self.client_id:
            raise UserError("the server that signs people in knows these pages by a client id: give it with --client-id")


@brief()
@dataclass(frozen=True)
class Started:
    """Somebody who went to the other server. `browser`: what only their browser knows."""

    browser: str
    nonce: str
    verifier: str
    at: float


class SingleSignOn:
    """Sends people to the other server, and reads what it says of those who come back.

    Args:
        provider: the other server.
        clock: seconds.
    """

    def __init__(self, provider: Provider, clock: Callable[[], float] = time.monotonic) -> None:
        self.provider, self.clock = provider, clock
        self.started: dict[str, Started] = {}  # by state
        self.about: dict[str, Any] = {}

    async def leave(self) -> tuple[str, str]:
        """Begin. Returns the address to go to, and what the browser keeps in a cookie. Raises: NotSignedIn."""
        about = await self._about()
        begun = Started(*(secrets.token_urlsafe(48) for _ in range(3)), at=self.clock())
        async with self._client() as client:
            address, state = client.create_authorization_url(
                _part(about, "authorization_endpoint"), code_verifier=begun.verifier, nonce=begun.nonce
            )
        self._forget_old()
        self.started[state] = begun
        return address, begun.browser

    async def come_back(self, state: str, code: str, browser: str) -> str:
        """Who somebody is who comes back.

        Args:
            state, code: what the other server sent along.
            browser: the cookie.

        Returns:
            The name, as the claim has it.

        Raises:
            NotSignedIn: for all that is not right.
        """
        self._forget_old()
        begun = self.started.pop(state, None)
        if begun is None or not secrets.compare_digest(begun.browser.encode(), browser.encode()):
            raise NotSignedIn("signing in took too long, or began in another browser: begin again")
        about = await self._about()
        try:
            async with self._client() as client:
                token = await client.fetch_token(_part(about, "token_endpoint"), code=code, code_verifier=begun.verifier)
            claims = await self._claims(token, begun.nonce, about)
        except (OAuthError, JoseError, HTTPError, ValueError, TypeError, LookupError) as error:
            raise NotSignedIn("the other server did not say who you are") from error
        name = claims.get(self.provider.claim)
        if self.provider.claim == "email" and claims.get("email_verified") is not True:
            raise NotSignedIn("the other server did not verify this address")
        if not isinstance(name, str) or not name:
            raise NotSignedIn(f"the other server does not say your {self.provider.claim}")
        return name

    async def _claims(self, token: Mapping[str, Any], nonce: str, about: Mapping[str, Any]) -> Mapping[str, Any]:
        async with AsyncClient(timeout=SECONDS) as client:
            answer = await client.get(_part(about, "jwks_uri"))
            answer.raise_for_status()
        keys = KeySet.import_key_set(answer.json())
        decoded = jwt.decode(token["id_token"], key=keys, registry=JWSRegistry(algorithms=SIGNATURES, strict_check_header=False))
        options = {"iss": {"values": [self.provider.issuer]}, "aud": {"values": [self.provider.client_id]}, "nonce": {"essential": True}}
        claims = CodeIDToken(
            decoded.claims,
            decoded.header,
            options,
            {"nonce": nonce, "client_id": self.provider.client_id, "access_token": token.get("access_token")},
        )
        claims.validate(leeway=LEEWAY)
        return claims

    async def _about(self) -> Mapping[str, Any]:
        """What the other server says of itself, read once."""
        if not self.about:
            try:
                async with AsyncClient(timeout=SECONDS) as client:
                    answer = await client.get(f"{self.provider.issuer.rstrip('/')}/.well-known/openid-configuration")
                    answer.raise_for_status()
                about = answer.json()
                if about["issuer"] != self.provider.issuer:
                    raise ValueError("it says that it is another")
            except (HTTPError, ValueError, TypeError, LookupError) as error:
                raise NotSignedIn("the server that signs people in does not answer") from error
            self.about = about
        return self.about

    def _client(self) -> AsyncOAuth2Client:
        return AsyncOAuth2Client(
            self.provider.client_id,
            self.provider.secret or None,
            token_endpoint_auth_method="client_secret_basic" if self.provider.secret else "none",
            scope="openid email profile",
            redirect_uri=self.provider.address.rstrip("/") + RETURN,
            code_challenge_method="S256",
            timeout=SECONDS,
        )

    def _forget_old(self) -> None:
        """Forget who left too long ago, and the first of too many."""
        old = [state for state, begun in self.started.items() if self.clock() - begun.at > LONGEST]
        for state in [*old, *list(self.started)[: max(0, len(self.started) - len(old) - MOST + 1)]]:
            self.started.pop(state, None)


def _part(about: Mapping[str, Any], name: str) -> str:
    """An address of the other server. Raises: NotSignedIn where it has none, or one without TLS while the server itself has it."""
    address = about.get(name)
    if not isinstance(address, str) or (about["issuer"].startswith("https:") and not address.startswith("https:")):
        raise NotSignedIn("the server that signs people in has no such service")
    return address
