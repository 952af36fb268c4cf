from dataclasses import dataclass

import pytest

from app.routing.features import FEATURE_NAMES, extract_features, find_support, normalise, same_answer


@dataclass
class Found:
    text: str
    similarity: float = 0.5


@dataclass
class Given:
    text: str
    mean_logprob: float = -0.1
    min_logprob: float = -0.4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The Loan Officer.", ["loan", "officer"]),
        ("1,250 euros", ["1250", "euros"]),
        ("12,345,678", ["12345678"]),
        ("4.5%", ["4.5%"]),
        ("2026-11-22", ["2026-11-22"]),
        ("24/7", ["24/7"]),
        ("  ", []),
        ("a the", []),
        ("Straße", ["strasse"]),
    ],
)
def test_normalise(text, words):
    assert normalise(text) == words


@pytest.mark.parametrize(
    ("prediction", "answers", "same"),
    [
        ("The 4.5%", ["4.5%"], True),
        ("45%", ["4.5%"], False),
        ("1250 euros", ["1,250 euros"], True),
        ("", [""], False),
        ("Monday", ["Tuesday", "monday."], True),
        ("next Monday", ["Monday"], False),
    ],
)
def test_same_answer(prediction, answers, same):
    assert same_answer(prediction, answers) is same


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("the branch manager", 1),
        ("BRANCH, manager!", 1),
        ("anch man", None),
        ("manager branch", None),
        ("", None),
        ("2,000 euros", 0),
        ("2.000", None),
    ],
)
def test_find_support_wants_whole_words_in_a_row(answer, index):
    passages = [Found("The fee is 2,000 euros."), Found("Ask the branch manager, who decides.")]
    assert find_support(answer, passages) == index


def test_features_come_in_the_named_order():
    features = extract_features(
        "Who decides on a loan?", Given("manager"), [Found("the manager", 0.7), Found("x", 0.9)]
    )
    named = dict(zip(FEATURE_NAMES, features.vector(), strict=True))
    assert named == {
        "mean_logprob": -0.1,
        "min_logprob": -0.4,
        "retrieval_score": 0.9,
        "supported": 1.0,
        "num_question_words": 5.0,
    }


def test_features_without_passages():
    features = extract_features("Who?", Given("manager"), [])
    assert (features.retrieval_score, features.supported) == (0.0, 0.0)
