"""What every request passes before the app sees it: the right host, the key, a body of bounded size in bounded time.

A page elsewhere must not reach a server on this machine through its user's browser. So no CORS header is ever sent, a
body must say that it is JSON (a browser asks first, and gets no leave), and without a key a loopback server answers
only to loopback names (a foreign name may be made to resolve to 127.0.0.1).
"""

import asyncio
import base64
import binascii
import hmac
import ipaddress
import json
from contextlib import suppress
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from danlu.serving.errors import LONGEST_NAME, ApiError
from danlu.tokenizer.text import well_formed

OPEN_PATHS = {"/health"}
"""Routes without a key."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


MAX_NAMES = 100
"""Fields of an object in a request: our choice, more than either endpoint knows. Each unknown one costs a message."""


class Guard:
    """ASGI middleware; refuses in OpenAI's shape, before the body is read where it can."""

    def __init__(
        self, app: ASGIApp, *, api_key: str | None, is_loopback: bool, max_body_bytes: int, body_seconds: float
    ) -> None:
        self.app, self.api_key, self.is_loopback = app, api_key, is_loopback
        self.max_body_bytes, self.body_seconds = max_body_bytes, body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check_host(headers)
            if scope["path"] not in OPEN_PATHS:
                self._check_key(headers)
            body = await self._body(headers, receive) if scope["type"] == "http" else None
        except ApiError as error:
            if scope["type"] == "http":
                await _refuse(error, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008, "reason": error.message})
            return
        except ConnectionAbortedError:
            return
        await self.app(scope, receive if body is None else _replay(body, receive), send)

    def _check_host(self, headers: Headers) -> None:
        host = headers.get("host", "")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if self.is_loopback and self.api_key is None and not is_loopback(name.lower().strip("[]")):
            raise ApiError(
                403, "this server answers to localhost alone; start it with --api-key for other names",
                code="foreign_host", headers=_CLOSE,
            )  # fmt: skip

    def _check_key(self, headers: Headers) -> None:
        if self.api_key is None:
            return
        # Compared as bytes in constant time, so that the time of the answer says nothing about the key.
        given = _given_key(headers.get("authorization", "").encode("latin-1"))
        if not hmac.compare_digest(given, self.api_key.encode()):
            what = "the key is wrong" if given else "this server needs a key: Authorization: Bearer KEY"
            raise ApiError(
                401, what, code="invalid_api_key",
                headers={"WWW-Authenticate": 'Basic realm="danlu", charset="UTF-8"', **_CLOSE},
            )  # fmt: skip

    async def _body(self, headers: Headers, receive: Receive) -> bytes | None:
        """The whole body, None where there is none. Raises ApiError, ConnectionAbortedError when it breaks off."""
        length = headers.get("content-length", "0")
        if length == "0" and "transfer-encoding" not in headers:
            return None
        too_large = ApiError(
            413, f"the body is larger than {self.max_body_bytes} bytes", code="body_too_large", headers=_CLOSE
        )
        if length.isdecimal() and int(length) > self.max_body_bytes:
            raise too_large
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ConnectionAbortedError
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self.max_body_bytes:
                        raise too_large
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise ApiError(
                408, f"the body did not come within {self.body_seconds:g} seconds", code="body_timeout", headers=_CLOSE
            ) from None


_CLOSE = {"Connection": "close"}
"""After a body that was not wanted no request can follow."""

LINGER_SECONDS = 1.0
"""How long the rest of a refused body is taken and thrown away. Our choice: closing at once resets the connection of a
client that still sends, and it may never see why."""


async def _refuse(error: ApiError, receive: Receive, send: Send) -> None:
    response = error.response()
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while (await receive()).get("more_body"):
                pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _given_key(authorization: bytes) -> bytes:
    """The key in an `Authorization` header: after `Bearer`, or the password of a browser's `Basic`."""
    scheme, _, value = authorization.strip().partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip()
    if scheme.lower() == b"basic":
        with suppress(binascii.Error):
            return base64.b64decode(value, validate=True).partition(b":")[2]
    return b""


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body that was read, then what comes after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message


class StrictRequest(Request):
    """A request whose JSON is read as the standard says: UTF-8, no NaN; half a character becomes U+FFFD."""

    async def json(self) -> Any:
        body = await self.body()
        try:
            text = body.decode("utf-8")
            values = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)
            # Only an escape can bring half a character: UTF-8 itself has none.
            return _mended(values) if "\\u" in text else values
        except UnicodeDecodeError as error:
            raise ApiError(400, f"the body is not UTF-8 (byte {error.start})", code="invalid_utf8") from error
        except json.JSONDecodeError as error:
            where = f"line {error.lineno}, column {error.colno}"
            raise ApiError(400, f"the body is not JSON: {error.msg} ({where})", code="invalid_json") from error
        except RecursionError as error:
            raise ApiError(400, "the body is nested too deeply", code="invalid_json") from error
        except ValueError as error:
            raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are few and differ. Raises ApiError: of two values with one name one would be ignored."""
    values = dict(pairs)
    if len(pairs) > MAX_NAMES:
        raise ApiError(400, f"an object in the body has {len(pairs)} fields; no request has as many", code="too_long")
    if len(values) < len(pairs):
        twice = next(name for number, (name, _) in enumerate(pairs) if name in dict(pairs[:number]))
        name = well_formed(twice)[:LONGEST_NAME]
        raise ApiError(400, f"{name}: is given twice", param=name, code="duplicate_field")
    return values


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, list):
        return [_mended(item) for item in value]
    if isinstance(value, dict):
        return {well_formed(key): _mended(item) for key, item in value.items()}
    return value


def check_is_json(headers: Headers) -> None:
    """Raises ApiError for a body of another kind."""
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "the body must be JSON: Content-Type: application/json", code="not_json")


class StrictRoute(APIRoute):
    """A route that reads `StrictRequest`s of JSON alone."""

    def get_route_handler(self) -> Any:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            if request.method == "POST":
                check_is_json(request.headers)
            return await handle(StrictRequest(request.scope, request.receive))

        return handle_strictly


def add_guard(app: FastAPI, **values: Any) -> None:
    """Put the guard before everything that an app answers, mounted pages too."""
    app.add_middleware(Guard, **values)
    app.router.route_class = StrictRoute
