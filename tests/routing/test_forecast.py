"""Forecasts of quality: what is read off texts, the curve of ease, cost and quality, files of outcomes."""

import gzip
import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.routing.curves import apgr, cpt, gap_recovered
from app.routing.forms import NUM_FORMS, form_of
from app.routing.outcomes import BadOutcomes, Outcomes
from app.routing.prompts import READ_CHARS, answer_features, prompt_features, sums_that_hold
from app.routing.quality import Forecaster, TooFewOutcomes, cross_forecast

CHOICE = "What is 2 + 2?\nA. 3\nB. 4\nC. 5\nD. none of 3, 4 and 5\nAnswer:"


@pytest.mark.parametrize(
    ("text", "num", "right"),
    [
        ("48/2 = 24 clips, then 48+24 = 72", 2, 2),
        ("48/2 = 25 clips, then 48+25 = 73", 2, 1),
        ("He pays $1,200 x 3 = $3,600.", 1, 1),
        ("20% * 400 = 80 and (2 + 3) * 4 = 20", 2, 2),
        ("x = 5, so the answer = 7", 0, 0),
        ("1 / 0 = 3", 0, 0),
        ("2 ** 9 = 512", 0, 0),
        ("no sums here", 0, 0),
    ],
)
def test_sums_are_found_and_worked_out(text, num, right):
    assert sums_that_hold(text) == (num, right)


def test_a_long_text_of_signs_takes_no_longer_than_it_must():
    hostile = "1+" * 200_000 + "="
    assert sums_that_hold(hostile) == (0, 0)
    assert np.isfinite(prompt_features([hostile[:20_000], "", "\x00", CHOICE])).all()


@pytest.mark.parametrize("of", ["\n", " \n", "\nA) x", "1,", "=1"])
def test_the_work_grows_with_a_prompts_length_not_with_its_square(of):
    def took_s(length):
        prompt, began = "a" + of * (length // len(of)), time.thread_time()
        prompt_features([prompt])
        answer_features([prompt], [prompt])
        return time.thread_time() - began

    short, long = (min(took_s(length) for _ in range(3)) for length in (200, 3200))
    assert long / short < 16 * 4


def test_of_a_long_text_its_ends_are_read_and_its_length_is_known():
    """Where the time goes that a gateway has between two requests: no regular expression sees the middle."""
    begin, end = f"Which one holds? {'x ' * 5000}"[: READ_CHARS // 2], f"{' y' * 5000}\n{CHOICE}"[-READ_CHARS // 2 :]
    middle = "3 + 4 = 8, not she: I calculate. " * 3000
    short, long = prompt_features([f"{begin}\n{end}", f"{begin}{middle}{end}"])
    assert np.array_equal(short[2:], long[2:])
    assert long[0] == (len(begin) + len(middle) + len(end) + 1) / 1000
    read, told = answer_features(["2 and 3"] * 2, [f"{begin}\n{end}", f"{begin}{middle}{end}"])
    assert np.array_equal(read[1:], told[1:])
    assert told[0] > read[0]


def test_blank_lines_before_options_are_no_part_of_the_question():
    asked = prompt_features([f"Which one?{between}A) one\nB) two" for between in ("\n", "\n\n", "\n \n\t\n")])
    kept = [2, 4, 14, *range(18, 59)]
    assert (asked[1:, kept] == asked[0, kept]).all()
    assert prompt_features(["\n\nA) one\nB) two"])[0, 2] == 0


def test_features_see_options_and_sums_that_fail():
    plain, choice = prompt_features(["What is 2 + 2?", CHOICE])
    assert (plain[18], choice[18]) == (0, 4)  # options
    right, wrong = answer_features(["2 and 3"] * 2, ["2 + 3 = 5", "2 + 3 = 6"])
    assert (right[4], wrong[4]) == (0, 1)
    assert right.shape == (19,)
    ends = answer_features(["2 boxes"] * 4, ["It is 7.5.", "It is 2.", "so 1,200 -", ""])[:, 10:14]
    assert ends.round(2).tolist() == [[2.14, 1, 0, 0], [1.1, 0, 1, 0], [7.09, 0, 0, 1], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("answer", "steps"),
    [
        ("2 + 3 = 5\n2 + 3 = 5\nThe answer is 5 boxes.", [1.39, 0.33, 1, 1, 1]),
        ("2 + 3 = 5\nThat makes 6 apples.", [1.1, 0, 0, 0, 0]),
        ("There are five.", [0.69, 0, 0, 0, 0]),
        ("", [0, 0, 0, 0, 0]),
    ],
)
def test_a_chain_of_thought_is_read_by_its_steps_and_its_result(answer, steps):
    found = answer_features(["2 boxes and 3 more. How many boxes?"], [answer])[0, 14:]
    assert found.round(2).tolist() == steps


SCENARIOS = "Which did wrong?\nA. Wrong, Wrong\nB. Wrong, Not wrong\nC. Not wrong, Wrong\nD. Not wrong, Not wrong"


def test_the_form_of_a_question_tells_what_its_subject_does_not():
    told = "A 34-year-old woman says that her arm hurts. If it is broken, how many weeks does she wait: 6, 8 or 8?"
    asked, case, verdicts = (form_of(*_parts(prompt)) for prompt in (CHOICE, told, SCENARIOS))
    places = [1, 2, 3, 5, 11, 14]  # figures, different ones, calculates, if, persons, case
    assert [round(case[place], 2) for place in places] == [1.61, 1.39, 1, 1, 1, 1]
    assert [round(asked[place], 2) for place in places] == [1.1, 0.69, 0, 0, 0, 0]
    assert verdicts[22:24] == [1, 1]  # all options, and all of their words, are verdicts
    assert verdicts[26:28] == [1, 1]  # options share all of their words
    assert asked[22:24] == [0.25, pytest.approx(1 / 9)]  # none of these


def _parts(prompt):
    return prompt.split("\nA. ")[0], [line[3:] for line in prompt.split("\n") if line[1:3] == ". "]


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=200), st.lists(st.text(max_size=40), max_size=5))
def test_every_number_of_a_form_is_finite(stem, options):
    found = form_of(stem, options)
    assert len(found) == NUM_FORMS
    assert np.isfinite(found).all()


