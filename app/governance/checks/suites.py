"""Whether the questions that judge a model were fixed before its training, and kept out of it."""

from typing import Literal

from pydantic import PositiveInt

from app.core.overlap import NGRAM_WORDS, Overlap
from app.governance.checks.base import Check, Share
from app.governance.evidence import INDEX, MODEL, TARGET, Evidence, EvidenceMissing, Row, find_ancestors, leaf_of
from app.governance.findings import Finding, passes
from app.ledger.log import Leaf
from app.registry.versions import Version

TRAIN = "train"


class OwnEvaluations(Check):
    """The candidate's evaluations are of the artifact, and production's of another one. Unit: those that are not.

    An evaluation states the digest of its model or index, so a better one's figures cannot be handed in for a worse.
    """

    kind: Literal["own_evaluations"] = "own_evaluations"

    def judge(self, evidence: Evidence) -> Finding:
        if not evidence.candidate:
            raise EvidenceMissing("no evaluation was handed in: evaluate, then judge again")
        own, pairs = evidence.artifact, [(version, True) for version in evidence.candidate.values()]
        pairs += [(version, False) for version in evidence.production.values()]
        wrong = [pair for pair in pairs if (_subject_of(pair[0], own.kind) == own.digest) is not pair[1]]
        reason = f"{len(pairs)} evaluations are of the {_plural(own.kind)} that they were handed in for"
        if wrong:
            version, is_own = wrong[0]
            says = "is not of" if is_own else "is no production's but of"
            reason = f"evaluation {version.ref} {says} {own.kind} {own.ref}"
        return Finding(passes(not wrong), reason, len(wrong), 0, tuple(version.digest for version, _ in pairs))


class SuiteCommitted(Check):
    """Every suite stands in the ledger before the trainings that it judges. Unit: models trained before their suite.

    The order of the leaves decides. What counts are the artifact's own model and every model behind it, except those
    that production or an earlier promotion had behind it already; for an index, its retrievers, if it has any. Source:
    pre-registration, as in Nosek et al. (PNAS, 2018).
    """

    kind: Literal["suite_committed"] = "suite_committed"

    def judge(self, evidence: Evidence) -> Finding:
        if not evidence.candidate:
            raise EvidenceMissing("no evaluation was handed in, so no suite: evaluate, then judge again")
        trained = self._trained(evidence)
        late = []
        for label, suite in evidence.suites.items():
            leaf = leaf_of(suite, registry=evidence.registry)
            if leaf is None:
                raise EvidenceMissing(f"suite {suite.ref} is not in the ledger: commit it before training")
            late += [(label, suite, leaf, model) for model in trained if model.index < leaf.index]
        inputs = tuple(dict.fromkeys(suite.digest for suite in evidence.suites.values()))
        inputs += tuple(leaf.statement.subject for leaf in trained)
        reason = f"{len(evidence.suites)} suites were committed before {len(trained)} trainings"
        if late:
            label, suite, leaf, model = late[0]
            name = f"{model.statement.name} ({model.statement.subject.removeprefix('sha256:')[:12]})"
            what = f"{model.statement.kind} {name}, leaf {model.index}"
            reason = f"suite {suite.ref} ({label}, leaf {leaf.index}) came after {what}"
        return Finding(passes(not late), reason, len({model.index for *_, model in late}), 0, inputs)

    def _trained(self, evidence: Evidence) -> list[Leaf]:
        """Models behind the artifact that no earlier promotion had behind it, and the artifact's own."""
        before = [*evidence.earlier, *evidence.production.values()]
        known = [digest for version in before if (digest := _subject_of(version, evidence.artifact.kind))]
        old = find_ancestors(evidence.registry, known, before=evidence.horizon)[0].keys() - {evidence.artifact.digest}
        if not evidence.trained and evidence.artifact.kind != INDEX:
            raise EvidenceMissing(f"no model is behind {evidence.artifact.kind} {evidence.artifact.ref}: judge a model")
        return [leaf for leaf in evidence.trained if leaf.statement.subject not in old]


