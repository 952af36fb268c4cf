"""An attacker with a zip program and an evidence pack: whatever is changed is named."""

import base64
import dataclasses
import json
import shutil
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.core.digests import digest_bytes
from app.core.workspace import Workspace
from app.governance.keys import revoke_key
from app.governance.pack import layout
from app.governance.pack.verify import verify_pack
from app.governance.pack.write import write_pack
from app.ledger.keys import Signer, load_or_create
from app.ledger.log import Statement
from app.ledger.verify import verify
from app.registry.versions import open_registry
from tests.governance.pack.broken import Broken, kinds, sentence


@pytest.fixture
def broken(packed, tmp_path):
    return Broken(packed, tmp_path)


def test_the_untouched_pack_holds(broken):
    report = broken.faults()
    assert report.faults == []
    assert (report.exit_status, report.num_leaves) == (0, len(broken.members["ledger/leaves.jsonl"].splitlines()))


def test_one_metric_changed_is_found_by_digest_seal_and_replay(broken, tmp_path):
    name = broken.find("/evaluation/", "rows.parquet")
    copy = tmp_path / "rows.parquet"
    copy.write_bytes(broken.members[name])
    table = pq.read_table(copy).to_pylist()
    for row in table[:20]:
        row["exact_match"] = 0.0
    pq.write_table(pa.Table.from_pylist(table), copy)
    broken.members[name] = copy.read_bytes()
    report = broken.faults()
    assert {"changed-file", "changed-member", "bad-replay"} <= kinds(report)
    assert "small-exam" in sentence(report, "changed-file")
    assert "min_metric" in sentence(report, "bad-replay")


def test_a_softer_policy_is_found(broken):
    name = _holding(broken, "/policy/", b'"forgetting_budget"')
    broken.edit(name, _softened)
    report = broken.faults()
    assert {"changed-manifest", "changed-member", "bad-replay"} <= kinds(report)
    assert "policy candidate@1" in sentence(report, "changed-manifest")


def _holding(broken, kind, text):
    """The manifest of a kind that holds a text."""
    return next(name for name, held in broken.members.items() if kind in name and "manifest" in name and text in held)


def _softened(manifest):
    manifest["inputs"]["policy"]["checks"][1]["threshold"] = 0.1
    return manifest


def test_a_removed_approval_is_found(broken):
    gone = broken.find("/approval/")
    digest = f"sha256:{gone.split('/')[2]}"
    del broken.members[gone]
    broken.lines(layout.LEAVES, lambda rows: [row for row in rows if json.loads(row["leaf"])["subject"] != digest])
    broken.edit(layout.INDEX, lambda index: _without(index, digest))
    report = broken.faults()
    assert {"missing-member", "incomplete-pack", "bad-promotion", "missing-approval"} <= kinds(report)
    assert "0 of 1 approvals" in sentence(report, "missing-approval")


def _without(index, digest):
    return {**index, "versions": [each for each in index["versions"] if each["digest"] != digest]}


def test_an_approval_with_a_forged_signature_is_found(broken):
    name = broken.find("/approval/")
    broken.edit(name, _renamed)
    report = broken.faults()
    assert {"changed-manifest", "missing-approval"} <= kinds(report)


def _renamed(manifest):
    manifest["facts"]["signed"]["body"]["printed_name"] = "John Roe"
    return manifest


def test_a_figure_changed_in_the_verdict_is_found(broken):
    def better(manifest):
        manifest["facts"]["checks"][1]["figure"] = 0.999
        return manifest

    broken.edit(_holding(broken, "/verdict/", b'"min_metric"'), better)
    report = broken.faults()
    assert {"changed-manifest", "changed-member", "bad-attestation"} <= kinds(report)
    assert "verdict candidate-small@1" in sentence(report, "changed-manifest")


def test_a_revocation_is_in_the_pack_and_cannot_be_taken_out(packed, tmp_path):
    shutil.copytree(packed.registry.workspace.root, tmp_path / "workspace")
    registry = open_registry(Workspace.find(tmp_path / "workspace"))
    revoke_key(registry, "jane", reason="she left", actor="registrar")
    write_pack(packed.release, tmp_path / "pack.zip", registry=registry)
    broken = Broken(dataclasses.replace(packed, pack=tmp_path / "pack.zip"), tmp_path)
    assert broken.faults().faults == []
    assert b"revoke: she left" in broken.members["index.html"]

    def strip(rows):
        events = [row for row in rows if json.loads(row["leaf"])["kind"] == "key"]
        return [row for row in rows if row is not events[-1]]

    broken.lines(layout.LEAVES, strip)
    report = broken.faults()
    assert "ledger/leaves.jsonl" in sentence(report, "changed-member")


