"""What a gate judges by: an artifact, its evaluations, and what earlier promotions left behind.

Guarantees: evidence is versions only, so that its JSON form, which a verdict records, is enough to load and judge it
again. Not guaranteed: that somebody collected enough; each check says what it misses.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from app.core.errors import SignalboxError
from app.core.parquet import read_rows
from app.ledger.log import PROMOTION, REQUEST_BATCH, Leaf
from app.registry.tables import ROWS_FILE
from app.registry.versions import Registry, Version

TARGET = "target"

Outcomes = list[tuple[str, float]]


class EvidenceMissing(SignalboxError):
    """A check needs a figure or an evaluation that was not handed in: make it, then judge again."""


@dataclass(frozen=True)
class Evidence:
    """Everything that a policy's checks may look at.

    Args:
        artifact: the version that is judged.
        candidate: its evaluations by label; ``target`` is the suite to do well on, all others are regression suites.
        production: evaluations, under the same labels, of what is in production now; empty before the first promotion.
        earlier: evaluations by which earlier promotions were judged; their questions must not be forgotten.
    """

    artifact: Version
    registry: Registry = field(repr=False)
    candidate: Mapping[str, Version] = field(default_factory=dict)
    production: Mapping[str, Version] = field(default_factory=dict)
    earlier: tuple[Version, ...] = ()

    def __post_init__(self) -> None:
        """One order, whoever collected it: a replay must see what the first judge saw."""
        object.__setattr__(self, "candidate", dict(sorted(self.candidate.items())))
        object.__setattr__(self, "production", dict(sorted(self.production.items())))
        object.__setattr__(self, "earlier", tuple(sorted(self.earlier, key=lambda version: version.digest)))

    @classmethod
    def collect(
        cls,
        artifact: Version,
        *,
        registry: Registry,
        candidate: Mapping[str, Version] | None = None,
        production: Mapping[str, Version] | None = None,
    ) -> "Evidence":
        """Evidence with what earlier promotions left behind, as the ledger has it now."""
        earlier = tuple(earlier_evaluations(registry, artifact))
        return cls(artifact, registry, dict(candidate or {}), dict(production or {}), earlier)

    def to_json(self) -> dict[str, Any]:
        """Kinds and digests, as a verdict records them."""
        return {
            "artifact": {"kind": self.artifact.kind, "digest": self.artifact.digest},
            "candidate": {label: version.digest for label, version in self.candidate.items()},
            "production": {label: version.digest for label, version in self.production.items()},
            "earlier": [version.digest for version in self.earlier],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], registry: Registry) -> "Evidence":
        """Load evidence again from what a verdict recorded."""

        def load(digest: str) -> Version:
            return registry.get("evaluation", digest)

        return cls(
            artifact=registry.get(value["artifact"]["kind"], value["artifact"]["digest"]),
            registry=registry,
            candidate={label: load(digest) for label, digest in value["candidate"].items()},
            production={label: load(digest) for label, digest in value["production"].items()},
            earlier=tuple(load(digest) for digest in value["earlier"]),
        )

    @property
    def parents(self) -> list[str]:
        """Digests of all versions in it, each once."""
        versions = [self.artifact, *self.candidate.values(), *self.production.values(), *self.earlier]
        return list(dict.fromkeys(version.digest for version in versions))

    def fact(self, path: str) -> Any:
        """A figure among the artifact's facts, by dotted path; EvidenceMissing when it is not there."""
        value: Any = self.artifact.facts
        for part in path.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise EvidenceMissing(f"{self.artifact.kind} {self.artifact.ref} states no {path}: publish it with it")
            value = value[part]
        return value

    def evaluation(self, label: str) -> Version:
        """The candidate's evaluation under a label; EvidenceMissing names the labels there are."""
        if label not in self.candidate:
            known = ", ".join(sorted(self.candidate)) or "none"
            raise EvidenceMissing(f"no evaluation on suite {label!r} was handed in (there are: {known}): evaluate it")
        return self.candidate[label]

    def outcomes(self, evaluation: Version, metric: str) -> Outcomes:
        """``(question id, outcome)`` of every row of an evaluation."""
        return read_outcomes(evaluation, metric, registry=self.registry)

    @cached_property
    def ancestors(self) -> tuple[dict[str, Leaf], list[str]]:
        """Leaves of everything the artifact was made from, by digest, and parent digests that no leaf publishes."""
        return find_ancestors(self.registry, [self.artifact.digest])


def read_outcomes(evaluation: Version, metric: str, *, registry: Registry) -> Outcomes:
    """``(question id, outcome)`` of every row of an evaluation.

    Raises:
        EvidenceMissing: it has no rows, or no such metric.
    """
    rows = read_rows(registry.folder(evaluation) / ROWS_FILE)
    if not rows:
        raise EvidenceMissing(f"evaluation {evaluation.ref} has no rows: evaluate on a suite that has some")
    if metric not in rows[0]:
        raise EvidenceMissing(f"evaluation {evaluation.ref} has no column {metric!r}: evaluate with that metric")
    return [(str(row["question_id"]), float(row[metric])) for row in rows]


def find_ancestors(registry: Registry, digests: list[str]) -> tuple[dict[str, Leaf], list[str]]:
    """Leaves of these digests and of all their ancestors, and named parents that no leaf publishes."""
    published = {leaf.statement.subject: leaf for leaf in reversed(list(published_leaves(registry)))}
    found: dict[str, Leaf] = {}
    unknown: list[str] = []
    waiting = list(digests)
    while waiting:
        digest = waiting.pop()
        if digest in found or digest in unknown:
            continue
        if digest not in published:
            unknown.append(digest)
            continue
        found[digest] = published[digest]
        waiting.extend(published[digest].statement.parents)
    return found, sorted(unknown)


def published_leaves(registry: Registry) -> Iterator[Leaf]:
    """Leaves that published a version or a part of the request log, rather than moving or naming one."""
    for leaf in registry.ledger.leaves():
        if leaf.statement.kind == REQUEST_BATCH or leaf.statement.payload == leaf.statement.subject:
            yield leaf


def earlier_evaluations(registry: Registry, artifact: Version) -> Iterator[Version]:
    """The evaluations of every candidate that was promoted before ``artifact`` was, each once."""
    seen: set[str] = set()
    for leaf in registry.ledger.leaves(PROMOTION):
        record = registry.store.manifest(PROMOTION, leaf.statement.payload)
        recorded = registry.get("verdict", record["facts"]["verdict"]).manifest["inputs"]["evidence"]
        if recorded["artifact"]["digest"] == artifact.digest:
            return
        for digest in recorded["candidate"].values():
            if digest not in seen:
                seen.add(digest)
                yield registry.get("evaluation", digest)
