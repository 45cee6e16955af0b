"""The web application of `zoo serve`: JSON in, JSON out, over the queue of `batching.py`.

Starlette and uvicorn are enough: FastAPI, which they come with, would check bodies a second time, with messages of its
own.
"""

import asyncio
import contextlib
import math
import secrets
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from typing import Any

from zoo.inference.batching import Batcher, QueueFullError
from zoo.inference.server_models import Embeddings, Predictions
from zoo.inference.server_requests import InputReader, Inputs, Limits, RequestError
from zoo.utils.escape import say
from zoo.utils.version import __version__

try:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ImportError as error:
    raise ImportError("serving a model needs starlette and uvicorn: pip install 'attention-zoo[serve]'") from error

IN_A_THREAD = 1 << 16  # bytes of a body from which it is parsed in a thread, so that other requests are not held up
CLIENTS = 10_000  # whose rates are remembered
DISCARDED = 1 << 26  # bytes of a refused body that are received, so that the client sees why


def create_app(
    model: Predictions | Embeddings, limits: Limits | None = None, *, window: float = 0.005, max_batch_size: int = 32
) -> Starlette:
    """The application that serves a model, for uvicorn or another server of ASGI.

    Args:
        model: What is computed: POST /predict or POST /embed. GET /health and GET /info are there for both.
        limits: Of requests.
        window: Seconds that a request may wait for others to be computed with.
        max_batch_size: Inputs that are computed at once.
    """
    return Service(model, limits or Limits(), window, min(max_batch_size, model.max_batch_size)).app()


class RateLimit:
    """A token bucket for each client: `rate` requests per second, and as many at once."""

    def __init__(self, rate: float) -> None:
        self.rate, self.burst = rate, max(1.0, rate)
        self._buckets: dict[str, tuple[float, float]] = {}  # {client: (tokens, when)}

    def wait(self, client: str, now: float) -> float:
        """Seconds until the client may send a request; 0 counts this one."""
        tokens, when = self._buckets.get(client, (self.burst, now))
        tokens = min(self.burst, tokens + (now - when) * self.rate)
        allowed = tokens >= 1
        self._buckets[client] = tokens - allowed, now
        if len(self._buckets) > CLIENTS:
            full = self.burst / self.rate  # seconds after which a bucket is as good as forgotten
            self._buckets = {c: b for c, b in self._buckets.items() if now - b[1] < full}
        return 0.0 if allowed else (1 - tokens) / self.rate


