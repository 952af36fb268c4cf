"""The pack's report for people: one HTML page that needs no other file.

Guarantees: every figure stands in a manifest of the pack; text of others is escaped. The table of clauses is
``mapping.yaml``: what it says is not met is shown as such. Not guaranteed: legal advice of any kind.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

import yaml

from app.governance.approvals import read_approval
from app.governance.lineage import trace
from app.governance.pack import layout
from app.governance.pack.cards import figures
from app.governance.pack.contents import Contents
from app.governance.pack.weights import KIND as SIGNATURE
from app.ledger.log import KEY, MOVES, STEPS
from app.ledger.note import Checkpoint
from app.registry.versions import Registry, Version

STATUSES = {"evidence": "green", "part": "amber", "unmet": "red", "outside": "grey"}
PIECES = {
    "index": ("this page", ""),
    "statements": ("leaves and proofs", layout.LEAVES),
    "lineage": ("lineage", "#lineage"),
    "datasets": ("datasets", f"{layout.DATASETS}/"),
    "provenance": ("provenance", f"{layout.ATTESTATIONS}/provenance/"),
    "attestations": ("attestations", f"{layout.ATTESTATIONS}/"),
    "bom": ("bill of materials", layout.BOM),
    "model-cards": ("model cards", f"{layout.CARDS}/"),
    "evaluations": ("evaluations", "#evaluations"),
    "verdicts": ("verdicts", "#verdicts"),
    "approvals": ("approvals", "#approvals"),
    "promotions": ("promotions", "#promotions"),
    "signatures": ("model signatures", f"{layout.SIGNATURES}/"),
    "keys": ("keys", f"{layout.KEYS}/"),
}
"""What ``mapping.yaml`` may name as a piece: its name for people, and where it is."""


def render_page(contents: Contents, *, registry: Registry, checkpoint: Checkpoint) -> str:
    """The page of a pack."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("app.governance.pack", "."), undefined=StrictUndefined, autoescape=True
    )
    return environment.get_template("index.html.j2").render(
        release=contents.release,
        released_at=contents.times[contents.release.digest],
        checkpoint=checkpoint,
        key=registry.ledger.signer.public.vkey,
        parts=list(_parts(contents)),
        data=[
            _facts(version, contents)
            for kind in ("dataset", "synthetic", "suite")
            for version in contents.of_kind(kind)
        ],
        models=[_model(model, contents) for model in contents.of_kind("model")],
        verdicts=contents.of_kind("verdict"),
        evaluations=[(each, list(figures(each))) for each in contents.of_kind("evaluation")],
        approvals=[(each, read_approval(each)) for each in contents.of_kind("approval")],
        moves=list(_moves(contents, registry)),
        keys=list(_keys(contents, registry)),
        lineage=trace(registry, contents.release.digest),
        left_out=dict(contents.left_out),
        mapping=[_met(framework, _absent(contents)) for framework in load_mapping()],
        pieces=PIECES,
        colours=STATUSES,
    )


def load_mapping() -> Sequence[Mapping[str, Any]]:
    """Frameworks with their clauses, as ``mapping.yaml`` has them."""
    text = (resources.files("app.governance.pack") / "mapping.yaml").read_text("utf-8")
    frameworks: list[dict[str, Any]] = yaml.safe_load(text)
    return frameworks


def _absent(contents: Contents) -> set[str]:
    """Pieces of ``PIECES`` that this pack has none of."""
    counted = {
        "datasets": contents.of_kind("dataset"),
        "evaluations": contents.of_kind("evaluation"),
        "verdicts": contents.of_kind("verdict"),
        "approvals": [each for each in contents.of_kind("approval") if read_approval(each)],
        "promotions": [leaf for leaf in contents.leaves if leaf.statement.kind in MOVES],
        "signatures": contents.of_kind(SIGNATURE),
    }
    counted |= dict.fromkeys(("provenance", "model-cards"), contents.of_kind("model"))
    return {piece for piece, found in counted.items() if not found}


def _met(framework: Mapping[str, Any], absent: set[str]) -> dict[str, Any]:
    """A framework with the status of each clause as this pack meets it."""
    clauses = []
    for clause in framework["clauses"]:
        named = clause.get("pieces", [])
        lacking = [PIECES[piece][0] for piece in named if piece in absent]
        if lacking:
            status = "unmet" if len(lacking) == len(named) else "part"
            note = f"This pack has no {' and no '.join(lacking)}. {clause['note']}"
            clause = {**clause, "status": status, "note": note}
        clauses.append(clause)
    return {**framework, "clauses": clauses}


def _parts(contents: Contents) -> Iterator[tuple[str, Version]]:
    """What the release is made of, by the name of the part."""
    known = {version.digest: version for version in contents.versions}
    for name, digest in contents.release.facts.items():
        if isinstance(digest, str) and digest in known:
            yield name, known[digest]


def _facts(version: Version, contents: Contents) -> dict[str, Any]:
    """What a row about a version shows: its plain figures, what it was made from, and where its files are."""
    refs = {each.digest: f"{each.kind} {each.ref}" for each in contents.versions}
    plain = {key: value for key, value in sorted(version.facts.items()) if isinstance(value, int | float | str)}
    return {
        "version": version,
        "facts": _shown({key: value for key, value in plain.items() if value not in refs}),
        "made_from": [refs.get(digest, digest) for digest in dict.fromkeys(version.parents)],
        "at": contents.times[version.digest],
        "left_out": contents.left_out.get(version.digest, ""),
    }


def _model(model: Version, contents: Contents) -> dict[str, Any]:
    signed = {str(each.manifest["inputs"]["model"]): each for each in contents.of_kind(SIGNATURE)}
    training = model.facts.get("train")
    return {
        **_facts(model, contents),
        "training": _shown(training) if isinstance(training, dict) else "",
        "signature": signed.get(model.digest),
        "folder": f"{layout.SIGNATURES}/{layout.short(model.digest)}/",
    }


def _shown(figures_by_name: Mapping[str, Any]) -> str:
    """Figures for people, numbers to four digits."""
    pairs = ((name.removeprefix("num_"), value) for name, value in sorted(figures_by_name.items()))
    return ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in pairs)


def _keys(contents: Contents, registry: Registry) -> Iterator[dict[str, Any]]:
    """Key events: what was put on record or revoked, and why."""
    for leaf in contents.leaves:
        if leaf.statement.kind == KEY:
            facts = registry.store.manifest(KEY, leaf.statement.payload)["facts"] if leaf.statement.payload else {}
            said = {"event": facts.get("event", "new"), "person": facts.get("person", "")}
            yield {"leaf": leaf, **said, "reason": facts.get("reason", "")}


def _moves(contents: Contents, registry: Registry) -> Iterator[dict[str, Any]]:
    """Promotions and what else moved production, with the reason that was given."""
    refs = {version.digest: version.ref for version in contents.versions}
    for leaf in contents.leaves:
        statement = leaf.statement
        if statement.kind in STEPS:
            record = registry.store.manifest(statement.kind, statement.payload) if statement.payload else {}
            yield {
                "leaf": leaf,
                "to": refs.get(statement.subject, statement.subject),
                "this": statement.subject == contents.release.digest,
                "reason": record.get("facts", {}).get("reason", ""),
            }
