"""`signalbox erase`: remove a person's or a document's content from everything that was made from it.

Order of things: find every row, write what stays aside with a plan, append the erasure leaf, replace the files, drop
the plan. An erasure that is killed goes on with ``resume``; until then ``verify`` names the files that are left.

Guarantees: rows of datasets, synthetic rows, suites, evaluations, baselines, vectors and chunks of indexes and rows of
the request log go, with what descends from them and what callers said of them; manifests, leaves and receipts stay, so
that every older proof holds.
Neither leaf nor record holds the subject, only a commitment under a salt that the caller alone gets.
Not guaranteed: weights of models trained on what went (they are named, and deleted only when asked to); texts that
stand in manifests, database tables, model files or logs (they are named); copies and backups elsewhere; answers given
while the erasure runs; a serving replica reads an index again some seconds later.
"""

import fcntl
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from app.core.digests import canonical_json, digest_file
from app.core.errors import SignalboxError, UsageError
from app.governance.erasing import (
    LEARNT,
    Change,
    changes_of,
    empty_journal,
    feedback_of,
    forget_feedback,
    left_over,
    sweep,
)
from app.governance.graph import Graph
from app.governance.matching import Matcher
from app.ledger.erasures import ErasedFile, commit_documents
from app.ledger.log import ERASURE, REQUEST_BATCH, Statement
from app.ledger.receipts import commit, new_salt
from app.registry.versions import Registry, Version

PLAN = "plan.json"
REBUILT = ("router", "baseline", "outcomes")


class NothingToErase(UsageError):
    """Neither the store nor the request log holds the subject or document: check its spelling."""


class ErasureBlocked(SignalboxError):
    """An erasure cannot go on as planned; the message says what is in the way."""


@dataclass(frozen=True)
class Erasure:
    """What an erasure removed, or would remove, and what is left to people."""

    files: Sequence[ErasedFile]
    refs: Sequence[str]
    """The file of each entry of ``files`` for people: version and file, or part of the request log."""
    retrain: Sequence[str]
    rebuild: Sequence[str]
    sources: Sequence[str]
    """Documents outside of the store that hold the content: the next ingest would read them again."""
    left_over: Sequence[str]
    feedback: Sequence[str] = ()
    """What callers said of answers, by its keys in the database."""

    leaf: int | None = None
    opening: str = ""
    """Salt that opens the leaf's commitment; kept nowhere."""

    @property
    def num_rows(self) -> int:
        return sum(entry.num_rows for entry in self.files)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "num_rows": self.num_rows}


@dataclass
class Plan:
    """What is written aside before anything changes; holds no erased content."""

    id: str
    subject: str
    manifest: dict[str, Any]
    parents: list[str]
    actor: str
    feedback: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[ErasedFile]:
        return [ErasedFile.from_json(entry) for entry in self.manifest["facts"]["files"]]

    def statement(self, payload: str) -> Statement:
        """The leaf, of the moment at which it is appended."""
        return Statement(ERASURE, self.subject, self.id, tuple(self.parents), payload, self.actor)


