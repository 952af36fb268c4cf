"""Hold MLflow's own registry, on the same database, against the log: aliases, stages and versions set through its API.

Nothing that MLflow is told changes what Signalbox serves; yet who reads MLflow's pages would be misled.
Guarantees: named are a ``production`` alias or stage on a model version that is not the one behind a release in
production, a model version that no leaf publishes, one that bears another's digest, and one whose weights MLflow would
look for elsewhere than in the store. Not guaranteed: anything about MLflow's runs and metrics.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, column, inspect, select, table

from app.core.digests import PREFIX
from app.ledger.faults import Report
from app.ledger.log import MOVES, PRODUCTION, Leaf

DIGEST_TAG = "signalbox.digest"
ALIASES = table("registered_model_aliases", column("name"), column("alias"), column("version"))
TAGS = table("model_version_tags", column("name"), column("version"), column("key"), column("value"))
VERSIONS = table("model_versions", column("name"), column("version"), column("current_stage"), column("source"))
DELETED = "Deleted_Internal"
REPAIR = "set it back with MLflow, or promote that model's release"


def verify_mlflow(
    connection: Connection, log: Sequence[Leaf], manifests: Mapping[str, Any], report: Report, *, root: Path | None
) -> None:
    """Check MLflow's registry; where MLflow was never used there is nothing to check.

    Args:
        root: the store's folder, where it has one; MLflow's sources lie in it.
    """
    present = set(inspect(connection).get_table_names())
    if not {ALIASES.name, TAGS.name, VERSIONS.name} <= present:
        return
    published = {(leaf.statement.name, leaf.statement.subject) for leaf in log if leaf.statement.kind == "model"}
    serving = set(_serving(log, manifests))
    tags = select(TAGS.c.name, TAGS.c.version, TAGS.c.value).where(TAGS.c.key == DIGEST_TAG)
    digests = {(name, str(number)): digest for name, number, digest in connection.execute(tags)}
    order = (VERSIONS.c.name, VERSIONS.c.version)
    rows = [row for row in connection.execute(select(VERSIONS).order_by(*order)) if row.current_stage != DELETED]
    first: dict[tuple[str, str | None], object] = {}
    for row in rows:
        digest, where = digests.get((row.name, str(row.version))), _where(row.name, row.version)
        if (row.name, digest) not in published:
            report.add("unlogged-mlflow-version", where, "no model leaf publishes this version")
        elif (before := first.setdefault((row.name, digest), row.version)) != row.version:
            report.add("copied-mlflow-version", where, f"it bears the digest of version {before}: its tag was copied")
        if str(row.current_stage).casefold() == PRODUCTION and digest not in serving:
            message = f"MLflow's API gave it the stage Production, but no release in production has it: {REPAIR}"
            report.add("unbacked-mlflow-stage", where, message)
    _check_sources([(row, digests.get((row.name, str(row.version))) or "") for row in rows], root, report)
    for name, alias, number in connection.execute(select(ALIASES.c.name, ALIASES.c.alias, ALIASES.c.version)):
        if str(alias).casefold() == PRODUCTION and digests.get((name, str(number))) not in serving:
            message = f"MLflow's alias {alias!r} points at it, but no release in production has it: {REPAIR}"
            report.add("unbacked-mlflow-alias", _where(name, number), message)


def _check_sources(rows: Sequence[tuple[Any, str]], root: Path | None, report: Report) -> None:
    """MLflow looks for weights where the store has them; a workspace that was moved as a whole is a note."""
    tagged = [(row, digest, str(row.source).removeprefix("file://")) for row, digest in rows if digest]
    inside = [row for row, _, source in tagged if root and Path(source).is_relative_to(root)]
    if tagged and root and not inside:
        report.notes.append(f"MLflow looks for weights outside of {root}: this workspace was moved or copied")
    for row, digest, source in tagged:
        if digest.removeprefix(PREFIX) not in source or (inside and row not in inside):
            message = f"MLflow looks for its weights at {source}, which is not where they were published"
            report.add("misplaced-mlflow-version", _where(row.name, row.version), message)


def _serving(log: Sequence[Leaf], manifests: Mapping[str, Any]) -> Iterator[str]:
    """Digests of the models that are in production, by themselves or in a release."""
    last = {leaf.statement.name: leaf.statement.subject for leaf in log if leaf.statement.kind in MOVES}
    for subject in last.values():
        yield subject
        facts = manifests.get(subject, {}).get("facts", {})
        yield from (str(facts[part]) for part in ("small", "large") if facts.get(part))


def _where(name: str, number: object) -> str:
    return f"MLflow model {name} version {number}"
