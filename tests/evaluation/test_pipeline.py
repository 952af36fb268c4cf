"""Evaluation on the cluster."""

import pytest

from app.core.parquet import read_rows
from app.evaluation.pipeline import NobodyAnswers, evaluate
from app.evaluation.settings import EvaluationSettings
from app.evaluation.suite import publish_suite

KNOWN = {"fee?": "12 euros", "chair?": "Ruth Calder"}


class Parrot:
    """Knows two answers, and says the same to all else."""

    def __call__(self, questions):
        return [KNOWN.get(question, "I do not know") for question in questions]


@pytest.fixture
def suite(registry):
    asked = {**KNOWN, "quorum?": "4 members", "colour?": "blue"}
    rows = [
        {"question_id": f"{i:02d}", "question": question, "answers": [answer], "subject": "", "source": "test"}
        for i, (question, answer) in enumerate(asked.items())
    ]
    return publish_suite("suite", rows, origin="test", registry=registry)


def test_somebody_has_to_answer(registry, suite):
    with pytest.raises(NobodyAnswers, match="exactly one"):
        evaluate(None, suite, registry=registry, settings=EvaluationSettings())


@pytest.mark.cluster
def test_an_answerer_in_a_model_s_place(cluster, registry, suite):
    settings = EvaluationSettings(batch_size=2)
    version = evaluate(None, suite, answer=Parrot(), registry=registry, settings=settings)
    assert version.name == "parrot-suite"
    assert version.parents == [suite.digest]
    assert version.facts["exact_match"]["value"] == 0.5
    assert version.facts["num_rows"] == 4
    rows = read_rows(registry.folder(version) / "rows.parquet")
    assert [row["exact_match"] for row in rows] == [1.0, 1.0, 0.0, 0.0]
    assert rows[0]["confidence"] is None
    more = EvaluationSettings(batch_size=2, num_workers=2)
    assert evaluate(None, suite, answer=Parrot(), registry=registry, settings=more) == version
