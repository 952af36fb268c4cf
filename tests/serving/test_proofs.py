import asyncio
import threading

import httpx
import pytest
from starlette.testclient import TestClient

from app.core.digests import digest_bytes
from app.ledger.log import Statement
from app.ledger.note import read_checkpoint
from app.ledger.proofs import read_proof
from app.serving.http import create_app


def statement(name):
    return Statement(kind="trigger", subject=digest_bytes(name.encode()), name=name)


@pytest.fixture
def ledger(registry):
    registry.ledger.append([statement(str(number)) for number in range(5)])
    registry.ledger.append([statement("later")])
    return registry.ledger


@pytest.fixture
def http(gateway, registry, ledger):
    with TestClient(create_app(gateway, registry), raise_server_exceptions=False) as client:
        yield client


def test_the_checkpoint_is_the_signed_note(http, ledger):
    given = http.get("/v1/ledger/checkpoint")
    assert given.headers["content-type"].startswith("text/plain")
    assert read_checkpoint(given.text, [ledger.signer.public]).size == 6


@pytest.mark.parametrize(("query", "index", "size"), [("3", 3, 6), ("3&size=5", 3, 5), (digest_bytes(b"2"), 2, 6)])
def test_an_inclusion_proof_is_checked_with_the_key_alone(http, ledger, query, index, size):
    proof = read_proof(http.get(f"/v1/ledger/inclusion?leaf={query}").content)
    assert (proof.check(ledger.signer.public).size, proof.index, proof.statement.name) == (size, index, str(index))


def test_a_consistency_proof_leads_from_a_checkpoint_kept(http, ledger):
    kept = http.get("/v1/ledger/checkpoint").text
    ledger.append([statement("more")])
    proof = read_proof(http.get("/v1/ledger/consistency?old=6").content)
    assert proof.check(ledger.signer.public, kept=kept).size == 7
    older = read_proof(http.get("/v1/ledger/consistency?old=5&new=6").content)
    assert read_checkpoint(older.checkpoint, [ledger.signer.public]).size == 6


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("inclusion?leaf=6", 404),
        ("inclusion?leaf=3&size=4", 404),
        (f"inclusion?leaf={digest_bytes(b'nothing')}", 404),
        ("inclusion?leaf=x", 404),
        ("inclusion", 400),
        ("inclusion?leaf=1&size=-1", 400),
        (f"inclusion?leaf={'9' * 80}", 404),
        (f"inclusion?leaf=1&size={2**70}", 400),
        ("consistency?old=7", 404),
        ("consistency?old=x", 400),
    ],
)
def test_what_is_not_there_is_an_error_in_openai_s_form(http, path, status):
    given = http.get(f"/v1/ledger/{path}")
    assert (given.status_code, set(given.json())) == (status, {"error"})
    assert len(given.json()["error"]["message"]) > 10


def test_a_slow_database_holds_no_other_answer_up(gateway, registry, ledger, monkeypatch):
    """While a proof waits for its thread, the event loop goes on answering."""
    release = threading.Event()

    def slow():
        assert release.wait(30)
        return "note"

    monkeypatch.setattr(ledger, "checkpoint", slow)

    async def ask():
        transport = httpx.ASGITransport(create_app(gateway, registry))
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            waiting = asyncio.ensure_future(client.get("/v1/ledger/checkpoint"))
            await asyncio.sleep(0.05)
            other = await asyncio.wait_for(client.get("/metrics"), 10)
            assert not waiting.done()
            release.set()
            return other.status_code, (await waiting).text

    assert asyncio.run(ask()) == (200, "note")
