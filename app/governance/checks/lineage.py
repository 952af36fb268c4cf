"""Where the artifact comes from: its ancestors, their licences, and the gates that they passed."""

from typing import Literal

from app.governance.checks.base import Check
from app.governance.evidence import PLAN, Evidence, EvidenceMissing
from app.governance.findings import Finding, Light, passes
from app.registry.tables import DOCUMENTS_FILE
from app.registry.versions import Version


class CompleteLineage(Check):
    """Everything the artifact was made from is in the ledger, down to its sources. Unit: parents that are not."""

    kind: Literal["complete_lineage"] = "complete_lineage"

    sources: tuple[str, ...] = ("dataset",)
    """Kinds, each of which must be among the ancestors."""

    def judge(self, evidence: Evidence) -> Finding:
        found, unknown = evidence.ancestors
        kinds = {leaf.statement.kind for leaf in found.values()}
        absent = [kind for kind in self.sources if kind not in kinds]
        inputs = (evidence.artifact.digest,)
        if unknown:
            reason = f"{len(unknown)} parents are not in the ledger, first {unknown[0]}"
            return Finding("red", reason, len(unknown), 0, inputs)
        if absent:
            return Finding("red", f"no {' and no '.join(absent)} among its ancestors", len(absent), 0, inputs)
        return Finding("green", f"all {len(found)} versions behind it are in the ledger", 0, 0, inputs)


class LicencePresent(Check):
    """What the artifact was made from says under which licence it may be used. Unit: sources that do not say.

    A licence is the fact ``licence`` (or ``license``) of a version, or that column in every row of its table; where a
    list is given, it must be on it. Source: SPDX licence identifiers; EU AI Act, Article 53(1)(c).
    """

    kind: Literal["licence_present"] = "licence_present"

    of: str = "dataset"
    """Kind of the ancestors that must say it."""

    table: str = DOCUMENTS_FILE
    """Table whose rows may say it one by one."""

    allowed: tuple[str, ...] = ()
    """Licences that may be used, such as ``CC-BY-4.0``; empty: any."""

    unstated: Literal["amber", "red"] = "red"
    """The light where a licence is not stated; one that is not allowed is red."""

    def judge(self, evidence: Evidence) -> Finding:
        versions = evidence.behind(self.of)
        inputs = tuple(version.digest for version in versions)
        licences = {version.ref: self._licences(version, evidence) for version in versions}
        silent = [ref for ref, found in licences.items() if not all(found)]
        used = sorted({licence for found in licences.values() for licence in found if licence})
        other = [licence for licence in used if self.allowed and licence not in self.allowed]
        reason = f"licences of {', '.join(licences)}: {', '.join(used) or 'none'}"
        if other:
            reason = f"{', '.join(other)} may not be used here"
        elif silent:
            reason = f"no licence is stated for all of {', '.join(silent)}: ingest it with its licence"
        light = self.unstated if silent and not other else passes(not other)
        return Finding(light, reason, len(silent) + len(other), 0, inputs)

    def _licences(self, version: Version, evidence: Evidence) -> set[str]:
        stated = version.facts.get("licence") or version.facts.get("license")
        if stated:
            return {str(stated)}
        if self.table not in version.manifest["files"]:
            return {""}
        rows = evidence.rows(version, table=self.table)
        return {str(row.get("licence") or row.get("license") or "") for row in rows} or {""}


class GatePassed(Check):
    """A gate before this one let through what the artifact is made of. Unit: that gate's light, 0 green to 2 red.

    The verdict is handed in under its gate's name, or stands among the artifact's parents. It must be about the
    artifact or one of its ancestors (a plan's: about a plan for one of them), and it is replayed. The models of one
    release are judged by one policy, so that none gets in by a laxer one.
    """

    kind: Literal["gate_passed"] = "gate_passed"

    gate: Literal["data", "candidate", "retraining", "escalation"]
    """Which gate."""

    of: Literal["small", "large"] | None = None
    """Model of a release that the verdict must be about; without such a model it passes. Null: anything behind."""

    def judge(self, evidence: Evidence) -> Finding:
        model = evidence.artifact.facts.get(self.of) if self.of else None
        if self.of and not model:
            reason = f"there is no {self.of} model in {evidence.artifact.ref}"
            return Finding("green", reason, 0, 1, (evidence.artifact.digest,))
        found = [evidence.others[self.gate]] if self.gate in evidence.others else self._among_parents(evidence)
        verdict = next((each for each in found if model in (None, each.stated("facts", "artifact", "digest"))), None)
        if verdict is None:
            raise EvidenceMissing(f"no verdict of the {self.gate} gate is about the {self.of} model: judge that first")
        if model and len({each.stated("inputs", "policy") for each in found}) > 1:
            inputs = tuple(each.digest for each in found)
            return Finding("red", "the models of the release were judged by different policies", 2, 1, inputs)
        if problem := self._problem(verdict, evidence):
            return Finding("red", f"verdict {verdict.ref} {problem}", 2, 1, (verdict.digest,))
        light: Light = verdict.facts["light"]
        about = verdict.facts["artifact"]
        reason = f"the {self.gate} gate was {light} for {about['kind']} {about['ref']}"
        return Finding(light, reason, {"green": 0, "amber": 1}.get(light, 2), 1, (verdict.digest,))

    def _problem(self, verdict: Version, evidence: Evidence) -> str:
        """Why a verdict does not count; empty when it does."""
        from app.governance.gate import replay

        if verdict.kind != "verdict" or verdict.stated("facts", "gate") != self.gate:
            return f"is none of the {self.gate} gate"
        about = evidence.version(verdict.facts["artifact"]["kind"], verdict.facts["artifact"]["digest"])
        concerned = set(about.parents) if about.kind == PLAN else {about.digest}
        if not concerned & evidence.ancestors[0].keys():
            return f"is about {about.ref}, which is not behind this"
        again = replay(verdict, registry=evidence.registry)
        return "" if again.same else f"does not come out the same again ({'; '.join(again.differences)})"

    def _among_parents(self, evidence: Evidence) -> list[Version]:
        leaves = [evidence.ancestors[0].get(digest) for digest in evidence.artifact.parents]
        named = [leaf.statement.subject for leaf in leaves if leaf and leaf.statement.kind == "verdict"]
        found = [verdict for digest in named if (verdict := evidence.version("verdict", digest))]
        found = [verdict for verdict in found if verdict.stated("facts", "gate") == self.gate]
        if not found:
            raise EvidenceMissing(f"no verdict of the {self.gate} gate was handed in: pass that gate first")
        return found
