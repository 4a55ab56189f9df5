# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Errors in the shape that OpenAI's clients read, each with one sentence."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from transformers.utils import logging

logger = logging.get_logger(__name__)

CLIENT_LEFT = 499  # as nginx logs it; nobody reads it
# What a status is called in `type` and, unless told, in `code`.
KINDS: Mapping[int, tuple[str, str | None]] = {
    400: ("invalid_request_error", None),
    401: ("authentication_error", "invalid_api_key"),
    404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    408: ("invalid_request_error", "request_timeout"),
    413: ("invalid_request_error", "too_large"),
    429: ("rate_limit_error", "queue_full"),
    500: ("server_error", None),
    503: ("server_error", "not_ready"),
    504: ("server_error", "timeout"),
}
LONGEST_INPUT = 80  # characters of a wrong value that are said back


class ApiError(HTTPException):
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: one sentence for whoever reads it.
        param: the field of the request that it is about.
        code: a word for programs.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(status, message, dict(headers or {}))
        self.param, self.code = param, code

    def body(self) -> dict[str, Any]:
        kind, code = KINDS.get(self.status_code, ("invalid_request_error", None))
        return {"error": {"message": self.detail, "type": kind, "param": self.param, "code": self.code or code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status_code, dict(self.headers or {}))


def from_validation(error: RequestValidationError | ValidationError) -> ApiError:
    """The first of the things that are wrong with a request."""
    # Of a union each kind is told; the one that came furthest is what was meant.
    first = max(error.errors(), key=lambda each: len(each["loc"]))
    place = [str(part) for part in first["loc"] if part not in ("body", "str")]
    param = ".".join(part for part in place if part.isidentifier() or part.isdigit()) or None
    kind, value = first["type"], first.get("input")
    if kind == "json_invalid":
        return ApiError(400, f"The request must be JSON, but it cannot be read: {first['ctx']['error']}.")
    if kind == "value_error":
        return ApiError(400, str(first["ctx"]["error"]), param=param)
    if kind == "not_served":
        told = ".".join(part for part in (param, first["ctx"]["param"]) if part)
        return ApiError(400, first["ctx"]["text"], param=told, code="not_served")
    if param is None:
        return ApiError(400, "The request must have a JSON object as its body, sent as `application/json`.")
    if kind == "missing":
        return ApiError(400, f"`{param}` is missing.", param=param)
    if kind == "extra_forbidden":
        return ApiError(
            400,
            f"`{param}` is no field that this server knows. If it is a slip, mend it; if OpenAI has it, the server's "
            "documentation says what is served.",
            param=param,
            code="unknown_parameter",
        )
    # A string that is no text cannot be said back.
    shown = repr(value).encode("utf-8", "backslashreplace").decode()
    shown = shown if len(shown) <= LONGEST_INPUT else f"{shown[:LONGEST_INPUT]}..."
    told = first["msg"][0].lower() + first["msg"][1:]
    return ApiError(400, f"`{param}` is wrong: {told}, but got {shown}.", param=param)


def install(app: FastAPI) -> None:
    """Makes every error of an app one of these."""

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        if not isinstance(error, ApiError):
            told = {
                404: f"There is nothing at {request.url.path}.",
                405: f"{request.url.path} takes no {request.method}.",
            }
            message = told.get(error.status_code, f"{str(error.detail).rstrip('.')}.")
            error = ApiError(error.status_code, message, headers=error.headers)
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def on_validation(_: Request, error: RequestValidationError) -> JSONResponse:
        return from_validation(error).response()

    @app.exception_handler(Exception)
    async def on_exception(_: Request, __: Exception) -> JSONResponse:
        return failed().response()


def failed() -> ApiError:
    """What a client hears of a fault of ours; the log has the rest."""
    return ApiError(500, "The server failed at this request. Its log says why.")


__all__ = ["CLIENT_LEFT", "ApiError", "failed", "from_validation", "install"]
