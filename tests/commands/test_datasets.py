"""`signalbox datasets`: what it lists, shows, compares and writes, as text and as JSON."""

import json

import pytest
from typer.testing import CliRunner

from app import cli
from app.core.errors import UsageError
from app.datasets.curate import Curation, import_rows
from app.datasets.pipeline import here
from tests.datasets.test_curate import LIGHT, pairs, write


@pytest.fixture
def run(registry, tmp_path):
    by = Curation(registry, LIGHT, here)
    first = [*pairs(12), {"text": "\ufffd broken running text about nothing in particular"}, {"a": 1}]
    import_rows(write(tmp_path / "rows.jsonl", first), "fees", by=by)
    import_rows(write(tmp_path / "rows.jsonl", pairs(14)), "fees", by=by)

    def invoke(*words):
        ended = CliRunner().invoke(cli.app, ["datasets", *words, "--workspace", str(registry.workspace.root)])
        if ended.exception and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        return ended.output

    return invoke


def test_list(run):
    assert [line.split()[1] for line in run("list").splitlines()] == ["fees@1", "fees@2"]
    assert [each["facts"]["num_rows"] for each in json.loads(run("list", "fees", "--json"))] == [13, 14]
    assert "has been published" in run("list", "other")


def test_show(run):
    text = run("show", "fees@1")
    assert "13 of 14 records are rows" in text
    assert "1 rows with encoding: report" in text
    assert "rows.jsonl:14 is of no known format" in text
    assert json.loads(run("show", "fees@1", "--json"))["quality"]["rows_with_finding"]["encoding"] == 1


def test_show_writes_a_page(run, registry, tmp_path):
    page = tmp_path / "page.html"
    assert run("show", "fees@1", "--html", str(page)) == f"wrote {page}\n"
    text = page.read_text()
    assert text.count("<svg") == 5
    assert "13 of\n14 records are rows" in text
    assert "is of no known format" in text
    assert "1 broken characters (U+FFFD)" in text
    registry.publish("synthetic", "plain", inputs={"n": 1})
    with pytest.raises(UsageError, match="has no quality report"):
        run("show", "plain", "--html", str(page))


def test_diff(run):
    assert run("diff", "fees@1", "2").splitlines()[0] == (
        "fees@1 -> fees@2: 2 added, 1 removed, 0 changed, 12 same, 0 moved"
    )
    assert json.loads(run("diff", "fees@1", "dataset/fees@2", "--json"))["counts"]["added"] == 2


def test_export(run, tmp_path):
    assert "wrote 12 of 13 rows" in run("export", "fees@1", "--format", "alpaca", "--out", str(tmp_path / "o.jsonl"))
    with pytest.raises(UsageError, match="there already"):
        run("export", "fees@1", "--out", str(tmp_path / "o.jsonl"))
    with pytest.raises(UsageError, match="there is no format 'x'"):
        run("export", "fees@1", "--format", "x", "--out", str(tmp_path / "p.jsonl"))


def test_an_unknown_version_is_named(run):
    with pytest.raises(UsageError, match="fes"):
        run("show", "fes")
