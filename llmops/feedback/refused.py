"""What the rating service answers where it does not do what was asked: a status, and the two parts of every error."""

from __future__ import annotations

from llmops.errors import LlmopsError


class Refused(LlmopsError):
    """A request that is not done; nothing of the request is in the words.

    `kind` tells scripts what to do about it: `login`, `csrf` (ask for a new token), `forbidden`, `unknown`, `later`.
    """

    def __init__(
        self, status: int, problem: str, *, fix: str, kind: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(problem, fix=fix)
        self.status = status
        self.kind = kind or {401: "login", 403: "forbidden", 404: "unknown", 429: "later"}.get(status, "invalid")
        self.retry_after = retry_after


def signed_out() -> Refused:
    return Refused(401, "you are not signed in", fix="sign in; what was not sent yet waits in this browser")


def not_yours() -> Refused:
    """For what is not there and what is another's alike, so that nobody learns which."""
    return Refused(404, "there is nothing here for you", fix="go to the first page, or ask who invited you")


def forbidden() -> Refused:
    return Refused(403, "your role may not do this", fix="ask an admin of this service")
