"""Errors in the shape that OpenAI's clients know: `{"error": {"message", "type", "param", "code"}}`."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException

from danlu.run.errors import UserError
from danlu.serving.batcher import Busy, Closed
from danlu.serving.protocol import FIELDS, ONLY

log = logging.getLogger("danlu.serving")

LONGEST_NAME = 100
"""Characters of a name that the client made up which an error repeats: our choice."""


class ErrorBody(BaseModel):
    """What went wrong; `param` names the field, as `messages[0].content`."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """Every answer that is not a success."""

    error: ErrorBody


class ApiError(HTTPException):
    """A refusal: status, message, the field it is about, and a word for programs."""

    def __init__(
        self,
        status_code: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status_code, message, dict(headers or {}))
        self.message, self.param, self.code = message, param, code

    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        kind = "server_error" if self.status_code >= 500 else "invalid_request_error"
        error = ErrorBody(message=self.message, type=kind, param=self.param, code=self.code)
        return ErrorResponse(error=error).model_dump()

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.body(), self.status_code, self.headers)


def from_exception(error: Exception) -> ApiError:
    """What a client is told of an error that is not its own."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Busy | Closed):
        # Not 429: no client has asked too much, the server has too few rows. OpenAI's clients try again after both.
        code = "overloaded" if isinstance(error, Busy) else "shutting_down"
        return ApiError(503, str(error), code=code, headers={"Retry-After": "1"})
    if isinstance(error, UserError):
        return ApiError(500, str(error), code="model_error")
    return ApiError(500, "the server failed; its log says more", code="internal_error")


def from_validation(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first mistake of a request. Of the shapes a field may have, the one counts that the value came closest to."""
    first = _path(errors[0])[:1]
    own = [error for error in errors if _path(error)[:1] == first]
    nearest = max(own, key=_nearness)
    param = _param(_path(nearest))
    said = list(dict.fromkeys(_said(error) for error in own if _nearness(error) == _nearness(nearest)))
    if len(first) == 1 and first[0] in ONLY and nearest["type"] != "extra_forbidden":
        param = str(first[0])
        said = [f"only {ONLY[param]} is supported"]
    return ApiError(400, f"{param or 'the body'}: {', or '.join(said)}", param=param or None, code=nearest["type"])


def _nearness(error: Mapping[str, Any]) -> tuple[bool, int, list[int]]:
    """How close a value came to one of the shapes that its field may have: of the right type, then how far inside."""
    path = _path(error)
    return not error["type"].endswith("_type"), len(path), [part for part in path if isinstance(part, int)]


def _path(error: Mapping[str, Any]) -> list[str | int]:
    """Where in the body: the names of fields and the places in lists, without pydantic's names of union members."""
    *inside, last = error["loc"]
    known = [part for part in inside if isinstance(part, int) or part in FIELDS]
    is_part = isinstance(last, int) or last in FIELDS or error["type"] == "extra_forbidden"
    return [*known, last] if is_part else known


def _param(path: Sequence[str | int]) -> str:
    words = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:LONGEST_NAME]}" for part in path)
    return words.removeprefix(".")


def _said(error: Mapping[str, Any]) -> str:
    """What pydantic says, in a line."""
    if error["type"] == "extra_forbidden":
        return "this field is not known or not supported"
    if error["type"] == "missing":
        return "is required"
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def add_handlers(app: FastAPI) -> None:
    """Give every error of an app OpenAI's shape."""

    async def refuse(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, StarletteHTTPException)
        if not isinstance(error, ApiError):
            error = ApiError(error.status_code, str(error.detail), headers=error.headers)
        return error.response()

    async def refuse_body(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return from_validation(error.errors()).response()

    async def fail(request: Request, error: Exception) -> JSONResponse:
        return from_exception(error).response()

    app.add_exception_handler(StarletteHTTPException, refuse)
    app.add_exception_handler(RequestValidationError, refuse_body)
    app.add_exception_handler(Exception, fail)
