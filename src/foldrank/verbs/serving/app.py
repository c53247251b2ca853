"""The HTTP application: OpenAI's paths, health, metrics; who may ask, and how much at once."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from foldrank.verbs.serving import asked, body, metrics, said
from foldrank.verbs.serving.answering import Answer, Gone, Model
from foldrank.verbs.serving.asked import Chat, Completion, Refused
from foldrank.verbs.serving.encoding import Encoder
from foldrank.verbs.serving.writers import Closed, Full, Writers

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
_LEFT = 499
"""As nginx counts a client that left."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """`texts` are written at once and `waiting` more may wait; of each `new_tokens` at most; bytes of a body."""

    texts: int = 1
    waiting: int = 16
    new_tokens: int = 1024
    body_bytes: int = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model under a name, who writes for it, and the rules. `key`: what clients must know; `hosts`: names under
    which they may call this machine (empty: any)."""

    name: str
    model: Model
    encoder: Encoder
    vocabulary: int
    writers: Writers
    limits: Limits
    key: str | None = None
    hosts: tuple[str, ...] = ()
    created: int = field(default_factory=lambda: int(time.time()))

    counts: metrics.Metrics = field(init=False)

    def __post_init__(self) -> None:
        counts = metrics.Metrics(lambda: self.writers.running, lambda: self.writers.waiting)
        object.__setattr__(self, "counts", counts)


def application(served: Served) -> FastAPI:
    """The application. Its writers are the caller's to close."""
    app = FastAPI(title="foldrank", docs_url=None, redoc_url=None, openapi_url=None)
    if served.hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(served.hosts), www_redirect=False)
    app.add_exception_handler(HTTPException, _http_error)

    @app.get("/health")
    async def health() -> JSONResponse:
        ready = served.writers.open
        return JSONResponse({"status": "ok" if ready else "ending"}, 200 if ready else 503)

    @app.get("/metrics")
    async def counted() -> Response:
        return PlainTextResponse(served.counts.text(), media_type=metrics.TYPE)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        return await _answered(served, request, "models", lambda: _models(served))

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> Response:
        return await _answered(served, request, "models", lambda: _models(served, name))

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await _answered(served, request, "chat", lambda: _written(served, request, asked.chat))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _answered(served, request, "text", lambda: _written(served, request, asked.completion))

    return app


async def _answered(
    served: Served, request: Request, endpoint: str, answer: Callable[[], Awaitable[Response]]
) -> Response:
    """The answer, or what is wrong in OpenAI's words; counted, but for streams, which count themselves."""
    try:
        _check_key(served, request)
        response = await answer()
    except Refused as refused:
        response = _error(refused.message, refused.status, refused.param, refused.code)
    except Full:
        response = _error(f"all {served.writers.most} places are taken; try again", 429, code="queue_full")
        response.headers["Retry-After"] = "1"
    except Closed:
        response = _error("the server is about to end", 503, code="shutting_down")
    except (Gone, ClientDisconnect):
        response = Response(status_code=_LEFT)
    except Exception as error:  # noqa: BLE001 - the one place: a text that failed is this request's, not the server's
        response = _error(f"the model failed: {' '.join(str(error).split())[:300]}", 500)
    if not isinstance(response, StreamingResponse):
        served.counts.requests.add(1, endpoint, str(response.status_code))
    return response


async def _written(served: Served, request: Request, parse: Callable[[Any], Chat | Completion]) -> Response:
    found = parse(await body.read(request, served.limits.body_bytes))
    if found.model != served.name:
        raise _unknown(found.model)
    prompts = await asyncio.to_thread(_encoded, served.encoder, found)
    if len(prompts) * found.n > served.writers.most:
        raise Refused(f"{len(prompts) * found.n} texts were asked for at once, this server takes "
                      f"{served.writers.most}", param="n" if found.n > 1 else "prompt")
    answer = Answer(served.model, found, prompts, served.counts, most=served.limits.new_tokens,
                    vocabulary=served.vocabulary)
    answer.start(served.writers)
    is_chat = isinstance(found, Chat)
    form = said.Form("chat" if is_chat else "text", f"{'chatcmpl' if is_chat else 'cmpl'}-{secrets.token_hex(12)}",
                     int(time.time()), served.name)
    texts = len(prompts) * found.n
    if found.stream:
        usage = found.stream_options is not None and found.stream_options.include_usage
        return _Stream(answer, _streamed(served, request, answer, form, texts, usage))
    written, finishes = [""] * texts, ["length"] * texts
    async with contextlib.aclosing(answer.deltas(body.gone(request))) as deltas:
        async for delta in deltas:
            written[delta.index] += delta.text
            finishes[delta.index] = delta.finish or finishes[delta.index]
    return JSONResponse(form.whole(written, finishes, said.usage(answer.prompt_tokens, answer.new_tokens)))


class _Stream(StreamingResponse):
    """Server-sent events. The texts end with it, also where its client left before it began."""

    def __init__(self, answer: Answer, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, media_type="text/event-stream",
                         headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.cancel()


async def _streamed(
    served: Served, request: Request, answer: Answer, form: said.Form, texts: int, usage: bool
) -> AsyncIterator[bytes]:
    status = 200
    try:
        async with contextlib.aclosing(answer.deltas(body.gone(request))) as deltas:
            if form.kind == "chat":
                for index in range(texts):
                    yield form.first(index)
            async for delta in deltas:
                yield form.chunk(delta)
        if usage:
            yield form.usage(said.usage(answer.prompt_tokens, answer.new_tokens))
        yield said.DONE
    except Gone:
        status = _LEFT
    except (asyncio.CancelledError, GeneratorExit):
        status = _LEFT
        raise
    except Exception as error:  # noqa: BLE001 - the head was sent: all that is left is to say so in the stream
        status = 500
        yield said.event(said.error(f"the model failed: {' '.join(str(error).split())[:300]}", 500))
    finally:
        served.counts.requests.add(1, form.kind, str(status))


def _encoded(encoder: Encoder, found: Chat | Completion) -> list[list[int]]:
    if isinstance(found, Chat):
        return [encoder.chat(found.messages)]
    return [encoder.prompt(prompt) for prompt in found.prompts]


async def _models(served: Served, name: str | None = None) -> Response:
    entry = {"id": served.name, "object": "model", "created": served.created, "owned_by": "foldrank",
             "max_model_len": served.model.context}
    if name is None:
        return JSONResponse({"object": "list", "data": [entry]})
    if name != served.name:
        raise _unknown(name)
    return JSONResponse(entry)


def _unknown(name: str) -> Refused:
    return Refused(f"the model {name!r} does not exist", status=404, param="model", code="model_not_found")


def _check_key(served: Served, request: Request) -> None:
    given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
    if served.key is not None and not hmac.compare_digest(given, served.key.encode()):
        raise Refused("the API key is missing or wrong", status=401, code="invalid_api_key")


def _error(message: str, status: int, param: str | None = None, code: str | None = None) -> JSONResponse:
    return JSONResponse(said.error(message, status, param, code), status)


async def _http_error(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _error({404: "no such path", 405: "this path takes another method"}.get(status, "error"), status)
