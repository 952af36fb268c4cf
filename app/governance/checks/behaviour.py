"""How the candidate answers: what it refuses, whether it is grounded, and whether it can be explained."""

from collections.abc import Sequence
from typing import Literal

from app.core.statistics import wilson
from app.core.text import words
from app.governance.checks.base import Check, Confidence, Share
from app.governance.evidence import TARGET, Evidence, EvidenceMissing, Row, leaf_of
from app.governance.findings import Finding, against, passes, within
from app.registry.tables import CHUNKS_FILE
from app.registry.versions import Version

REFUSALS = ("i could not find", "i cannot answer", "i can t answer", "i do not know", "i don t know", "i am not able")
"""How a refusal begins, letters and digits compared."""

SHAPE_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
"""Files that must be a base's own; an adapter has no first one."""


class RefusalRate(Check):
    """Answers to the suite that refuse or are empty. Unit: share of the answers, with Wilson's interval.

    Green when even the upper bound stays below, amber when only the estimate does. Source: Wilson (1927).
    """

    kind: Literal["refusal_rate"] = "refusal_rate"

    suite: str = TARGET
    """Label of the evaluation."""

    maximum: Share
    """Largest share allowed."""

    phrases: tuple[str, ...] = REFUSALS
    """Beginnings that make an answer a refusal."""

    confidence: Confidence = 0.95
    """Of the two-sided interval."""

    def judge(self, evidence: Evidence) -> Finding:
        evaluation, rows = _answered(evidence, self.suite)
        num = sum(self._refuses(str(row["prediction"] or "")) for row in rows)
        rate = wilson(num, len(rows), confidence=self.confidence)
        reason = f"{num} of {len(rows)} answers on {self.suite} refuse: {rate.shown()}, at most {self.maximum:.3f} may"
        light = within(rate.high, rate.value, self.maximum)
        return Finding(light, reason, rate.high, self.maximum, (evaluation.digest,))

    def _refuses(self, answer: str) -> bool:
        plain = " ".join(words(answer))
        return not plain or any(plain.startswith(phrase) for phrase in self.phrases)


class GroundingRate(Check):
    """Answers that the documents hold. Unit: share of the answers, with Wilson's interval.

    By the evaluation's column ``grounded`` where it has one; else an answer is grounded when a chunk of the documents
    behind the artifact holds it word for word, letters and digits compared. Green when even the lower bound reaches the
    minimum, amber when only the estimate does. Source: Rashkin et al., Measuring attribution in natural language
    generation (2023), in its strictest form.
    """

    kind: Literal["grounding_rate"] = "grounding_rate"

    suite: str = TARGET
    """Label of the evaluation."""

    minimum: Share
    """Smallest share allowed."""

    confidence: Confidence = 0.95
    """Of the two-sided interval."""

    def judge(self, evidence: Evidence) -> Finding:
        evaluation, rows = _answered(evidence, self.suite)
        grounded, inputs = self._grounded(rows, evidence)
        rate = wilson(sum(grounded), len(rows), confidence=self.confidence)
        reason = f"{sum(grounded)} of {len(rows)} answers on {self.suite} stand in the documents: {rate.shown()}"
        light = against(rate.low, rate.value, self.minimum)
        return Finding(light, reason, rate.low, self.minimum, (evaluation.digest, *inputs))

    def _grounded(self, rows: Sequence[Row], evidence: Evidence) -> tuple[list[bool], tuple[str, ...]]:
        if "grounded" in rows[0]:
            return [bool(row["grounded"]) for row in rows], ()
        datasets = _documents(evidence)
        chunks = [row["text"] for dataset in datasets for row in evidence.rows(dataset, table=CHUNKS_FILE)]
        text = "\n".join(f" {' '.join(words(chunk))} " for chunk in chunks)
        held = {answer: f" {' '.join(words(answer))} " in text for answer in {str(row["prediction"]) for row in rows}}
        return [held[str(row["prediction"])] for row in rows], tuple(dataset.digest for dataset in datasets)


