"""The graph that the ledger's statements span: who was made from what, and what was made from it.

Guarantees: an edge is a parent that a leaf names; where two leaves publish one digest, the first one counts, since
``signalbox verify`` names the second. Rows below version level come from the tables of published versions.
Not guaranteed: that the ledger is whole; ``signalbox verify`` says that.
"""

from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from app.core.digests import PREFIX
from app.core.errors import UsageError
from app.governance.evidence import published_leaves
from app.governance.moves import canary_leaf
from app.ledger.erasures import ErasedFile, read_erasures
from app.ledger.log import ERASURE, PRODUCTION, STEPS, Leaf
from app.registry.versions import LATEST, Registry, Version, VersionNotFound

if TYPE_CHECKING:
    import pyarrow as pa

FIRST_KINDS = ("release", "model")
"""What a bare name means where several kinds have a version of it."""


class NothingToTrace(UsageError):
    """The ledger knows nothing of that digest, name or request: name one that was published or answered."""


class Graph:
    """The ledger's statements by digest; read once."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    @cached_property
    def leaves(self) -> dict[str, Leaf]:
        """The leaf that published a digest."""
        found: dict[str, Leaf] = {}
        for leaf in published_leaves(self.registry):
            found.setdefault(leaf.statement.subject, leaf)
        return found

    @cached_property
    def children(self) -> dict[str, list[str]]:
        """What was made from a digest, in the order of the leaves."""
        found: dict[str, list[str]] = defaultdict(list)
        for digest, leaf in self.leaves.items():
            for parent in dict.fromkeys(leaf.statement.parents):
                found[parent].append(digest)
        return found

    @cached_property
    def moves(self) -> dict[str, list[Leaf]]:
        """Promotions, rollbacks, stops, resumes and canaries by the digest they are about."""
        found: dict[str, list[Leaf]] = defaultdict(list)
        for kind in STEPS:
            for leaf in self.registry.ledger.leaves(kind):
                found[leaf.statement.subject].append(leaf)
        return found

    @cached_property
    def erased(self) -> dict[str, list[tuple[int, ErasedFile]]]:
        """What erasures took from a digest's files, each with the index of its leaf."""
        leaves = [(leaf.index, leaf.statement) for leaf in self.registry.ledger.leaves(ERASURE)]
        found: dict[str, list[tuple[int, ErasedFile]]] = defaultdict(list)
        for (_, digest, _), entries in read_erasures(leaves, self.registry.store).files.items():
            found[digest] += entries
        return found

    @cached_property
    def in_production(self) -> set[str]:
        """Every release that an alias ``production`` names or that runs as a canary, and all that is behind one."""
        releases = {leaf.statement.name for leaf in self.leaves.values() if leaf.statement.kind == "release"}
        named = [self.registry.alias("release", name, PRODUCTION) for name in sorted(releases)]
        beside = [leaf.statement.subject for name in sorted(releases) if (leaf := canary_leaf(self.registry, name))]
        return set(self.behind(digest for digest in (*named, *beside) if digest))

    def kind(self, digest: str) -> str:
        """The kind of a digest's leaf; empty when it has none."""
        return self.leaves[digest].statement.kind if digest in self.leaves else ""

    def version(self, digest: str) -> Version | None:
        """The published version of a digest; None for what has no version, such as a part of the request log."""
        try:
            return self.registry.get(self.kind(digest), digest)
        except VersionNotFound:
            return None

    def behind(self, digests: Iterable[str]) -> list[str]:
        """These digests and all that they were made from, in the order of their leaves; unknown ones are left out."""
        return self._reached(digests, lambda digest: self.leaves[digest].statement.parents)

    def ahead(self, digests: Iterable[str]) -> list[str]:
        """These digests and all that was made from them, in the order of their leaves."""
        return self._reached(digests, lambda digest: self.children.get(digest, ()))

    def versions_behind(self, digest: str, kind: str) -> list[Version]:
        """Versions of a kind behind a digest, oldest first."""
        found = [self.version(each) for each in self.behind([digest]) if self.kind(each) == kind]
        return [version for version in found if version]

    def find(self, ref: str) -> str:
        """The digest of a version by digest, ``KIND/NAME[@NUMBER]``, or ``NAME[@NUMBER]`` where that is clear.

        A bare name means the release, else the model, else the one other kind that has it.

        Raises:
            NothingToTrace: nothing, or more than one kind, answers to it.
        """
        if ref.startswith(PREFIX):
            if ref not in self.leaves:
                raise NothingToTrace(f"the ledger has no {ref}: name the digest of a published version")
            return ref
        kind, separator, name = ref.partition("/")
        known = sorted({leaf.statement.kind for leaf in self.leaves.values()})
        if separator and kind in known:
            return self.registry.get(kind, name).digest
        found = {kind: version.digest for kind in known if (version := self._named(kind, ref))}
        chosen = next((kind for kind in FIRST_KINDS if kind in found), None) or next(iter(found), None)
        if chosen is None or (chosen not in FIRST_KINDS and len(found) > 1):
            choices = ", ".join(f"{kind}/{ref}" for kind in found) or "none of that name"
            raise NothingToTrace(f"{ref!r} names no one version ({choices}): name KIND/NAME@NUMBER or a digest")
        return found[chosen]

    def _named(self, kind: str, ref: str) -> Version | None:
        """The version of a kind by its reference, without the search for a near name that a refusal would make."""
        name, _, tag = ref.partition("@")
        known = any(leaf.statement.kind == kind and leaf.statement.name == name for leaf in self.leaves.values())
        if not known:
            return None
        try:
            return self.registry.get(kind, f"{name}@{tag or LATEST}")
        except VersionNotFound:
            return None

    def _reached(self, digests: Iterable[str], step: Any) -> list[str]:
        reached: set[str] = set()
        waiting = [digest for digest in digests if digest in self.leaves]
        while waiting:
            digest = waiting.pop()
            if digest not in reached and digest in self.leaves:
                reached.add(digest)
                waiting.extend(step(digest))
        return sorted(reached, key=lambda digest: self.leaves[digest].index)

    def table(self, version: Version, name: str, *, columns: list[str] | None = None, where: Any = None) -> "pa.Table":
        """Rows of a version's table, only the columns asked for, and only row groups that can hold what is sought.

        Args:
            columns: those that the table lacks are left out.
            where: a pyarrow expression.

        Returns: a table without columns when the version has no such file.
        """
        import pyarrow as pa
        import pyarrow.dataset as ds

        path = self.registry.folder(version) / name
        if not path.exists():
            return pa.table({})
        source = ds.dataset(path, format="parquet")
        wanted = [column for column in columns if column in source.schema.names] if columns else None
        return source.to_table(columns=wanted, filter=where)
