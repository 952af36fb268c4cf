"""The benchmark's formats and its small run; the goals on samples of the public sets are those of its result files."""

import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.train import Checkpoint

from app.retrieval.examples import Example, Examples
from app.retrieval.settings import TuneSettings
from app.retrieval.tuning_plan import TunePlan
from benchmarks import _tuned
from benchmarks._questions import BadSet, Question, Set, load, made_up
from benchmarks._tuned import divided
from benchmarks.retrieval import compared_tuned, run

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
GOALS = {
    "obliqa": {"recall_at_10": 0.785, "map_at_10": 0.64},
    "medquad": {"recall_at_5": 0.985},
    "hotpotqa": {},
}
FORMATS = {
    "rules": ({"id": "a", "text": "x"}, {"question": "q", "gold_passage_ids": ["a"]}, "a"),
    "health": (
        {"source": "S", "doc_id": "1", "focus": "Flu", "text": "x"},
        {"question": "q", "source": "S", "doc_id": "1"},
        "S/1",
    ),
    "encyclopaedia": ({"title": "T", "text": "x"}, {"question": "q", "gold_titles": ["T"]}, "T"),
}


def lines(path: Path, rows: list[dict]) -> Path:
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


@pytest.mark.parametrize("form", FORMATS)
def test_the_formats_are_told_by_their_fields(tmp_path: Path, form: str):
    passage, question, key = FORMATS[form]
    found = load([lines(tmp_path / "p.jsonl.gz", [passage])], lines(tmp_path / "q.jsonl", [question]))
    assert ([each.key for each in found.passages], found.questions[0].gold) == ([key], {key})


def test_what_cannot_be_read_or_matched_is_said_so(tmp_path: Path):
    passages = lines(tmp_path / "p.jsonl", [FORMATS["rules"][0]])
    for rows in ([{"question": "q"}], [{"gold_passage_ids": ["a"]}], [{"question": "q", "gold_passage_ids": ["b"]}]):
        with pytest.raises(BadSet):
            load([passages], lines(tmp_path / "q.jsonl", rows))
    with pytest.raises(BadSet, match="JSON lines"):
        load([tmp_path / "missing.jsonl"], tmp_path / "q.jsonl")


def test_a_limit_takes_the_questions_passages_first(tmp_path: Path):
    passages = lines(tmp_path / "p.jsonl", [{"id": str(n), "text": "x"} for n in range(500)])
    questions = [{"question": f"q{n}", "gold_passage_ids": [str(499 - n)]} for n in range(100)] * 2
    found = load(
        [passages], lines(tmp_path / "q.jsonl", [*questions, {"question": "?", "gold_passage_ids": ["-"]}]), limit=10
    )
    assert (len(found.questions), len(found.passages), found.num_left_out) == (10, 100, 1)
    assert set().union(*(each.gold for each in found.questions)) <= {each.key for each in found.passages}


def test_a_small_run_has_the_figures_of_the_issue():
    given = made_up(num=60)
    figures = run(given, latencies=4, served=False, cache=None)
    assert set(figures["results"]["hybrid"]) >= {
        "recall_at_1",
        "recall_at_5",
        "recall_at_10",
        "map_at_10",
        "ndcg_at_10",
    }
    assert figures["results"]["hybrid"]["recall_at_5"] > 0.9


def test_one_file_of_questions_is_divided_into_asked_and_tuned_on():
    questions = [Question(f"q{n}", frozenset({f"p{n // 2}", f"page {n // 6}"})) for n in range(400)]
    parts = divided(Set([], questions))
    assert sorted(each.text for each in parts.questions + parts.tuning) == sorted(each.text for each in questions)
    assert 90 <= len(parts.questions) <= 115
    trained_on = frozenset().union(*(each.gold for each in parts.tuning))
    unseen = [each for each in parts.questions if not each.gold & trained_on]
    assert 40 <= len(unseen) < len(parts.questions)
    assert parts == divided(Set([], questions))


def test_what_was_trained_is_kept_and_trained_anew_on_other_examples(tmp_path: Path, monkeypatch):
    runs = []

    def fitted(folder, plan):
        runs.append(plan.settings.seed)
        (tmp_path / "last").mkdir(exist_ok=True)
        (tmp_path / "last" / "weights").write_text(f"{len(runs)}")
        return Checkpoint.from_directory(tmp_path / "last")

    monkeypatch.setattr(_tuned, "begin", lambda *_: None)
    monkeypatch.setattr(_tuned, "_fitted", fitted)

    def trained(question: str, cache: Path | None = tmp_path / "cache") -> tuple[str, float]:
        examples = Examples(read=("a",), train=(Example(question=question, gold=(0,)),))
        plan = TunePlan(name="t", base_folder=tmp_path, chunks_folder=tmp_path, settings=TuneSettings())
        given = SimpleNamespace(examples=examples)
        place, taken_s = _tuned._trained(tmp_path / f"run{len(runs)}", plan, given, cache)
        return (place / "weights").read_text(), taken_s

    first = trained("fee?")
    assert trained("fee?") == first
    assert [trained("fees?")[0], trained("fee?", None)[0]] == ["2", "3"]
    assert len(runs) == 3


TUNED = sorted(RESULTS.glob("retrieval_*_tuned.json"))


@pytest.mark.parametrize("path", TUNED, ids=lambda path: path.stem)
def test_tuning_ranks_better_also_where_no_passage_was_trained_on_in_every_result_file(path: Path):
    """By rank; what is found at all, within ten, is the same for passages that nobody trained on."""
    figures = json.loads(path.read_text())
    for results in (figures["results"], figures["results"]["unseen"]):
        for measure in ("recall_at_1", "map_at_10", "ndcg_at_10"):
            assert results["tuned"][measure] > results["hybrid"][measure]
    assert "| tuned |" in compared_tuned(path.stem, figures)


@pytest.mark.parametrize("path", sorted({*RESULTS.glob("retrieval_*.json")} - {*TUNED}), ids=lambda path: path.stem)
def test_the_hybrid_is_above_its_parts_and_meets_the_goals_in_every_result_file(path: Path):
    figures = json.loads(path.read_text())
    hybrid, parts = figures["results"]["hybrid"], [figures["results"][part] for part in ("bm25", "dense")]
    for measure in ("recall_at_10", "map_at_10", "ndcg_at_10"):
        assert hybrid[measure] > max(part[measure] for part in parts)
    for measure, goal in GOALS[path.stem.removeprefix("retrieval_")].items():
        assert hybrid[measure] >= goal
    assert figures["ratios"]["search_p50_vs_noop_plus_raw"] <= 1.5
