"""`signalbox verify --pack`: an evidence pack against the log's public key, without database, network or workspace.

Guarantees: it names every fault it finds and never stops at the first; leaves, artifacts, keys, approvals and moves are
judged by the same code as those of a live ledger. Not guaranteed: that the pack shows everything; a leaf that its maker
left out, such as a later revocation, is seen only by who asks the log itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from app.core.digests import digest_file
from app.core.store import Store
from app.governance.evidence import find_ancestors
from app.governance.pack import layout
from app.governance.pack.archive import BadPack, unpacked
from app.governance.pack.attest import member
from app.governance.pack.contents import WHOLE
from app.governance.pack.dsse import BadEnvelope, open_envelope, subjects_of
from app.governance.pack.reader import (
    PackLeaf,
    PackRegistry,
    key_leaves,
    read_index,
    read_keys,
    read_leaves,
    service_key,
)
from app.governance.pack.rules import HOSTILE, check_promotion, check_replays, check_weights
from app.ledger import merkle
from app.ledger.faults import Report
from app.ledger.keys import KeyUnreadable, Verifier, load_public
from app.ledger.log import SERVICE_KEY, Leaf, origin_of
from app.ledger.note import BadNote, Checkpoint, read_checkpoint, split_note
from app.ledger.verify_artifacts import verify_artifacts
from app.ledger.verify_lineage import verify_lineage
from app.ledger.verify_registry import verify_statements
from app.ledger.verify_tree import Row
from app.ledger.witness import Witness, check_cosignatures, lines_by, trusted_in
from app.registry.versions import Version, VersionNotFound


@dataclass
class PackCheck:
    """A pack that is being checked; every check adds to the report."""

    folder: Path
    verifier: Verifier | None
    report: Report
    index: dict[str, Any]
    leaves: list[PackLeaf]
    witnesses: tuple[Witness, ...] = ()
    manifests: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def log(self) -> list[Leaf]:
        """Leaves that can be read."""
        found = [Leaf(leaf.index, leaf.statement) for leaf in self.leaves if leaf.statement]
        return sorted(found, key=lambda leaf: leaf.index)

    @cached_property
    def registry(self) -> PackRegistry:
        """Versions whose manifests hold."""
        held = [entry for entry in self.index["versions"] if _digest_of(entry) in self.manifests]
        return PackRegistry(self.folder, {**self.index, "versions": held}, self.log, self.verifier)

    @cached_property
    def left_out(self) -> dict[str, str]:
        """Why the files of a version are not in the pack, by its digest; of some kinds none may be left out."""
        whole = {_digest_of(entry) for entry in self.index["versions"] if entry.get("kind") in WHOLE}
        return {digest: str(reason) for digest, reason in self.index["left_out"].items() if digest not in whole}

    @cached_property
    def release(self) -> Version | None:
        """What the pack is about, when its manifest holds."""
        try:
            return self.registry.get(str(self.index["release"]["kind"]), str(self.index["release"]["digest"]))
        except (KeyError, VersionNotFound):
            return None


def verify_pack(path: Path, *, public_key: Path | None = None, witnesses: Sequence[Witness] = ()) -> Report:
    """Check a pack.

    Args:
        witnesses: each must have cosigned the pack's checkpoint.
        public_key: the log's public key, got by another way than the pack; without it the pack's own is used, which
            shows that the pack agrees with itself, not who made it.
    """
    report = Report()
    try:
        with unpacked(path) as folder:
            verifier = _read_key(folder, public_key, report)
            index, leaves = read_index(folder), read_leaves(folder)
            check_all(PackCheck(folder, verifier, report, index, leaves, tuple(witnesses)))
    except BadPack as error:
        report.add("bad-pack", path.name, str(error))
    return report


def check_all(check: PackCheck) -> None:
    """Every check, in the order of the report; one that a hostile pack makes impossible is a fault of its own."""
    steps = (
        _check_seal,
        _check_keys,
        _check_leaves,
        _check_artifacts,
        _check_statements,
        _check_versions,
        _check_complete,
        _check_attestations,
        check_weights,
        check_replays,
        check_promotion,
        _add_notes,
    )
    for step in steps:
        try:
            step(check)
        except HOSTILE as error:
            name = step.__name__.removeprefix("_").replace("_", " ")
            check.report.add("bad-pack", name, f"the pack's content is not of the form that this needs ({error!r})")


def _read_key(folder: Path, path: Path | None, report: Report) -> Verifier | None:
    found = service_key(folder)
    if path is not None:
        given = load_public(path)
        if found is None or not (_signed_by(found, folder) and not _signed_by(given, folder)):
            return given
        message = (
            "it did not sign this pack's checkpoint: the pack is another log's, or was made anew under another key"
        )
        report.add(
            "wrong-key", f"key {given.vkey}", f"{message}; all else is checked with the pack's own, {found.vkey}"
        )
        return found
    if found is None:
        report.add("missing-key", f"{layout.KEYS}/{SERVICE_KEY}.pub", "the pack has no public key: give one with --key")
    else:
        report.notes.append(f"checked with the pack's own key {found.vkey}: compare it with the one that you know")
    return found


def _signed_by(verifier: Verifier, folder: Path) -> bool:
    try:
        read_checkpoint((folder / layout.CHECKPOINT).read_text("utf-8"), [verifier])
    except (OSError, UnicodeDecodeError, BadNote):
        return False
    return True


def _check_seal(check: PackCheck) -> None:
    """Every member is the one that was packed, none is missing, none was added."""
    found = {name: digest_file(check.folder / name) for name in _member_names(check.folder)}
    check.report.num_files += len(found)
    sealed = _open(check, layout.SEAL, "bad-seal")
    if sealed is None:
        return
    if sealed.get("predicateType") != layout.SEAL_TYPE:
        check.report.add("bad-seal", layout.SEAL, "it is another statement than the list of a pack's members")
    named = _subjects(check, layout.SEAL, sealed, "bad-seal")
    for name in sorted(named.keys() | found.keys() - {layout.SEAL}):
        if name not in found:
            check.report.add("missing-member", name, "it was in the pack that the service's key signed")
        elif name not in named:
            check.report.add("extra-member", name, "it was not in the pack that the service's key signed")
        elif found[name] != named[name]:
            check.report.add("changed-member", name, "its bytes are not those that the service's key signed")


def _member_names(folder: Path) -> Iterator[str]:
    return (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())


def _check_keys(check: PackCheck) -> None:
    """The service's key is the one known, and every other key is on record in a leaf."""
    stated = key_leaves(check.leaves)
    for name, key in read_keys(check.folder).items():
        where = f"{layout.KEYS}/{name}"
        if isinstance(key, KeyUnreadable):
            check.report.add("bad-key", where, str(key))
        elif name == f"{SERVICE_KEY}.pub":
            if check.verifier and key != check.verifier:
                check.report.add("replaced-key", where, f"it is {key.vkey}, not the key given, {check.verifier.vkey}")
        elif stated.get(key.vkey) != key.digest:
            check.report.add("replaced-key", where, "no leaf of the ledger put this key on record")


