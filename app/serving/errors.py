"""Errors of the HTTP interface, in OpenAI's form, and the faults that keep the application from answering."""

from collections.abc import Mapping
from typing import Any

from app.core.errors import SignalboxError
from app.inference.sampling import PromptTooLong, RequestRefused, SamplingInvalid

RATE_LIMITED = "rate_limit_exceeded"
"""Code of a limit that is over soon; a spent budget has another."""


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


def said_of(error: Exception) -> str:
    """An error for the log; one that is not ours with its type."""
    return str(error) if isinstance(error, SignalboxError) else f"{type(error).__name__}: {error}"


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


def no_key() -> ApiError:
    """A key is required here."""
    message = "no granted API key was shown: send `Authorization: Bearer KEY` (`signalbox access grant` makes keys)"
    return ApiError(message, status=401, kind="invalid_request_error", code="invalid_api_key")


def forbidden(message: str, *, param: str | None = None) -> ApiError:
    """The caller may not do this."""
    return ApiError(message, status=403, kind="permission_error", code="permission_denied", param=param)


def rate_limited(message: str, *, retry_after_s: int) -> ApiError:
    """Too much in a short time; it is over soon."""
    error = ApiError(message, status=429, kind="rate_limit_error", code=RATE_LIMITED)
    error.headers = {"retry-after": str(retry_after_s)}
    return error


def too_large_for(message: str) -> ApiError:
    """More than a limit allows at once: waiting does not help."""
    message += ": ask for fewer tokens, or have the limit raised"
    error = ApiError(message, status=429, kind="rate_limit_error", code="request_exceeds_limit")
    error.headers = {"x-should-retry": "false"}
    return error


def quota(message: str, *, retry_after_s: int) -> ApiError:
    """A budget is spent; the official clients are told not to try again by themselves.

    Args:
        retry_after_s: until the budget's next period; 0: there is none.
    """
    error = ApiError(message, status=429, kind="insufficient_quota", code="insufficient_quota")
    error.headers = {"x-should-retry": "false"} | ({"retry-after": str(retry_after_s)} if retry_after_s else {})
    return error


def too_large(limit_bytes: int) -> ApiError:
    """The body is larger than what is read."""
    message = f"the request's body is larger than {limit_bytes:,} bytes: send less at a time"
    return ApiError(message, status=413, kind="invalid_request_error", code="request_too_large")


def too_slow(limit_s: float) -> ApiError:
    """The body did not come."""
    message = f"the request's body did not come whole within {limit_s:g} s: send it at once, or less of it"
    return ApiError(message, status=408, kind="timeout_error", code="body_timeout")


def too_many_bodies(limit_bytes: int) -> ApiError:
    """The bodies under way come to more than is kept."""
    message = f"requests of {limit_bytes:,} bytes are under way here already: try again in a moment"
    error = ApiError(message, status=503, kind="service_unavailable", code="overloaded")
    error.headers = {"retry-after": "1"}
    return error


def context_exceeded(said: str) -> ApiError:
    """The prompt is longer than what is read."""
    message = f"{said}: ask a shorter question, leave earlier turns out, or ask for fewer tokens"
    kind, code = "invalid_request_error", "context_length_exceeded"
    return ApiError(message, status=400, kind=kind, code=code, param="messages")


def overloaded(limit: int) -> ApiError:
    """More requests are under way than may wait."""
    message = f"{limit} requests are under way here already: try again in a moment"
    error = ApiError(message, status=503, kind="service_unavailable", code="overloaded")
    error.headers = {"retry-after": "1"}
    return error


def timed_out(limit_s: float) -> ApiError:
    """The answer took too long."""
    message = f"there was no whole answer within {limit_s:g} s: ask for fewer tokens, or try again"
    return ApiError(message, status=504, kind="timeout_error", code="timeout")


def gone() -> ApiError:
    """The client closed the connection; only the log sees this."""
    return ApiError("the client went away before the answer was whole", status=499, kind="client_closed_request")


def no_receipt(request_id: str, *, wait_s: float) -> ApiError:
    """The ledger has no receipt of that request, or not yet."""
    message = f"the ledger holds no receipt of request {request_id!r} yet: a request is entered within {wait_s:.0f} s"
    return ApiError(f"{message}, ask again then", status=404, kind="invalid_request_error", code="receipt_not_found")


def as_api_error(error: Exception) -> ApiError:
    """Any exception as the error that the client sees: ours with its sentence, others without their insides."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, PromptTooLong):
        return context_exceeded(str(error))
    if isinstance(error, SamplingInvalid):  # what the engine alone can tell, such as a schema that cannot be met
        return invalid(str(error), param="response_format" if error.name == "schema" else error.name)
    if isinstance(error, RequestRefused):
        return invalid(str(error))
    if isinstance(error, SignalboxError):
        return unavailable(str(error), code="fault")
    message = f"the gateway failed ({type(error).__name__}): read the log of its replica"
    return ApiError(message, status=500, kind="server_error")
