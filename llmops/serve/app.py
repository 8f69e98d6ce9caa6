"""The gateway as an ASGI application: what is asked of models goes a short way, all else through FastAPI."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Literal, Self

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.exceptions import HTTPException

from llmops.serve.core import Core
from llmops.serve.exchange import Exchange, secret_in
from llmops.serve.hooks import Caller, Feedback, Gatekeeper, Metrics, Policy, Recorder
from llmops.serve.intake import ENDPOINTS, Receive, Scope, Send, check_headers, read_body
from llmops.serve.refusal import Refusal, bad_request
from llmops.serve.settings import Gateway
from llmops.serve.targets import Targets

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
Text = Annotated[str, Field(min_length=1, max_length=100_000)]


class GivenFeedback(BaseModel):
    """What a client says of one answer: at least one of thumbs, score, comment and correction."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    request_id: Annotated[str, Field(min_length=1, max_length=128)]
    thumbs: Literal["up", "down"] | None = None
    score: Annotated[float, Field(strict=True)] | None = None
    comment: Text | None = None
    correction: Text | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if all(said is None for said in (self.thumbs, self.score, self.comment, self.correction)):
            raise ValueError("say thumbs, score, comment or correction")
        return self


class App:
    """What uvicorn serves.

    Attributes:
        core: the parts all requests share.
    """

    def __init__(self, core: Core) -> None:
        self.core = core
        self._cold = _cold_paths(core)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in ENDPOINTS:
            await Exchange(self.core, scope["path"], scope, receive, send).run()
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self._cold(scope, receive, send)

    def reload(self, settings: Gateway, *, gatekeeper: Gatekeeper | None = None, policy: Policy | None = None) -> None:
        """See `Core.reload`."""
        self.core.reload(settings, gatekeeper=gatekeeper, policy=policy)

    async def drain(self) -> int:
        """Answer what is under way and refuse what is new, for `limits.drain_s` at most; how many were cut short."""
        return await self.core.running.drain(self.core.settings.limits.drain_s)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.core.close()
        await send({"type": "lifespan.shutdown.complete"})


def build(
    settings: Gateway,
    targets: Targets,
    *,
    gatekeeper: Gatekeeper,
    policy: Policy,
    recorder: Recorder,
    metrics: Metrics,
) -> App:
    """The application. `targets` is written by whoever runs the engines, and only read here."""
    return App(Core(settings, targets, gatekeeper=gatekeeper, policy=policy, recorder=recorder, metrics=metrics))


def _cold_paths(core: Core) -> FastAPI:
    app = FastAPI(title="llmops gateway", docs_url=None, redoc_url=None)

    def caller_of(request: Request) -> Caller:
        return core.gatekeeper.who(secret_in(request.headers))

    def model(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": 0, "owned_by": "llmops"}

    @app.get("/v1/models")
    async def models(request: Request) -> JSONResponse:
        caller = caller_of(request)
        names = [name for name in core.settings.routes if core.gatekeeper.may(caller, name)]
        return JSONResponse({"object": "list", "data": [model(name) for name in names]})

    @app.get("/v1/models/{name:path}")
    async def one_model(request: Request, name: str) -> JSONResponse:
        caller = caller_of(request)
        if name not in core.settings.routes or not core.gatekeeper.may(caller, name):
            raise Refusal(404, f"there is no model {name!r}", code="model_not_found", param="model")
        return JSONResponse(model(name))

    @app.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "alive"})

    @app.get("/ready")
    async def ready() -> JSONResponse:
        now = core.now()
        able = {one.engine for one in now.replicas if one.state == "ready" and one.breaker != "open"}
        routes = {
            name: any(engine in able for _, engine in route.engines()) for name, route in core.settings.routes.items()
        }
        is_ready = not now.draining and any(routes.values())
        status = "draining" if now.draining else "ready" if is_ready else "no engine is ready"
        return JSONResponse({"status": status, "routes": routes}, 200 if is_ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(core.metrics.text(core.now()), media_type=_PROMETHEUS)

    @app.post("/v1/feedback", status_code=202)
    async def feedback(request: Request) -> JSONResponse:
        limits = core.settings.limits
        check_headers(request.headers, request.scope, limits)
        caller = caller_of(request)
        try:
            given = GivenFeedback.model_validate_json(await read_body(request.receive, limits))
        except ValidationError as error:
            raise invalid(error) from error
        said = Feedback(
            given.request_id,
            time.time(),
            caller=caller.id,
            thumbs=given.thumbs,
            score=given.score,
            comment=given.comment,
            correction=given.correction,
        )
        # The request may have to be looked up in a database, which no other request is to wait for.
        await asyncio.to_thread(core.recorder.feedback, said)
        return JSONResponse({"object": "feedback", "request_id": given.request_id}, 202)

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> Response:
        headers = {name.decode(): value.decode() for name, value in refusal.headers()}
        return Response(refusal.body(), refusal.status, headers, "application/json")

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path}: {error.detail}"
        return await refused(request, Refusal(error.status_code, message, code="endpoint_not_found"))

    return app


def invalid(error: ValidationError) -> Refusal:
    """The first fault of a body."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return bad_request(f"{place}: {first['msg']}" if place else str(first["msg"]), param=place or None)
