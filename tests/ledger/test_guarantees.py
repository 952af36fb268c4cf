"""A guarantee is stated once, voided at once, and holds against the router's file; what was tampered with is named."""

import json
import shutil

import pytest

from app.governance.guarantees import NoGuarantee, SignerRefused, standing_of, state_guarantee, void_guarantee
from app.governance.keys import new_key
from app.ledger.guarantees import sign_statement
from app.ledger.log import GUARANTEE, VOID, Statement
from app.ledger.verify import verify
from app.routing.guarantee import Guarantee
from app.routing.router import Cascade, Router

PROMISED = Guarantee(0.02, 0.95, 0.1, 500, 0.5, 0.01)
BOUND = {"small": "sha256:s", "index": "sha256:i"}
PROMISE = {"guarantee": PROMISED.to_json(), "bound_to": BOUND}


@pytest.fixture
def router(registry, tmp_path):
    folder = tmp_path / "router"
    folder.mkdir()
    Router({}, Cascade({}, 1.0, None, None), guarantee=PROMISED, bound_to=BOUND).save(folder)
    return registry.publish("router", "router", folder=folder, inputs={"r": 1})


def faults(registry):
    return [(fault.kind, fault.message) for fault in verify(registry.workspace).faults]


def test_stated_once_and_voided_for_good(registry, router):
    assert "no leaf" in standing_of(registry, router.digest).objection
    assert any("counts as void" in note for note in verify(registry.workspace).notes)
    with pytest.raises(NoGuarantee, match="router@1"):
        void_guarantee(router, "drift", registry=registry)
    for _ in range(2):
        state_guarantee(router, PROMISE, registry=registry)
    assert standing_of(registry, router.digest).objection == ""
    assert len(list(registry.ledger.leaves(GUARANTEE))) == 1
    assert void_guarantee(router, "the questions drifted", registry=registry)
    assert not void_guarantee(router, "again", registry=registry)
    state_guarantee(router, PROMISE, registry=registry)
    assert standing_of(registry, router.digest).objection == "the questions drifted"
    assert faults(registry) == []


def test_another_promise_than_the_files_is_named(registry, router):
    better = PROMISE | {"guarantee": PROMISED.to_json() | {"tolerance": 0.001}}
    state_guarantee(router, better, registry=registry)
    assert [kind for kind, _ in faults(registry)] == ["bad-guarantee"]
    assert "another guarantee than the router's router.json" in faults(registry)[0][1]


def test_a_file_that_was_changed_afterwards_is_named(registry, router):
    state_guarantee(router, PROMISE, registry=registry)
    path = registry.folder(router) / "router.json"
    value = json.loads(path.read_text())
    value["guarantee"]["threshold"] = 9.0
    shutil.copymode(path, path)
    path.chmod(0o644)
    path.write_text(json.dumps(value))
    assert {kind for kind, _ in faults(registry)} == {"bad-guarantee", "changed-file"}


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        (GUARANTEE, {"log_key": "another"}, "not for this log"),
        (VOID, {"reason": " "}, "it states no reason"),
        (GUARANTEE, {"router": "sha256:" + "0" * 64}, "signed another statement"),
        (VOID, {"signature": "AAAA"}, "nobody's signature"),
    ],
)
def test_a_forged_statement_is_named(registry, router, kind, change, said):
    state_guarantee(router, PROMISE, registry=registry)
    ledger = registry.ledger
    told = PROMISE if kind == GUARANTEE else {"reason": change.get("reason", "drift")}
    about = change.get("router", router.digest)
    log_key = change.get("log_key", ledger.log_key)
    record = sign_statement(kind, about, name="router/router", signer=ledger.signer, log_key=log_key, **told)
    if "signature" in change:
        record["facts"]["signed"]["signature"] = change["signature"]
    payload = registry.store.publish(kind, None, record)
    actor = ledger.signer.public.key_name
    ledger.append([Statement(kind, router.digest, "router/router", (), payload, actor)])
    found = faults(registry)
    assert [each for each, _ in found] == [f"bad-{kind}"]
    assert said in found[0][1]


def test_who_may_sign(registry, router):
    reviewer = new_key(registry, "ann", role="reviewer", person="Ann")
    with pytest.raises(SignerRefused, match="reviewer"):
        state_guarantee(router, PROMISE, registry=registry, signer=reviewer)
    state_guarantee(router, PROMISE, registry=registry)
    assert void_guarantee(router, "I saw other questions", registry=registry, signer=reviewer)
    assert faults(registry) == []
