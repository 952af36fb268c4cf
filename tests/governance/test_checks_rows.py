"""Checks of rows, their texts, and of suites: green, amber where there is one, red, and what is missing."""

import pytest

from app.governance.checks.rows import (
    DuplicateShare,
    Freshness,
    LabelBalance,
    MalformedRows,
    MinRows,
    MissingValues,
)
from app.governance.checks.suites import Contamination, OwnEvaluations, SuiteCommitted
from app.governance.checks.text import NearDuplicateShare, PersonalData
from app.governance.evidence import Evidence, EvidenceChanged, EvidenceMissing

GOOD = [{"question": f"What is the fee of account {n}?", "answer": f"{n} euros"} for n in range(20)]
LONG = "which of the many fees that the handbook lists for members applies to account number"


def judged(world, check, rows, **evidence):
    return check.judge(world.evidence(world.table(rows), **evidence))


def with_bad(num, bad):
    return GOOD[num:] + [{**GOOD[0], **bad}] * num


@pytest.mark.parametrize(("num", "light"), [(0, "green"), (1, "green"), (2, "amber"), (4, "amber"), (5, "red")])
@pytest.mark.parametrize(
    ("check", "bad"),
    [
        (MissingValues, {"answer": " "}),
        (MissingValues, {"question": None}),
        (MalformedRows, {"answer": "12 \ufffd"}),
        (MalformedRows, {"question": "a\x00b"}),
        (PersonalData, {"question": "Who is jane@example.org?"}),
    ],
)
def test_shares_of_rows(world, check, bad, num, light):
    finding = judged(world, check(maximum=0.2, attention=0.05), with_bad(num, bad))
    assert (finding.light, finding.figure, finding.threshold) == (light, num / 20, 0.2)


@pytest.mark.parametrize(
    "check", [MissingValues(), MalformedRows(), PersonalData(), DuplicateShare(), NearDuplicateShare()]
)
def test_a_table_or_column_that_is_not_there_is_named(world, check):
    with pytest.raises(EvidenceMissing, match=r"has no table rows\.parquet"):
        check.judge(world.evidence(world.dataset()))
    with pytest.raises(EvidenceMissing, match="no column 'question': name one of q"):
        judged(world, check, [{"q": "a"}])
    with pytest.raises(EvidenceMissing, match="no rows"):
        judged(world, check.model_copy(update={"split": "train"}), [{**GOOD[0], "split": "heldout"}])


def test_only_the_split_that_is_asked_for_counts(world):
    rows = [{**row, "split": "train"} for row in GOOD] + [{"question": "a", "answer": "", "split": "calibration"}]
    assert judged(world, MissingValues(), rows).light == "red"
    assert judged(world, MissingValues(split="train"), rows).light == "green"


@pytest.mark.parametrize(
    ("columns", "row", "light"),
    [
        ({"n": "number"}, {"n": 1.5}, "green"),
        ({"n": "number"}, {"n": float("nan")}, "red"),
        ({"n": "number"}, {"n": "1"}, "red"),
        ({"n": "list"}, {"n": ["a"]}, "green"),
        ({"n": "list"}, {"n": "a"}, "red"),
        ({"n": "text"}, {"n": "a\nb"}, "green"),
        ({"n": "text"}, {"n": "a" * 11}, "red"),
        ({"n": "text"}, {"n": None}, "green"),
    ],
)
def test_malformed(world, columns, row, light):
    assert judged(world, MalformedRows(columns=columns, max_chars=10), [row]).light == light


def test_duplicates_are_compared_by_letters_and_digits(world):
    rows = [*GOOD, {"question": "what is THE fee, of account 3", "answer": "3 Euros."}]
    finding = judged(world, DuplicateShare(maximum=0.04), rows)
    assert (finding.light, finding.figure) == ("red", 1 / 21)
    assert judged(world, DuplicateShare(maximum=0.05), rows).light == "green"


def test_near_duplicates(world):
    text = "the branch in the old harbour opens at nine in the morning and closes at five in the afternoon"
    rows = [{"question": text, "answer": "a"}, {"question": text + " today", "answer": "a"}, *GOOD[:1]]
    assert judged(world, NearDuplicateShare(maximum=0.3), rows).light == "red"
    assert judged(world, NearDuplicateShare(maximum=0.34), rows).light == "green"