class Contamination(Check):
    """Questions of the suites that were trained on. Unit: share of the questions, of the worst suite.

    A question is contaminated when a training row asks the same and gives one of its accepted answers, letters and
    digits compared; or when it shares a run of 13 words with a training row's question. Answers alone and documents do
    not count: that the answer is in the documents is what makes a question answerable, and other wordings of a fact
    that was learned are what a suite of held-out wordings asks for. Of an index, whose retriever learns what answers a
    question, a question that was asked before counts whatever its answer. Source: Brown et al., Language models are
    few-shot learners (2020), appendix C (13-grams).
    """

    kind: Literal["contamination"] = "contamination"

    maximum: Share = 0.0
    """Largest share allowed."""

    ngram_words: PositiveInt = NGRAM_WORDS
    """Length of the runs of words that must not be shared."""

    question: str = "question"
    """Column of the question, in suites and training rows."""

    def judge(self, evidence: Evidence) -> Finding:
        suites = evidence.suites
        if not suites:
            raise EvidenceMissing("no suite was handed in: commit one, and judge the rows against it")
        if not evidence.training_data and evidence.artifact.kind != INDEX:
            raise EvidenceMissing(
                f"no training rows are behind {evidence.artifact.ref}: judge what was trained on rows"
            )
        rows = [row for version in evidence.training_data for row in self._rows(version, evidence) if _is_trained(row)]
        trained = Overlap(rows, n=self.ngram_words, question=self.question)
        shares = {label: self._share(suite, evidence, trained) for label, suite in suites.items()}
        worst = max(shares, key=lambda label: shares[label][0])
        share, num, total, example = shares[worst]
        inputs = tuple(version.digest for version in [*suites.values(), *evidence.training_data])
        reason = f"{num} of {total} questions of {suites[worst].ref} ({worst}) are among the {len(rows)} training rows"
        reason += f", first {example!r}" if num else ""
        return Finding(passes(share <= self.maximum), reason, share, self.maximum, inputs)

    def _share(self, suite: Version, evidence: Evidence, trained: Overlap) -> tuple[float, int, int, str]:
        rows = self._rows(suite, evidence)
        found = [row for row in rows if trained.shared_with(row)]
        example = min((str(row[self.question]) for row in found), default="")
        return len(found) / max(len(rows), 1), len(found), len(rows), example

    def _rows(self, version: Version, evidence: Evidence) -> list[Row]:
        """Rows to be compared; where an index is judged, their questions alone, of every split: it learns of all."""
        rows = evidence.rows(version)
        if evidence.artifact.kind != INDEX:
            return rows
        asked = [row[self.question] for row in rows if row.get(self.question) is not None]
        return [{self.question: each, "answer": "any"} for each in asked]


class MinQuestions(Check):
    """A suite asked enough questions to tell indexes or models apart. Unit: rows of the candidate's evaluation."""

    kind: Literal["min_questions"] = "min_questions"

    suite: str = TARGET
    """Label of the evaluation."""

    minimum: PositiveInt
    """Fewest questions allowed."""

    attention: PositiveInt | None = None
    """Fewer than these are amber: a person should look. Null: none are."""

    def judge(self, evidence: Evidence) -> Finding:
        evaluation = evidence.evaluation(self.suite)
        num = len(evidence.rows(evaluation))
        light = passes(num >= self.minimum)
        if light == "green" and self.attention and num < self.attention:
            light = "amber"
        reason = f"{num} questions on {self.suite}, at least {self.minimum} are asked for"
        return Finding(light, reason, num, self.minimum, (evaluation.digest,))


def _subject_of(evaluation: Version, kind: str) -> str | None:
    """Digest of what was evaluated: an index where one is judged, else a model."""
    subject = evaluation.manifest["inputs"].get(INDEX if kind == INDEX else MODEL)
    return str(subject) if subject else None


def _plural(kind: str) -> str:
    return "indexes" if kind == INDEX else "models"


def _is_trained(row: Row) -> bool:
    return bool(row.get("split", TRAIN) == TRAIN)
