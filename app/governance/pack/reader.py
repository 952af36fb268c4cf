"""An unpacked pack behind the interface of the registry, so that gates and checks run on it as on a workspace.

Guarantees: reads only the folder; nothing can be published or promoted. What cannot be read is left out here and named
by ``verify``. Not guaranteed: that anything in it is true before ``verify`` has said so.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.core.digests import PREFIX
from app.core.errors import UsageError
from app.core.store import ArtifactMissing, Store
from app.core.workspace import Workspace
from app.governance.pack import layout
from app.governance.pack.archive import BadPack, unpacked
from app.ledger.keys import KeyUnreadable, Verifier, load_public
from app.ledger.log import KEY, MOVES, PRODUCTION, SERVICE_KEY, Leaf, Ledger, NotAStatement, Statement
from app.ledger.merkle import natural
from app.registry.versions import LATEST, Registry, Version, VersionNotFound

UNREADABLE = (ArtifactMissing, OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


class PackIsReadOnly(UsageError):
    """A pack is evidence: publish in a workspace, then make another pack."""


@dataclass(frozen=True)
class PackLeaf:
    """A line of the pack's leaves with its proof; the statement is None where the bytes are none."""

    index: int
    data: bytes
    proof: tuple[bytes, ...] | None

    @property
    def statement(self) -> Statement | None:
        try:
            return Statement.from_bytes(self.data)
        except NotAStatement:
            return None


class PackLedger(Ledger):
    """The leaves that came with a pack."""

    def __init__(self, leaves: Sequence[Leaf], verifier: Verifier | None) -> None:
        self._leaves, self._verifier = sorted(leaves, key=lambda leaf: leaf.index), verifier

    @property
    def log_key(self) -> str:
        """As the ledger's own; empty when the log's key is not known."""
        return self._verifier.vkey if self._verifier else ""

    @property
    def size(self) -> int:
        """One more than the last leaf's index; the checkpoint tells the log's own size."""
        return self._leaves[-1].index + 1 if self._leaves else 0

    def leaves(self, kind: str | None = None, *, subject: str | None = None) -> Iterator[Leaf]:
        """As the ledger's own."""
        for leaf in self._leaves:
            if kind in (None, leaf.statement.kind) and subject in (None, leaf.statement.subject):
                yield leaf


class PackRegistry(Registry):
    """The versions that came with a pack."""

    def __init__(
        self, folder: Path, index: Mapping[str, Any], leaves: Sequence[Leaf], verifier: Verifier | None
    ) -> None:
        self.store = Store((folder / layout.STORE).as_uri())
        self.ledger = PackLedger(leaves, verifier)
        self.workspace, self.observer = Workspace(folder), None
        self._versions = list(_read_versions(self.store, index))

    def get(self, kind: str, ref: str) -> Version:
        """As the registry's own, among what is in the pack."""
        found = [version for version in self._versions if version.kind == kind and self._answers(version, ref)]
        if not found:
            raise VersionNotFound(f"the pack has no {kind} {ref!r}: name one that its pack.json lists")
        return found[-1]

    def find(self, kind: str, name: str, inputs: Mapping[str, Any]) -> Version | None:
        """As the registry's own."""
        made = (version for version in self.versions(kind, name) if version.manifest["inputs"] == dict(inputs))
        return next(made, None)

    def versions(self, kind: str | None = None, name: str | None = None) -> list[Version]:
        """As the registry's own."""
        return [each for each in self._versions if kind in (None, each.kind) and name in (None, each.name)]

    def alias(self, kind: str, name: str, alias: str) -> str | None:
        """Where the last move among the leaves put ``production``; packs hold no other alias."""
        target = f"{kind}/{name}"
        moved = [leaf.statement for leaf in self.ledger.leaves() if leaf.statement.kind in MOVES]
        last = [statement.subject for statement in moved if statement.name == target]
        return last[-1] if last and alias == PRODUCTION else None

    def publish(self, *args: Any, **kwargs: Any) -> Version:
        """Refused."""
        raise PackIsReadOnly("a pack is evidence and takes no new versions: publish in a workspace")

    def _answers(self, version: Version, ref: str) -> bool:
        if ref.startswith(PREFIX):
            return version.digest == ref
        name, _, tag = ref.partition("@")
        if tag and tag != LATEST and not tag.isdigit():
            return version.digest == self.alias(version.kind, name, tag)
        return version.name == name and (not tag.isdigit() or version.number == int(tag))