def _read_checkpoint(check: PackCheck) -> Checkpoint | None:
    if check.verifier is None:
        return None
    try:
        note = (check.folder / layout.CHECKPOINT).read_text("utf-8")
        checkpoint = read_checkpoint(note, [check.verifier])
    except (OSError, UnicodeDecodeError, BadNote) as error:
        check.report.add("changed-checkpoint", layout.CHECKPOINT, str(error))
        return None
    check.report.num_checkpoints = 1
    _check_witnesses(check, note, checkpoint.size)
    if checkpoint.origin != origin_of(check.verifier):
        check.report.add("changed-checkpoint", layout.CHECKPOINT, f"it is of another log, {checkpoint.origin!r}")
    return checkpoint


def _check_witnesses(check: PackCheck, note: str, size: int) -> None:
    """Cosignatures by trusted witnesses and by those that the auditor names hold, and the latter are there."""
    trusted = [*trusted_in(leaf.statement for leaf in check.log), *check.witnesses]
    stored = [(size, witness.digest, line) for witness, line in lines_by(trusted, split_note(note)[1])]
    seen = check_cosignatures(stored, {size: note}, trusted, check.report)
    for witness in check.witnesses:
        if witness.digest not in seen:
            message = "it has not cosigned the pack's checkpoint: have it cosign, and make the pack again"
            check.report.add("unwitnessed", f"witness {witness.name}", message)


def _check_leaves(check: PackCheck) -> None:
    """Every leaf is a statement and has a proof that leads to the signed root; none stands twice."""
    checkpoint = _read_checkpoint(check)
    check.report.num_leaves = len(check.leaves)
    seen: set[int] = set()
    for leaf in check.leaves:
        where = f"leaf {leaf.index}"
        if leaf.statement is None or leaf.index < 0:
            check.report.add("changed-leaf", where, "it is no statement in canonical form: the log did not append it")
        if leaf.index in seen:
            check.report.add("changed-leaf", where, "it stands in the pack twice")
        seen.add(leaf.index)
        if leaf.proof is None:
            check.report.add("missing-proof", where, "the pack has no inclusion proof for it")
        elif checkpoint and not _included(leaf, leaf.proof, checkpoint):
            message = f"its inclusion proof does not lead to the signed root over {checkpoint.size} leaves"
            check.report.add("bad-proof", where, f"{message}: the leaf or its proof was changed")


