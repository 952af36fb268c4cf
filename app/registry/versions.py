"""The registry: numbered versions with digests, and the aliases that point at them.

Guarantees: a version's row and its ledger leaf are written in one transaction, after its files are whole in the store;
publishing the same content under the same name twice gives the same version. Not guaranteed: that an alias moved with
another program is legitimate; ``signalbox verify`` finds those.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeAlias

from sqlalchemy import Connection, Row, func, insert, select

from app.core.clock import timestamp
from app.core.database import Database
from app.core.digests import PREFIX, digest_json, hex_of
from app.core.errors import UsageError
from app.core.schema import aliases, versions
from app.core.store import Store
from app.core.workspace import Workspace
from app.ledger.log import PRODUCTION as PRODUCTION
from app.ledger.log import Ledger, Statement, open_ledger

LATEST = "latest"
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class BadName(UsageError):
    """That cannot name a version, since no reference ``name@number`` could carry it; the message says what can."""


class VersionNotFound(UsageError):
    """No version answers to that reference; the message names the nearest one that exists."""


@dataclass(frozen=True)
class Version:
    """One published version. ``manifest`` holds kind, name, inputs, parents, facts and files."""

    kind: str
    name: str
    number: int
    digest: str
    manifest: Mapping[str, Any]
    created_at: str = ""

    @property
    def ref(self) -> str:
        """The human reference, such as ``handbook@7``."""
        return f"{self.name}@{self.number}"

    @property
    def short(self) -> str:
        """The first 12 hex digits of the digest."""
        return hex_of(self.digest)[:12]

    @property
    def facts(self) -> dict[str, Any]:
        """Figures about the version, from its manifest."""
        return dict(self.manifest["facts"])

    @property
    def parents(self) -> list[str]:
        """Digests of what it was made from."""
        return list(self.manifest["parents"])

    def stated(self, *path: str) -> Any:
        """What the manifest holds at a path of names; None where it holds nothing, as one that was made up may."""
        value: Any = self.manifest
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value


Observer: TypeAlias = Callable[[Literal["read", "published"], Version], None]


class Registry:
    """Publishes, finds and names versions."""

    def __init__(self, *, database: Database, store: Store, ledger: Ledger, workspace: Workspace) -> None:
        self.database, self.store, self.ledger, self.workspace = database, store, ledger, workspace
        self.observer: Observer | None = None
        """Told of every version that is read (`get`) and published, or found made already (`publish`, `find`)."""

    def publish(
        self,
        kind: str,
        name: str,
        *,
        folder: Path | None = None,
        inputs: Mapping[str, Any],
        parents: Sequence[str] = (),
        facts: Mapping[str, Any] | None = None,
        actor: str = "service",
    ) -> Version:
        """Publish a folder's files (or facts alone) as the next version of ``name``.

        Args:
            inputs: everything that decides the content: digests of what was read, settings, code version.
            parents: digests of the versions that it was made from; the lineage.
            facts: figures about it. No times: the same work must give the same digest.
        """
        check_name(name)
        manifest = {"kind": kind, "name": name, "inputs": inputs, "parents": list(parents), "facts": facts or {}}
        digest = self.store.publish(kind, folder, manifest)
        with self.database.write() as connection:
            row = _by_digest(connection, kind, name, digest)
            if row is None:
                row = _add_row(connection, kind, name, digest, digest_json(inputs))
                self.ledger.append([_statement(kind, name, digest, parents, actor)], connection=connection)
        return self._seen("published", self._load(row))

    def find(self, kind: str, name: str, inputs: Mapping[str, Any]) -> Version | None:
        """The version of ``name`` that was made from these very inputs, so that the work need not be done again."""
        check_name(name)
        query = select(versions).where(
            versions.c.kind == kind, versions.c.name == name, versions.c.inputs_digest == digest_json(inputs)
        )
        with self.database.read() as connection:
            row = connection.execute(query.order_by(versions.c.number.desc())).first()
        return self._seen("published", self._load(row)) if row else None

    def get(self, kind: str, ref: str) -> Version:
        """The version called ``name@number``, ``name@alias``, ``name`` (its latest), or by its digest.

        Raises:
            VersionNotFound: there is none.
        """
        with self.database.read() as connection:
            row = _resolve(connection, kind, ref)
        if row is None:
            raise VersionNotFound(self._not_found(kind, ref))
        return self._seen("read", self._load(row))

    def versions(self, kind: str | None = None, name: str | None = None) -> list[Version]:
        """Every version, oldest first, of a kind and a name when they are given."""
        query = select(versions).order_by(versions.c.id)
        query = query.where(versions.c.kind == kind) if kind else query
        query = query.where(versions.c.name == name) if name else query
        with self.database.read() as connection:
            rows = connection.execute(query).all()
        return [self._load(row) for row in rows]

    def alias(self, kind: str, name: str, alias: str) -> str | None:
        """The digest that an alias points at, or None."""
        with self.database.read() as connection:
            row = _by_alias(connection, kind, name, alias)
        return str(row.digest) if row else None

    def folder(self, version: Version) -> Path:
        """A local folder with the version's files; to be read, never written."""
        return self.store.folder(version.kind, version.digest)

    def _seen(self, event: Literal["read", "published"], version: Version) -> Version:
        if self.observer:
            self.observer(event, version)
        return version

    def _load(self, row: Row[Any]) -> Version:
        manifest = self.store.manifest(row.kind, row.digest)
        return Version(row.kind, row.name, row.number, row.digest, manifest, row.created_at)

    def _not_found(self, kind: str, ref: str) -> str:
        known = [version.ref for version in self.versions(kind)]
        near = get_close_matches(ref, known, n=1) or known[-1:]
        hint = f"did you mean {near[0]}?" if near else f"no {kind} has been published in {self.workspace.root} yet"
        return f"there is no {kind} {ref!r}: {hint}"


