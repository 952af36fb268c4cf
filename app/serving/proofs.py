"""The ledger's proofs over HTTP: ``/v1/ledger/checkpoint``, ``/v1/ledger/inclusion``, ``/v1/ledger/consistency``.

Guarantees: what is given out is what `signalbox ledger check-proof` checks, byte for byte; the database is read in
threads, so that no answer waits for it. Not guaranteed: secrecy; leaves hold names and digests only, and whoever can
reach the gateway may ask for them.
"""

import asyncio
from collections.abc import Callable
from typing import Annotated

from fastapi import FastAPI, Query
from fastapi.responses import PlainTextResponse, Response

from app.ledger.log import Ledger, NoSuchLeaf
from app.ledger.proofs import Proof, find_leaf, prove_consistency, prove_inclusion
from app.serving.errors import ApiError

PATH = "/v1/ledger"
MAX_SIZE = 2**31 - 1
Size = Annotated[int | None, Query(ge=0, le=MAX_SIZE)]


def add_proofs(app: FastAPI, ledger: Ledger) -> None:
    """Add the three routes to an application."""

    @app.get(PATH + "/checkpoint")
    async def checkpoint() -> Response:
        return PlainTextResponse(await asyncio.to_thread(ledger.checkpoint))

    @app.get(PATH + "/inclusion")
    async def inclusion(leaf: Annotated[str, Query(max_length=80)], size: Size = None) -> Response:
        return await _given(lambda: prove_inclusion(ledger, find_leaf(ledger, leaf), size=size))

    @app.get(PATH + "/consistency")
    async def consistency(old: Annotated[int, Query(ge=0, le=MAX_SIZE)], new: Size = None) -> Response:
        return await _given(lambda: prove_consistency(ledger, old, new_size=new))


async def _given(prove: Callable[[], Proof]) -> Response:
    """The proof's bytes; 404 with the sentence that says what to ask for where there is none."""
    try:
        proof = await asyncio.to_thread(prove)
    except NoSuchLeaf as error:
        raise ApiError(str(error), status=404, kind="invalid_request_error", code="leaf_not_found") from error
    return Response(proof.to_bytes(), media_type="application/json")
