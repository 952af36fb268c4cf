"""Making a pack, and using it where the registry would be used."""

import json
import zipfile

import pytest

from app.core.digests import digest_bytes
from app.governance.approvals import valid_approvals
from app.governance.gate import replay
from app.governance.lineage import trace
from app.governance.pack.reader import PackIsReadOnly, open_pack
from app.governance.pack.verify import verify_pack
from app.governance.pack.write import write_pack
from app.registry.versions import VersionNotFound
from tests.governance.pack.broken import kinds


def names(path):
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_the_same_ledger_gives_the_same_bytes(packed, tmp_path):
    write_pack(packed.release, tmp_path / "again.zip", registry=packed.registry)
    assert (tmp_path / "again.zip").read_bytes() == packed.pack.read_bytes()


def test_a_verdict_replays_from_the_pack_alone(packed):
    with open_pack(packed.pack) as registry:
        again = replay(registry.get("verdict", packed.verdict.digest), registry=registry)
    assert (again.same, again.digest) == (True, packed.verdict.digest)


def test_a_pack_answers_as_the_registry_does(packed):
    with open_pack(packed.pack) as registry:
        for ref in ("handbook", "handbook@1", "handbook@latest", "handbook@production", packed.release.digest):
            assert registry.get("release", ref).digest == packed.release.digest
        assert registry.get("model", "small").manifest == packed.model.manifest
        assert registry.find("model", "small", packed.model.manifest["inputs"]).digest == packed.model.digest
        assert len(valid_approvals(packed.release, packed.verdict, registry=registry)) == 1
        assert trace(registry, packed.release.digest).find("promotion")
        with pytest.raises(VersionNotFound, match="the pack has no model"):
            registry.get("model", "large")
        with pytest.raises(PackIsReadOnly):
            registry.publish("model", "small", inputs={})


def test_data_is_left_out_unless_asked_for(packed, tmp_path):
    write_pack(packed.release, tmp_path / "data.zip", registry=packed.registry, with_data=True)
    assert any("/documents.txt" in name for name in names(tmp_path / "data.zip"))
    assert not any("/documents.txt" in name for name in names(packed.pack))
    assert any("/suite/" in name and name.endswith("rows.parquet") for name in names(packed.pack))
    report = verify_pack(tmp_path / "data.zip", public_key=packed.key)
    assert report.faults == []
    (note,) = report.notes
    assert note.startswith(f"about release handbook@1, {packed.release.digest}, as a log of ")


def test_data_that_a_replay_reads_is_in_and_without_it_the_report_says_what_cannot_be_judged(packed, tmp_path):
    from app.governance.evidence import Evidence
    from app.governance.gate import judge
    from app.governance.policy import parse_policy
    from app.governance.release import build_release, parts_of

    registry = packed.registry
    checks = [{"kind": "contamination", "maximum": 1}]
    policy = parse_policy({"name": "kept-out", "gate": "candidate", "checks": checks})
    exam = {"target": registry.get("evaluation", "small-exam")}
    evidence = Evidence.collect(packed.model, registry=registry, candidate=exam)
    verdict = judge(policy, evidence, registry=registry)
    parts = parts_of(packed.release, registry=registry) | {"policy": registry.get("policy", "kept-out")}
    release = build_release("kept-out", verdict=verdict, registry=registry, **parts)
    write_pack(release, tmp_path / "rows.zip", registry=registry)
    assert any("/synthetic/" in name and name.endswith("rows.parquet") for name in names(tmp_path / "rows.zip"))
    assert verify_pack(tmp_path / "rows.zip", public_key=packed.key).faults == []
    write_pack(release, tmp_path / "none.zip", registry=registry, with_data=False)
    report = verify_pack(tmp_path / "none.zip", public_key=packed.key)
    assert report.faults == []
    assert any("verdict kept-out-small@1 cannot be judged again from this pack" in note for note in report.notes)


