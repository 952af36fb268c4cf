"""The ladder's lights and its recommendation, on either side of every limit."""

import io
import json

import pytest
from rich.console import Console

from app.core.statistics import Interval
from app.escalation.ladder import RUNGS, Measured, climb, light_of, machine_cost_usd, render, running_cost_usd
from app.escalation.settings import LadderSettings

SETTINGS = LadderSettings(target=0.8, near=0.05, machine_usd_per_hour=3.6)


def measured(rung, value, low=None, high=None, build=0.0, run=0.1):
    low, high = value - 0.03 if low is None else low, value + 0.03 if high is None else high
    return Measured(rung, Interval(value, low, high), value, value + 0.05, build, run)


@pytest.mark.parametrize(
    ("interval", "light"),
    [
        ((0.9, 0.80, 1.0), "green"),
        ((0.9, 0.79, 1.0), "amber"),
        ((0.5, 0.2, 0.80), "amber"),
        ((0.5, 0.2, 0.79), "red"),
        ((0.76, 0.72, 0.79), "amber"),
        ((0.74, 0.72, 0.79), "red"),
        ((1.0, 1.0, 1.0), "green"),
    ],
)
def test_lights(interval, light):
    assert light_of(Interval(*interval), settings=SETTINGS) == light


def test_the_first_green_rung_is_where_to_stop():
    ladder = climb(
        [measured("full", 0.99), measured("prompt", 0.1), measured("lora", 0.9), measured("retrieval", 0.7)],
        settings=SETTINGS,
    )
    assert [rung.rung for rung in ladder.rungs] == list(RUNGS)
    assert ladder.lights == ("red", "red", "green", "green")
    assert (ladder.recommended, ladder.target_met) == ("lora", True)
    assert ladder.recommendation.startswith("lora: first rung to meet the target of 0.80 (0.900 [0.870, 0.930]")


def test_with_no_green_rung_the_best_is_named_and_it_is_said():
    ladder = climb([measured("prompt", 0.1), measured("lora", 0.81), measured("full", 0.81)], settings=SETTINGS)
    assert (ladder.recommended, ladder.target_met) == ("lora", False)
    assert "none surely meets" in ladder.recommendation


@pytest.mark.parametrize("rungs", [[], [measured("full", 0.5), measured("full", 0.6)]])
def test_each_rung_once(rungs):
    with pytest.raises(ValueError, match="each rung once"):
        climb(rungs, settings=SETTINGS)


def test_what_is_no_rung_or_no_cost_is_refused():
    with pytest.raises(ValueError, match="use one of prompt"):
        measured("magic", 0.5)
    with pytest.raises(ValueError, match="negative"):
        measured("full", 0.5, build=-1.0)


def test_rows_are_json_with_the_report_s_keys():
    ladder = climb([measured("full", 0.9, build=0.5, run=0.25)], settings=SETTINGS)
    row = json.loads(json.dumps(ladder.to_dict()))["rungs"][0]
    assert row == {
        "rung": "full",
        "light": "green",
        "quality": {"value": 0.9, "low": 0.87, "high": 0.93},
        "token_f1": 0.9,
        "contains": pytest.approx(0.95),
        "cost_build_usd": 0.5,
        "cost_per_1000_usd": 0.25,
        "recommended": True,
    }


def test_the_table_shows_every_rung_and_marks_one():
    ladder = climb([measured("prompt", 0.1), measured("full", 0.9)], settings=SETTINGS)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(render(ladder))
    shown = console.export_text()
    assert "  prompt" in shown
    assert "> full" in shown
    assert "0.900 [0.870, 0.930]" in shown
    assert ladder.recommendation in " ".join(shown.split())


def test_seconds_become_dollars():
    assert machine_cost_usd(1800, settings=SETTINGS) == pytest.approx(1.8)
    assert running_cost_usd(0.5, settings=SETTINGS) == pytest.approx(0.5)


def test_an_unknown_setting_is_refused_by_name():
    with pytest.raises(ValueError, match="did you mean 'target'"):
        LadderSettings(tarset=0.9)
