"""What belongs to a release: leaves, versions and files, found through lineage and through what a replay reads.

Guarantees: every leaf behind the release, about it, or that moved its name is in; every key event and erasure is in;
what a replay of its verdicts reads is in, by recording such a replay. Not guaranteed: leaves of other releases.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from app.core.digests import PREFIX
from app.core.errors import SignalboxError
from app.governance.evidence import find_ancestors, published_leaves
from app.governance.gate import replay
from app.governance.moves import target_of
from app.governance.pack.weights import KIND as SIGNATURE
from app.governance.pack.weights import sign_weights
from app.governance.release import parts_of
from app.inference.retrievers import retriever_of
from app.ledger.decisions import DECISIONS
from app.ledger.log import ERASURE, KEY, REQUEST_BATCH, STEPS, WITNESS, Leaf
from app.registry.versions import Registry, Version, VersionNotFound

ALWAYS = (KEY, WITNESS, ERASURE)
"""Kinds of leaves that every pack holds: they say which signatures and files count."""
JUDGED = ("verdict", *DECISIONS)
"""Kinds that are about a release when it is among their parents; what came after it, such as a plan, is not."""
WHOLE = ("evaluation", "suite", "policy", "verdict", "plan", "release", "router", SIGNATURE, *DECISIONS)
"""Kinds whose files are always in; all others stay out unless asked for, or read by a replay."""
LEARNT = ("model", "retriever")
WEIGHTS, DATA = "weights left out", "data left out"
NOT_SERVED = "weights of a model or retriever that this release does not serve"


@dataclass(frozen=True)
class Contents:
    """A release with everything that its pack holds."""

    release: Version
    leaves: tuple[Leaf, ...]
    versions: tuple[Version, ...]
    records: tuple[tuple[str, str], ...]
    """Kind and digest of manifests that say more about an event, such as a promotion."""
    left_out: Mapping[str, str]
    """Why the files of a version stay out, by its digest."""

    def of_kind(self, kind: str) -> list[Version]:
        """Versions of a kind, in the order of their leaves."""
        return [version for version in self.versions if version.kind == kind]

    @property
    def times(self) -> dict[str, str]:
        """When each digest was first published."""
        return {leaf.statement.subject: leaf.statement.time for leaf in reversed(self.leaves)}


class Recorder(Registry):
    """A registry that notes whose files are read."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(
            database=registry.database, store=registry.store, ledger=registry.ledger, workspace=registry.workspace
        )
        self.found: dict[str, Version] = {}
        self.read: set[str] = set()

    def get(self, kind: str, ref: str) -> Version:
        """As the registry's own."""
        version = super().get(kind, ref)
        self.found[version.digest] = version
        return version

    def folder(self, version: Version) -> Path:
        """As the registry's own."""
        self.read.add(version.digest)
        return super().folder(version)


def select(
    release: Version, *, registry: Registry, with_weights: bool = True, with_data: bool | None = None
) -> Contents:
    """Everything about a release; signs the weights that it serves when they are not signed yet.

    Args:
        with_data: files of data: all, none, or (None) those that a replay of the verdicts reads.
    """
    served = served_models(release, registry=registry)
    signatures = [sign_weights(model, registry=registry) for model in served]
    log = _Log(release, registry)
    behind, _ = find_ancestors(registry, [release.digest, *log.about, *(each.digest for each in signatures)])
    recorder = Recorder(registry)
    _replay_all(behind.values(), recorder)
    leaves = {leaf.index: leaf for leaf in [*behind.values(), *log.events, *log.near(recorder.found)]}
    ordered = tuple(leaves[index] for index in sorted(leaves))
    versions = tuple(_versions(ordered, registry))
    heavy = [version for version in versions if version.manifest["files"] and version.kind not in WHOLE]
    searching = parts_of(release, registry=registry).get("index")
    serving = [*served, *filter(None, [searching and retriever_of(searching, registry=registry)])]
    weights = {each.digest for each in serving} if with_weights else set()
    data = {version.digest for version in heavy if version.kind not in LEARNT and with_data is not False}
    wanted = weights | (data if with_data else data & recorder.read)
    left_out = {version.digest: _reason(version, serving) for version in heavy if version.digest not in wanted}
    return Contents(release, ordered, versions, tuple(_records(ordered)), left_out)


def served_models(release: Version, *, registry: Registry) -> list[Version]:
    """Models that a release serves, and those that its adapters stand on."""
    parts = parts_of(release, registry=registry)
    models = [parts[name] for name in ("small", "large") if name in parts]
    bases = [registry.get("model", model.facts["base"]) for model in models if _is_adapter(model)]
    return list({model.digest: model for model in [*models, *bases]}.values())


def _is_adapter(model: Version) -> bool:
    return bool(model.facts.get("base")) and "adapter_config.json" in model.manifest["files"]


@dataclass
class _Log:
    """The leaves that matter although nothing names them as a parent; one pass over the log."""

    release: Version
    registry: Registry
    published: dict[str, Leaf] = field(default_factory=dict)
    events: list[Leaf] = field(default_factory=list)
    about: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.published = {leaf.statement.subject: leaf for leaf in published_leaves(self.registry)}
        target = target_of(self.release)
        for leaf in self.registry.ledger.leaves():
            statement = leaf.statement
            moves = statement.kind in STEPS and statement.name == target
            if statement.kind in ALWAYS or moves:
                self.events.append(leaf)
            elif self.release.digest in statement.parents and statement.kind in JUDGED:
                self.events.append(leaf)
                self.about.append(statement.subject)

    def near(self, found: Iterable[str]) -> Iterator[Leaf]:
        """Leaves of what moves name, of an earlier release too, and of whatever else a replay looked up."""
        moved = [leaf.statement for leaf in self.events if leaf.statement.kind in STEPS]
        digests = [digest for statement in moved for digest in (statement.subject, *statement.parents)]
        yield from (self.published[digest] for digest in [*digests, *found] if digest in self.published)


def _replay_all(leaves: Iterable[Leaf], recorder: Recorder) -> None:
    """Note what a stranger's replay will read; a verdict that does not replay is found by ``verify``."""
    for leaf in leaves:
        if leaf.statement.kind == "verdict":
            try:
                replay(recorder.get("verdict", leaf.statement.subject), registry=recorder)
            except (SignalboxError, KeyError, OSError):
                continue


def _versions(leaves: Iterable[Leaf], registry: Registry) -> Iterator[Version]:
    for leaf in leaves:
        if leaf.statement.payload == leaf.statement.subject and leaf.statement.kind != REQUEST_BATCH:
            try:
                yield registry.get(leaf.statement.kind, leaf.statement.subject)
            except VersionNotFound:
                continue


def _records(leaves: Iterable[Leaf]) -> Iterator[tuple[str, str]]:
    for leaf in leaves:
        if leaf.statement.payload.startswith(PREFIX) and leaf.statement.payload != leaf.statement.subject:
            yield leaf.statement.kind, leaf.statement.payload


def _reason(version: Version, served: Iterable[Version]) -> str:
    if version.kind not in LEARNT:
        return DATA
    return WEIGHTS if version.digest in {model.digest for model in served} else NOT_SERVED
