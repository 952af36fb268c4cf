"""What a gate judges by: an artifact, its evaluations, what earlier promotions left behind, and what lies behind these.

Guarantees: evidence is versions only, so that its JSON form, which a verdict records, is enough to load and judge it
again; a file is read only as its manifest names it; the ledger is looked at no further than to the newest version in
the evidence, so that leaves that come later change nothing. Everything goes through ``registry.get``, ``folder``,
``ledger.leaves`` and ``store.manifest``. Not guaranteed: that somebody collected enough; each check says what it
misses.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow.parquet as pq

from app.core.digests import digest_file, digest_json
from app.core.errors import SignalboxError
from app.inference.retrievers import KIND as RETRIEVER
from app.ledger.erasures import erasures_in
from app.ledger.log import PROMOTION, REQUEST_BATCH, Leaf
from app.registry.tables import ROWS_FILE
from app.registry.versions import Registry, Version

TARGET = "target"
MODEL, SUITE, PLAN, INDEX = "model", "suite", "plan", "index"
INDEX_VERDICT = "index_verdict"
"""Input of a release that names the verdict on its index, where a retriever made that."""

Outcomes = list[tuple[str, float]]
Row = Mapping[str, Any]


class EvidenceMissing(SignalboxError):
    """A check needs a figure or an evaluation that was not handed in: make it, then judge again."""


class EvidenceChanged(EvidenceMissing):
    """A version is not what its digest names, or a file of it is gone: restore it, then judge again."""


@dataclass(frozen=True)
class Evidence:
    """Everything that a policy's checks may look at.

    Args:
        artifact: the version that is judged.
        candidate: its evaluations by label; ``target`` is the suite to do well on, all others are regression suites.
        production: evaluations, under the same labels, of what is in production now; empty before the first promotion.
        earlier: evaluations by which earlier promotions were judged; their questions must not be forgotten.
        others: further versions by label, such as suites to come, verdicts of gates before this one, or reports.
        at: when it is judged, RFC 3339; by default when the newest version in the evidence was published. No check
            looks at a clock.
    """

    artifact: Version
    registry: Registry = field(repr=False)
    candidate: Mapping[str, Version] = field(default_factory=dict)
    production: Mapping[str, Version] = field(default_factory=dict)
    earlier: tuple[Version, ...] = ()
    others: Mapping[str, Version] = field(default_factory=dict)
    at: str = ""
    _read: dict[str, str] = field(init=False, repr=False, compare=False, default_factory=dict)
    _tables: dict[tuple[str, str], list[Row]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        """One order, whoever collected it: a replay must see what the first judge saw."""
        for name in ("candidate", "production", "others"):
            object.__setattr__(self, name, dict(sorted(getattr(self, name).items())))
        object.__setattr__(self, "earlier", tuple(sorted(self.earlier, key=lambda version: version.digest)))
        object.__setattr__(self, "at", self.at or self.published_at)

    @classmethod
    def collect(
        cls,
        artifact: Version,
        *,
        registry: Registry,
        candidate: Mapping[str, Version] | None = None,
        production: Mapping[str, Version] | None = None,
        others: Mapping[str, Version] | None = None,
        at: str = "",
    ) -> "Evidence":
        """Evidence with what earlier promotions left behind, as the ledger has it now."""
        earlier = tuple(earlier_evaluations(registry, artifact))
        return cls(artifact, registry, dict(candidate or {}), dict(production or {}), earlier, dict(others or {}), at)

    def to_json(self) -> dict[str, Any]:
        """Kinds and digests, as a verdict records them."""
        return {
            "artifact": _named(self.artifact),
            "candidate": {label: version.digest for label, version in self.candidate.items()},
            "production": {label: version.digest for label, version in self.production.items()},
            "earlier": [version.digest for version in self.earlier],
            "others": {label: _named(version) for label, version in self.others.items()},
            "at": self.at,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], registry: Registry) -> "Evidence":
        """Load evidence again from what a verdict recorded."""

        def load(digest: str) -> Version:
            return registry.get("evaluation", digest)

        def named(entry: Mapping[str, str]) -> Version:
            return registry.get(entry["kind"], entry["digest"])

        return cls(
            artifact=named(value["artifact"]),
            registry=registry,
            candidate={label: load(digest) for label, digest in value["candidate"].items()},
            production={label: load(digest) for label, digest in value["production"].items()},
            earlier=tuple(load(digest) for digest in value["earlier"]),
            others={label: named(entry) for label, entry in value.get("others", {}).items()},
            at=value.get("at", ""),
        )

    @property
    def versions(self) -> list[Version]:
        """All versions in it, each once."""
        found = [self.artifact, *self.candidate.values(), *self.production.values(), *self.earlier]
        return list({version.digest: version for version in [*found, *self.others.values()]}.values())

    @property
    def parents(self) -> list[str]:
        """Digests of all versions in it, each once."""
        return [version.digest for version in self.versions]

    @property
    def read(self) -> list[dict[str, str]]:
        """Kinds and digests of the versions behind the evidence that checks have looked into, in order."""
        own = set(self.parents)
        return [{"kind": self._read[each], "digest": each} for each in sorted(self._read.keys() - own)]

    @property
    def changed(self) -> list[str]:
        """A sentence for each version in it whose manifest is not what its digest names."""
        return [problem for version in self.versions if (problem := changed_manifest(version))]

    def fact(self, path: str, *, of: Version | None = None) -> Any:
        """A figure among the artifact's facts, or another version's, by dotted path; EvidenceMissing without it."""
        version = of or self.artifact
        value: Any = version.facts
        for part in path.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise EvidenceMissing(f"{version.kind} {version.ref} states no {path}: publish it with it")
            value = value[part]
        return value

    def evaluation(self, label: str) -> Version:
        """The candidate's evaluation under a label; EvidenceMissing names the labels there are."""
        if label not in self.candidate:
            known = ", ".join(sorted(self.candidate)) or "none"
            raise EvidenceMissing(f"no evaluation on suite {label!r} was handed in (there are: {known}): evaluate it")
        return self.candidate[label]

    def other(self, label: str) -> Version:
        """A further version by its label; EvidenceMissing names the labels there are."""
        if label not in self.others:
            known = ", ".join(self.others) or "none"
            raise EvidenceMissing(f"no version labelled {label!r} was handed in (there are: {known}): hand it in")
        return self.others[label]

    def outcomes(self, evaluation: Version, metric: str) -> Outcomes:
        """``(question id, outcome)`` of every row of an evaluation."""
        return read_outcomes(evaluation, metric, registry=self.registry)

    def version(self, kind: str, digest: str) -> Version:
        """A version behind the evidence, noted as looked into.

        Raises:
            EvidenceChanged: its manifest is not what its digest names.
        """
        version = self.registry.get(kind, digest)
        self._read[digest] = kind
        if problem := changed_manifest(version):
            raise EvidenceChanged(problem)
        return version

    def rows(self, version: Version, *, table: str = ROWS_FILE) -> list[Row]:
        """Rows of a version's table, read once; EvidenceMissing when it has no such table."""
        key = (version.digest, table)
        if key not in self._tables:
            self._tables[key] = read_table(version, table, registry=self.registry)
        return self._tables[key]

    def behind(self, kind: str) -> list[Version]:
        """Versions of a kind among the artifact and its ancestors, oldest first; EvidenceMissing when there is none."""
        found = sorted(
            (leaf for leaf in self.ancestors[0].values() if leaf.statement.kind == kind), key=lambda leaf: leaf.index
        )
        if not found:
            raise EvidenceMissing(f"no {kind} is behind {self.artifact.kind} {self.artifact.ref}: name it as a parent")
        return [self.version(kind, leaf.statement.subject) for leaf in found]

    @property
    def suites(self) -> dict[str, Version]:
        """The suites of the candidate's evaluations, and those among the further versions, by label."""
        found = {label: self.suite_of(evaluation) for label, evaluation in self.candidate.items()}
        return found | {label: version for label, version in self.others.items() if version.kind == SUITE}

    def suite_of(self, evaluation: Version) -> Version:
        """The suite that an evaluation was run on; EvidenceMissing when it names none."""
        digest = evaluation.manifest["inputs"].get("suite")
        if not digest:
            raise EvidenceMissing(f"evaluation {evaluation.ref} names no suite: evaluate on a published one")
        return self.version(SUITE, digest)

    @cached_property
    def trained(self) -> list[Leaf]:
        """Leaves of the models behind the artifact, itself included, oldest first; of an index, of its retrievers."""
        kind = RETRIEVER if self.artifact.kind == INDEX else MODEL
        found = [leaf for leaf in self.ancestors[0].values() if leaf.statement.kind == kind]
        return sorted(found, key=lambda leaf: leaf.index)

    @cached_property
    def training_data(self) -> list[Version]:
        """Versions with rows that the models behind the artifact were trained on; rows that are judged themselves.

        Of an index: what its retrievers were tuned on and its weight was calibrated on, suites too.
        """
        if not self.trained and self.artifact.kind != INDEX:
            return [self.artifact] if ROWS_FILE in self.artifact.manifest["files"] else []
        digests = [leaf.statement.subject for leaf in self.trained]
        leaves = find_ancestors(self.registry, digests, before=self.horizon)[0]
        data = {each: leaf for each, leaf in leaves.items() if leaf.statement.kind not in (MODEL, SUITE, REQUEST_BATCH)}
        if self.artifact.kind == INDEX:
            named = [*self.artifact.parents, *(digest for leaf in self.trained for digest in leaf.statement.parents)]
            data |= {digest: self.ancestors[0][digest] for digest in named if digest in self.ancestors[0]}
        versions = [self.version(leaf.statement.kind, digest) for digest, leaf in data.items()]
        found = [version for version in versions if ROWS_FILE in version.manifest["files"]]
        return sorted(found, key=lambda version: version.digest)

    @cached_property
    def ancestors(self) -> tuple[dict[str, Leaf], list[str]]:
        """Leaves of everything the artifact was made from, by digest, and parent digests that no leaf publishes."""
        return find_ancestors(self.registry, [self.artifact.digest], before=self.horizon)

    @cached_property
    def leaves(self) -> dict[str, Leaf]:
        """The leaf that published each version in the evidence, by digest."""
        found = {version.digest: leaf_of(version, registry=self.registry) for version in self.versions}
        return {digest: leaf for digest, leaf in found.items() if leaf}

    @property
    def horizon(self) -> int:
        """How many leaves count: those up to the newest version in the evidence."""
        return max((leaf.index + 1 for leaf in self.leaves.values()), default=0)

    @property
    def published_at(self) -> str:
        """When the newest version in the evidence was published, as its leaf says."""
        return max((leaf.statement.time for leaf in self.leaves.values()), default="")