@pytest.mark.parametrize(
    ("labels", "light"), [("ab" * 20, "green"), ("a" * 90 + "b" * 10, "red"), ("a" * 9, "red"), ("aab" * 9, "green")]
)
def test_label_balance(world, labels, light):
    assert judged(world, LabelBalance(), [{"label": each} for each in labels]).light == light


def test_one_label_may_have_a_ceiling_of_its_own(world):
    rows = [{"label": each} for each in "aaabbc"]
    assert judged(world, LabelBalance(max_share=0.5), rows).light == "green"
    assert judged(world, LabelBalance(max_share=0.4), rows).light == "red"
    with pytest.raises(EvidenceMissing, match="no column 'label'"):
        judged(world, LabelBalance(), GOOD)


def test_min_rows_has_an_amber(world):
    dataset = world.dataset(num_rows=30)
    lights = [MinRows(minimum=low, attention=50).judge(world.evidence(dataset)).light for low in (30, 31)]
    assert lights == ["amber", "red"]


@pytest.mark.parametrize(
    ("at", "which", "light"),
    [
        ("2026-03-31T00:00:00Z", "newest", "green"),
        ("2026-03-31T00:00:00Z", "oldest", "red"),
        ("2026-04-02T00:00:00Z", "newest", "red"),
        ("2026-02-01T00:00:00Z", "newest", "red"),
    ],
)
def test_freshness_is_measured_to_the_moment_of_judging(world, at, which, light):
    rows = [{"updated": "2026-03-01T00:00:00Z"}, {"updated": "2025-03-01"}]
    check = Freshness(of=None, column="updated", which=which, max_age_days=30)
    assert judged(world, check, rows, at=at).light == light


def test_freshness_by_the_ledger(world):
    rows = world.table(GOOD, parents=[world.dataset().digest])
    assert Freshness(max_age_days=1).judge(world.evidence(rows)).light == "green"
    assert Freshness(max_age_days=1).judge(world.evidence(rows, at="2199-01-01T00:00:00Z")).light == "red"
    with pytest.raises(EvidenceMissing, match="no dataset is behind"):
        Freshness(max_age_days=1).judge(world.evidence(world.table(GOOD)))
    with pytest.raises(EvidenceMissing, match="is no time"):
        judged(world, Freshness(of=None, column="answer", max_age_days=1), GOOD)


def test_an_edited_file_is_no_evidence(world):
    rows = world.table(GOOD)
    path = world.registry.folder(rows) / "rows.parquet"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(EvidenceChanged, match="not what its manifest names"):
        MissingValues().judge(world.evidence(rows))


# Suites


def suite(world, *questions, name="mine"):
    rows = [{"question_id": str(n), "question": q, "answers": list(a)} for n, (q, *a) in enumerate(questions)]
    return world.table(rows, kind="suite", name=name)


def trained(world, rows, *, base=None):
    parents = [world.table(rows).digest, *([base.digest] if base else [])]
    return world.model(parents=parents)


def evaluated(world, model, on, name="e"):
    rows = [{"question_id": "0", "exact_match": 1.0}]
    inputs = {"model": model.digest, "suite": on.digest}
    return world.table(rows, kind="evaluation", name=name, parents=[model.digest, on.digest], inputs=inputs)


@pytest.mark.parametrize(
    ("question", "answer", "light"),
    [
        ("What does account 3 cost?", "3 euros", "green"),
        ("what is the fee of account 3", "3 EUROS", "red"),
        ("What is the fee of account 3?", "4 euros", "green"),
        (f"{LONG} 3?", "3 euros", "red"),
        ("3 euros", "3 euros", "green"),
    ],
)
def test_contamination_is_of_whole_questions(world, question, answer, light):
    rows = [*GOOD, {"question": f"Tell me, {LONG} 7", "answer": "7 euros"}]
    mine = suite(world, (question, answer), ("Who is it?", "Jane"))
    model = trained(world, rows)
    finding = Contamination().judge(world.evidence(model, candidate={"target": evaluated(world, model, mine)}))
    assert finding.light == light
    assert {mine.digest} < set(finding.inputs)
    if light == "red":
        assert (finding.figure, question in finding.reason) == (0.5, True)
        assert Contamination(maximum=0.5).judge(
            world.evidence(model, candidate={"target": evaluated(world, model, mine, "again")})
        ).light == "green"  # fmt: skip


