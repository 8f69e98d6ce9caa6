"""A small OpenID provider on loopback: own keys, real HTTP; it can be told to lie in each of the usual ways."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

CLIENT, SECRET = "ratings:client", "a secret/of two"


@dataclass
class OpenIdProvider:
    """Its users come in without a password: what is tried is what comes after.

    Attributes:
        user: claims of who signs in.
        lies: claims that its tokens bear instead of the true ones; None leaves a claim out.
        key: it signs with; `published` is what it says of its keys.
        asked: paths it was asked for.
    """

    issuer: str = ""
    user: dict[str, Any] = field(default_factory=lambda: {"sub": "u-1", "name": "Ann"})
    lies: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))
    key_name: str = "k1"
    published: list[dict[str, Any]] = field(default_factory=list)
    algorithm: str = "RS256"
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def publish(self) -> None:
        """Let everybody know the present key, and no other."""
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
        self.published = [{**public, "kid": self.key_name, "use": "sig", "alg": "RS256"}]

    def authorize(self, url: str) -> str:
        """What a browser is sent back with that was sent to `url`."""
        asked = dict(parse_qsl(urlsplit(url).query))
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert asked["client_id"] == CLIENT
        assert set(asked["scope"].split()) >= {"openid", "email"}
        code = f"code-{len(self.codes)}"
        self.codes[code] = asked
        return f"{urlsplit(asked['redirect_uri']).path}?code={code}&state={asked['state']}"

    def token(self, form: dict[str, str], authorization: str) -> dict[str, Any] | None:
        """The token for a code, once, to the client that has the verifier and the secret (RFC 6749, 2.3.1)."""
        pair = base64.b64encode(b"ratings%3Aclient:a%20secret%2Fof%20two").decode()
        asked = self.codes.pop(form.get("code", ""), None)
        if asked is None or authorization != f"Basic {pair}":
            return None
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != asked["code_challenge"]:
            return None
        if form["redirect_uri"] != asked["redirect_uri"]:
            return None
        now = int(time.time())
        true = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": asked["nonce"], **self.user}
        claims = {name: value for name, value in {**true, **self.lies}.items() if value is not None}
        key: Any = self.key if self.algorithm == "RS256" else "" if self.algorithm == "none" else SECRET * 4
        return {"id_token": jwt.encode(claims, key, self.algorithm, {"kid": self.key_name}), "token_type": "Bearer"}

    def answer(self, path: str, form: dict[str, str], authorization: str) -> dict[str, Any] | None:
        self.asked.append(path)
        if path == "/.well-known/openid-configuration":
            ways = ("authorization_endpoint", "token_endpoint", "jwks_uri")
            return {"issuer": self.issuer, **{way: f"{self.issuer}/{way}" for way in ways}, **self.about}
        if path == "/jwks_uri":
            return {"keys": self.published}
        return self.token(form, authorization) if path == "/token_endpoint" else None


@contextlib.contextmanager
def openid_provider() -> Iterator[OpenIdProvider]:
    """One that runs."""
    provider = OpenIdProvider()
    provider.publish()

    class Handler(BaseHTTPRequestHandler):
        def _say(self, form: dict[str, str]) -> None:
            said = provider.answer(self.path, form, self.headers.get("authorization", ""))
            body = json.dumps(said or {"error": "invalid_grant"}).encode()
            self.send_response(400 if said is None else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self._say({})

        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers["content-length"])).decode()
            self._say({name: values[0] for name, values in parse_qs(sent).items()})

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        provider.issuer = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield provider
        finally:
            server.shutdown()
            thread.join()