def leaf_of(version: Version, *, registry: Registry) -> Leaf | None:
    """The first leaf that publishes a version; None when the ledger has none."""
    return next(registry.ledger.leaves(version.kind, subject=version.digest), None)


def changed_manifest(version: Version) -> str:
    """A sentence when a version's manifest is not what its digest names; else empty."""
    if digest_json(version.manifest) == version.digest:
        return ""
    return f"{version.kind} {version.ref} is not what its digest names: its manifest was changed, restore it"


def read_table(version: Version, name: str, *, registry: Registry) -> list[Row]:
    """Rows of a version's table, once the file's bytes are found to be those that the manifest, or an erasure, names.

    Raises:
        EvidenceMissing: the version has no such table.
        EvidenceChanged: the file is gone or was changed.
    """
    stated = version.manifest["files"].get(name)
    if stated is None:
        raise EvidenceMissing(f"{version.kind} {version.ref} has no table {name}: publish it with one")
    path = registry.folder(version) / name
    erasures = erasures_in(registry.ledger, registry.store)
    wanted = erasures.digest_now(version.kind, version.digest, name, stated["sha256"])
    if not path.is_file() or digest_file(path) != wanted:
        raise EvidenceChanged(
            f"{name} of {version.kind} {version.ref} is gone, or not what its manifest names: restore it"
        )
    rows: list[Row] = pq.read_table(path).to_pylist()
    return rows