def check_name(name: str) -> None:
    """Refuse a name that no reference could carry; BadName."""
    if not NAME_PATTERN.fullmatch(name):
        message = f"{name!r} cannot name a version: begin with a letter or digit"
        raise BadName(f"{message}, and go on with up to 199 letters, digits, dots, dashes, underscores")


def open_registry(workspace: Workspace) -> Registry:
    """The registry of a workspace; its database is migrated and its service key made when they are not there yet."""
    ledger = open_ledger(workspace)
    return Registry(database=ledger.database, store=Store(workspace.store_uri), ledger=ledger, workspace=workspace)


def _statement(kind: str, name: str, digest: str, parents: Sequence[str], actor: str) -> Statement:
    return Statement(
        kind=kind, subject=digest, name=name, parents=tuple(parents), payload=digest, actor=actor, time=timestamp()
    )


def _add_row(connection: Connection, kind: str, name: str, digest: str, inputs_digest: str) -> Row[Any]:
    last = connection.execute(
        select(func.max(versions.c.number)).where(versions.c.kind == kind, versions.c.name == name)
    ).scalar()
    values = {"kind": kind, "name": name, "number": (last or 0) + 1, "digest": digest}
    values |= {"inputs_digest": inputs_digest, "created_at": timestamp()}
    connection.execute(insert(versions).values(values))
    row = _by_digest(connection, kind, name, digest)
    assert row is not None
    return row


def _by_digest(connection: Connection, kind: str, name: str | None, digest: str) -> Row[Any] | None:
    query = select(versions).where(versions.c.kind == kind, versions.c.digest == digest)
    query = query.where(versions.c.name == name) if name else query
    return connection.execute(query).first()


def _by_alias(connection: Connection, kind: str, name: str, alias: str) -> Row[Any] | None:
    joined = select(versions).join(aliases, aliases.c.version_id == versions.c.id)
    query = joined.where(aliases.c.kind == kind, aliases.c.name == name, aliases.c.alias == alias)
    return connection.execute(query).first()


def _resolve(connection: Connection, kind: str, ref: str) -> Row[Any] | None:
    if ref.startswith(PREFIX):
        return _by_digest(connection, kind, None, ref)
    name, _, tag = ref.partition("@")
    if tag and tag != LATEST and not tag.isdigit():
        return _by_alias(connection, kind, name, tag)
    query = select(versions).where(versions.c.kind == kind, versions.c.name == name)
    if tag.isdigit():
        query = query.where(versions.c.number == int(tag))
    return connection.execute(query.order_by(versions.c.number.desc())).first()