class CitedShare(Check):
    """Answers with a citation that supports them. Unit: share of the answers, with Wilson's interval.

    An answer is supported when a chunk that it cites (column ``citations``: chunk ids) stands in the documents behind
    the artifact and holds the answer word for word. Source: Rashkin et al. (2023); EU AI Act, Article 13.
    """

    kind: Literal["cited_share"] = "cited_share"

    suite: str = TARGET
    """Label of the evaluation."""

    minimum: Share
    """Smallest share allowed."""

    confidence: Confidence = 0.95
    """Of the two-sided interval."""

    def judge(self, evidence: Evidence) -> Finding:
        evaluation, rows = _answered(evidence, self.suite)
        if "citations" not in rows[0]:
            raise EvidenceMissing(f"evaluation {evaluation.ref} has no column 'citations': evaluate what cites")
        datasets = _documents(evidence)
        found = [row for dataset in datasets for row in evidence.rows(dataset, table=CHUNKS_FILE)]
        chunks = {str(row["chunk_id"]): f" {' '.join(words(row['text']))} " for row in found}
        num = sum(_supported(row, chunks) for row in rows)
        rate = wilson(num, len(rows), confidence=self.confidence)
        reason = f"{num} of {len(rows)} answers on {self.suite} cite a chunk that holds them: {rate.shown()}"
        light = against(rate.low, rate.value, self.minimum)
        inputs = (evaluation.digest, *(dataset.digest for dataset in datasets))
        return Finding(light, reason, rate.low, self.minimum, inputs)


class AttributionReport(Check):
    """A report says which training rows the artifact's answers come from. Unit: reports about it that were handed in.

    The report is a version whose parents name the artifact. Source: EU AI Act, Article 13; ISO/IEC 42001, A.7.5.
    """

    kind: Literal["attribution_report"] = "attribution_report"

    label: str = "attribution"
    """Label under which the report is handed in."""

    def judge(self, evidence: Evidence) -> Finding:
        report = evidence.other(self.label)
        about = evidence.artifact.digest in report.parents
        says = "is" if about else "is not"
        reason = f"{report.kind} {report.ref} {says} about {evidence.artifact.kind} {evidence.artifact.ref}"
        return Finding(passes(about), reason, int(about), 1, (report.digest,))


class BaseCompatible(Check):
    """The model goes with the base that it was made on. Unit: failed tests of compatibility.

    A model from a random start has no base and passes. Otherwise the base that its facts state must be among its
    parents. Where a report labelled ``compatibility`` is handed in, it must state ``num_failed``; else the files that
    say how text is cut and how the network is shaped must be the base's own, by their digests.
    """

    kind: Literal["base_compatible"] = "base_compatible"

    label: str = "compatibility"
    """Label under which the evaluation or report is handed in."""

    def judge(self, evidence: Evidence) -> Finding:
        model, base = evidence.artifact, evidence.fact("base")
        if base is None:
            began = "was imported" if model.facts.get("recipe") == "import" else "began from a random start"
            return Finding("green", f"{model.ref} {began}: it has no base", 0, 0, (model.digest,))
        if base not in model.parents:
            return Finding(
                "red", f"the base that {model.ref} states is not among its parents", None, 0, (model.digest,)
            )
        report = evidence.candidate.get(self.label) or evidence.others.get(self.label)
        if report is None:
            return self._by_files(model, evidence.version("model", base))
        num = int(evidence.fact("num_failed", of=report))
        about = model.digest in report.parents and leaf_of(report, registry=evidence.registry) is not None
        reason = f"{num} tests of compatibility failed" if about else f"{report.ref} is not about {model.ref}"
        return Finding(passes(about and not num), reason, num, 0, (model.digest, report.digest))

    def _by_files(self, model: Version, base: Version) -> Finding:
        shared = [name for name in SHAPE_FILES if name in model.manifest["files"] and name in base.manifest["files"]]
        if not shared:
            raise EvidenceMissing(f"{model.ref} and its base share no file to compare: hand in {self.label!r}")
        other = [name for name in shared if len({each.manifest["files"][name]["sha256"] for each in (model, base)}) > 1]
        reason = f"{', '.join(other or shared)} of {model.ref} {'differ from' if other else 'are those of'} {base.ref}"
        return Finding(passes(not other), reason, len(other), 0, (model.digest, base.digest))


def _answered(evidence: Evidence, label: str) -> tuple[Version, list[Row]]:
    evaluation = evidence.evaluation(label)
    rows = evidence.rows(evaluation)
    if not rows or "prediction" not in rows[0]:
        raise EvidenceMissing(f"evaluation {evaluation.ref} has no answers: publish its rows with `prediction`")
    return evaluation, rows


def _supported(row: Row, chunks: dict[str, str]) -> bool:
    answer = f" {' '.join(words(str(row['prediction'])))} "
    cited = [str(each["chunk_id"]) if isinstance(each, dict) else str(each) for each in row["citations"] or ()]
    return bool(answer.strip()) and any(answer in chunks.get(chunk_id, "") for chunk_id in cited)


def _documents(evidence: Evidence) -> list[Version]:
    """Datasets of documents behind the artifact; one of imported rows has no chunks for an answer to stand in."""
    found = [dataset for dataset in evidence.behind("dataset") if CHUNKS_FILE in dataset.manifest["files"]]
    if not found:
        raise EvidenceMissing(f"no documents are behind {evidence.artifact.ref}: judge by a policy without this check")
    return found
