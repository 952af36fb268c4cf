"""Files to records: every line is a record or a reject with its place, whatever is wrong with it."""

import gzip
import json
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.datasets.formats import parse
from app.datasets.read import SourceUnusable, find_files, read_records
from app.datasets.settings import ReadSettings

BOMB = b"a0: &a0 [x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 9)
)
SMALL = ReadSettings(record_bytes=1000, file_bytes=100_000, yaml_bytes=2000)


def records(folder, *, settings=SMALL):
    files, rejects = find_files(folder)
    return [found for file in files for found in read_records(file, settings=settings)], rejects


@pytest.mark.parametrize(
    ("name", "data", "good", "faults"),
    [
        ("a.jsonl", b'{"a": 1}\n\n{"a": 2}\n', 2, []),
        ("a.jsonl", b'\xef\xbb\xbf{"a": 1}', 1, []),
        ("a.jsonl", b'{"a": 1}\n{broken\n{"a": 3}', 2, ["is not JSON"]),
        ("a.jsonl", b'{"a": "\xff"}\n{"a": 3}', 1, ["is not UTF-8 (byte 7)"]),
        ("a.jsonl", b'[1]\n"x"\n{"a": NaN}', 0, ["is a list", "is a str", "NaN is no number"]),
        ("a.jsonl", b'{"a": "' + b"x" * 2000 + b'"}\n{"a": 1}', 1, ["longer than 1000 bytes"]),
        ("a.jsonl", b"[" * 900, 0, ["is not JSON"]),
        ("a.jsonl", b'{"a": 1}\n' * 20_000, 11_112, ["goes on after"]),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n', mtime=0), 1, []),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 50, mtime=0)[:12], 0, ["cannot be read on"]),
        ("a.jsonl.gz", b"no gzip", 0, ["cannot be read on"]),
        ("a.json", b'[{"a": 1}, 2]', 1, ["is a int"]),
        ("a.json", b'{"a": 1}', 1, []),
        ("a.json", b"{", 0, ["is not JSON"]),
        ("a.csv", b'a,b\n1,"x, y"\n', 1, []),
        ("a.csv", b"a,b\n1,2,3\n4,5\n", 1, ["has 3 columns, the header 2"]),
        ("a.csv", b"a\n\xff\nb\n", 1, ["is not UTF-8"]),
        ("a.csv", b'a\n"x\n', 0, ["is not CSV"]),
        ("a.csv", b'\xef\xbb\xbf"a","b"\n1,2\n', 1, []),
        ("a.csv", b"a,b,a\n1,2,3\n", 0, ["column 'a' twice"]),
        ("a.csv", b"a\xff\n1\n", 0, ["header is not UTF-8"]),
        ("a.csv", b"a\n1\n" + b"x" * 2000 + b"\n2\n", 1, ["longer than 1000 bytes"]),
        ("a.csv", b"a\n" + b"1\n" * 60_000, 49_999, ["goes on after 100000 bytes"]),
        ("a.csv", "a\n1\n".encode("utf-16"), 0, ["is text in UTF-16"]),
        ("a.jsonl", '{"a": 1}\n'.encode("utf-16"), 0, ["is text in UTF-16"]),
        ("a.jsonl.gz", gzip.compress('{"a": 1}\n'.encode("utf-32"), mtime=0), 0, ["is text in UTF-32"]),
        ("a.jsonl", '{"a": "é"}\n{"a": "e"}\n'.encode("latin-1"), 1, ["is not UTF-8 (byte 7)"]),
        (
            "a.jsonl",
            b'{"a": 1, "a": 2}\n{"b": {"c": 1, "c": 2}}\n{"a": 1}',
            1,
            ["'a' stands twice", "'c' stands twice"],
        ),
        ("a.json", b'[{"a": 1, "a": 2}]', 0, ["'a' stands twice"]),
        ("a.tsv", b"a\tb\n1\t2\n", 1, []),
        ("a.parquet", b"PAR1 no", 0, ["is not Parquet"]),
        ("qna.yaml", b"seed_examples: [{question: a, answer: b}]\n", 1, []),
        ("qna.yaml", b"a: [\n", 0, ["is not YAML"]),
        ("qna.yaml", b"a: " + b"x" * 3000, 0, ["larger than 2000"]),
        ("qna.yaml", b"a: [{b: 1, c: 2, b: 3}]\n", 0, ["'b' stands twice"]),
        ("qna.yaml", b"a: &a [x]\nb: *a\n", 1, []),
        ("qna.yaml", b"a: &a [*a]\n", 0, ["aliases stand for too much"]),
        ("qna.yaml", BOMB, 0, ["aliases stand for too much"]),
    ],
)
def test_a_file(tmp_path, name, data, good, faults):
    (tmp_path / name).write_bytes(data)
    found, _ = records(tmp_path)
    assert sum(each.record is not None for each in found) == good
    reasons = [each.reason for each in found if each.record is None]
    assert len(reasons) == len(faults), reasons
    assert all(fault in reason for fault, reason in zip(faults, reasons, strict=True)), reasons


def test_places_are_lines(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{broken\n{"a": 2}\n')
    found, _ = records(tmp_path)
    assert [(each.place, each.record is not None) for each in found] == [(1, True), (3, False), (4, True)]


def test_parquet_rows_and_lists_in_csv_cells(tmp_path):
    pq.write_table(pa.table({"question": ["a"], "answer": ["b"]}), tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text('messages\n"[{""role"": ""user""}]"\n')
    assert [each.record for each in records(tmp_path)[0]] == [
        {"question": "a", "answer": "b"}, {"messages": [{"role": "user"}]}
    ]  # fmt: skip


def test_parquet_of_nested_and_odd_types(tmp_path):
    columns = {
        "messages": pa.array([[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]] * 3),
        "unmask": pa.array([None, True, None]),
        "at": pa.array([0, 1 << 60, 1], pa.timestamp("ms")),
        "price": pa.array([Decimal("1.5")] * 3),
        "tags": pa.array([[("k", 1)]] * 3, pa.map_(pa.string(), pa.int64())),
        "raw": pa.array([b"\xff"] * 3),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found, _ = records(tmp_path)
    assert [(each.place, each.record is None) for each in found] == [(1, False), (2, True), (3, False)]
    assert "cannot be read" in found[1].reason
    rows = [row for each in found if each.record for row in parse(each.record)]
    assert [(row["question"], row["answer"], row["unmask"]) for row in rows] == [("a", "b", False)] * 2
    assert json.loads(rows[0]["extra"]).keys() == {"at", "price", "tags", "raw"}


def test_other_files_are_rejects_and_notes_beside_rows_are_not(tmp_path):
    for name in ("SOURCE.md", "rows.bin", "rows.JSONL"):
        (tmp_path / name).write_text(json.dumps({"a": 1}))
    found, rejects = records(tmp_path)
    assert (len(found), [row["source"] for row in rejects]) == (1, ["rows.bin"])


@pytest.mark.parametrize("name", ["missing", "."])
def test_nothing_to_read(tmp_path, name):
    with pytest.raises(SourceUnusable):
        find_files(tmp_path / name)


def test_a_taxonomy_s_path_is_the_document(tmp_path):
    (tmp_path / "skills" / "fees").mkdir(parents=True)
    (tmp_path / "skills" / "fees" / "qna.yaml").write_text("seed_examples: [{question: a, answer: b}]")
    assert records(tmp_path)[0][0].record["path"] == "skills/fees"
