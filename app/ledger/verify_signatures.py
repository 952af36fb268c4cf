"""Check keys, decisions and moves among leaves; it needs no database, so that a pack is checked by the same rules.

Guarantees: named are a key of two roles, a key revived after its revocation, every decision that does not count and
why, a move that nobody signed or may make, a promotion without verdict, of models without that of the gate before
traffic, without the approvals that its policy asked for at that moment, or against a rejection, a canary without the
same or beside nothing, a rollback, stop or resume of what it cannot concern, and a training that is not what its
trainer signed.
Not guaranteed: that a verdict was right; ``app.governance.gate.replay`` judges it again.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from app.core.digests import digest_json
from app.ledger.decisions import APPROVAL, DECISIONS, MAX_SKEW_S, REJECTION, DecisionBook, Rule, read_time
from app.ledger.faults import Report
from app.ledger.key_book import NEW, KeyBook
from app.ledger.keys import KeyUnreadable, Verifier, facts_signer
from app.ledger.log import CANARY, CANARY_END, KEY, MOVES, PROMOTION, RESUME, ROLLBACK, STEPS, STOP, Leaf, Statement
from app.ledger.moves import AFTER, DECISIVE, JUDGED, find_move_faults, may_be_judged, models_of
from app.ledger.trainings import MODEL, Trainers, find_training_fault
from app.ledger.verify_lineage import TIME

Manifests = Mapping[str, Any]


def verify_statements(log: Sequence[Leaf], manifests: Manifests, verifier: Verifier | None, report: Report) -> None:
    """Check keys, decisions and moves.

    Args:
        manifests: those that hold, by digest.
        verifier: the log's key, which every signed body must name; None when it cannot be had.
    """

    def manifest_of(_: str, digest: str) -> Mapping[str, Any] | None:
        return manifests.get(digest)

    keys = KeyBook.read(log, manifest_of)
    decisions = DecisionBook.read(log, manifest_of, keys, log_key=verifier.vkey if verifier else "")
    _check_keys(log, keys, report)
    _check_trainings(log, keys, manifests, decisions.log_key, report)
    _check_decisions(log, decisions, manifests, report)
    _check_moves(log, decisions, keys, manifests, report)


def _check_keys(log: Sequence[Leaf], keys: KeyBook, report: Report) -> None:
    for leaf in log:
        if leaf.statement.kind == KEY:
            _check_key_leaf(leaf, report)
    roles: dict[str, set[str]] = defaultdict(set)
    for event in keys.events:
        where, digest = f"leaf {event.index}, key {event.verifier.key_name}", event.verifier.digest
        roles[digest].add(event.verifier.role)
        if event.event == NEW and len(roles[digest]) > 1:
            report.add("key-of-two-roles", where, "this key has another role too")
        if event.event == NEW and keys.revocation(digest, event.index):
            report.add("revived-key", where, "it was revoked before, which is final")
        if event.event == NEW and event.person and event.person != keys.person(digest):
            report.add("key-of-two-persons", where, "this key is on record for another person")


def _check_key_leaf(leaf: Leaf, report: Report) -> None:
    try:
        verifier = Verifier.parse(leaf.statement.name)
    except KeyUnreadable as error:
        report.add("bad-key", f"leaf {leaf.index}", str(error))
        return
    if verifier.digest != leaf.statement.subject:
        report.add("bad-key", f"leaf {leaf.index}", "its subject is not the digest of the key that it names")


def _check_trainings(log: Sequence[Leaf], keys: KeyBook, manifests: Manifests, log_key: str, report: Report) -> None:
    for leaf in log:
        if leaf.statement.kind != MODEL or leaf.statement.subject not in manifests:
            continue
        if fault := find_training_fault(leaf, manifests[leaf.statement.subject], keys, log_key=log_key):
            report.add("bad-training", f"leaf {leaf.index}, model {leaf.statement.name}", fault)


def _check_decisions(log: Sequence[Leaf], book: DecisionBook, manifests: Manifests, report: Report) -> None:
    for position, leaf in enumerate(log):
        statement = leaf.statement
        if statement.kind not in DECISIONS or statement.subject not in manifests:
            continue
        where = f"leaf {leaf.index}, {statement.kind} {statement.name}"
        objection = book.objections.get(leaf.index) or _find_misplaced(log, position)
        if objection:
            report.add(f"bad-{statement.kind}", where, objection)


def _find_misplaced(log: Sequence[Leaf], position: int) -> str | None:
    """How a leaf's own time contradicts its neighbours'."""
    skew = timedelta(seconds=MAX_SKEW_S)
    times = [
        leaf.statement.time if TIME.fullmatch(leaf.statement.time) else None
        for leaf in log[max(position - 1, 0) : position + 2]
    ]
    before = times[0] if position else None
    after = times[-1] if position + 1 < len(log) else None
    if (said := times[1 if position else 0]) is None:
        return "its leaf states no time"
    here = read_time(said)
    if before and here < read_time(before) - skew:
        return f"it is back-dated: its leaf says {log[position].statement.time}, the leaf before it {before}"
    if after and here > read_time(after) + skew:
        return f"it is post-dated: its leaf says {log[position].statement.time}, the leaf after it {after}"
    return None


def _check_moves(
    log: Sequence[Leaf], decisions: DecisionBook, keys: KeyBook, manifests: Manifests, report: Report
) -> None:
    """Every step is signed; promotions and canaries have verdict and approvals, all others what they can concern."""
    known: dict[str, Statement] = {}
    history: dict[str, list[Statement]] = defaultdict(list)
    used: set[str] = set()
    last_decisive = -1
    for position, leaf in enumerate(log):
        statement = leaf.statement
        if statement.kind in STEPS:
            where = f"leaf {leaf.index}, {statement.kind} of {statement.name}"
            record = manifests.get(statement.payload, {})
            faults = [
                *find_move_faults(leaf, record, keys, log_key=decisions.log_key),
                *_find_out_of_place(statement, history[statement.name]),
            ]
            if misplaced := _find_misplaced(log, position):
                faults.append(misplaced)
            faults.extend(_find_replay(leaf, record, used, last_decisive))
            if statement.kind in JUDGED:
                faults.extend(_find_promotion_faults(leaf, known, decisions, manifests))
            for fault in faults:
                report.add(f"bad-{statement.kind}", where, fault)
            history[statement.name].append(statement)
        elif statement.payload == statement.subject:
            known[statement.subject] = statement
        last_decisive = leaf.index if statement.kind in DECISIVE else last_decisive


def _find_replay(leaf: Leaf, record: Mapping[str, Any], used: set[str], last_decisive: int) -> Iterator[str]:
    """What was signed counts once, and where it says ``after``, only while nothing decisive came in between.

    Args:
        used: what earlier leaves made their moves of; this leaf's is added.
    """
    signed = record.get("facts", {}).get("signed", {})
    body = signed["body"] if facts_signer(signed) else {}
    made_of = digest_json(body) if body else leaf.statement.payload
    if made_of in used:
        yield "a leaf before it made this very move already: what was signed once is used twice"
    used.add(made_of)
    after = body.get(AFTER, last_decisive)
    if type(after) is not int or after < last_decisive:
        yield f"it was judged when leaf {after} was the last that could matter, but leaf {last_decisive} came before it"


def _find_out_of_place(statement: Statement, history: Sequence[Statement]) -> Iterator[str]:
    """Rollbacks go where production was; a stop concerns what is there, a resume what was stopped, and so on."""
    placed = [each.subject for each in history if each.kind in (PROMOTION, ROLLBACK)]
    moved = [each.kind for each in history if each.kind in MOVES]
    last = (history[-1].kind, history[-1].subject) if history else ("", "")
    if statement.kind == ROLLBACK and statement.subject not in placed:
        yield f"{statement.name} was never promoted to what it names"
    if statement.kind in (STOP, RESUME) and placed[-1:] != [statement.subject]:
        yield f"what it names was not in production as {statement.name}"
    if statement.kind == RESUME and moved[-1:] != [STOP]:
        yield f"{statement.name} was not stopped"
    if statement.kind == CANARY and (not placed or placed[-1] == statement.subject or moved[-1] == STOP):
        yield f"there was nothing else in production as {statement.name}, or it was stopped: a canary runs beside it"
    if statement.kind == CANARY and last[0] == CANARY and last[1] != statement.subject:
        yield f"another canary ran beside {statement.name}"
    if statement.kind == CANARY_END and last != (CANARY, statement.subject):
        yield f"what it names was no canary beside {statement.name}"


def _find_promotion_faults(
    leaf: Leaf, known: Mapping[str, Statement], decisions: DecisionBook, manifests: Manifests
) -> Iterator[str]:
    statement = leaf.statement
    if statement.subject not in known:
        yield "no leaf before it publishes what it names"
    parents = {
        kind: [digest for digest in statement.parents if _kind(known, digest) == kind] for kind in ("verdict", "policy")
    }
    if not parents["verdict"]:
        yield "it names no verdict that stands before it"
    yield from _find_verdict_faults(statement, parents["verdict"], known, manifests)
    verdict = parents["verdict"][0] if parents["verdict"] else ""
    judged = manifests.get(verdict, {}).get("inputs", {}).get("policy")
    if parents["policy"] != [judged]:
        yield "its policy is not the one that its verdict was judged by"
    try:
        rule = Rule.of_policy(manifests.get(str(judged), {}))
    except (AttributeError, TypeError, ValueError):
        yield "the policy of its verdict cannot be read"
        return
    about = (statement.subject, verdict)
    trained = Trainers.of(_behind(statement.subject, known), lambda _, digest: manifests.get(digest), decisions.keys)
    standing = decisions.standing(APPROVAL, *about, before=leaf.index)
    standing = [each for each in standing if not trained.objection(each.signer, decisions.keys)]
    if not TIME.fullmatch(statement.time):
        return
    number, _ = rule.count([each for each in standing if each.digest in statement.parents], statement.time)
    if number < rule.required:
        said = f"with the meaning {rule.meaning!r} that counted at that moment"
        yield f"it has {number} of {rule.required} approvals {said}: it names no valid approval of what it promotes"
    for rejection in decisions.standing(REJECTION, *about, before=leaf.index):
        yield f"leaf {rejection.index} rejected it, and nobody withdrew that"


def _behind(subject: str, known: Mapping[str, Statement]) -> Iterator[Statement]:
    """A version's own statement and those of all that it was made from."""
    found, waiting = set(), [subject]
    while waiting:
        digest = waiting.pop()
        if digest not in found and digest in known:
            found.add(digest)
            waiting.extend(known[digest].parents)
            yield known[digest]