def read_outcomes(evaluation: Version, metric: str, *, registry: Registry) -> Outcomes:
    """``(question id, outcome)`` of every row of an evaluation.

    Raises:
        EvidenceMissing: it has no rows, or no such metric.
    """
    rows = read_table(evaluation, ROWS_FILE, registry=registry)
    if not rows:
        raise EvidenceMissing(f"evaluation {evaluation.ref} has no rows: evaluate on a suite that has some")
    if metric not in rows[0]:
        raise EvidenceMissing(f"evaluation {evaluation.ref} has no column {metric!r}: evaluate with that metric")
    return [(str(row["question_id"]), float(row[metric])) for row in rows]


def find_ancestors(
    registry: Registry, digests: list[str], *, before: int | None = None
) -> tuple[dict[str, Leaf], list[str]]:
    """Leaves of these digests and of all their ancestors, and named parents that no leaf publishes.

    Args:
        before: look at so many leaves of the ledger only; all of them by default.
    """
    published: dict[str, Leaf] = {}
    for leaf in published_leaves(registry):
        if before is None or leaf.index < before:
            published.setdefault(leaf.statement.subject, leaf)
    found: dict[str, Leaf] = {}
    unknown: set[str] = set()
    waiting = list(digests)
    while waiting:
        digest = waiting.pop()
        if digest in found:
            continue
        if digest not in published:
            unknown.add(digest)
            continue
        found[digest] = published[digest]
        waiting.extend(published[digest].statement.parents)
    return found, sorted(unknown)


