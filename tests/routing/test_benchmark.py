"""benchmarks.routing on sums that a small model fails when they are long: a router finds them, chance does not."""

import json

import pytest
from typer.testing import CliRunner

from benchmarks._routing import Rows, Setup, folds_of, judge, made_up, with_features, worth
from benchmarks.routing import app, summed_up, table

NUM_KEPT = 16
HOW = {"tolerance": 0.05, "confidence": 0.9, "calibration": 200, "splits": 10, "cost_share": 0.5, "seed": 0}


@pytest.fixture(scope="module")
def judged():
    rows = made_up(0, num=360)
    setup = Setup.of(rows, prices={"a-small": 0.1, "b-large": 1.0}, small=None, large=None, **HOW)
    whole = with_features(rows, small=None)
    seen = Rows(rows, whole.features[:, whole.embedded - NUM_KEPT :], NUM_KEPT)  # little to solve
    pairs = folds_of(seen, num=5, known=False, seed=0)
    for learned, asked in pairs:
        assert not set(learned.outcomes.groups) & set(asked.outcomes.groups)
    return setup, [judge(*pair, setup=setup, known=False, num_parts=2) for pair in pairs[:2]]


def test_a_router_beats_chance_and_an_oracle_beats_the_router(judged):
    setup, parts = judged
    assert (setup.small, setup.large) == ("a-small", "b-large")
    found = summed_up(parts, seed=0)
    assert found["oracle"]["apgr"] > found["signalbox"]["apgr"] > found["random"]["apgr"] + 0.05
    assert found["guarantee"]["violated"] <= 0.2
    for text in ("| oracle |", "Guarantee: broken in", "APGR over length's"):
        assert text in table(found)


def test_the_price_of_a_point_keeps_to_the_limit():
    import numpy as np

    quality = np.array([[0.0, 1.0], [1.0, 1.0]] * 50)
    prices = np.array([0.1, 1.0])
    value = worth(quality, quality, prices, limit=0.7)
    chosen = (quality - value * prices).argmax(axis=1)
    assert chosen.tolist() == [1, 0] * 50
    assert prices[(quality - worth(quality, quality, prices, limit=0.2) * prices).argmax(axis=1)].mean() <= 0.2


def outcomes(path, *models, num_groups=12):
    """A file in which every model is right in another two thirds of the rows."""
    rows = [
        {"prompt": f"q {row}", "subject": str(row % num_groups)}
        | {f"{model}_correct": row % 3 != place for place, model in enumerate(models)}
        for row in range(60)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.mark.parametrize(
    ("models", "more", "said"),
    [
        (("a",), (), "routing needs two models"),
        (("a", "b"), ("--small", "b", "--large", "b"), "routing needs two models"),
        (("a", "b"), ("--small", "z"), "there are no scores of z: name one of a, b"),
        (("a", "b"), ("--test", "OTHER"), "there are no scores of b: name one of a, c"),
        (("a", "b"), ("--prices", "PRICES"), "holds no prices"),
        (("a", "b"), ("--prices", "none.json"), "holds no prices"),
        (("a", "b"), ("--test", "SAME"), "there is no gap"),
        (("a", "b"), ("--folds", "20"), "prompts of 20 groups at least are needed"),
    ],
)
def test_what_cannot_be_judged_is_said_in_a_sentence(tmp_path, models, more, said):
    (tmp_path / "prices").write_text('{"a": 3}')
    places = {
        "OTHER": outcomes(tmp_path / "other", "a", "c"),
        "SAME": outcomes(tmp_path / "same", "a", "b"),
        "PRICES": str(tmp_path / "prices"),
    }
    train = outcomes(tmp_path / "train", *models)
    ended = CliRunner().invoke(app, ["--train", train, *(places.get(each, each) for each in more)])
    assert ended.exit_code in (1, 2)
    assert said in " ".join(ended.output.split())
