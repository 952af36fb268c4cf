"""Hold MLflow's own registry, on the same database, against the log: aliases, stages and versions set through its API.

Nothing that MLflow is told changes what Signalbox serves; yet who reads MLflow's pages would be misled.
Guarantees: named are a ``production`` alias or stage on a model version that is not the one behind a release in
production, and a model version that no leaf publishes. Not guaranteed: anything about MLflow's runs and metrics.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, column, inspect, select, table

from app.ledger.faults import Report
from app.ledger.log import MOVES, PRODUCTION, Leaf

DIGEST_TAG = "signalbox.digest"
ALIASES = table("registered_model_aliases", column("name"), column("alias"), column("version"))
TAGS = table("model_version_tags", column("name"), column("version"), column("key"), column("value"))
VERSIONS = table("model_versions", column("name"), column("version"), column("current_stage"))
REPAIR = "set it back with MLflow, or promote that model's release"


def verify_mlflow(connection: Connection, log: Sequence[Leaf], manifests: Mapping[str, Any], report: Report) -> None:
    """Check MLflow's registry; where MLflow was never used there is nothing to check."""
    present = set(inspect(connection).get_table_names())
    if not {ALIASES.name, TAGS.name, VERSIONS.name} <= present:
        return
    published = {leaf.statement.subject for leaf in log if leaf.statement.kind == "model"}
    serving = set(_serving(log, manifests))
    digests = {
        (name, str(number)): digest
        for name, number, digest in connection.execute(
            select(TAGS.c.name, TAGS.c.version, TAGS.c.value).where(TAGS.c.key == DIGEST_TAG)
        )
    }
    for name, number, stage in connection.execute(
        select(VERSIONS.c.name, VERSIONS.c.version, VERSIONS.c.current_stage)
    ):
        digest = digests.get((name, str(number)))
        if digest not in published and stage != "Deleted_Internal":
            report.add("unlogged-mlflow-version", _where(name, number), "no model leaf publishes this version")
        if str(stage).casefold() == PRODUCTION and digest not in serving:
            message = f"MLflow's API gave it the stage Production, but no release in production has it: {REPAIR}"
            report.add("unbacked-mlflow-stage", _where(name, number), message)
    for name, alias, number in connection.execute(select(ALIASES.c.name, ALIASES.c.alias, ALIASES.c.version)):
        if str(alias).casefold() == PRODUCTION and digests.get((name, str(number))) not in serving:
            message = f"MLflow's alias {alias!r} points at it, but no release in production has it: {REPAIR}"
            report.add("unbacked-mlflow-alias", _where(name, number), message)


def _serving(log: Sequence[Leaf], manifests: Mapping[str, Any]) -> Iterator[str]:
    """Digests of the models that are in production, by themselves or in a release."""
    last = {leaf.statement.name: leaf.statement.subject for leaf in log if leaf.statement.kind in MOVES}
    for subject in last.values():
        yield subject
        facts = manifests.get(subject, {}).get("facts", {})
        yield from (str(facts[part]) for part in ("small", "large") if facts.get(part))


def _where(name: str, number: object) -> str:
    return f"MLflow model {name} version {number}"
