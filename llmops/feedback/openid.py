"""Signing in through an OpenID provider: authorization code with PKCE, state and nonce; its tokens are verified here.

OpenID Connect Core 1.0, sections 3.1.2 and 3.1.3.7; Discovery 1.0; RFC 7636 (PKCE); RFC 9207 (`iss` in the answer).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from llmops.errors import EnvironmentFault, InputError, LlmopsError
from llmops.feedback.refused import Refused
from llmops.feedback.settings import OpenId
from llmops.listening import is_loopback
from llmops.public_web import Answer, fetch

Fetch = Callable[..., Awaitable[Answer]]

_KNOWN_S = 3600.0
"""Seconds the provider's addresses and keys are held."""
_AGAIN_S = 60.0
"""Seconds between two looks at its keys for one that is not among them: forged tokens shall not make us ask."""
_LEEWAY_S = 60.0
_LONGEST = 1_000_000
_SECONDS = 10.0
_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})
"""Signed by a key that the provider alone has; never `none`, never HS*, whose key a client knows."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom the provider vouches for.

    Attributes:
        subject: issuer and subject, which never name anybody else.
        email: verified by the provider, in lower case; None where it verified none.
    """

    subject: str
    email: str | None
    name: str


class Provider:
    """One OpenID provider."""

    def __init__(self, settings: OpenId, *, fetch: Fetch = fetch, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._fetch = fetch
        self._clock = clock
        self._about: tuple[float, dict[str, Any]] | None = None
        self._keys: tuple[float, dict[str, Any]] | None = None

    async def begin(self, back: str) -> tuple[str, dict[str, str]]:
        """Where to send the browser, and what to keep in it until it comes back.

        Args:
            back: the address of this service that it comes back to.

        Raises:
            Refused: 503, the provider cannot be asked.
        """
        about = await self._provider()
        trip = {
            "state": secrets.token_urlsafe(32),
            "nonce": secrets.token_urlsafe(32),
            "verifier": secrets.token_urlsafe(64),
        }
        challenge = base64.urlsafe_b64encode(hashlib.sha256(trip["verifier"].encode()).digest()).rstrip(b"=").decode()
        asked = urlencode(
            {
                "response_type": "code",
                "client_id": self._settings.client_id,
                "redirect_uri": back,
                "scope": "openid profile email",
                "state": trip["state"],
                "nonce": trip["nonce"],
                "code_challenge": challenge,
                "code_challenge_method": "S256",
            }
        )
        to = about["authorization_endpoint"]
        return f"{to}{'&' if urlsplit(to).query else '?'}{asked}", trip

    async def finish(self, answer: Mapping[str, str], trip: Mapping[str, Any], *, back: str) -> Identity:
        """Who came back.

        Args:
            answer: the query that the provider sent the browser back with.
            trip: what was kept of the beginning.

        Raises:
            Refused: 400 where the answer is not to this beginning; 401 where the provider vouches for nobody, or its
                token is not what it must be; 503 where it cannot be asked.
        """
        if not hmac.compare_digest(answer.get("state", "").encode(), str(trip["state"]).encode()):
            raise _broken("the provider's answer is to another question")
        if answer.get("iss", self._settings.issuer) != self._settings.issuer:
            raise _broken("the answer comes from another provider")
        if "error" in answer or not answer.get("code"):
            raise Refused(401, "the provider did not sign you in", fix="try it again", kind="openid")
        about = await self._provider()
        token = await self._token(about, answer["code"], str(trip["verifier"]), back)
        return await self._verified(about, token, nonce=str(trip["nonce"]))

    async def _token(self, about: Mapping[str, Any], code: str, verifier: str, back: str) -> str:
        client, secret = self._settings.client_id, self._settings.client_secret
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": back,
            "code_verifier": verifier,
        }
        headers = {"accept": "application/json"}
        if "client_secret_basic" in about.get("token_endpoint_auth_methods_supported", ["client_secret_basic"]):
            pair = f"{quote(client, safe='')}:{quote(secret, safe='')}"
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": client, "client_secret": secret}
        answer = await self._ask(about["token_endpoint"], method="POST", headers=headers, form=form)
        found = _object(answer.body).get("id_token") if answer.status == 200 else None
        if not isinstance(found, str):
            raise Refused(401, "the provider did not sign you in", fix="try it again", kind="openid")
        return found

    async def _verified(self, about: Mapping[str, Any], token: str, *, nonce: str) -> Identity:
        """The identity in an ID token whose every part is what it must be (Core, 3.1.3.7)."""
        import jwt

        wrong = Refused(401, "the provider's token is not valid", fix="try it again, or ask an admin", kind="openid")
        try:
            head = jwt.get_unverified_header(token)
            offered = about.get("id_token_signing_alg_values_supported", ["RS256"])
            algorithms = sorted(_ALGORITHMS.intersection(map(str, offered)))
            if head.get("alg") not in algorithms:
                raise wrong
            key = await self._key(about, head.get("kid"), str(head["alg"]))
            claims = jwt.decode(
                token,
                key=key,
                algorithms=[str(head["alg"])],
                audience=self._settings.client_id,
                issuer=self._settings.issuer,
                leeway=_LEEWAY_S,
                options={"require": ["iss", "sub", "aud", "exp", "iat"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError) as error:  # the latter of a key that is none
            raise wrong from error
        audience = claims["aud"]
        others = isinstance(audience, list) and len(audience) > 1
        party = claims.get("azp")
        if (others or party is not None) and party != self._settings.client_id:
            raise wrong
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
            raise wrong
        subject = claims["sub"]
        if not isinstance(subject, str) or not 0 < len(subject) <= 255:
            raise wrong
        email = claims.get("email")
        verified = claims.get("email_verified") is True and isinstance(email, str)
        name = claims.get("name") or claims.get("preferred_username") or ""
        return Identity(
            subject=f"{self._settings.issuer} {subject}",
            email=str(email).lower() if verified else None,
            name=str(name),
        )

    async def _key(self, about: Mapping[str, Any], name: object, algorithm: str) -> Any:
        """The provider's key of that name; it may have a new one, so its keys are looked at again, but not often."""
        import jwt

        now = self._clock()
        for fresh in (False, True):
            if self._keys is None or now - self._keys[0] > (_AGAIN_S if fresh else _KNOWN_S):
                self._keys = (now, _object((await self._ask(about["jwks_uri"])).body))
            found = [
                one
                for one in self._keys[1].get("keys", [])
                if isinstance(one, dict)
                and (name is None or one.get("kid") == name)
                and one.get("use", "sig") == "sig"
                and one.get("alg", algorithm) == algorithm
            ]
            # Without a name, one key alone can be meant.
            if len(found) == 1 or (found and name is not None):
                return jwt.PyJWK(found[0], algorithm)
        raise Refused(401, "the provider's token is not valid", fix="try it again, or ask an admin", kind="openid")

    async def _provider(self) -> dict[str, Any]:
        """What the provider says of itself.

        Raises:
            Refused: 503, it cannot be asked, or says it is somebody else.
        """
        now = self._clock()
        if self._about is not None and now - self._about[0] <= _KNOWN_S:
            return self._about[1]
        issuer = self._settings.issuer
        answer = await self._ask(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        about = _object(answer.body)
        needed = ("authorization_endpoint", "token_endpoint", "jwks_uri")
        if (
            answer.status != 200
            or about.get("issuer") != issuer
            or not all(map(self._an_address, map(about.get, needed)))
        ):
            raise _away()
        self._about = (now, about)
        return about

    def _an_address(self, url: object) -> bool:
        """https, or of this machine where the issuer is, too."""
        parts = urlsplit(url) if isinstance(url, str) else urlsplit("")
        here = is_loopback(urlsplit(self._settings.issuer).hostname or "")
        return parts.scheme == "https" or (parts.scheme == "http" and here and is_loopback(parts.hostname or ""))

    async def _ask(self, url: str, **asked: Any) -> Answer:
        here = is_loopback(urlsplit(self._settings.issuer).hostname or "")
        private = here or self._settings.private_network
        try:
            return await self._fetch(url, longest_bytes=_LONGEST, seconds=_SECONDS, private=private, **asked)
        except (InputError, EnvironmentFault) as error:
            raise _away() from error


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


def _away() -> LlmopsError:
    return Refused(503, "the OpenID provider cannot be asked", fix="try it again in a while", retry_after=30)


def _broken(problem: str) -> Refused:
    return Refused(400, problem, fix="begin again with `Sign in`", kind="openid")
