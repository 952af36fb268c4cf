"""Every format is checked by its own public tool."""

import base64
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from app.governance.pack import layout
from app.governance.pack.bom import schema_fault
from app.governance.pack.dsse import PAYLOAD_TYPE, BadEnvelope, open_envelope, pae, sign_statement, statement
from app.ledger.keys import Signer
from app.ledger.note import read_checkpoint


@pytest.fixture(scope="module")
def folder(packed, tmp_path_factory):
    """The pack, unzipped by somebody else's program."""
    out = tmp_path_factory.mktemp("unzipped")
    with zipfile.ZipFile(packed.pack) as archive:
        archive.extractall(out)
    return out


def run(*command):
    program = Path(sys.executable).parent / command[0]
    return subprocess.run([program, *map(str, command[1:])], capture_output=True, text=True, timeout=60)


def test_croissant_descriptions_validate(folder):
    import mlcroissant as mlc

    found = sorted((folder / layout.DATASETS).iterdir())
    assert {path.name.partition("-")[0] for path in found} == {"dataset", "synthetic", "suite"}
    for path in found:
        dataset = mlc.Dataset(jsonld=path)
        assert not dataset.metadata.ctx.issues.errors
        assert dataset.metadata.conforms_to == ["http://mlcommons.org/croissant/1.1"]


def test_croissant_names_the_files_and_columns_that_are_there(folder):
    described = json.loads(next((folder / layout.DATASETS).glob("suite-*")).read_text())
    (file,), (table,) = described["distribution"], described["recordSet"]
    assert (folder / layout.DATASETS / file["contentUrl"]).resolve().is_file()
    assert [field["name"].rpartition("/")[2] for field in table["field"]] == ["row_id", "question", "answers"]
    assert table["field"][2]["cr:isArray"]


def test_the_rows_of_a_suite_can_be_read_through_its_description(folder):
    import mlcroissant as mlc

    dataset = mlc.Dataset(jsonld=next((folder / layout.DATASETS).glob("suite-*")))
    rows = list(dataset.records("rows-parquet-rows"))
    assert len(rows) == 2
    assert b"What?" in rows[0].values()


def test_mlcroissants_own_validator_refuses_a_broken_description(folder, tmp_path):
    import mlcroissant as mlc

    described = json.loads(next((folder / layout.DATASETS).glob("suite-*")).read_text())
    del described["distribution"][0]["contentUrl"]
    with pytest.raises(mlc.ValidationError):
        mlc.Dataset(jsonld=described)


def test_the_model_card_holds_every_result(folder, packed):
    from huggingface_hub import ModelCard

    card = ModelCard.load(next((folder / layout.CARDS).iterdir()))
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("exact_match", 0.96, "exam@1")
    assert packed.model.digest in card.text
    assert card.data.datasets == ["handbook-qa@1", "handbook@1"]


def test_the_bill_of_materials_fits_the_official_schema(folder, packed):
    text = (folder / layout.BOM).read_text()
    assert schema_fault(text) == ""
    (model,) = [each for each in json.loads(text)["components"] if each["type"] == "machine-learning-model"]
    (metric,) = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert (metric["type"], metric["confidenceInterval"]["lowerBound"]) == ("exact_match", "0.91")
    assert packed.model.digest == model["bom-ref"]
    bad = json.loads(text)
    bad["components"][0]["modelCard"] = {"modelParameters": {"task": 3}}
    assert "is not of type 'string'" in schema_fault(json.dumps(bad))


@pytest.mark.parametrize("kind", sorted(layout.PREDICATES))
def test_attestations_validate_as_in_toto_statements(folder, kind):
    from google.protobuf.json_format import ParseDict
    from in_toto_attestation.v1.statement import Statement
    from in_toto_attestation.v1.statement_pb2 import Statement as Message

    paths = list((folder / layout.ATTESTATIONS / kind).iterdir())
    assert paths
    for path in paths:
        payload = json.loads(base64.b64decode(json.loads(path.read_bytes())["payload"]))
        Statement.copy_from_pb(ParseDict(payload, Message())).validate()
        assert payload["predicateType"] == layout.PREDICATES[kind]


