"""Trainings that a trainer's key signed: which data, base and recipe gave which weights, and whose run it was.

A model's facts may hold ``signed``: a body, the trainer's verifier key and an Ed25519 signature over the body's RFC
8785 JSON. The body names the log, the model, its data and base, the recipe (digest of all that decided the run) and the
weights (digest of the list of its files); the model's leaf names the key as its actor.
Guarantees: pure functions of leaves and manifests, the same for gates, approvals and ``signalbox verify``; whoever
signed a training approves nothing that came of it, whatever key they use. Not guaranteed: that the key's holder did the
run; nor anything about a model that nobody signed, whose actor is the service.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.core.digests import digest_json
from app.ledger.binding import LOG, find_foreign
from app.ledger.key_book import END, KeyBook, ManifestOf
from app.ledger.keys import Signer, Verifier, facts_signer, sign_facts
from app.ledger.log import Leaf, Statement

MODEL, RETRIEVER = "model", "retriever"
TRAINER, TRAINING = "trainer", "training"


def sign_training(
    name: str, *, inputs: Mapping[str, Any], files: Mapping[str, Any], signer: Signer, log_key: str
) -> dict[str, Any]:
    """The fact ``signed`` of a model that is about to be published.

    Args:
        inputs: all that decided the run, as its manifest will hold it; ``data`` and ``base`` among it.
        files: the manifest's list of files, with their digests.
        log_key: verifier key of the log that it will be published to.
    """
    return sign_facts(_body(name, inputs, files) | {LOG: log_key, "key": signer.public.vkey}, signer)


def find_training_fault(leaf: Leaf, manifest: Mapping[str, Any], keys: KeyBook, *, log_key: str) -> str | None:
    """What is wrong with who trained a model, as its leaf and manifest say it; None for one that nobody claims."""
    facts, actor = _mapping(manifest, "facts"), leaf.statement.actor
    if "signed" not in facts:
        return f"its leaf names {actor}, who signed nothing" if actor.startswith(f"{TRAINER}/") else None
    signer = trained_by(manifest)
    if signer is None:
        return "the signature of its training does not hold"
    body = facts["signed"]["body"]
    try:
        said = _body(str(manifest.get("name")), _mapping(manifest, "inputs"), _mapping(manifest, "files"))
    except (TypeError, ValueError):
        return "its manifest holds what no training can have signed"
    if other := sorted(name for name in said if body.get(name) != said[name]):
        return f"its trainer signed another {', '.join(other)}"
    if body.get("key") != signer.vkey or actor != signer.key_name:
        return f"it was signed by {signer.key_name}, but names {actor} as who trained it"
    return find_foreign(body, log_key) or trainer_objection(signer, keys, leaf.index)


def trainer_objection(verifier: Verifier, keys: KeyBook, before: int = END) -> str | None:
    """Why a key may not sign trainings, at a place in the log; None when it may."""
    if verifier.role != TRAINER:
        return f"the role of its key {verifier.key_name} is {verifier.role}, a training is signed by a {TRAINER}"
    if found := keys.objection(verifier, before):
        return found
    known = keys.person(verifier.digest, before)
    return None if known else f"its key {verifier.key_name} belongs to no person on record"


def trained_by(manifest: Mapping[str, Any]) -> Verifier | None:
    """Whose signature a model's training bears; None when there is none that holds."""
    signed = _mapping(manifest, "facts").get("signed")
    if not isinstance(signed, Mapping) or not isinstance(signed.get("body"), Mapping):
        return None
    return facts_signer(signed)


@dataclass(frozen=True)
class Trainers:
    """Who trained some models: actors of their leaves, and keys and persons behind their signatures."""

    actors: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    people: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, statements: Iterable[Statement], manifest_of: ManifestOf, keys: KeyBook) -> "Trainers":
        """The trainers of the models among some statements."""
        found = cls()
        for statement in statements:
            if statement.kind not in (MODEL, RETRIEVER):
                continue
            found.actors.add(statement.actor)
            if signer := trained_by(manifest_of(statement.kind, statement.subject) or {}):
                found.keys.add(signer.digest)
                found.people.add(keys.person(signer.digest))
        found.people.discard("")
        return found

    def objection(self, verifier: Verifier, keys: KeyBook) -> str | None:
        """How a key or its person is among them; None when neither is."""
        if verifier.digest in self.keys or {verifier.key_name, verifier.name} & self.actors:
            return "it trained a model behind this artifact"
        if keys.person(verifier.digest) in self.people:
            return "its person trained a model behind this artifact"
        return None


def _mapping(manifest: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = manifest.get(name)
    return value if isinstance(value, Mapping) else {}


def _body(name: str, inputs: Mapping[str, Any], files: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "act": TRAINING,
        "model": name,
        "data": inputs.get("data"),
        "base": inputs.get("base"),
        "recipe": digest_json(inputs),
        "weights": digest_json(files),
    }