def _kind(known: Mapping[str, Statement], digest: str) -> str:
    return known[digest].kind if digest in known else ""


def _find_verdict_faults(
    statement: Statement, verdicts: Sequence[str], known: Mapping[str, Statement], manifests: Manifests
) -> Iterator[str]:
    """The first verdict is about what is promoted or its model; a release with models has one of its own gate too."""
    promoted = manifests.get(statement.subject)
    judged = [_judged(manifests, verdict) for verdict in verdicts]
    for light, *_ in judged:
        if light not in ("green", "amber"):
            yield f"its verdict is {light}, neither green nor amber"
    if promoted is None:
        return
    if judged and judged[0][2] not in may_be_judged(promoted, statement.subject):
        yield "its verdict is about something else"
    if models_of(promoted) and not any((gate, about) == ("release", statement.subject) for _, gate, about in judged):
        yield "it names no verdict of the gate before traffic about this very release, whose models serve"


def _judged(manifests: Manifests, verdict: str) -> tuple[Any, Any, Any]:
    """Light, gate and artifact of a verdict, as far as it states them."""
    facts = manifests.get(verdict, {}).get("facts", {})
    about = facts.get("artifact")
    return facts.get("light"), facts.get("gate"), about.get("digest") if isinstance(about, Mapping) else None
