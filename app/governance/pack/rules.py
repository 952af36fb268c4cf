"""What must hold of the release itself: its weights' signatures, its verdicts' replays, its promotion.

Each rule adds faults to the report of a check and goes on, whatever a pack holds. Not guaranteed: rules for what
the pack only names, such as a release that was in production before.
"""

from typing import TYPE_CHECKING

from app.core.errors import SignalboxError
from app.governance.approvals import judge_approvals, valid_approvals
from app.governance.evidence import find_ancestors
from app.governance.gate import replay
from app.governance.pack.contents import served_models
from app.governance.pack.weights import KIND as SIGNATURE
from app.governance.pack.weights import weights_fault
from app.governance.policy import policy_of
from app.ledger.log import PROMOTION, STEPS, Leaf
from app.ledger.moves import JUDGED
from app.registry.versions import Version

if TYPE_CHECKING:
    from app.governance.pack.verify import PackCheck

HOSTILE = (
    SignalboxError, LookupError, ValueError, TypeError, AttributeError, OSError, ArithmeticError, RecursionError,
)  # fmt: skip
"""What reading a manifest or a table that a stranger wrote may end in."""


def check_weights(check: "PackCheck") -> None:
    """Every model that the release serves is signed, and its weights are those that were signed."""
    signatures = {str(each.manifest["inputs"].get("model")): each for each in check.registry.versions(SIGNATURE)}
    for model in _served(check):
        where = f"model {model.ref}"
        if model.digest not in signatures:
            check.report.add("unsigned-weights", where, "the pack has no signature over its weights")
        elif model.digest not in check.left_out:
            _check_signature(check, signatures[model.digest], model, where)


def check_replays(check: "PackCheck") -> None:
    """Every verdict behind the release comes out the same when its policy is run again on its evidence."""
    for verdict in check.registry.versions("verdict"):
        if verdict.digest not in _behind(check):
            continue
        where = f"verdict {verdict.ref}"
        try:
            again = replay(verdict, registry=check.registry)
        except HOSTILE as error:
            check.report.add("bad-replay", where, f"it cannot be judged again ({' '.join(str(error).split())[:200]})")
            continue
        if again.unexplained:
            found = "; ".join(again.unexplained)
            check.report.add("bad-replay", where, f"it does not come out the same, and no erasure tells why ({found})")
        elif again.erased:
            check.report.notes.append(f"{where} cannot be judged again: {'; '.join(again.erased)}")
        elif not again.same and (absent := _left_out(check, verdict)):
            check.report.notes.append(f"{where} cannot be judged again from this pack: {', '.join(absent)}")
        elif not again.same:
            found = "; ".join(again.differences) or f"its digest is {again.digest}"
            check.report.add("bad-replay", where, f"it does not come out the same again ({found})")


def check_promotion(check: "PackCheck") -> None:
    """A promotion of the release has its verdict, its policy and the approvals that the policy asks for."""
    release = check.release
    if release is None:
        return
    known = {leaf.statement.subject for leaf in check.log}
    moves = [leaf for leaf in check.log if leaf.statement.kind in STEPS and leaf.statement.subject == release.digest]
    for leaf in moves:
        for parent in sorted(set(leaf.statement.parents) - known):
            message = f"it names {parent}, which is not in the pack: an approval, a policy or a verdict was taken out"
            check.report.add("incomplete-pack", _where(leaf), message)
        if leaf.statement.kind in JUDGED:
            _check_approved(check, leaf, release)
    if not any(leaf.statement.kind == PROMOTION for leaf in moves):
        check.report.notes.append(f"{release.ref} was never promoted, as far as this pack shows")


def _check_approved(check: "PackCheck", leaf: Leaf, release: Version) -> None:
    try:
        verdicts = {each.digest: each for each in check.registry.versions("verdict")}
        verdict = next(verdicts[digest] for digest in leaf.statement.parents if digest in verdicts)
        policy = check.registry.get("policy", verdict.manifest["inputs"]["policy"])
        then = leaf.statement.time
        approved = valid_approvals(release, verdict, registry=check.registry, before=leaf.index, at=then)
        finding = judge_approvals(policy_of(policy).approvals, approved, at=then)
    except StopIteration:
        check.report.add("bad-promotion", _where(leaf), "the pack holds no verdict that it names")
    except HOSTILE as error:
        check.report.add("bad-promotion", _where(leaf), f"its approvals cannot be judged ({error})")
    else:
        if finding.light != "green":
            check.report.add("missing-approval", _where(leaf), f"the policy is not met: {finding.reason}")


def _check_signature(check: "PackCheck", signature: Version, model: Version, where: str) -> None:
    folder, files = check.registry.folder(signature), check.registry.folder(model)
    try:
        fault = weights_fault(signature, model, folder, files, check.verifier)
    except HOSTILE as error:
        fault = f"its signature cannot be read ({' '.join(str(error).split())[:200]})"
    if fault:
        check.report.add("bad-weights", where, fault)


def _left_out(check: "PackCheck", verdict: Version) -> list[str]:
    """What a verdict went by whose files are not in the pack, and why."""
    used = {*verdict.parents, *(each["digest"] for each in verdict.facts.get("read", ()))} & check.left_out.keys()
    found = [version for version in check.registry.versions() if version.digest in used]
    return [f"{version.kind} {version.ref} ({check.left_out[version.digest]})" for version in found]


def _served(check: "PackCheck") -> list[Version]:
    try:
        return served_models(check.release, registry=check.registry) if check.release else []
    except HOSTILE as error:
        check.report.add("incomplete-pack", "release", f"a model that it serves is not in the pack ({error})")
        return []


def _behind(check: "PackCheck") -> set[str]:
    """Digests of the release's ancestors, of what moves to it name, and of what was said about it."""
    if check.release is None:
        return set()
    release = check.release.digest
    moved = [leaf.statement for leaf in check.log if leaf.statement.kind in STEPS and leaf.statement.subject == release]
    named = [parent for statement in moved for parent in statement.parents]
    named += [leaf.statement.subject for leaf in check.log if release in leaf.statement.parents]
    return set(find_ancestors(check.registry, [release])[0]) | set(named)


def _where(leaf: Leaf) -> str:
    return f"leaf {leaf.index}, {leaf.statement.kind} of {leaf.statement.name}"
