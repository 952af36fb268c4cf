"""A CycloneDX 1.6 bill of materials: the release, its models with model cards, its data.

The components are made with ``cyclonedx-python-lib``, whose model has no model card (11.12); that part is written by
hand as the schema asks, and the whole is checked against the official schema that ships with the library.
Guarantees: the same release gives the same bytes. Not guaranteed: software dependencies; they are no part of a release.
"""

import json
import uuid
from datetime import datetime
from typing import Any

from app.core.digests import hex_of
from app.core.errors import SignalboxError
from app.governance.pack.cards import evaluations_of, figures
from app.governance.pack.contents import Contents
from app.registry.versions import Version

DATA = ("dataset", "synthetic", "suite", "index")


class BomInvalid(SignalboxError):
    """The bill of materials does not fit the official schema: report this as a bug of Signalbox."""


def bill_of_materials(contents: Contents) -> bytes:
    """The bill of materials as JSON.

    Raises:
        BomInvalid: it does not fit the schema.
    """
    from cyclonedx.output.json import JsonV1Dot6

    bom = json.loads(JsonV1Dot6(_bom(contents)).output_as_string())
    cards = {version.digest: _model_card(version, contents) for version in contents.of_kind("model")}
    for component in bom.get("components", []):
        if component["bom-ref"] in cards:
            component["modelCard"] = cards[component["bom-ref"]]
    data = json.dumps(bom, indent=2, sort_keys=True)
    if fault := schema_fault(data):
        raise BomInvalid(f"the bill of materials of {contents.release.ref} does not fit its schema ({fault})")
    return data.encode()


def schema_fault(data: str) -> str:
    """What the official CycloneDX 1.6 schema has against some JSON; empty when nothing."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(data)
    return " ".join(str(error).split())[:300] if error else ""


def _bom(contents: Contents) -> Any:
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import ComponentType

    release = contents.release
    learnt = (*contents.of_kind("model"), *contents.of_kind("retriever"))
    parts = [_component(version, ComponentType.MACHINE_LEARNING_MODEL) for version in learnt]
    parts += [_component(version, ComponentType.DATA) for kind in DATA for version in contents.of_kind(kind)]
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"urn:signalbox:{release.digest}"), components=parts)
    bom.metadata.timestamp = datetime.fromisoformat(contents.times[release.digest])
    bom.metadata.component = _component(release, ComponentType.APPLICATION)
    known = {component.bom_ref.value: component for component in [bom.metadata.component, *parts]}
    versions = {version.digest: version for version in contents.versions}
    for reference, component in known.items():
        parents = versions[str(reference)].parents
        bom.register_dependency(component, [known[parent] for parent in dict.fromkeys(parents) if parent in known])
    return bom


def _component(version: Version, kind: Any) -> Any:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component

    return Component(
        name=version.name,
        version=str(version.number),
        type=kind,
        bom_ref=version.digest,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=hex_of(version.digest))],
        properties=[Property(name="signalbox:kind", value=version.kind)],
    )


def _model_card(model: Version, contents: Contents) -> dict[str, Any]:
    """``modelCard`` of CycloneDX 1.6: data by reference, recipe, and every metric with its interval."""
    known = {version.digest: version for version in contents.versions}
    listed = [known[digest] for digest in dict.fromkeys(model.parents) if digest in known]
    metrics = [
        {
            "type": metric,
            "value": repr(interval["value"]),
            "slice": evaluation.ref,
            "confidenceInterval": {"lowerBound": repr(interval["low"]), "upperBound": repr(interval["high"])},
        }
        for evaluation in evaluations_of(model, contents)
        for metric, interval in figures(evaluation)
    ]
    return {
        "modelParameters": {
            "task": "text-generation",
            "approach": {"type": "supervised" if model.facts.get("recipe") != "cpt" else "self-supervised"},
            "datasets": [{"ref": each.digest} for each in listed if each.kind in DATA],
        },
        "quantitativeAnalysis": {"performanceMetrics": metrics},
        "considerations": {"technicalLimitations": ["Intended uses and limits are not stated in the ledger."]},
    }
