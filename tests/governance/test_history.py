"""What was in production at a moment, and that its proof convinces a stranger and nobody can bend it."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.clock import utc_now
from app.governance.history import STOPPED, BadMoment, check, parse_moment, production_at, rests_on
from app.governance.promotion import resume, stop
from app.ledger.keys import Signer
from app.ledger.log import Statement


def proof_of(registry, moment=None, name="handbook"):
    return json.loads(json.dumps(production_at(registry, moment or utc_now(), name=name)))


@pytest.fixture
def moved(served):
    """A first release in production, then another move leaf back to it, so that there are two moves."""
    registry, release = served
    before = utc_now()
    promotion = next(registry.ledger.leaves("promotion")).statement
    other = registry.publish("release", "handbook", inputs={"other": 1})
    record = {"kind": "promotion", "name": "release/handbook", "parents": []}
    record |= {"inputs": {"subject": other.digest, "previous": release.digest}, "facts": {}}
    payload = registry.store.publish("promotion", None, record)
    registry.ledger.append([Statement("promotion", other.digest, promotion.name, payload=payload)])
    return registry, release, other, before


def test_each_moment_has_its_release(moved):
    registry, release, other, before = moved
    assert proof_of(registry, before)["digest"] == release.digest
    assert proof_of(registry, before)["ref"] == "handbook@1"
    assert proof_of(registry)["digest"] == other.digest
    first = proof_of(registry, before - timedelta(days=1))
    assert (first["state"], first["digest"]) == ("nothing was in production", None)
    assert proof_of(registry, name="nobody")["moves"] == []


def test_a_stranger_accepts_the_proof_with_the_public_key_alone(moved):
    registry, _, _, before = moved
    public = registry.ledger.signer.public
    for moment in (before, None, before - timedelta(days=1)):
        assert check(proof_of(registry, moment), public) == []
    assert "not signed by" in check(proof_of(registry), Signer.generate("service", "service").public)[0]


def without_last(proof):
    proof["moves"].pop()


def without_first(proof):
    proof["moves"].pop(0)


def other_digest(proof):
    proof["digest"] = "sha256:" + "0" * 64


def other_moment(proof):
    proof["at"] = "2020-01-01T00:00:00.000000Z"


def other_name(proof):
    proof["name"] = "release/other"


def other_time(proof):
    leaf = json.loads(proof["moves"][0]["leaf"])
    changed = {**leaf, "time": "2020-01-01T00:00:00.000000Z"}
    proof["moves"][0]["leaf"] = json.dumps(changed, separators=(",", ":"), sort_keys=True)


def other_record(proof):
    proof["moves"][1]["record"]["inputs"]["previous"] = None


def other_proof(proof):
    proof["moves"][0]["proof"] = proof["moves"][1]["proof"]


def other_state(proof):
    proof["state"] = "stopped"


def torn(proof):
    del proof["moves"][0]["leaf"]


@pytest.mark.parametrize(
    ("bend", "said"),
    [
        (without_last, "it says in_force 1"),
        (without_first, "a move is missing"),
        (other_digest, "it says digest"),
        (other_moment, "it says state 'in production'"),
        (other_name, "it is no move of release/other"),
        (other_time, "does not lead to the checkpoint's root"),
        (other_record, "its record is not the one that it names"),
        (other_proof, "does not lead to the checkpoint's root"),
        (other_state, "it says state 'stopped'"),
        (torn, "cannot be read"),
    ],
)
def test_a_bent_proof_is_named(moved, bend, said):
    registry = moved[0]
    proof = proof_of(registry)
    assert check(proof, registry.ledger.signer.public) == []
    bend(proof)
    assert any(said in fault for fault in check(proof, registry.ledger.signer.public))


def test_a_move_out_of_the_order_of_time_is_named(moved):
    registry, release, _, _ = moved
    back_dated = Statement("rollback", release.digest, "release/handbook", time="2020-01-01T00:00:00.000000Z")
    registry.ledger.append([back_dated])
    assert any("out of the order" in fault for fault in check(proof_of(registry), registry.ledger.signer.public))


def test_a_stop_is_told_and_a_resume_ends_it(served):
    registry, release = served
    stop(release, registry=registry, reason="it errs")
    stopped = utc_now()
    resume(release, registry=registry, reason="mended")
    assert (proof_of(registry, stopped)["state"], proof_of(registry, stopped)["digest"]) == (STOPPED, release.digest)
    assert proof_of(registry)["state"] == "in production"
    for moment in (stopped, None):
        assert check(proof_of(registry, moment), registry.ledger.signer.public) == []


def test_what_a_proof_leaves_open_is_said_in_our_words(moved):
    proof = proof_of(moved[0])
    assert rests_on(proof) == proof["rests_on"]
    assert "PROVEN" not in rests_on({**proof, "rests_on": "PROVEN"})


@pytest.mark.parametrize(
    ("text", "hour", "zoned"),
    [("2026-01-01T12:00:00Z", 12, True), ("2026-01-01T12:00:00+02:00", 10, True), ("2026-01-01T12:00:00", 12, False)],
)
def test_moments_are_read_with_their_zone_or_as_utc(text, hour, zoned):
    assert parse_moment(text) == (datetime(2026, 1, 1, hour, tzinfo=UTC), zoned)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("yesterday", "no RFC 3339 time"),
        ("0001-01-01T00:00:00+14:00", "no RFC 3339 time"),
        ("2999-01-01T00:00:00Z", "still to come"),
    ],
)
def test_what_is_no_past_moment_is_refused(text, said):
    with pytest.raises(BadMoment, match=said):
        parse_moment(text)


def places_of(value, path=()):
    """Every place in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from places_of(each, (*path, key))


JUNK = [None, 0, -1, 1.5, float("nan"), "", "x", "AA==", [], [1], {}, {"a": 1}, True]


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_an_attacker_writes_is_answered_with_sentences(moved, data):
    registry = moved[0]
    proof = proof_of(registry)
    *path, last = data.draw(st.sampled_from([place for place in places_of(proof) if place]))
    at = proof
    for key in path:
        at = at[key]
    before, at[last] = at[last], data.draw(st.sampled_from(JUNK))
    found = check(proof, registry.ledger.signer.public)
    assert all(isinstance(fault, str) for fault in found)
    told = last in ("ref", "canary_ref", "rests_on", "log_key") or at[last] == before or (path and path[-1] == "files")
    assert found or told, (path, last)


def test_a_proof_that_is_no_object_is_refused(registry):
    for junk in JUNK:
        assert check(junk, registry.ledger.signer.public)
