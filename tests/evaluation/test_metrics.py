"""Metrics: what counts as the same answer, and what does not."""

import pytest

from app.evaluation.metrics import contains, exact_match, normalise, token_f1


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The  Guild Room.", "guild room"),
        ("1,500 euros", "1,500 euros"),
        ("1.5 percent!", "1.5 percent"),
        ("15 percent", "15 percent"),
        ("Feed-in tariff", "feed in tariff"),
        ("€12", "€12"),
        ("8:30", "8:30"),
        ("another theme", "another theme"),
    ],
)
def test_normalise(text, plain):
    assert normalise(text) == plain


@pytest.mark.parametrize(
    ("prediction", "answers", "same"),
    [
        ("12 Euros.", ["12 euros"], 1.0),
        ("€12", ["12 euros", "€12"], 1.0),
        ("1.5 percent", ["15 percent"], 0.0),
        ("12", ["12 euros"], 0.0),
        ("", ["12 euros"], 0.0),
        ("12 euros", [], 0.0),
    ],
)
def test_exact_match(prediction, answers, same):
    assert exact_match(prediction, answers) == same


@pytest.mark.parametrize(
    ("prediction", "answers", "f1"),
    [
        ("12 euros", ["12 euros"], 1.0),
        ("12 cents", ["12 euros"], 0.5),
        ("it is 12 euros a year", ["12 euros"], 4 / 7),
        ("red red", ["red"], 2 / 3),
        ("blue", ["red", "blue"], 1.0),
        ("green", ["red", "blue"], 0.0),
        ("", ["red"], 0.0),
        ("red", [], 0.0),
    ],
)
def test_token_f1(prediction, answers, f1):
    assert token_f1(prediction, answers) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("prediction", "held"),
    [("The annual fee is 12 euros.", 1.0), ("The annual fee is 112 euros.", 0.0), ("the", 0.0)],
)
def test_contains_wants_whole_words(prediction, held):
    assert contains(prediction, ["12 euros", "the"]) == held