def test_a_replaced_service_key_is_found_with_the_real_one_at_hand(broken):
    broken.members["keys/service.pub"] = Signer.generate("service", "service").public.vkey.encode() + b"\n"
    report = broken.faults()
    assert {"replaced-key", "changed-member"} <= kinds(report)
    alone = broken.faults(public_key=None)
    assert {"changed-checkpoint", "bad-seal"} <= kinds(alone)


def test_a_pack_made_anew_under_another_key_is_one_fault(broken, packed, tmp_path):
    """Whole in itself, names, figures and all: what tells is the key that the auditor has, and it is said once."""
    stranger = load_or_create(tmp_path / "keys", "service", "service").public
    report = broken.faults(public_key=tmp_path / "keys" / "service.pub")
    assert [fault.kind for fault in report.faults] == ["wrong-key"]
    assert stranger.vkey in str(report.faults[0])
    live = verify(packed.registry.workspace, public_key=tmp_path / "keys" / "service.pub")
    assert [fault.kind for fault in live.faults] == ["wrong-key"]


def test_a_replaced_approvers_key_is_found(broken):
    name = broken.find("keys/approver")
    broken.members[name] = Signer.generate("jane", "approver").public.vkey.encode() + b"\n"
    report = broken.faults()
    assert "no leaf of the ledger put this key on record" in sentence(report, "replaced-key")


def test_the_proof_of_another_leaf_is_found(broken):
    def swap(rows):
        rows[0]["proof"], rows[1]["proof"] = rows[1]["proof"], rows[0]["proof"]
        return rows

    broken.lines(layout.PROOFS, swap)
    report = broken.faults()
    assert "bad-proof" in kinds(report)
    assert "leaf 0" in sentence(report, "bad-proof")


def test_a_backdated_leaf_is_found(broken):
    def backdate(rows):
        leaf = json.loads(rows[0]["leaf"])
        rows[0]["leaf"] = json.dumps(
            {**leaf, "time": "2020-01-01T00:00:00.000000Z"}, sort_keys=True, separators=(",", ":")
        )
        return rows

    broken.lines(layout.LEAVES, backdate)
    assert "bad-proof" in kinds(broken.faults())


def test_a_leaf_that_was_never_logged_is_found(broken):
    def insert(rows):
        leaf = json.loads(rows[-1]["leaf"])
        forged = json.dumps({**leaf, "actor": "nobody"}, sort_keys=True, separators=(",", ":"))
        return [*rows, {"index": 999, "leaf": forged}]

    broken.lines(layout.LEAVES, insert)
    assert "missing-proof" in kinds(broken.faults())


@pytest.mark.parametrize("folder", ["provenance", "test-result", "vsa"])
def test_a_changed_attestation_is_found(broken, folder):
    name = broken.find(f"attestations/{folder}/")

    def forge(envelope):
        statement = json.loads(base64.b64decode(envelope["payload"]))
        statement["subject"][0]["digest"]["sha256"] = "0" * 64
        return {**envelope, "payload": base64.b64encode(json.dumps(statement).encode()).decode()}

    broken.edit(name, forge)
    report = broken.faults()
    assert "no signature by service/service that holds" in sentence(report, "bad-attestation")


def test_a_missing_attestation_is_found(broken):
    del broken.members[broken.find("attestations/vsa/")]
    assert {"missing-attestation", "missing-member"} <= kinds(broken.faults())


def test_a_changed_report_and_a_file_added_are_found(broken):
    broken.members["index.html"] = b"<p>all is well</p>"
    broken.members["store/evaluation/extra.txt"] = b"hello"
    report = broken.faults()
    assert {"changed-member", "extra-member"} <= kinds(report)


def test_files_of_an_evaluation_cannot_be_declared_left_out(broken):
    name = broken.find("/evaluation/", "rows.parquet")
    digest = f"sha256:{name.split('/')[2]}"
    del broken.members[name]
    broken.edit(layout.INDEX, lambda index: {**index, "left_out": {**index["left_out"], digest: "too large"}})
    report = broken.faults()
    assert {"missing-file", "bad-replay"} <= kinds(report)


def test_every_fault_is_named_not_only_the_first(broken):
    broken.members["index.html"] = b"-"
    broken.members["sbom.cdx.json"] = b"{}"
    named = {fault.where for fault in broken.faults().faults}
    assert {"index.html", "sbom.cdx.json"} <= named


def flipped(data):
    half = len(data) // 2
    return data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :]


VITAL = (layout.INDEX, layout.SEAL, layout.CHECKPOINT, layout.LEAVES, layout.PROOFS, "keys/service.pub")


def named(report, kind):
    return {fault.where for fault in report.faults if fault.kind == kind}


def test_a_byte_changed_in_any_member_is_found_and_all_of_them_are_named(broken):
    whole = dict(broken.members)
    for vital in VITAL:
        broken.members = {**whole, vital: flipped(whole[vital])}
        assert broken.faults().exit_status == 1, vital
    others = whole.keys() - set(VITAL)
    broken.members = {name: flipped(data) if name in others else data for name, data in whole.items()}
    assert named(broken.faults(), "changed-member") == others


