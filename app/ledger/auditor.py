"""What an auditor brings along, got by another way than the log: its public key, an older checkpoint, witnesses' keys.

Purpose: checks that a log which is whole in itself can still fail: rewritten and signed again by the very key, cut
back together with its checkpoints, or shown to its auditor alone. Guarantees: with a checkpoint kept, every change to
the leaves under it is found. Not guaranteed: anything about leaves that came after it, but for the witnesses' word.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.core.files import read_text
from app.ledger.faults import Report
from app.ledger.keys import KeyUnreadable, Verifier, load_public
from app.ledger.log import WITNESS
from app.ledger.note import BadNote, NotSigned, read_checkpoint
from app.ledger.verify_tree import Levels, Row, span_name
from app.ledger.witness import BadWitness, Witness, check_cosignatures


@dataclass(frozen=True)
class Auditor:
    """Nothing of it is needed, and the more is there, the less has to be believed."""

    key: Path | None = None
    """The log's public key; by default the one beside the log."""

    checkpoint: Path | None = None
    """An older checkpoint of the log, kept outside of it."""

    witnesses: tuple[Witness, ...] = ()
    """Witnesses of whom each must have signed a checkpoint."""

    def verifier(self, beside: Path, report: Report) -> Verifier | None:
        """The log's public key: the auditor's own, else the one ``beside`` the log."""
        path = self.key or beside
        try:
            return load_public(path)
        except KeyUnreadable as error:
            report.add("missing-key", f"key {path.name}", f"no checkpoint can be checked: {error}")
            return None


def check_auditor(
    auditor: Auditor,
    *,
    levels: Levels,
    verifier: Verifier | None,
    rows: Iterable[Row],
    notes: Mapping[int, str],
    cosigned: Iterable[tuple[int, str, str]],
    report: Report,
) -> None:
    """Hold the log against what the auditor brought, and its cosignatures against its trusted witnesses.

    Args:
        notes: the log's checkpoints by size.
        cosigned: size, digest of the witness's key, signature line; as ``check_cosignatures`` wants them.
    """
    if auditor.checkpoint and verifier:
        _check_kept(auditor.checkpoint, levels, verifier, report)
    trusted = [*_trusted(rows, report), *auditor.witnesses]
    _check_seen(auditor.witnesses, check_cosignatures(cosigned, notes, trusted, report), levels.size, report)


def _check_kept(path: Path, levels: Levels, verifier: Verifier, report: Report) -> None:
    where = f"kept checkpoint {path.name}"
    try:
        kept = read_checkpoint(read_text(path), [verifier])
    except NotSigned as error:
        message = f"the log shows another key than signed it, so it was rewritten, or this is another log's: {error}"
        report.add("changed-key", where, message)
        return
    except BadNote as error:
        report.add("bad-checkpoint", where, f"nothing can be held against it: {error}")
        return
    if kept.size > levels.size:
        message = f"the checkpoint kept of {kept.size} leaves has signed them: the log was cut back since"
        report.add("missing-leaf", span_name(levels.size, kept.size), message)
    elif levels.root(kept.size) != kept.root:
        message = (
            f"they are not those that the checkpoint kept of {kept.size} leaves signed: the log was rewritten since"
        )
        report.add("rewritten-leaves", span_name(0, kept.size), message)


def _trusted(rows: Iterable[Row], report: Report) -> Sequence[Witness]:
    found = []
    for row in rows:
        if row.statement is None or row.statement.kind != WITNESS:
            continue
        try:
            witness = Witness.parse(row.statement.name)
        except BadWitness as error:
            report.add("bad-witness", f"leaf {row.index}", str(error))
            continue
        if witness.digest != row.statement.subject:
            report.add("bad-witness", f"leaf {row.index}", f"its subject is not the digest of {witness.name}'s key")
        found.append(witness)
    return found


def _check_seen(wanted: Sequence[Witness], seen: Mapping[str, int], size: int, report: Report) -> None:
    for witness in wanted:
        if witness.digest in seen:
            report.notes.append(
                f"{witness.name} has signed that it saw the first {seen[witness.digest]} of {size} leaves"
            )
        else:
            message = "it has signed no checkpoint of this log: ask it, the log may be shown to you alone"
            report.add("unwitnessed", f"witness {witness.name}", message)