def published_leaves(registry: Registry) -> Iterator[Leaf]:
    """Leaves that published a version or a part of the request log, rather than moving or naming one."""
    for leaf in registry.ledger.leaves():
        if leaf.statement.kind == REQUEST_BATCH or leaf.statement.payload == leaf.statement.subject:
            yield leaf


def _named(version: Version) -> dict[str, str]:
    return {"kind": version.kind, "digest": version.digest}


def earlier_evaluations(registry: Registry, artifact: Version, *, before: int | None = None) -> Iterator[Version]:
    """The evaluations of every candidate promoted before ``artifact`` was, by itself or in a release, each once.

    For an index these are the evaluations of indexes, for anything else all others.

    Args:
        before: look at so many leaves of the ledger only; all of them by default.
    """
    seen: set[str] = set()
    for leaf in registry.ledger.leaves(PROMOTION):
        if before is not None and leaf.index >= before:
            return
        promoted = registry.get(leaf.statement.name.partition("/")[0], leaf.statement.subject)
        if artifact.digest in (promoted.digest, *promoted.parents):
            return
        record = registry.store.manifest(PROMOTION, leaf.statement.payload)
        beside = promoted.stated("inputs", INDEX_VERDICT) if artifact.kind == INDEX else None
        verdicts = [registry.get("verdict", digest) for digest in (record["facts"]["verdict"], beside) if digest]
        recorded = [verdict.manifest["inputs"]["evidence"] for verdict in verdicts]
        if artifact.digest in [each["artifact"]["digest"] for each in recorded]:
            return
        for digest in dict.fromkeys(digest for each in recorded for digest in each["candidate"].values()):
            evaluation = registry.get("evaluation", digest) if digest not in seen else None
            seen.add(digest)
            if evaluation and (INDEX in evaluation.manifest["inputs"]) is (artifact.kind == INDEX):
                yield evaluation
