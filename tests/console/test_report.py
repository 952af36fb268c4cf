"""The report shows every figure that it was given, and the page stands alone."""

import json

import pytest

from app.console.report import render_page, summary_rows, write_report

HALF = {"value": 0.5, "low": 0.4, "high": 0.6}
PHASE = {
    "share": {"small": 0.8, "extractive": 0.2},
    "cost_per_1000_usd": {"routed": 0.001, "large_only": 0.004},
    "cost_ratio": 0.25,
}


@pytest.fixture
def report():
    return {
        "source": "<the sample>",
        "at": "2026-01-01T00:00:00Z",
        "hardware": "2 cores",
        "duration_s": 61.4,
        "documents": 41,
        "chunks": 300,
        "rejected": 1,
        "synthetic_rows": 9000,
        "train": {
            "loss_first": 7.5,
            "loss_last": 0.02,
            "tokens_per_s": 9000.0,
            "workers": 2,
            "curves": {"a": [[1, 7.5], [2, 0.02]]},
        },
        "evaluation": {"new questions": {"before": HALF, "after": {"value": 0.9, "low": 0.85, "high": 0.95}}},
        "ladder": [
            {
                "rung": "full",
                "light": "green",
                "quality": HALF,
                "token_f1": 0.6,
                "contains": 0.7,
                "cost_build_usd": 0.01,
                "cost_per_1000_usd": 0.002,
            }
        ],
        "recommendation": "full: first to meet the target",
        "routing": {"phases": {"before the change": PHASE}, "answered": {"before the change": 0.93, "after": None}},
        "drift": {
            "alarms_before": 0,
            "alarms_after": 2,
            "windows": [{"num_signals": 3, "alarm": True, "shifted": True}],
        },
        "promotions": [{"release": "assistant@1", "light": "green", "approvals": ["Ada"], "reasons": ["fine"]}],
        "answers": [{"question": "<b>?", "answer": "12", "phase": "before", "model": "small", "citations": ["x.md"]}],
        "requests": {"sent": 10, "failed": 0},
        "verify": {"ok": True, "leaves": 40, "files": 90},
        "trace": "answer",
        "steps": [{"name": "ingest", "duration_s": 3.2}],
    }


def test_the_page_holds_the_figures_and_four_plots(report):
    page = render_page(report)
    assert page.count("<svg") == 4
    assert "0.900 [0.850, 0.950]" in page
    assert "93% before the change" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")


def test_what_documents_say_is_not_markup(report):
    page = render_page(report)
    assert "&lt;b&gt;?" in page
    assert "<b>?" not in page


def test_the_json_file_is_the_report(report, tmp_path):
    write_report(report, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_a_broken_ledger_is_not_called_whole(report):
    report["verify"]["ok"] = False
    assert dict(summary_rows(report))["evidence"].startswith("BROKEN")


def test_a_story_whose_gate_was_red_before_training_is_told(report):
    untaught = {"train": {"curves": {}}, "ladder": [], "evaluation": {}, "recommendation": "the data gate is red"}
    page = render_page(report | untaught)
    assert page.count("<svg") == 4
    rows = dict(summary_rows(report | untaught))
    assert rows["ladder"] == "the data gate is red"
    assert "training speed" not in rows