def test_figures_of_any_length_have_a_form():
    assert np.isfinite(form_of("9" * 500, ["9" * 500, "1"])).all()


def word_problems(num, seed=0):
    """Sums of some boxes, worked out step by step; the longer, the more often a step slips or a figure is overlooked.

    Prompts, the small model's answers, and whether it and a large one are right.
    """
    draws, prompts, answers, quality = np.random.default_rng(seed), [], [], []
    for _ in range(num):
        figures = [int(each) for each in draws.integers(3, 90, draws.integers(3, 7))]
        slip = int(draws.integers(1, len(figures))) if draws.random() < 0.08 * (len(figures) - 1) else 0
        overlooks, total, lines = draws.random() < 0.4, figures[0], []
        for place, figure in enumerate(figures[1:], start=1):
            if place == slip and overlooks:
                continue
            said = total + figure + (int(draws.integers(1, 10)) if place == slip else 0)
            lines.append(f"{total} + {figure} = {said}")
            total = said
        prompts.append(f"A shop sells {', then '.join(f'{each} boxes' for each in figures)}. How many in all?")
        answers.append("\n".join([*lines, f"The answer is {total}."]))
        quality.append([float(total == sum(figures)), float(draws.random() < 0.95)])
    return prompts, answers, np.array(quality)


def test_an_answers_sums_tell_a_cascade_what_the_question_cannot():
    prompts, answers, quality = word_problems(1200)
    before = prompt_features(prompts)
    after = np.hstack([before, answer_features(prompts, answers)])
    areas = []
    for features in (before, after):
        forecast = Forecaster.fit(features[:800], quality[:800]).forecast(features[800:])
        areas.append(apgr(gap_recovered(forecast[:, 1] - forecast[:, 0], *quality[800:].T)))
    assert areas[1] > max(0.8, areas[0] + 0.15)


