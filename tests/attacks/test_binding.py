"""Attacks with what was signed elsewhere: for another ledger, or for another gateway."""

import shutil
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

from app.core.clock import timestamp
from app.core.workspace import Workspace
from app.governance.approvals import BadStatement, draft_from
from app.governance.desk import Desk
from app.governance.keys import enrol
from app.governance.pack.verify import verify_pack
from app.governance.pack.write import write_pack
from app.governance.promotion import ApprovalsMissing
from app.ledger.binding import find_foreign
from app.ledger.key_sources import open_signer
from app.ledger.keys import Signer, sign_facts
from app.registry.versions import open_registry
from app.serving.approvals import RemoteDesk, ServerRefused
from app.serving.http import create_app
from app.serving.settings import ServingSettings
from app.serving.signatures import Gatekeeper, Message, Unsigned, own_authorities, sign_request
from tests.attacks.world import MEANING, Stage, stage
from tests.governance.conftest import World
from tests.governance.pack.world import play as played


@pytest.fixture
def twins(tmp_path, monkeypatch):
    """Two ledgers of the same content, judged at the same moment, and the same approver's: ``(case, case), jane``."""
    now = timestamp()
    monkeypatch.setattr("app.registry.versions.timestamp", lambda: now)
    jane, cases = Signer.generate("jane", "approver"), []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        play = stage(open_registry(Workspace.find(tmp_path / name / "workspace")), tmp_path / name)
        enrol(play.registry, jane.public, person="Jane Doe")
        cases.append((play, *play.candidate()))
    return cases, jane


def test_an_approval_copied_from_another_ledger_is_refused_and_named(twins):
    ((here, release, verdict), (there, copied, same)), jane = twins
    assert (release.digest, verdict.digest) == (copied.digest, same.digest), "or the copy proves nothing"
    signed = here.approve(release, verdict, jane).facts["signed"]
    with pytest.raises(BadStatement, match=r"signed for signalbox/ledger/.* not for this log"):
        Desk(there.registry).record(signed)
    there.smuggle(signed["body"], jane)
    with pytest.raises(ApprovalsMissing, match="0 of 1"):
        there.promote(copied, same)
    (fault,) = there.faults()
    assert fault.startswith("bad-approval")
    assert f"not for this log, {there.registry.ledger.origin}" in fault
    here.promote(release, verdict)
    assert here.faults() == []


@pytest.mark.parametrize("log", [None, "", "signalbox/ledger/00000000", 7])
def test_an_approval_that_names_no_log_is_refused(twins, log):
    ((here, release, verdict), _), jane = twins
    with pytest.raises(BadStatement, match="log"):
        here.send(here.body(release, verdict, jane, log=log), jane)


def test_a_rejection_from_another_ledger_blocks_nothing(twins):
    ((here, release, verdict), (there, copied, same)), jane = twins
    signed = here.reject(release, verdict, jane).facts["signed"]
    there.smuggle(signed["body"], jane, kind="rejection")
    there.approve(copied, same, jane)
    there.promote(copied, same)
    (fault,) = there.faults()
    assert fault.startswith("bad-rejection")


def test_a_promotion_record_copied_from_another_ledger_is_named(twins):
    """Jane promoted here; whoever holds the server there copies her approval and her promotion."""
    ((here, release, verdict), (there, copied, _)), jane = twins
    approval = here.approve(release, verdict, jane)
    here.promote(release, verdict, signer=jane)
    (leaf,) = here.registry.ledger.leaves("promotion")
    there.smuggle(approval.facts["signed"]["body"], jane)
    shutil.copytree(here.registry.workspace.root / "store", there.registry.workspace.root / "store", dirs_exist_ok=True)
    record = here.registry.store.manifest("promotion", leaf.statement.payload)
    there.force(copied, leaf.statement.parents, signed=record["facts"]["signed"])
    move = [each for each in there.faults() if each.startswith("bad-promotion")]
    assert any("not for this log" in each for each in move)
    assert any("0 of 1 approvals" in each for each in move)
    assert not any("signature stands" in each for each in move), "the signature itself holds"
    assert here.faults() == []


