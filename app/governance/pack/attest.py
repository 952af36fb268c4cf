"""What was done, as attestations: SLSA provenance of a model, test-result of an evaluation, summary of a verdict.

Sources: SLSA provenance v1 and verification summary v1 (https://slsa.dev/spec), in-toto test-result v0.1. Every
predicate is built through its published protobuf, so that a field of another name or type fails here.
Guarantees: figures and digests are those of manifests in the pack. Not guaranteed: a SLSA level; none is claimed.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from app.core.digests import digest_bytes, hex_of
from app.core.parquet import read_rows
from app.governance.findings import SEVERITY
from app.governance.pack.contents import Contents
from app.governance.pack.dsse import sign_statement, statement
from app.governance.pack.layout import ATTESTATIONS, PREDICATES, STORE, short
from app.ledger.keys import Signer
from app.registry.tables import ROWS_FILE
from app.registry.versions import Registry, Version

BUILD_TYPE = "urn:signalbox:training-run:v1"
BUILDER = "urn:signalbox:trainer"
VERIFIER = "urn:signalbox:gate"
METRICS = ("exact_match", "recall_at_10")
"""What says whether a question was answered right, by a model or by an index."""
RESULTS = {"green": "PASSED", "pending": "PASSED", "amber": "WARNED", "red": "FAILED"}


def attest_all(contents: Contents, *, registry: Registry, signer: Signer) -> dict[str, bytes]:
    """Envelopes by their member's name; a verdict's summary names the test results that it went by."""
    made: dict[str, bytes] = {}
    for model in (*contents.of_kind("model"), *contents.of_kind("retriever")):
        made[member("provenance", model)] = sign_statement(provenance(model, contents), signer)
    results = {}
    for evaluation in contents.of_kind("evaluation"):
        data = sign_statement(test_result(evaluation, contents, registry), signer)
        made[member("test-result", evaluation)] = results[evaluation.digest] = data
    for verdict in contents.of_kind("verdict"):
        made[member("vsa", verdict)] = sign_statement(summary(verdict, contents, results), signer)
    return made


def member(kind: str, version: Version) -> str:
    """The name of an attestation in the pack."""
    return f"{ATTESTATIONS}/{kind}/{short(version.digest)}.dsse.json"


def provenance(model: Version, contents: Contents) -> dict[str, Any]:
    """How a model came to be: recipe and settings, data and base that went in, who trained it, when."""
    inputs, facts = dict(model.manifest["inputs"]), model.facts
    actor = _actors(contents).get(model.digest, "service")
    metadata = {"invocationId": str(facts.get("run_id") or ""), "finishedOn": contents.times[model.digest]}
    predicate = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"name": model.name, "inputs": inputs},
            "resolvedDependencies": [_descriptor(digest, contents) for digest in dict.fromkeys(model.parents)],
        },
        "runDetails": {
            "builder": {"id": f"{BUILDER}:{actor}", "version": {"trainer": str(inputs.get("code_version", ""))}},
            "metadata": {key: value for key, value in metadata.items() if value},
        },
    }
    files = [(_path(model, name), entry["sha256"]) for name, entry in sorted(model.manifest["files"].items())]
    return _typed("provenance", [(_path(model), model.digest), *files], predicate)


def test_result(evaluation: Version, contents: Contents, registry: Registry) -> dict[str, Any]:
    """An evaluation: which questions were answered right, and whether the checks that looked at it were met."""
    path = registry.folder(evaluation) / ROWS_FILE
    rows = read_rows(path) if path.is_file() else []
    right = {str(row["question_id"]): _outcome(row) >= 1 for row in rows}
    lights = [check["light"] for check in _checks(contents) if evaluation.digest in check["inputs"]]
    fallback = "green" if all(right.values()) else "amber"
    predicate = {
        "result": RESULTS[max(lights, key=SEVERITY.__getitem__, default=fallback)],
        "configuration": [_descriptor(digest, contents) for digest in evaluation.parents],
        "passedTests": [question for question, passed in right.items() if passed],
        "failedTests": [question for question, passed in right.items() if not passed],
    }
    return _typed("test-result", [(_path(evaluation), evaluation.digest)], predicate)


def _outcome(row: Mapping[str, Any]) -> float:
    return float(next((row[name] for name in METRICS if row.get(name) is not None), 0.0))


def summary(verdict: Version, contents: Contents, results: Mapping[str, bytes]) -> dict[str, Any]:
    """A verdict: PASSED only when green; an amber one needs a person, whose approval is no part of the summary."""
    inputs, facts = verdict.manifest["inputs"], verdict.facts
    artifact, passed = facts["artifact"], facts["light"] == "green"
    used = [digest for digest in verdict.parents if digest in results]
    predicate = {
        "verifier": {"id": VERIFIER},
        "timeVerified": contents.times[verdict.digest],
        "resourceUri": f"urn:signalbox:{artifact['kind']}:{artifact['digest']}",
        "policy": {"uri": f"urn:signalbox:policy:{inputs['policy']}", "digest": {"sha256": hex_of(inputs["policy"])}},
        "inputAttestations": [
            {"uri": f"urn:signalbox:test-result:{digest}", "digest": {"sha256": hex_of(digest_bytes(results[digest]))}}
            for digest in used
        ],
        "verificationResult": "PASSED" if passed else "FAILED",
        "slsaVersion": "1.0",
    }
    levels = [f"SIGNALBOX_GATE_{facts['gate'].upper()}" if passed else "FAILED"]
    subjects = [(f"{STORE}/{artifact['kind']}/{hex_of(artifact['digest'])}/manifest.json", artifact["digest"])]
    values = _typed("vsa", [*subjects, (_path(verdict), verdict.digest)], predicate)
    # The specification asks for a list; the protobuf of in-toto-attestation 0.9.3 knows a single text only.
    values["predicate"]["verifiedLevels"] = levels
    return values


def _typed(kind: str, subjects: list[tuple[str, str]], predicate: Mapping[str, Any]) -> dict[str, Any]:
    """A statement whose predicate went through its protobuf."""
    from google.protobuf.json_format import MessageToDict, ParseDict
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
    from in_toto_attestation.predicates.vsa.v1 import vsa_pb2

    messages = {
        "provenance": provenance_pb2.Provenance,
        "test-result": test_result_pb2.TestResult,
        "vsa": vsa_pb2.VerificationSummary,
    }
    checked = MessageToDict(ParseDict(dict(predicate), messages[kind]()))
    return statement(subjects, PREDICATES[kind], checked)


def _descriptor(digest: str, contents: Contents) -> dict[str, Any]:
    """A resource by digest, with kind and reference where the pack knows it."""
    known = {version.digest: version for version in contents.versions}
    found = known.get(digest)
    name = {"name": f"{found.kind} {found.ref}"} if found else {}
    return {**name, "uri": f"urn:signalbox:{digest}", "digest": {"sha256": hex_of(digest)}}


def _checks(contents: Contents) -> Iterable[Mapping[str, Any]]:
    return (check for verdict in contents.of_kind("verdict") for check in verdict.facts["checks"])


def _actors(contents: Contents) -> dict[str, str]:
    return {leaf.statement.subject: leaf.statement.actor for leaf in contents.leaves}


def _path(version: Version, file: str | None = None) -> str:
    base = f"{STORE}/{version.kind}/{hex_of(version.digest)}"
    return f"{base}/files/{file}" if file else f"{base}/manifest.json"
