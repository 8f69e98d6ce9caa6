"""What the gateway answers where it cannot answer: a status and an error body as OpenAI's clients read it."""

from __future__ import annotations

import math
from typing import Any

import orjson

KIND = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    500: "server_error",
    502: "engine_error",
    503: "unavailable_error",
    504: "timeout_error",
}


class Refusal(Exception):
    """Ends a request with an error body.

    Attributes:
        code: a word for programs, such as `model_not_found`.
        param: the field of the body that is at fault, if one is.
        kind: `type` of the body; None takes the usual one of the status.
        retry_after: seconds after which the same request may succeed; sent in `Retry-After`, whole and rounded up.
        close: the connection is of no more use: its request is not read to the end, or the gateway stops.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str | None = None,
        retry_after: float | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.kind = kind or KIND.get(status, "api_error")
        self.retry_after = retry_after
        self.close = close

    def error(self) -> dict[str, Any]:
        return {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}

    def body(self) -> bytes:
        return orjson.dumps({"error": self.error()})

    def headers(self) -> list[tuple[bytes, bytes]]:
        if self.retry_after is None:
            return []
        return [(b"retry-after", str(max(1, math.ceil(self.retry_after))).encode())]


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> Refusal:
    return Refusal(400, message, param=param, code=code)