def test_every_member_is_missed(broken):
    others = broken.members.keys() - set(VITAL)
    broken.members = {name: data for name, data in broken.members.items() if name not in others}
    assert named(broken.faults(), "missing-member") == others


FORGED = [
    b"[]",
    b"{}",
    b'{"files": {"../../../../dev/zero": {"sha256": "x"}}, "inputs": {}, "facts": {}, "parents": []}',
]


@pytest.mark.parametrize("manifest", FORGED)
@pytest.mark.parametrize("kind", ["verdict", "approval", "policy", "release", "key"])
def test_a_forged_leaf_with_a_manifest_of_another_form_is_a_fault_and_no_traceback(broken, manifest, kind):
    digest = digest_bytes(manifest)
    broken.members[f"store/{kind}/{digest.removeprefix('sha256:')}/manifest.json"] = manifest

    def forge(rows):
        statement = Statement(kind=kind, subject=digest, name="x", payload=digest)
        return [*rows, {"index": 0, "leaf": statement.to_bytes().decode()}]

    broken.lines(layout.LEAVES, forge)
    listed = {"kind": kind, "name": "x", "number": 1, "digest": digest}
    broken.edit(layout.INDEX, lambda index: {**index, "versions": [*index["versions"], listed]})
    report = broken.faults()
    assert {"bad-proof", "extra-member"} <= kinds(report)


DEEP = b"[" * 200_000
HOSTILE = {
    "pack.json": [
        b"",
        b"[]",
        DEEP,
        b'{"format": "signalbox-evidence-1", "release": {}, "versions": [1], "left_out": []}',
    ],
    "ledger/leaves.jsonl": [
        b"",
        b"[]\n{}\n\xff\n",
        DEEP,
        b'{"index": 1e999, "leaf": "x"}\n',
        b'{"index": 3, "leaf": "\\ud800"}\n',
    ],
    "ledger/proofs.jsonl": [b"", b'{"index": "x"}\n', DEEP, b'{"index": 1e999, "proof": []}\n'],
    "ledger/checkpoint": [b"", b"\xff\xfe"],
    "pack.dsse.json": [b"", b"[]", DEEP, b'{"payloadType": "x", "payload": "", "signatures": []}'],
    "keys/service.pub": [b"", b"\xff"],
}


@pytest.mark.parametrize(("name", "data"), [(name, data) for name, each in HOSTILE.items() for data in each])
def test_nonsense_in_a_member_is_a_fault_and_no_traceback(broken, name, data):
    broken.members[name] = data
    assert broken.faults().exit_status == 1


@pytest.mark.parametrize("folder", ["attestations/vsa/", "store/approval/"])
def test_a_member_nested_without_end_is_a_fault_and_no_traceback(broken, folder):
    broken.members[broken.find(folder)] = DEEP
    assert broken.faults().exit_status == 1


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_missing_member_is_a_fault_and_no_traceback(broken, name):
    del broken.members[name]
    assert broken.faults().exit_status == 1


def write(path, *entries, mode=0):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            info = zipfile.ZipInfo(name)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, mode << 16
            archive.writestr(info, data)


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../b", "a\\b", "C:/x", "a//b", "./a", "a/", "a\x01b"])
def test_a_member_that_could_land_elsewhere_is_refused(tmp_path, name):
    write(tmp_path / "evil.zip", (name, b"x"))
    report = verify_pack(tmp_path / "evil.zip")
    assert kinds(report) == {"bad-pack"}
    assert "refused" in report.faults[0].message


def test_links_and_double_names_are_refused(tmp_path):
    write(tmp_path / "link.zip", ("pack.json", b"/etc/passwd"), mode=0o120777)
    assert "no plain file" in verify_pack(tmp_path / "link.zip").faults[0].message
    with pytest.warns(UserWarning, match="Duplicate"):
        write(tmp_path / "twice.zip", ("pack.json", b"1"), ("pack.json", b"2"))
    assert "twice" in verify_pack(tmp_path / "twice.zip").faults[0].message


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("app.governance.pack.archive.MIN_LIMIT_BYTES", 1 << 20)
    write(tmp_path / "bomb.zip", *[(f"zeros{number}", bytes(1 << 20)) for number in range(4)])
    assert "zip bomb" in verify_pack(tmp_path / "bomb.zip").faults[0].message


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 not a zip", b"\x00" * 100])
def test_what_is_no_zip_is_refused_with_a_sentence(tmp_path, data):
    (tmp_path / "pack.zip").write_bytes(data)
    assert "cannot be unpacked" in verify_pack(tmp_path / "pack.zip").faults[0].message