def test_envelopes_hold_for_securesystemslib(folder, packed):
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError
    from securesystemslib.signer import SSlibKey

    signer = packed.registry.ledger.signer.public
    key = SSlibKey(signer.key_id.hex(), "ed25519", "ed25519", {"public": signer.raw.hex()})
    paths = [*(folder / layout.ATTESTATIONS).rglob("*.json"), folder / layout.SEAL]
    assert len(paths) == 5
    for path in paths:
        assert Envelope.from_dict(json.loads(path.read_bytes())).verify([key], 1)
    envelope = Envelope.from_dict(json.loads(path.read_bytes()))
    envelope.payload += b" "
    with pytest.raises(VerificationError):
        envelope.verify([key], 1)


def test_pae_is_that_of_the_protocol():
    """The test vector of the DSSE repository, protocol.md."""
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_an_envelope_opens_for_its_signer_only():
    signer, other = (Signer.generate(name, "service") for name in ("one", "two"))
    made = statement([("file", f"sha256:{'0' * 64}")], layout.SEAL_TYPE, {"release": "x"})
    data = sign_statement(made, signer)
    assert open_envelope(data, signer.public) == made
    with pytest.raises(BadEnvelope, match="no signature by service/two"):
        open_envelope(data, other.public)
    with pytest.raises(BadEnvelope, match="no signature"):
        open_envelope(data.replace(PAYLOAD_TYPE.encode(), b"text/plain"), signer.public)


def test_model_signing_verifies_the_weights_from_the_command_line(folder, packed):
    signature = next((folder / layout.SIGNATURES).rglob("model.sig"))
    files = folder / layout.STORE / "model" / packed.model.digest.removeprefix("sha256:") / "files"
    command = ["model_signing", "verify", "key", files, "--signature", signature]
    command += ["--public_key", signature.with_name("signing-key.pem")]
    assert run(*command).returncode == 0
    weights = files / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert run(*command).returncode != 0
    weights.write_bytes(whole)


def test_the_checkpoint_is_a_signed_note_over_the_proven_leaves(folder, packed):
    note = (folder / layout.CHECKPOINT).read_text()
    checkpoint = read_checkpoint(note, [packed.registry.ledger.signer.public])
    assert checkpoint.size == packed.registry.ledger.size


def test_provenance_names_data_recipe_and_trainer(folder, packed):
    envelope = json.loads(next((folder / layout.ATTESTATIONS / "provenance").iterdir()).read_bytes())
    predicate = json.loads(base64.b64decode(envelope["payload"]))["predicate"]
    build = predicate["buildDefinition"]
    named = {f"sha256:{each['digest']['sha256']}" for each in build["resolvedDependencies"]}
    assert named == set(packed.model.parents)
    assert build["externalParameters"]["inputs"]["settings"] == {"learning_rate": 0.001}
    assert predicate["runDetails"]["builder"]["id"].endswith("trainer-job")


def test_test_results_name_each_question_and_the_summary_the_policy(folder, packed):
    def predicates(kind):
        found = [json.loads(path.read_bytes())["payload"] for path in (folder / layout.ATTESTATIONS / kind).iterdir()]
        return [json.loads(base64.b64decode(payload))["predicate"] for payload in found]

    (result,), summaries = predicates("test-result"), predicates("vsa")
    summary, traffic = sorted(summaries, key=lambda each: each["verifiedLevels"])
    assert traffic["verifiedLevels"] == ["SIGNALBOX_GATE_RELEASE"]
    assert (result["result"], len(result["passedTests"]), len(result["failedTests"])) == ("PASSED", 96, 4)
    assert (summary["verificationResult"], summary["verifiedLevels"]) == ("PASSED", ["SIGNALBOX_GATE_CANDIDATE"])
    assert f"sha256:{summary['policy']['digest']['sha256']}" == packed.verdict.manifest["inputs"]["policy"]
    assert len(summary["inputAttestations"]) == 1