@contextmanager
def open_pack(path: Path) -> Iterator[PackRegistry]:
    """The registry of a packed file, for as long as the block lasts.

    Raises:
        BadPack: it is no evidence pack.
    """
    with unpacked(path) as folder:
        leaves = (Leaf(each.index, each.statement) for each in read_leaves(folder) if each.statement)
        yield PackRegistry(folder, read_index(folder), list(leaves), service_key(folder))


def read_index(folder: Path) -> dict[str, Any]:
    """``pack.json``; BadPack when it is not there or not of this format."""
    try:
        index = json.loads((folder / layout.INDEX).read_bytes())
        known = index["format"] == layout.FORMAT and isinstance(index["left_out"], dict)
        known = known and all(isinstance(entry, dict) for entry in index["versions"])
        release = index["release"]["digest"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadPack(f"the pack's {layout.INDEX} is missing or damaged ({error}): fetch the pack again") from error
    if not known or not isinstance(release, str):
        raise BadPack(f"the pack is not in the format {layout.FORMAT}: use the Signalbox version that made it")
    return dict(index)


def read_leaves(folder: Path) -> list[PackLeaf]:
    """The pack's leaves in order; lines that cannot be read stand with index -1."""
    proofs = {index: proof for index, proof in map(_read_proof, _lines(folder / layout.PROOFS)) if index >= 0}
    found = []
    for line in _lines(folder / layout.LEAVES):
        try:
            index, text = natural(line["index"]), str(line["leaf"])
        except (KeyError, ValueError, TypeError):
            index, text = -1, str(line)
        found.append(PackLeaf(index, text.encode("utf-8", "replace"), proofs.get(index)))
    return found


def read_keys(folder: Path) -> dict[str, Verifier | KeyUnreadable]:
    """Verifier keys by file name; what is wrong with a file in its key's place."""
    found: dict[str, Verifier | KeyUnreadable] = {}
    for path in sorted((folder / layout.KEYS).glob("*.pub")):
        try:
            found[path.name] = load_public(path)
        except KeyUnreadable as error:
            found[path.name] = error
    return found


def service_key(folder: Path) -> Verifier | None:
    """The log's key that came with the pack, which proves nothing unless it is compared with one known before."""
    found = read_keys(folder).get(f"{SERVICE_KEY}.pub")
    return found if isinstance(found, Verifier) else None


def key_leaves(leaves: Sequence[PackLeaf]) -> dict[str, str]:
    """Verifier keys that leaves of kind ``key`` name, with the digest that the leaf is about."""
    stated = [leaf.statement for leaf in leaves if leaf.statement]
    return {statement.name: statement.subject for statement in stated if statement.kind == KEY}


def _read_versions(store: Store, index: Mapping[str, Any]) -> Iterator[Version]:
    for entry in index["versions"]:
        try:
            manifest = store.manifest(entry["kind"], entry["digest"])
            yield Version(
                kind=str(entry["kind"]),
                name=str(entry["name"]),
                number=int(entry["number"]),
                digest=str(entry["digest"]),
                manifest={**manifest, "facts": dict(manifest["facts"]), "parents": list(manifest["parents"])},
                created_at=str(entry.get("created_at", "")),
            )
        except UNREADABLE:
            continue


def _read_proof(line: Mapping[str, Any]) -> tuple[int, tuple[bytes, ...]]:
    try:
        return natural(line["index"]), tuple(base64.b64decode(step, validate=True) for step in line["proof"])
    except (KeyError, ValueError, TypeError):
        return -1, ()


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """JSON objects of a file of lines; an empty object for a line that is none."""
    if not path.is_file():
        return
    for line in path.read_bytes().splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = {}
        yield value if isinstance(value, dict) else {}