def test_a_release_that_was_never_promoted_can_be_packed(packed, tmp_path):
    from app.governance.release import build_release, parts_of

    parts = parts_of(packed.release, registry=packed.registry)
    other = build_release("other", verdict=packed.verdict, registry=packed.registry, **parts)
    write_pack(other, tmp_path / "other.zip", registry=packed.registry)
    report = verify_pack(tmp_path / "other.zip", public_key=packed.key)
    assert report.ok
    assert any("never promoted" in note for note in report.notes)


def test_without_a_key_of_the_auditors_own_the_report_says_so(packed):
    report = verify_pack(packed.pack)
    assert report.ok
    assert any("the pack's own key" in note for note in report.notes)


def test_after_an_erasure_the_pack_holds_and_says_what_went(packed, tmp_path):
    import shutil

    from app.core.workspace import Workspace
    from app.governance.erasure import erase
    from app.registry.versions import open_registry
    from tests.governance.pack.world import PERSON

    shutil.copytree(packed.registry.workspace.root, tmp_path / "workspace")
    registry = open_registry(Workspace.find(tmp_path / "workspace"))
    erase(registry, subjects=[PERSON], reason="asked for", actor="jane")
    write_pack(packed.release, tmp_path / "erased.zip", registry=registry)
    report = verify_pack(tmp_path / "erased.zip", public_key=packed.key)
    assert report.faults == []
    assert any("cannot be judged again: rows.parquet of evaluation" in note for note in report.notes)
    with zipfile.ZipFile(tmp_path / "erased.zip") as archive:
        assert not any(PERSON.encode() in archive.read(name) for name in archive.namelist())
        described = json.loads(archive.read(next(each for each in archive.namelist() if "datasets/suite-" in each)))
        rows = archive.read(described["distribution"][0]["contentUrl"].removeprefix("../"))
    assert digest_bytes(rows) == f"sha256:{described['distribution'][0]['sha256']}"


def test_a_witness_that_the_auditor_names_must_have_cosigned(packed, tmp_path):
    import shutil

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from app.core.workspace import Workspace
    from app.ledger.witness import Witness, add_cosignatures, cosign, register_witness
    from app.registry.versions import open_registry

    private = Ed25519PrivateKey.generate()
    witness = Witness("witness.example/one", private.public_key().public_bytes_raw())
    assert kinds(verify_pack(packed.pack, public_key=packed.key, witnesses=[witness])) == {"unwitnessed"}
    shutil.copytree(packed.registry.workspace.root, tmp_path / "workspace")
    registry = open_registry(Workspace.find(tmp_path / "workspace"))
    register_witness(registry.ledger, witness)
    note = registry.ledger.checkpoint()
    add_cosignatures(registry.ledger, note + cosign(note, name=witness.name, private=private, time_s=1_800_000_000))
    write_pack(packed.release, tmp_path / "seen.zip", registry=registry)
    assert verify_pack(tmp_path / "seen.zip", public_key=packed.key, witnesses=[witness]).faults == []


def test_the_commands(packed, tmp_path):
    from typer.testing import CliRunner

    from app.cli import app

    runner, out = CliRunner(), tmp_path / "pack.zip"
    workspace = str(packed.registry.workspace.root)
    made = runner.invoke(app, ["evidence", "handbook@production", "--out", str(out), "-w", workspace, "--json"])
    assert made.exit_code == 0
    assert json.loads(made.stdout)["release"] == "handbook@1"
    checked = runner.invoke(app, ["verify", "--pack", str(out), "--key", str(packed.key), "--json"])
    assert (checked.exit_code, json.loads(checked.stdout)["ok"]) == (0, True)
    verdict = packed.verdict.digest
    again = runner.invoke(app, ["gate", "replay", verdict, "--pack", str(out), "-w", str(tmp_path / "none"), "--json"])
    assert (again.exit_code, json.loads(again.stdout)["same"]) == (0, True)
    assert not (tmp_path / "none").exists()
    out.write_bytes(out.read_bytes()[:-100])
    assert runner.invoke(app, ["verify", "--pack", str(out)]).exit_code == 1
