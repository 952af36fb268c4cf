"""Errors of the HTTP interface, in OpenAI's form, and the faults that keep the application from answering."""

from collections.abc import Mapping
from typing import Any

from app.core.errors import SignalboxError


class NotDeployed(SignalboxError):
    """The application did not come up; the message says what Serve reported."""


class ReleaseNotLoaded(SignalboxError):
    """A release's model or index cannot be loaded: run `signalbox verify` and publish the broken version again."""


class NoRelease(SignalboxError):
    """Nothing is in production yet: promote a release, then ask again."""


class NotPromoted(SignalboxError):
    """No promotion put this release into production: have it approved and promote it, nothing else may serve."""


class EngineStalled(SignalboxError):
    """A text engine has work and takes no step: Serve replaces the replica; read its log for what held it up."""


class ApiError(SignalboxError):
    """An answer with an HTTP status and OpenAI's error fields; ``headers`` go with it."""

    def __init__(
        self, message: str, *, status: int, kind: str, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.code, self.param = status, kind, code, param
        self.headers: Mapping[str, str] = {}

    def body(self) -> dict[str, Any]:
        """The error as the official clients expect it."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


def invalid(message: str, *, param: str | None = None) -> ApiError:
    """The request cannot be met as it was made."""
    return ApiError(message, status=400, kind="invalid_request_error", param=param)


def unknown_model(name: str, known: list[str]) -> ApiError:
    """No model of that name is in the release that serves."""
    message = f"the model {name!r} does not exist in this release: ask for one of {', '.join(known)}"
    return ApiError(message, status=404, kind="invalid_request_error", code="model_not_found", param="model")


def unavailable(message: str, *, code: str) -> ApiError:
    """The application cannot answer just now."""
    return ApiError(message, status=503, kind="service_unavailable", code=code)


def no_receipt(request_id: str, *, wait_s: float) -> ApiError:
    """The ledger has no receipt of that request, or not yet."""
    message = f"the ledger holds no receipt of request {request_id!r} yet: a request is entered within {wait_s:.0f} s"
    return ApiError(f"{message}, ask again then", status=404, kind="invalid_request_error", code="receipt_not_found")


def as_api_error(error: Exception) -> ApiError:
    """Any exception as the error that the client sees: ours with its sentence, others without their insides."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, SignalboxError):
        return unavailable(str(error), code="fault")
    message = f"the gateway failed ({type(error).__name__}): read the log of its replica"
    return ApiError(message, status=500, kind="server_error")