def test_rows_that_were_not_trained_on_do_not_contaminate(world):
    rows = [{**row, "split": "heldout" if n == 3 else "train"} for n, row in enumerate(GOOD)]
    data = world.table(rows)
    held, seen = (suite(world, (GOOD[n]["question"], GOOD[n]["answer"]), name=f"s{n}") for n in (3, 4))
    assert Contamination().judge(world.evidence(data, others={"mine": held})).light == "green"
    assert Contamination().judge(world.evidence(data, others={"mine": seen})).light == "red"


def test_contamination_needs_a_suite_and_rows(world):
    with pytest.raises(EvidenceMissing, match="no suite"):
        Contamination().judge(world.evidence(world.table(GOOD)))
    with pytest.raises(EvidenceMissing, match="no training rows"):
        Contamination().judge(world.evidence(world.model(), others={"mine": suite(world, ("a", "b"))}))


def test_a_suite_comes_before_the_training(world):
    early = suite(world, ("a", "b"), name="early")
    base = trained(world, GOOD)
    late = suite(world, ("a", "b"), name="late")
    model = trained(world, GOOD, base=base)
    last = suite(world, ("a", "b"), name="last")
    lights = []
    for each in (early, late, last):
        evidence = world.evidence(model, candidate={"target": evaluated(world, model, each, each.name)})
        lights.append(SuiteCommitted().judge(evidence))
    assert [(finding.light, finding.figure) for finding in lights] == [("green", 0), ("red", 1), ("red", 2)]
    assert "came after model small" in lights[1].reason


def test_what_production_had_behind_it_already_may_be_older(world):
    first = suite(world, ("a", "b"), name="first")
    base = trained(world, GOOD)
    old = evaluated(world, base, first)
    second = suite(world, ("a", "b"), name="second")
    model = trained(world, GOOD, base=base)
    candidate = {"target": evaluated(world, model, second, "new")}
    for given in ({"production": {"target": evaluated(world, base, second, "old")}}, {"earlier": (old,)}):
        evidence = Evidence(model, world.registry, candidate, **given)
        assert SuiteCommitted().judge(evidence).light == "green"
    assert SuiteCommitted().judge(Evidence(model, world.registry, candidate)).light == "red"


def test_a_model_cannot_excuse_itself(world):
    """Production judged again on a suite that came after its training."""
    model = trained(world, GOOD)
    late = suite(world, ("a", "b"))
    again = evaluated(world, model, late)
    evidence = Evidence(model, world.registry, {"target": again}, production={"target": again})
    assert SuiteCommitted().judge(evidence).light == "red"


def test_an_evaluation_names_its_suite(world):
    model = world.model()
    with pytest.raises(EvidenceMissing, match="names no suite"):
        SuiteCommitted().judge(world.evidence(model, candidate={"target": world.evaluation([1])}))
    with pytest.raises(EvidenceMissing, match="no evaluation"):
        SuiteCommitted().judge(world.evidence(model))


def test_evaluations_are_of_the_model_that_they_are_handed_in_for(world):
    mine = suite(world, ("a", "b"))
    model, other = trained(world, GOOD), trained(world, GOOD)
    own, strange = evaluated(world, model, mine), evaluated(world, other, mine, "strange")

    def finding(candidate, production):
        given = {"candidate": {"target": candidate}, "production": {"target": production} if production else {}}
        return OwnEvaluations().judge(Evidence(model, world.registry, **given))

    assert (finding(own, None).light, finding(own, strange).light) == ("green", "green")
    assert finding(strange, None).reason == "evaluation strange@1 is not of model small@1"
    assert finding(own, own).reason == "evaluation e@1 is no production's but of model small@1"
    assert finding(world.evaluation([1]), None).light == "red"
    with pytest.raises(EvidenceMissing, match="no evaluation"):
        OwnEvaluations().judge(world.evidence(model))
