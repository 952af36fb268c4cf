"""`signalbox evidence`: gather, describe, sign, and write one zip.

Guarantees: files whose bytes are not those published are refused, not packed; what a pack says of a release can be
checked from the pack and the log's public key alone; the same ledger and options give the same bytes.
Not guaranteed: that the release is good; the pack says what was checked and who approved.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.core.digests import canonical_json, digest_bytes, digest_file, hex_of
from app.core.errors import SignalboxError
from app.governance.pack import layout
from app.governance.pack.archive import write_archive
from app.governance.pack.attest import attest_all
from app.governance.pack.bom import bill_of_materials
from app.governance.pack.cards import card
from app.governance.pack.contents import Contents, select
from app.governance.pack.croissant import KINDS, describe
from app.governance.pack.dsse import sign_statement, statement
from app.governance.pack.page import render_page
from app.governance.pack.weights import KIND as SIGNATURE
from app.ledger.erasures import Erasures, erasures_in
from app.ledger.keys import Verifier
from app.ledger.log import KEY, SERVICE_KEY, Ledger
from app.ledger.note import Checkpoint, read_checkpoint
from app.registry.versions import Registry, Version
from app.registry.whole import check_files

Members = dict[str, bytes | Path]


class NotPackable(SignalboxError):
    """The ledger cannot vouch for the release: run `signalbox verify` and restore what it names."""


@dataclass(frozen=True)
class Pack:
    """What was written."""

    path: Path
    release: str
    num_leaves: int
    num_members: int
    num_bytes: int
    left_out: Mapping[str, str]


def write_pack(
    release: Version, path: Path, *, registry: Registry, with_weights: bool = True, with_data: bool | None = None
) -> Pack:
    """Write the evidence of a release.

    Args:
        with_weights: the files of the models that it serves; without them, signatures can be checked elsewhere.
        with_data: the files of datasets, synthetic rows and indexes: all, none, or (None) those that a replay of the
            verdicts reads, such as the rows that a check for contamination looks at.

    Raises:
        ArtifactChanged: a file is not the one that was published.
        NotPackable: there is no checkpoint over the release.
    """
    contents = select(release, registry=registry, with_weights=with_weights, with_data=with_data)
    note, checkpoint = _checkpoint(registry.ledger)
    erasures = erasures_in(registry.ledger, registry.store)
    members = _described(contents, registry, erasures) | _stored(contents, registry, erasures)
    members |= _logged(contents, registry, checkpoint)
    members[layout.CHECKPOINT] = note.encode()
    members[layout.INDEX] = _pretty(_index(contents, checkpoint))
    members[layout.README] = layout.README_TEXT.encode()
    members[layout.PAGE] = render_page(contents, registry=registry, checkpoint=checkpoint).encode()
    members[layout.SEAL] = _seal(members, contents, registry)
    write_archive(path, members)
    left_out = _left_out(contents)
    size = path.stat().st_size
    return Pack(path, release.ref, len(contents.leaves), len(members), size, left_out)


def _checkpoint(ledger: Ledger) -> tuple[str, Checkpoint]:
    """The newest signed checkpoint, as text and read."""
    note = ledger.checkpoint()
    return note, read_checkpoint(note, [ledger.signer.public])


def _stored(contents: Contents, registry: Registry, erasures: Erasures) -> Members:
    """Manifests of versions and events, and files of versions that are not left out."""
    manifests = [(version.kind, version.digest) for version in contents.versions]
    members: Members = {}
    for kind, digest in [*manifests, *contents.records]:
        members[f"{layout.STORE}/{kind}/{hex_of(digest)}/manifest.json"] = registry.store.manifest_bytes(kind, digest)
    for version in contents.versions:
        if version.digest not in contents.left_out and version.manifest["files"]:
            folder = registry.folder(version)
            check_files(version, folder, erasures=erasures)
            base = f"{layout.STORE}/{version.kind}/{hex_of(version.digest)}/files"
            there = [name for name in version.manifest["files"] if (folder / name).is_file()]
            members |= {f"{base}/{name}": folder / name for name in there}
    return members


def _logged(contents: Contents, registry: Registry, checkpoint: Checkpoint) -> Members:
    """Leaves, their proofs, and the verifier keys that they name."""
    leaves, proofs, keys = [], [], {f"{SERVICE_KEY}.pub": registry.ledger.signer.public.vkey}
    for leaf in contents.leaves:
        leaves.append({"index": leaf.index, "leaf": leaf.statement.to_bytes().decode()})
        steps = registry.ledger.inclusion_proof(leaf.index, checkpoint.size)
        proofs.append({"index": leaf.index, "proof": [base64.b64encode(step).decode() for step in steps]})
        if leaf.statement.kind == KEY and leaf.statement.name not in keys.values():
            verifier = Verifier.parse(leaf.statement.name)
            keys[f"{verifier.role}-{verifier.name}-{verifier.key_id.hex()}.pub"] = verifier.vkey
    members: Members = {f"{layout.KEYS}/{name}": f"{vkey}\n".encode() for name, vkey in keys.items()}
    return members | {layout.LEAVES: _json_lines(leaves), layout.PROOFS: _json_lines(proofs)}


def _described(contents: Contents, registry: Registry, erasures: Erasures) -> Members:
    """The evidence again in the formats of others."""
    times = contents.times
    members: Members = {layout.BOM: bill_of_materials(contents)}
    for kind in KINDS:
        for version in contents.of_kind(kind):
            described = describe(version, registry=registry, published_at=times[version.digest], erasures=erasures)
            members[f"{layout.DATASETS}/{short_name(version)}.croissant.json"] = _pretty(described)
    for model in contents.of_kind("model"):
        members[f"{layout.CARDS}/{short_name(model)}.md"] = card(model, contents).encode()
    for signature in contents.of_kind(SIGNATURE):
        folder = registry.folder(signature)
        base = f"{layout.SIGNATURES}/{layout.short(signature.manifest['inputs']['model'])}"
        members |= {f"{base}/{name}": folder / name for name in signature.manifest["files"]}
    return members | attest_all(contents, registry=registry, signer=registry.ledger.signer)


def short_name(version: Version) -> str:
    """A member's name for a version."""
    return f"{version.kind}-{layout.short(version.digest)}"


def _index(contents: Contents, checkpoint: Checkpoint) -> dict[str, Any]:
    release = contents.release
    return {
        "format": layout.FORMAT,
        "release": {"kind": release.kind, "ref": release.ref, "digest": release.digest},
        "log": {"origin": checkpoint.origin, "size": checkpoint.size},
        "versions": [
            {"kind": each.kind, "name": each.name, "number": each.number, "digest": each.digest}
            | {"created_at": each.created_at}
            for each in contents.versions
        ],
        "left_out": dict(contents.left_out),
    }


def _left_out(contents: Contents) -> dict[str, str]:
    refs = {version.digest: f"{version.kind} {version.ref}" for version in contents.versions}
    return {refs[digest]: reason for digest, reason in contents.left_out.items()}


def _seal(members: Members, contents: Contents, registry: Registry) -> bytes:
    """The signed list of all members."""
    digests = [(name, _digest(members[name])) for name in sorted(members)]
    predicate = {"release": contents.release.digest, "format": layout.FORMAT}
    return sign_statement(statement(digests, layout.SEAL_TYPE, predicate), registry.ledger.signer)


def _digest(content: bytes | Path) -> str:
    return digest_bytes(content) if isinstance(content, bytes) else digest_file(content)


def _json_lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(canonical_json(row) + b"\n" for row in rows)


def _pretty(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=str).encode()