def test_a_pack_names_what_was_signed_for_another_log(registry, tmp_path):
    release, verdict, _ = played(registry, tmp_path)
    play, jane = Stage(World(registry, tmp_path), None), open_signer(registry.workspace.keys_dir, "jane")
    play.smuggle(play.body(release, verdict, jane, log=jane.public.vkey), jane, name="handbook")
    write_pack(release, tmp_path / "pack.zip", registry=registry)
    (fault,) = verify_pack(tmp_path / "pack.zip").faults
    assert (fault.kind, "not for this log" in str(fault)) == ("bad-approval", True)


def test_logs_of_one_origin_are_told_apart():
    """The id of a key has 32 bits, of which a second one can be found; its 256 bits are compared."""
    one, two = (Signer.generate("service", "service").public for _ in range(2))
    assert find_foreign({"log": one.vkey}, one.vkey) is None
    assert "not for this log" in find_foreign({"log": one.vkey}, two.vkey)
    assert "signed for no log" in find_foreign({}, one.vkey)
    assert find_foreign({}, "") is None, "a log whose key is lost is named elsewhere"


# Requests for another gateway.


def message(url, signer, host):
    headers = sign_request("GET", f"{url}/v1/approvals", signer=signer)
    return Message("GET", host, "/v1/approvals", "", headers)


@pytest.mark.parametrize(
    ("authorities", "host", "taken"),
    [
        (("signalbox.example.org",), "signalbox.example.org", True),
        (("signalbox.example.org",), "Signalbox.Example.Org:8443", True),
        (("box:8000",), "box:8000", True),
        (("box:8000",), "box:8001", False),
        (("signalbox.example.org",), "evil.example.org", False),
        (("signalbox.example.org",), "signalbox.example.org.evil", False),
        (("signalbox.example.org",), "", False),
        (("signalbox.example.org",), "localhost:8000", False),
        (None, "localhost:8000", True),
        (None, "[::1]:8000", True),
        (None, "serve:8000", True),
        (None, "serve:8001", False),
        (None, "signalbox.example.org", False),
    ],
)
def test_a_request_that_was_signed_for_another_host_is_refused(monkeypatch, authorities, host, taken):
    monkeypatch.setenv("SIGNALBOX_URL", "http://serve:8000")
    signer = Signer.generate("jane", "approver")
    keeper = Gatekeeper(authorities or own_authorities())
    sent = message(f"http://{host.lower() or 'x'}", signer, host)
    if taken:
        assert keeper.check(sent) == signer.public
    else:
        with pytest.raises(Unsigned, match="this gateway answers for"):
            keeper.check(sent)


def test_a_gateway_that_passes_requests_on_gets_nowhere(twins):
    """Jane asks one gateway, which hands her request, host and all, to another ledger's."""
    ((here, release, verdict), (there, _, _)), jane = twins
    with TestClient(
        create_app(SimpleNamespace(settings=ServingSettings()), there.registry, authorities=("there.example",))
    ) as http:
        desk = RemoteDesk("http://testserver", jane, http)
        with pytest.raises(ServerRefused, match=r"answers for there\.example"):
            desk.list()
        body = here.body(release, verdict, jane)
        headers = sign_request("GET", "http://here.example/v1/approvals", signer=jane)
        assert http.get("/v1/approvals", headers={**headers, "host": "here.example"}).status_code == 401
        own = RemoteDesk("http://there.example", jane, http)
        with pytest.raises(ServerRefused, match="not for this log"):
            own.record(sign_facts(body, jane))
        body = draft_from(own.show(release.ref), signer=jane, printed_name="Jane Doe", meaning=MEANING)
        own.record(sign_facts(body, jane))
    assert there.faults() == []