def erase(
    registry: Registry,
    *,
    subjects: Sequence[str] = (),
    documents: Sequence[str] = (),
    reason: str,
    actor: str,
    delete_models: bool = False,
    dry_run: bool = False,
) -> Erasure:
    """Remove everything that holds one of the subjects, or comes from one of the documents.

    Args:
        subjects: texts or user ids; see :mod:`app.governance.matching` for what counts as an occurrence.
        documents: ids or sources.
        delete_models: remove the files of models trained on what went; refused for those in production.
        dry_run: say what would go and change nothing.

    Raises:
        NothingToErase: nothing holds any of them.
        ErasureBlocked: an erasure before was cut short, or a model to delete is in production.
    """
    matcher = Matcher(subjects=subjects, documents=documents)
    if matcher.text(reason):
        raise UsageError("the reason goes into the ledger for good: write it without the subject")
    with _alone(registry) as home, tempfile.TemporaryDirectory(prefix=".aside-", dir=home) as aside:
        if unfinished(registry):
            raise ErasureBlocked("an erasure was cut short: run `signalbox erase --resume` first")
        found = changes_of(matcher, registry, aside=Path(aside))
        said = feedback_of(matcher, registry)
        if not found and not said:
            raise NothingToErase("nothing in the store or the request log holds it: check its spelling")
        models, rebuild = _descendants(registry, found)
        if delete_models:
            found += _deletions(registry, models)
        result = replace(_result(found, models, rebuild, matcher, left_over(matcher, registry)), feedback=said)
        if dry_run:
            return result
        salt, target = new_salt(), canonical_json({"documents": sorted(documents), "subjects": sorted(subjects)})
        plan = _plan(commit(salt, target), found, result, matcher, reason=reason, actor=actor)
        leaf = _execute(_stage(plan, found, home), registry)
        left = [*result.left_over, *empty_journal(registry)]
    return replace(result, leaf=leaf, opening=salt.hex(), left_over=left)


def lines(result: Erasure) -> list[str]:
    """An erasure for a terminal."""
    done = "would go" if result.leaf is None else "went"
    changed = [
        f"{ref}: {entry.num_rows} rows {done}" if entry.new else f"{ref}: the file {done}"
        for ref, entry in zip(result.refs, result.files, strict=True)
    ]
    if result.feedback:
        changed.append(f"feedback on answers: {len(result.feedback)} {done}")
    left = [
        *(f"must be retrained: model {ref}" for ref in result.retrain),
        *(f"must be made again: {ref}" for ref in result.rebuild),
        *(
            f"remove it from this document, or the next ingest refuses the whole of it: {each}"
            for each in result.sources
        ),
        *(f"stays, for no erasure reaches it: {each}" for each in result.left_over),
    ]
    if result.leaf is not None:
        left.append("serving replicas read the index again within seconds; models stay in memory as they are")
        left.append(f"leaf {result.leaf} names what went; its commitment opens with the salt {result.opening}")
    return [*changed, *left]


def resume(registry: Registry) -> list[int]:
    """Finish erasures that were cut short; the indexes of their leaves."""
    with _alone(registry):
        leaves = [_execute(folder, registry) for folder in unfinished(registry)]
        empty_journal(registry)
    return leaves


def unfinished(registry: Registry) -> list[Path]:
    """Plans that were written and not carried out to the end."""
    return sorted(path.parent for path in _home(registry).glob(f"*/{PLAN}") if not path.parent.name.startswith("."))


def _home(registry: Registry) -> Path:
    folder = registry.workspace.root / "erasures"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextmanager
def _alone(registry: Registry) -> Iterator[Path]:
    """One erasure at a time on this machine."""
    home = _home(registry)
    with (home / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ErasureBlocked("another erasure is running: wait for its end") from error
        yield home


def _plan(subject: str, found: Sequence[Change], result: Erasure, matcher: Matcher, *, reason: str, actor: str) -> Plan:
    identity = secrets.token_hex(8)
    parents = sorted({change.entry.digest for change in found if change.entry.kind != REQUEST_BATCH})
    inputs = {"subject": subject, "reason": reason, "actor": actor, **commit_documents(matcher.documents)}
    facts = {
        "files": [change.entry.to_json() for change in found],
        "num_rows": result.num_rows,
        "num_feedback": len(result.feedback),
        "retrain": list(result.retrain),
        "rebuild": list(result.rebuild),
    }
    manifest = {"kind": ERASURE, "name": identity, "inputs": inputs, "parents": parents, "facts": facts}
    return Plan(identity, subject, manifest, parents, actor, list(result.feedback))


def _stage(plan: Plan, found: Sequence[Change], home: Path) -> Path:
    """Move what stays of each file beside the plan; the folder appears whole or not at all."""
    staged = home / f".{plan.id}"
    staged.mkdir(mode=0o700)
    for number, change in enumerate(found):
        if change.staged:
            shutil.move(change.staged, staged / str(number))
    (staged / PLAN).write_bytes(canonical_json(asdict(plan)))
    return staged.rename(home / plan.id)


def _execute(folder: Path, registry: Registry) -> int:
    """Carry a plan out, from wherever it was cut short; the index of its leaf."""
    plan = Plan(**json.loads((folder / PLAN).read_bytes()))
    payload = registry.store.publish(ERASURE, None, plan.manifest)
    leaves = [leaf.index for leaf in registry.ledger.leaves(ERASURE, subject=plan.subject)]
    index = leaves[0] if leaves else registry.ledger.append([plan.statement(payload)])[0]
    for number, entry in enumerate(plan.files):
        _apply(entry, folder / str(number), registry)
    for kind, digest in {(entry.kind, entry.digest) for entry in plan.files if entry.kind != REQUEST_BATCH}:
        registry.store.mark_erased(kind, digest)
    forget_feedback(plan.feedback, registry)
    sweep(registry.workspace.requests_dir)
    shutil.rmtree(folder)
    return index


def _apply(entry: ErasedFile, staged: Path, registry: Registry) -> None:
    now = _digest_now(entry, registry)
    if now == entry.new:
        return
    if now != entry.old:
        raise ErasureBlocked(f"{entry.kind} {entry.file} was changed since the plan was made: run `signalbox verify`")
    if entry.kind == REQUEST_BATCH:
        target = registry.workspace.requests_dir / entry.file
        aside = target.with_name(f".{target.name}.tmp")
        shutil.copyfile(staged, aside)
        os.replace(aside, target)
    else:
        registry.store.erase(entry.kind, entry.digest, entry.file, staged if entry.new else None)


def _digest_now(entry: ErasedFile, registry: Registry) -> str:
    try:
        if entry.kind == REQUEST_BATCH:
            return digest_file(registry.workspace.requests_dir / entry.file)
        return registry.store.file_digest(entry.kind, entry.digest, entry.file)
    except FileNotFoundError:
        return ""


def _result(
    found: Sequence[Change], models: Sequence[Version], rebuild: Sequence[Version], matcher: Matcher, rest: list[str]
) -> Erasure:
    return Erasure(
        files=[change.entry for change in found],
        refs=[change.ref for change in found],
        retrain=[version.ref for version in models if version.kind == "model"],
        rebuild=[f"{each.kind} {each.ref}" for each in (*rebuild, *models) if each.kind != "model"],
        sources=sorted(matcher.sources),
        left_over=rest,
    )


def _descendants(registry: Registry, found: Sequence[Change]) -> tuple[list[Version], list[Version]]:
    """Models and retrievers that learned from what goes, and what else must be made again."""
    touched = {change.entry.digest for change in found if change.entry.kind in ("dataset", "synthetic")}
    behind = {change.entry.digest for change in found} | touched
    models, rebuild = [], []
    for version in registry.versions():
        learnt_of = touched if version.kind == "model" else behind | touched  # a retriever learns of an index, too
        if version.kind in LEARNT and learnt_of & set(version.parents):
            models.append(version)
            touched.add(version.digest)
        elif version.kind in REBUILT and (behind | touched) & set(version.parents):
            rebuild.append(version)
    return models, rebuild


def _deletions(registry: Registry, models: Sequence[Version]) -> list[Change]:
    serving = Graph(registry).in_production
    for model in models:
        if model.digest in serving:
            said = f"{model.ref} is in production or in the canary beside it: promote a release without it"
            raise ErasureBlocked(f"{said}, or end the canary, then erase with --models delete")
    changes = []
    for model in models:
        there = registry.store.list_files(model.kind, model.digest)
        for name in sorted(there & model.manifest["files"].keys()):
            old = registry.store.file_digest(model.kind, model.digest, name)
            entry = ErasedFile(model.kind, model.digest, name, old, "")
            changes.append(Change(f"{model.kind} {model.ref}: {name}", entry, None))
    return changes