class Service:
    """The endpoints, and what they share."""

    def __init__(self, model: Predictions | Embeddings, limits: Limits, window: float, max_batch_size: int) -> None:
        self.model, self.limits = model, limits
        predicts = isinstance(model, Predictions)
        self.path, other = ("/predict", "/embed") if predicts else ("/embed", "/predict")
        self.other = other
        speech = predicts and model.model.config.head == "ctc"
        self.reader = InputReader(model.modalities, limits, predicts, speech)
        self.batcher = Batcher(model, window=window, max_batch_size=max_batch_size, max_queue=limits.max_queue)
        self.rate = None if limits.rate is None else RateLimit(limits.rate)
        self.held = 0  # bytes of bodies in memory

    def app(self) -> Starlette:
        @contextlib.asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            async with self.batcher:
                yield

        routes = [
            Route(self.path, self._guarded(self.infer), methods=["POST"]),
            Route(self.other, self.not_served, methods=["POST"]),
            Route("/health", self.health),
            Route("/info", self.info),
        ]
        app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: self.http_error})
        app.state.service = self
        return app

    # --- endpoints ----------------------------------------------------------------------------------------------------

    async def infer(self, request: Request) -> Response:
        """POST /predict or /embed."""
        body = Body(request, self)
        try:
            async with asyncio.timeout(self.limits.timeout):
                self._check_rate(request)
                inputs = await self._inputs(await body.read(), request)
                result = await self._computed(inputs, request)
                large = "embeddings" in result and len(inputs.items) > 1
                return await asyncio.to_thread(JSONResponse, result) if large else JSONResponse(result)
        except RequestError:
            await body.discard()
            raise
        except TimeoutError:
            what = "the request was not computed" if body.complete else "the body was not received"
            status = 504 if body.complete else 408
            raise RequestError(status, f"{what} within {self.limits.timeout:g} s") from None
        except QueueFullError as full:
            raise RequestError(
                503,
                f"the queue has no room: it holds at most {self.limits.max_queue:,} inputs. Retry after "
                f"{full.retry_after} s",
                headers={"Retry-After": str(full.retry_after)},
            ) from None
        finally:
            body.release()

    async def not_served(self, request: Request) -> Response:
        """The endpoint that this model does not have."""
        return error_response(404, f"this model has no {self.other}: POST {self.path}, and GET /info describes it")

    async def health(self, request: Request) -> Response:
        """GET /health."""
        running = self.batcher.running
        body = {"status": "ok" if running else "stopped", "queued": self.batcher.queued}
        return JSONResponse(body, 200 if running else 503)

    async def info(self, request: Request) -> Response:
        """GET /info."""
        model = self.model.model
        limits = asdict(self.limits) | {"max_batch_size": self.batcher.max_batch_size}
        return JSONResponse(
            {
                "endpoint": self.path,
                "inputs": list(self.model.modalities),
                "family": getattr(model, "family", ""),
                "head": model.config.head,
                "problem_type": getattr(model.config, "resolved_problem_type", None),
                "labels": model.labels,
                "limits": limits,
                "version": __version__,
            }
        )

    async def http_error(self, request: Request, error: Exception) -> Response:
        """Addresses and methods that are not there."""
        assert isinstance(error, HTTPException)
        message = f"{request.method} {request.url.path[:200]}: expected POST {self.path}, GET /health or GET /info"
        return error_response(error.status_code, message, headers=dict(error.headers or {}))

    # --- steps of a request -------------------------------------------------------------------------------------------

    def _guarded(self, endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint with its errors as JSON. An unexpected one gets an id; its traceback stays on this side."""

        async def guarded(request: Request) -> Response:
            try:
                return await endpoint(request)
            except RequestError as error:
                return error_response(error.status, error.message, error.more, error.headers)
            except ClientDisconnect:
                return Response(status_code=400)  # there is nobody to read it
            except Exception:
                identifier = secrets.token_hex(8)
                say(f"error {identifier} in {request.method} {self.path}:", traceback.format_exc(), file=sys.stderr)
                message = f"the server failed; its log says why, under the id {identifier}"
                return error_response(500, message, {"id": identifier})

        return guarded

    def _check_rate(self, request: Request) -> None:
        if self.rate is None:
            return
        wait = self.rate.wait(request.client.host if request.client else "", time.monotonic())
        if wait:
            seconds = math.ceil(wait)
            raise RequestError(
                429,
                f"more than {self.rate.rate:g} requests per second: retry after {seconds} s",
                headers={"Retry-After": str(seconds)},
            )

    async def _inputs(self, body: bytes, request: Request) -> Inputs:
        """The inputs in a body. That of a large one is read in a thread, so that other requests are not held up."""
        arguments = body, request.headers.get("content-type", ""), request.query_params
        if len(body) < IN_A_THREAD:
            return self.reader.read(*arguments)
        return await asyncio.to_thread(self.reader.read, *arguments)

    async def _computed(self, inputs: Inputs, request: Request) -> Any:
        """The result of the queue, where a client that goes away leaves its place to others."""
        result = asyncio.ensure_future(self.batcher.submit(inputs, len(inputs.items), self.model.key(inputs)))
        gone = asyncio.ensure_future(request.receive())  # the body is complete, so what comes is the end
        try:
            await asyncio.wait((result, gone), return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                raise ClientDisconnect
            return await result
        finally:
            result.cancel()
            gone.cancel()


class Body:
    """The body of a request; the service counts the bytes that are held."""

    def __init__(self, request: Request, service: Service) -> None:
        self.request, self.service = request, service
        self.parts: list[bytes] = []
        self.held = 0
        self.complete = False  # whether all of it has been received

    async def read(self) -> bytes:
        """All of it. Raises RequestError if it is too large, or memory for bodies is used up."""
        limits, declared = self.service.limits, self.request.headers.get("content-length", "")
        size = int(declared) if declared.isdigit() else 0
        while not self.complete and max(size, self.held) <= limits.max_body:
            part = await self._receive()
            if self.service.held + len(part) > limits.max_held:
                raise RequestError(
                    503, "the server holds too many requests: retry after 1 s", headers={"Retry-After": "1"}
                )
            self.service.held += len(part)
            self.held += len(part)
            self.parts.append(part)
        if max(size, self.held) > limits.max_body:
            given = f"{size:,} bytes" if size else "more"
            most = f"expected at most {limits.max_body:,} bytes: send several requests"
            raise RequestError(413, f"the body has {given}, {most}")
        return b"".join(self.parts)

    async def discard(self) -> None:
        """Receive the rest without keeping it: a client that sends all of it first would not see the error otherwise.

        Not for one that asks before it sends, and not for ever.
        """
        self.release()
        if "100-continue" in self.request.headers.get("expect", "").lower():
            return
        discarded = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.service.limits.timeout):
                while not self.complete and discarded < DISCARDED:
                    discarded += len(await self._receive())

    def release(self) -> None:
        """Forget what was received."""
        self.service.held -= self.held
        self.held = 0
        self.parts.clear()

    async def _receive(self) -> bytes:
        message = await self.request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self.complete = not message.get("more_body", False)
        return message.get("body", b"")


def error_response(
    status: int, message: str, more: dict[str, Any] | None = None, headers: dict[str, str] | None = None
) -> Response:
    """A JSON object with the key "error"."""
    return JSONResponse({"error": message} | (more or {}), status, headers)
