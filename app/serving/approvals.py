"""Approvals over HTTP, and their client: ``GET`` and ``POST /v1/approvals``, ``GET /v1/approvals/{release}``.

Every request is signed (``app.serving.signatures``) by a key that is on record and not revoked. A decision comes signed
in the body, as it will stand in the ledger: the server checks and publishes it, and never sees a private key.
Guarantees: database work runs in threads, so that no answer waits for it. Not guaranteed: secrecy on the way; put TLS
in front, as for all of the gateway.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from app.core.errors import SignalboxError, UsageError
from app.governance.approvals import ApproverRefused
from app.governance.desk import Desk
from app.governance.keys import key_book
from app.ledger.keys import Signer
from app.registry.versions import Registry, VersionNotFound
from app.serving.errors import ApiError, invalid
from app.serving.signatures import Gatekeeper, Message, Unsigned, sign_request

PATH = "/v1/approvals"
TIMEOUT_S = 30.0


class ServerRefused(SignalboxError):
    """The server did not take the request; the message is the server's own."""


def add_approvals(app: FastAPI, registry: Registry, *, authorities: Sequence[str] = ()) -> None:
    """Add the three routes to an application that answers for some authorities; by default for its own machine's."""
    office = _Office(registry, Gatekeeper(tuple(authorities)) if authorities else Gatekeeper())

    @app.get(PATH)
    async def waiting(request: Request) -> JSONResponse:
        await office.admit(request)
        return JSONResponse({"object": "list", "data": await asyncio.to_thread(office.desk.list)})

    @app.get(PATH + "/{ref:path}")
    async def show(ref: str, request: Request) -> JSONResponse:
        await office.admit(request)
        return JSONResponse(await asyncio.to_thread(office.call, office.desk.show, ref))

    @app.post(PATH)
    async def decide(request: Request) -> JSONResponse:
        await office.admit(request)
        try:
            signed = json.loads(await request.body())
        except (ValueError, RecursionError) as error:
            raise invalid("the body is no JSON: send body, key and signature") from error
        if not isinstance(signed, dict):
            raise invalid("the body is no signed statement: send body, key and signature")
        return JSONResponse(await asyncio.to_thread(office.call, office.desk.record, signed), status_code=201)


@dataclass
class _Office:
    """Who is let in, and how refusals are said."""

    registry: Registry
    keeper: Gatekeeper

    @property
    def desk(self) -> Desk:
        return Desk(self.registry)

    async def admit(self, request: Request) -> None:
        """Unsigned unless a key on record, not revoked, signed this very request just now."""
        url = request.scope
        path = (url.get("raw_path") or request.url.path.encode()).decode("latin-1").partition("?")[0]
        headers = {name.lower(): value for name, value in request.headers.items()}
        query = url.get("query_string", b"").decode("latin-1")
        message = Message(request.method, headers.get("host", ""), path, query, headers, await request.body())
        verifier = self.keeper.check(message)
        book = await asyncio.to_thread(key_book, self.registry)
        if objection := book.objection(verifier):
            raise Unsigned(objection)

    def call(self, act: Any, argument: Any) -> dict[str, Any]:
        """Run a desk's act; refusals become HTTP errors."""
        try:
            return dict(act(argument))
        except ApproverRefused as error:
            raise ApiError(str(error), status=403, kind="permission_error", code="approver_refused") from error
        except VersionNotFound as error:
            raise ApiError(str(error), status=404, kind="invalid_request_error", code="not_found") from error
        except UsageError as error:
            raise invalid(str(error)) from error


@dataclass(frozen=True)
class RemoteDesk:
    """The desk of a gateway, asked with a key."""

    url: str
    signer: Signer
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=TIMEOUT_S, trust_env=False))

    def list(self) -> list[dict[str, Any]]:
        """As ``Desk.list``."""
        return list(self._send("GET", PATH)["data"])

    def show(self, ref: str) -> dict[str, Any]:
        """As ``Desk.show``."""
        return self._send("GET", f"{PATH}/{quote(ref, safe='@:')}")

    def record(self, signed: Mapping[str, Any]) -> dict[str, Any]:
        """As ``Desk.record``."""
        return self._send("POST", PATH, json.dumps(dict(signed)).encode())

    def _send(self, method: str, path: str, body: bytes = b"") -> dict[str, Any]:
        url = f"{self.url.rstrip('/')}{path}"
        headers = sign_request(method, url, signer=self.signer, body=body)
        try:
            response = self.http.request(method, url, content=body, headers=headers)
            answer = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise ServerRefused(f"{url} did not answer ({type(error).__name__}): look whether it serves") from error
        if response.is_error:
            said = answer.get("error", {}).get("message") or f"status {response.status_code}"
            raise ServerRefused(str(said))
        return dict(answer)
