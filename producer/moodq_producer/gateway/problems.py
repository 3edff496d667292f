"""Errors as RFC 9457 problem documents: the codes of ``errors``, each with its HTTP status.

What a caller sees is an error's public message. Anything else that goes wrong becomes ``internal``, and its
words stay in the log.
"""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from moodq_config.errors import BadInput, ConfigError, ErrorCode, MoodqError, RateLimited, Unavailable

MEDIA_TYPE = "application/problem+json"

#: Seconds after which a caller may try again when nothing better is known.
RETRY_AFTER_S = 1

STATUS: dict[ErrorCode, int] = {
    ErrorCode.BROKEN_JSON: 400,
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.METHOD_NOT_ALLOWED: 405,
    ErrorCode.BODY_TOO_LARGE: 413,
    ErrorCode.JOB_TOO_LARGE: 413,
    ErrorCode.TEXT_TOO_LONG: 413,
    ErrorCode.TOO_MANY_ITEMS: 413,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: 415,
    ErrorCode.EMPTY_TEXT: 422,
    ErrorCode.INVALID_UTF8: 422,
    ErrorCode.UNKNOWN_TASK: 422,
    ErrorCode.INVALID_FIELD: 422,
    ErrorCode.CALLBACK_REFUSED: 422,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.QUEUE_FULL: 503,
    ErrorCode.REDIS_UNREACHABLE: 503,
    ErrorCode.TOO_MANY_OPEN: 503,
    ErrorCode.NO_WORKER: 503,
}

#: Codes of what Starlette answers by itself.
_OF_STATUS = {404: ErrorCode.NOT_FOUND, 405: ErrorCode.METHOD_NOT_ALLOWED}


class Problem(BaseModel):
    """A problem document. ``type`` names the code; ``field`` and ``limit`` are there where known."""

    type: str = Field(examples=["urn:moodq:problem:empty_text"])
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["text is empty; send at least one character that is not white space"])
    code: str = Field(examples=["empty_text"])
    field: str | None = Field(None, examples=["text"])
    limit: float | None = Field(None, examples=[8000])


def problem(
    code: ErrorCode,
    detail: str,
    *,
    status: int | None = None,
    headers: dict[str, str] | None = None,
    **more: Any,
) -> JSONResponse:
    """The response; ``more`` are further members, left out when None."""
    status = status or STATUS.get(code, 500)
    body = {
        "type": f"urn:moodq:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": str(code),
        **{name: value for name, value in more.items() if value is not None},
    }
    return JSONResponse(body, status, headers, MEDIA_TYPE)


def of_error(error: MoodqError) -> JSONResponse:
    """The problem that an error of moodq means to a caller of the gateway."""
    code = error.code
    if isinstance(error, ConfigError) or code not in STATUS:
        return problem(ErrorCode.INTERNAL, "the gateway is not set up as it should be; its log says more")
    headers = {}
    if code == ErrorCode.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="moodq"'
    if isinstance(error, Unavailable):
        after_s = error.retry_after_s if isinstance(error, RateLimited) else RETRY_AFTER_S
        headers["Retry-After"] = str(max(1, math.ceil(after_s)))
    if isinstance(error, BadInput):
        return problem(code, error.message, headers=headers, field=error.field, limit=error.limit)
    return problem(code, error.message, headers=headers)


def of_status(error: HTTPException) -> JSONResponse:
    """The problem for what the framework refused: no such path, another method."""
    code = _OF_STATUS.get(error.status_code, ErrorCode.INVALID_FIELD)
    known = {
        ErrorCode.NOT_FOUND: "there is nothing at this path; /openapi.json lists what there is",
        ErrorCode.METHOD_NOT_ALLOWED: "this path takes another method; the header Allow names it",
    }
    detail = known.get(code, "the request cannot be read")
    return problem(code, detail, status=error.status_code, headers=dict(error.headers or {}))


def internal() -> JSONResponse:
    """What a caller learns of an error nobody foresaw."""
    return problem(ErrorCode.INTERNAL, "a fault of moodq; report it with the X-Request-Id of this answer")


def of_validation(error: RequestValidationError) -> JSONResponse:
    """The problem for a parameter that is not as its route says."""
    first = error.errors()[0]
    where, name = str(first["loc"][0]), ".".join(map(str, first["loc"][1:]))
    return problem(ErrorCode.INVALID_FIELD, f"{where} parameter {name!r}: {first['msg']}", field=name)


async def handle_moodq(request: Request, error: Exception) -> JSONResponse:
    """For ``FastAPI.exception_handlers``."""
    assert isinstance(error, MoodqError)  # noqa: S101 - it is registered for these
    return of_error(error)


async def handle_status(request: Request, error: Exception) -> JSONResponse:
    """For ``FastAPI.exception_handlers``."""
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for these
    return of_status(error)


async def handle_validation(request: Request, error: Exception) -> JSONResponse:
    """For ``FastAPI.exception_handlers``."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - it is registered for these
    return of_validation(error)