def test_the_gap_recovered_is_routellms():
    small, large = np.array([1.0, 0, 1, 0] * 5), np.array([1.0, 1, 1, 0] * 5)
    oracle = gap_recovered(large - small, small, large)
    assert (oracle[0], oracle[3], oracle[-1]) == (0, 1, 1)  # all of the gap at 30%, as 25% are worth a call
    assert apgr(oracle) == pytest.approx(0.87)  # 0, 0.4, 0.8, then 1, by trapezoids
    assert cpt(oracle, 0.5) == pytest.approx(0.125)
    assert apgr(gap_recovered(small - large, small, large)) < 0.5 < apgr(oracle)
    with pytest.raises(ValueError, match="no gap"):
        gap_recovered(small, large, small)


def outcomes(num=2000, seed=0):
    """The large model is better where a prompt is neither easy nor hopeless; a feature tells how hard it is."""
    draws = np.random.default_rng(seed)
    hard = draws.uniform(0, 1, num)
    features = np.stack([hard + draws.normal(0, 0.1, num), draws.normal(0, 1, num)], axis=1)
    chances = np.stack([np.clip(1.2 - 1.6 * hard, 0, 1), np.clip(1.6 - 1.4 * hard, 0, 1)], axis=1)
    return features, (draws.uniform(size=(num, 2)) < chances).astype(float)


def test_the_gap_is_found_where_it_is_widest_in_the_middle():
    features, quality = outcomes()
    unseen, truth = outcomes(seed=1)
    fitted = Forecaster.fit(features, quality)
    forecast = fitted.forecast(unseen)
    recovered = gap_recovered(forecast[:, 1] - forecast[:, 0], *truth.T)
    straight = gap_recovered(unseen[:, 0], *truth.T)  # the hardest first, as who predicts "small is wrong" would
    assert apgr(recovered) > apgr(straight) + 0.02


def test_a_forecaster_comes_back_from_its_file(tmp_path):
    features, quality = outcomes(300)
    fitted = Forecaster.fit(features, quality, embedded=1)
    fitted.save(tmp_path)
    again = Forecaster.load(tmp_path)
    assert np.array_equal(again.forecast(features), fitted.forecast(features))
    assert np.array_equal(Forecaster.fit(features, quality, embedded=1).own, fitted.own)


def test_a_cross_forecast_saw_no_row_of_its_fold():
    features, quality = outcomes(120)
    groups = [str(row % 10) for row in range(120)]
    noise = np.random.default_rng(3).integers(0, 2, quality.shape).astype(float)
    same = cross_forecast(np.eye(120), noise, groups=groups)  # every row has a feature of its own: only leaks could fit
    assert abs(np.corrcoef(same[:, 0], noise[:, 0])[0, 1]) < 0.25
    with pytest.raises(TooFewOutcomes, match="too few"):
        Forecaster.fit(features, quality, groups=["one"] * 120)


def test_outcomes_are_read_in_both_formats(tmp_path):
    rows = [
        {"prompt": "a", "small_correct": True, "large_correct": 1, "small_response": "x", "subject": "s"},
        {"question": "b", "small_correct": False, "large_correct": 0.5, "small_response": "y"},
    ]
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    found = Outcomes.read(path)
    assert (found.models, found.groups, found.prompts) == (("large", "small"), ("s", ""), ("a", "b"))
    assert found.of(["small"]).quality.tolist() == [[1.0], [0.0]]
    assert found.take(np.array([1])).answers == {"small": ("y",)}
    scored = tmp_path / "scored.jsonl"
    scored.write_text(json.dumps({"question": "a", "task": "t", "scores": {"b": 1.0, "a": 0.0}}) + "\n\n")
    assert Outcomes.read(scored).models == ("a", "b")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: it is not JSON"),
        ('{"text": "a", "scores": {"a": 1, "b": 0}}', "line 2: it has no text"),
        ('{"prompt": "a"}', "line 2: give scores"),
        ('{"prompt": "a", "scores": {"a": 1, "b": 7}}', "line 2: give scores"),
        ('{"prompt": "a", "scores": {"a": 1, "b": null}}', "line 2: give scores"),
        ('{"prompt": "a", "scores": {"a": 1}}', "line 2: it has scores of"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, said):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "scores": {"a": 1, "b": 0}}\n' + line + "\n")
    with pytest.raises(BadOutcomes, match=said):
        Outcomes.read(path)
    with pytest.raises(BadOutcomes, match="cannot be read"):
        Outcomes.read(tmp_path / "none.jsonl")
