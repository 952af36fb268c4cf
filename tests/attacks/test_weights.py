"""Weights that are swapped after they were signed: before packing, in the store, in the pack, in the signature."""

import shutil
import zipfile

import pytest

from app.core.workspace import Workspace
from app.governance.approvals import approve
from app.governance.pack.verify import verify_pack
from app.governance.pack.weights import sign_weights
from app.governance.pack.write import write_pack
from app.governance.policy import parse_policy
from app.governance.promotion import promote
from app.governance.stoplights import ask_about_release
from app.inference.models import find_model
from app.ledger.key_sources import open_signer
from app.ledger.verify import verify
from app.registry.versions import open_registry
from app.registry.whole import ArtifactChanged
from app.serving.release import resolve_release
from tests.governance.conftest import POLICY
from tests.governance.pack.broken import Broken, kinds, sentence
from tests.governance.pack.world import MEANING, play


@pytest.fixture
def broken(packed, tmp_path):
    return Broken(packed, tmp_path)


@pytest.fixture
def copied(packed, tmp_path):
    """The scene's workspace, to be broken."""
    shutil.copytree(packed.registry.workspace.root, tmp_path / "workspace")
    return open_registry(Workspace.find(tmp_path / "workspace"))


def swap(path):
    path.write_bytes(path.read_bytes()[:-4] + b"\x00\x00\x80\x3f")


def test_weights_swapped_in_the_pack_are_named(broken):
    name = next(each for each in broken.members if each.endswith("model.safetensors"))
    broken.members[name] = broken.members[name][:-4] + b"\x00\x00\x80\x3f"
    report = broken.faults()
    assert {"bad-weights", "changed-file", "changed-member", "bad-attestation"} <= kinds(report)
    assert "small@1" in sentence(report, "bad-weights")
    assert "model.safetensors" in sentence(report, "bad-weights")


def test_an_extra_file_among_the_weights_is_named(broken):
    name = next(each for each in broken.members if each.endswith("model.safetensors"))
    broken.members[name.replace("model.safetensors", "pickle.bin")] = b"payload"
    assert {"bad-weights", "extra-file", "extra-member"} <= kinds(broken.faults())


def test_a_signature_by_another_key_is_named(broken, packed, tmp_path):
    """The attacker signs the swapped weights anew and puts a public key of their own beside it."""
    from model_signing import signing

    from app.governance.pack.weights import _public_pem, _signing_key

    folder = tmp_path / "files"
    shutil.copytree(packed.registry.folder(packed.model), folder)
    swap(folder / "model.safetensors")
    private = _signing_key(tmp_path / "attacker.p256")
    signing.Config().use_elliptic_key_signer(private_key=private).sign(folder, tmp_path / "model.sig")
    for name in broken.members:
        if name.endswith("model.sig"):
            broken.members[name] = (tmp_path / "model.sig").read_bytes()
        elif name.endswith("signing-key.pem"):
            broken.members[name] = _public_pem(private)
        elif name.endswith("model.safetensors"):
            broken.members[name] = (folder / "model.safetensors").read_bytes()
    report = broken.faults()
    assert "did not sign this model's digest with this public key" in sentence(report, "bad-weights")
    assert any(fault.where.startswith("model-signature small@1") for fault in report.faults)


def test_swapped_weights_are_neither_signed_nor_packed(copied, packed, tmp_path):
    swap(copied.folder(packed.model) / "model.safetensors")
    with pytest.raises(ArtifactChanged, match=r"model\.safetensors is not the file that was published"):
        write_pack(packed.release, tmp_path / "pack.zip", registry=copied)
    (copied.workspace.keys_dir / "model-signing.p256").unlink()
    with pytest.raises(ArtifactChanged):
        sign_weights(packed.model, registry=copied)
    assert "changed-file" in kinds(verify(copied.workspace))


def test_without_weights_the_signature_still_tells_a_swap(packed, tmp_path):
    """The pack leaves the weights out; the library checks the signature where the weights lie."""
    from model_signing import verifying

    write_pack(packed.release, tmp_path / "light.zip", registry=packed.registry, with_weights=False)
    report = verify_pack(tmp_path / "light.zip", public_key=packed.key)
    assert report.ok
    assert any("weights left out: small@1" in note for note in report.notes)
    with zipfile.ZipFile(tmp_path / "light.zip") as archive:
        assert not any(name.endswith(".safetensors") for name in archive.namelist())
        parts = [name for name in archive.namelist() if name.startswith("signatures/")]
        archive.extractall(tmp_path / "out", parts)
    signature, key = (next((tmp_path / "out").rglob(name)) for name in ("model.sig", "signing-key.pem"))
    files = tmp_path / "files"
    shutil.copytree(packed.registry.folder(packed.model), files)
    verifying.Config().use_elliptic_key_verifier(public_key=key).verify(files, signature)
    swap(files / "model.safetensors")
    with pytest.raises(ValueError, match="Hash mismatch"):
        verifying.Config().use_elliptic_key_verifier(public_key=key).verify(files, signature)


@pytest.mark.parametrize("what", ["weights", "manifest"])
def test_what_was_swapped_after_approval_is_neither_promoted_nor_loaded(tmp_path, what):
    """The judged weights are exchanged in the store between signature and promotion; or the release names others."""
    registry = open_registry(Workspace.find(tmp_path / "workspace"))
    release, verdict, model = play(registry, tmp_path)
    again = registry.publish("release", "other", inputs=release.manifest["inputs"], parents=release.parents,
                             facts=release.facts)  # fmt: skip
    signer = open_signer(registry.workspace.keys_dir, "jane")
    said = {"printed_name": "Jane Doe", "meaning": MEANING, "registry": registry}
    approve(verdict, again, signer=signer, **said)
    ask_about_release(again, verdict=verdict, registry=registry)
    if what == "weights":
        swap(registry.folder(model) / "model.safetensors")
    else:
        path = registry.folder(again).parent / "manifest.json"
        path.write_text(path.read_text().replace('"prompt":""', '"prompt":"Lie."'))
    chosen, policy = registry.get("release", "other"), parse_policy(POLICY)
    with pytest.raises(ArtifactChanged, match="is not the file that was published"):
        promote(chosen, verdict=verdict, registry=registry, policy=policy, reason="because")
    if what == "weights":
        with pytest.raises(ArtifactChanged):
            find_model(model, registry=registry)
    assert {"changed-file", "changed-manifest"} & kinds(verify(registry.workspace))


def test_a_promoted_release_whose_manifest_is_changed_serves_nothing(copied, packed):
    path = copied.folder(packed.release).parent / "manifest.json"
    path.write_text(path.read_text().replace('"prompt":""', '"prompt":"Lie."'))
    with pytest.raises(ArtifactChanged, match="its manifest"):
        resolve_release(copied, packed.release.digest)