def _included(leaf: PackLeaf, proof: Sequence[bytes], checkpoint: Checkpoint) -> bool:
    hashed = merkle.leaf_hash(leaf.data)
    return merkle.verify_inclusion(hashed, index=leaf.index, size=checkpoint.size, proof=proof, root=checkpoint.root)


def _check_artifacts(check: PackCheck) -> None:
    """Manifests and files are those that the leaves name; the manifests that hold are what later checks go by."""
    rows = [Row(leaf.index, leaf.statement.kind, leaf.statement.subject, leaf.statement) for leaf in check.log]
    names = {_digest_of(entry): f"{entry.get('name')}@{entry.get('number')}" for entry in check.index["versions"]}
    store = Store((check.folder / layout.STORE).as_uri())
    check.manifests = verify_artifacts(rows, store, names, check.report, left_out=check.left_out)


def _check_statements(check: PackCheck) -> None:
    """Keys, approvals, moves, times and parents, by the same rules as in a live ledger."""
    verify_statements(check.log, check.manifests, check.verifier, check.report)
    verify_lineage(check.log, check.report)


def _check_versions(check: PackCheck) -> None:
    """Every version that the pack lists is one that a leaf published, and every such leaf is listed."""
    published = {
        (leaf.statement.kind, leaf.statement.subject): leaf.statement.name
        for leaf in check.log
        if leaf.statement.payload == leaf.statement.subject
    }
    listed = {(str(entry.get("kind")), _digest_of(entry)): entry.get("name") for entry in check.index["versions"]}
    for kind, digest in sorted(listed.keys() | published.keys()):
        name = published.get((kind, digest))
        where = f"{layout.INDEX}, {kind} {listed.get((kind, digest)) or name}"
        if name is None:
            check.report.add("unlogged-version", where, "no leaf in the pack published this version")
        elif listed.get((kind, digest)) != name:
            check.report.add("missing-version", where, "the pack does not list the version that a leaf published")


def _check_complete(check: PackCheck) -> None:
    """Whatever the release, and the moves to it, name as parents is in the pack."""
    if check.release is None:
        check.report.add("incomplete-pack", layout.INDEX, "the release that the pack is about is not in it")
        return
    _, unknown = find_ancestors(check.registry, [check.release.digest])
    for digest in unknown:
        check.report.add("incomplete-pack", digest, "something behind the release names it, but no leaf is in the pack")


def _check_attestations(check: PackCheck) -> None:
    """Every attestation is signed by the service and speaks of bytes that are in the pack; none is missing."""
    kinds = {"model": "provenance", "retriever": "provenance", "evaluation": "test-result", "verdict": "vsa"}
    expected = {member(kinds[each.kind], each) for each in check.registry.versions() if each.kind in kinds}
    found = {name for name in _member_names(check.folder) if name.startswith(f"{layout.ATTESTATIONS}/")}
    for name in sorted(expected - found):
        check.report.add("missing-attestation", name, "the pack holds what it is about, but not the attestation")
    for name in sorted(found):
        values = _open(check, name, "bad-attestation")
        if values is not None:
            _check_statement(check, name, values)


def _check_statement(check: PackCheck, name: str, values: dict[str, Any]) -> None:
    if values.get("predicateType") != layout.PREDICATES.get(name.split("/")[1]):
        check.report.add("bad-attestation", name, f"it is of another type, {values.get('predicateType')!r}")
    for subject, digest in _subjects(check, name, values, "bad-attestation").items():
        path = check.folder / subject
        if path.is_file() and path.resolve().is_relative_to(check.folder) and digest_file(path) != digest:
            check.report.add("bad-attestation", name, f"it is about other bytes than those of {subject}")


def _open(check: PackCheck, name: str, kind: str) -> dict[str, Any] | None:
    if check.verifier is None:
        return None
    try:
        return open_envelope((check.folder / name).read_bytes(), check.verifier)
    except (OSError, BadEnvelope) as error:
        message = "it is missing" if isinstance(error, FileNotFoundError) else str(error)
        check.report.add(kind, name, message)
        return None


def _subjects(check: PackCheck, name: str, values: dict[str, Any], kind: str) -> dict[str, str]:
    try:
        return subjects_of(values)
    except BadEnvelope as error:
        check.report.add(kind, name, str(error))
        return {}


def _add_notes(check: PackCheck) -> None:
    if check.release:
        size = check.index.get("log", {}).get("size")
        about = f"about {check.release.kind} {check.release.ref}, {check.release.digest}"
        check.report.notes.insert(0, f"{about}, as a log of {size} leaves had it")
    for reason in sorted(set(check.left_out.values())):
        refs = [version.ref for version in check.registry.versions() if check.left_out.get(version.digest) == reason]
        if refs:
            check.report.notes.append(f"{reason}: {', '.join(refs)}; their manifests are here")


def _digest_of(entry: Any) -> str:
    return str(entry.get("digest")) if isinstance(entry, dict) else ""
