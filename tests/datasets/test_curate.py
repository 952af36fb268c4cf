"""From files to a version: nothing is lost, the same gives the same, every format goes out and comes back."""

import gzip
import json

import hypothesis
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.parquet import read_rows, write_rows
from app.datasets.curate import Curation, NoRows, Reading, assess, curate, import_rows, read_file, rows_of
from app.datasets.diff import compare
from app.datasets.export import FORMAT_NAMES, export_rows
from app.datasets.pipeline import here
from app.datasets.quality import drop_repeated
from app.datasets.read import BYTE_ORDER_MARKS, RowFile
from app.datasets.schema import REJECTS, ROWS
from app.datasets.settings import DatasetSettings, QualitySettings
from app.evaluation.suite import publish_suite
from app.governance.erasure import erase
from app.governance.evidence import Evidence
from app.governance.gate import judge
from app.governance.impact import find_impact
from app.governance.policy import load_policy
from app.ledger.verify import verify
from app.registry.tables import CHUNKS
from app.registry.whole import NoChunks
from app.retrieval.settings import RetrievalSettings
from app.synthesis.schema import ROWS as SYNTHETIC
from app.synthesis.settings import SynthesisSettings

LIGHT = DatasetSettings(quality=QualitySettings(personal="skip", embedding="skip"))


@pytest.fixture
def by(registry):
    return Curation(registry, LIGHT, here)


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def pairs(num, *, start=0, **more):
    return [
        {"id": str(n), "question": f"What is the fee of account {n}?", "answer": f"{n} euros", **more}
        for n in range(start, start + num)
    ]


def table(registry, version, name):
    return read_rows(registry.folder(version) / f"{name}.parquet")


def test_records_in_are_rows_and_rejects_out(by, registry, tmp_path):
    records = [*pairs(40, doc_id="fees"), *pairs(3, doc_id="other"), {"question": "x"}, {"question": "x", "answer": 3}]
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "rows.jsonl", records)
    (tmp_path / "in" / "broken.jsonl").write_text("{")
    (tmp_path / "in" / "notes.docx").write_text("x")
    version = import_rows(tmp_path / "in", "fees", by=by)
    rejects = table(registry, version, "rejects")
    assert (version.kind, version.ref) == ("dataset", "fees@1")
    assert version.facts["num_rows"] == 40
    assert sorted(row["stage"] for row in rejects) == ["exact_duplicate"] * 3 + ["format"] * 2 + ["read"] * 2
    assert [row["place"] for row in rejects if row["stage"] == "format"] == [44, 45]
    report = json.loads((registry.folder(version) / version.facts["quality"]["report"]).read_text())
    assert report["num_read"] == report["num_rows"] + report["num_rejected"] == 47
    assert "quality.json" in version.manifest["files"]
    assert {row["num_rows"] for row in table(registry, version, "documents")} == {43, 0}


def test_the_same_files_give_the_same_version_and_other_settings_another(by, registry, tmp_path):
    source = write(tmp_path / "rows.jsonl", pairs(20))
    first = import_rows(source, "fees", by=by)
    assert import_rows(source, "fees", by=by).digest == first.digest
    other = LIGHT.model_copy(update={"splits": LIGHT.splits.model_copy(update={"seed": 1})})
    assert import_rows(source, "fees", by=Curation(registry, other, here)).ref == "fees@2"


def test_rows_that_share_a_question_with_a_suite_are_dropped(registry, tmp_path):
    suite = publish_suite(
        "mine", [{"question_id": "1", "question": "What is the fee of account 3?", "answers": ["3 euros"],
                  "subject": "", "source": ""}], origin="test", registry=registry
    )  # fmt: skip
    source = write(tmp_path / "rows.jsonl", pairs(20))
    version = import_rows(source, "fees", by=Curation(registry, LIGHT, here, [suite]))
    rejects = table(registry, version, "rejects")
    assert [(row["place"], row["stage"]) for row in rejects] == [(4, "contamination")]
    assert "mine@1" in rejects[0]["reason"]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", b'{"question": "a\\ud800", "answer": "b"}'),
        ("a.jsonl", b'{"question": "a", "answer": "b", "id": "\\udfff"}'),
        (
            "a.jsonl",
            b'{"request_json": "{\\"messages\\": [{\\"role\\": \\"user\\", \\"content\\": '
            b'\\"\\\\ud800\\"}]}", "response": {"choices": [{"message": {"role": "assistant", "content": "b"}}]}}',
        ),
        ("a.jsonl", b'{"messages": [{"role": {}, "content": 1}]}'),
        ("a.jsonl", b'{"question": {"a": 1}, "answer": ["b"]}'),
        ("a.jsonl", b'{"input_ids": [1e400]}'),
        ("a.yaml", b"1: a\nb: 2\n"),
        ("a.yaml", b"question: a\nanswer: b\nmore: {1: a, b: 2}\n"),
        ("a.csv", b"question,answer\n,\n"),
    ],
)
def test_odd_records_are_rejects_and_break_nothing(by, registry, tmp_path, name, data):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(data)
    write(tmp_path / "in" / "good.jsonl", pairs(2))
    version = import_rows(tmp_path / "in", "odd", by=by)
    assert (version.facts["num_rows"], version.facts["num_rejected"]) == (2, 1)


LINES = st.one_of(
    st.text(max_size=30).map(str.encode),
    st.binary(max_size=30),
    st.dictionaries(
        st.sampled_from(["question", "answer", "prompt", "completion", "messages", "unmask", "text", "label", "split",
                         "input_ids", "instruction", "output", "document", "id", "request", "response"]),
        st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=8), st.lists(st.integers(0, 9)),
                  st.just([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])),
    ).map(lambda record: json.dumps(record).encode()),
)  # fmt: skip


@given(
    lines=st.lists(LINES.filter(lambda line: line.strip() and b"\n" not in line), max_size=12), gzipped=st.booleans()
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_whatever_the_lines_are_each_is_a_row_or_a_reject(tmp_path_factory, lines, gzipped):
    path = tmp_path_factory.mktemp("lines") / ("rows.jsonl.gz" if gzipped else "rows.jsonl")
    data = b"\n".join(lines)
    path.write_bytes(gzip.compress(data) if gzipped else data)
    read = read_file(RowFile(path, path.name, "jsonl"), digest="d", reading=Reading(), settings=LIGHT)
    kept, repeated = drop_repeated(read.rows, read.places)
    if not any(data.startswith(mark) for mark in BYTE_ORDER_MARKS):
        assert len(kept) + len(repeated) + len(read.rejects) == len(lines)
        assert {*read.places, *(row["place"] for row in read.rejects)} == set(range(1, len(lines) + 1))
    assert all(row["reason"] for row in [*read.rejects, *repeated])
    write_rows(path.parent / "rows.parquet", [read.rows[n] for n in kept], schema=ROWS)
    write_rows(path.parent / "rejects.parquet", [*read.rejects, *repeated], schema=REJECTS)


def test_nothing_of_it_is_a_row(by, tmp_path):
    with pytest.raises(NoRows, match="known format"):
        import_rows(write(tmp_path / "rows.jsonl", [{"a": 1}]), "fees", by=by)


def test_fields_can_be_renamed_and_formats_named(by, registry, tmp_path):
    source = write(tmp_path / "rows.jsonl", [{"ask": f"Why {n}?", "say": "So."} for n in range(5)])
    version = import_rows(source, "why", by=by, reading=Reading("pairs", {"ask": "prompt", "say": "completion"}, 3))
    assert sorted(row["question"] for row in table(registry, version, "rows")) == ["Why 0?", "Why 1?", "Why 2?"]


OTHER_FORMS = ("document", "tokens", "labelled", "preferences", "scored", "squad", "tagged")
ANNOTATED = {
    "scored": lambda n: {"text": f"Fee {n}.", "text_pair": f"Due {n}.", "score": n / 2},
    "squad": lambda n: {
        "question": "Fee?",
        "context": f"It is {n}.",
        "answers": {"text": [f"{n}"], "answer_start": [6]},
    },
    "tagged": lambda n: {"tokens": ["Fee", f"{n}"], "tags": ["O", "B-NUM"]},
}


@pytest.mark.parametrize("name", [name for name in FORMAT_NAMES if name not in OTHER_FORMS])
def test_a_version_goes_out_and_comes_back(by, registry, tmp_path, name):
    version = import_rows(write(tmp_path / "rows.jsonl", pairs(12, context="Fees are low.")), "fees", by=by)
    rows = rows_of(version, registry)
    out = tmp_path / {"parquet": "out.parquet", "csv": "out.csv", "instructlab": "out"}.get(name, "out.jsonl")
    num, refused = export_rows(rows, out, format_name=name)
    again = import_rows(out, "again", by=by)
    assert (num, refused) == (12, [])
    same = {row["question"]: row["answer"] for row in rows_of(again, registry)}
    assert same == {row["question"]: row["answer"] for row in rows}
    contexts = {row["context"] for row in rows_of(again, registry)}
    assert contexts == ({""} if name in ("messages", "requests", "alpaca") else {"Fees are low."})


@pytest.mark.parametrize("way", ["its own", "parquet", "csv", "signalbox"])
@pytest.mark.parametrize("name", ANNOTATED)
def test_what_is_said_of_a_text_goes_out_and_comes_back(by, registry, tmp_path, name, way):
    version = import_rows(write(tmp_path / "rows.jsonl", [ANNOTATED[name](n) for n in range(9)]), "said", by=by)
    rows = rows_of(version, registry)
    out = tmp_path / {"parquet": "out.parquet", "csv": "out.csv"}.get(way, "out.jsonl")
    assert export_rows(rows, out, format_name=name if way == "its own" else way) == (9, [])
    again = rows_of(import_rows(out, "again", by=by), registry)
    told = [sorted((row["row_id"], row["context"], row["extra"]) for row in each) for each in (rows, again)]
    assert told[0] == told[1]


@pytest.mark.parametrize("name", ["preferences", "signalbox", "parquet", "csv"])
def test_preferences_go_out_and_come_back_and_pass_a_gate_of_their_own(by, registry, tmp_path, name):
    given = [{"prompt": f"What is fee {n}?", "chosen": f"{n} euros", "rejected": f"{n} dollars"} for n in range(100)]
    version = import_rows(write(tmp_path / "rows.jsonl", given), "fees", by=by)
    out = tmp_path / {"parquet": "out.parquet", "csv": "out.csv"}.get(name, "out.jsonl")
    assert export_rows(rows_of(version, registry), out, format_name=name) == (100, [])
    again = rows_of(import_rows(out, "again", by=by), registry)
    assert {row["row_id"] for row in again} == {row["row_id"] for row in rows_of(version, registry)}
    assert {(row["form"], row["rejected"][-7:]) for row in again} == {("preference", "dollars")}
    if name == "preferences":
        verdict = judge(load_policy("preferences"), Evidence(version, registry), registry=registry)
        lights = {check["kind"]: check["light"] for check in verdict.facts["checks"]}
        assert "red" not in lights.values(), lights


def test_what_a_format_cannot_hold_is_named_beside_the_file(by, registry, tmp_path):
    version = import_rows(write(tmp_path / "rows.jsonl", [*pairs(2), {"text": "Running text."}]), "mixed", by=by)
    num, refused = export_rows(rows_of(version, registry), tmp_path / "out.jsonl", format_name="alpaca")
    assert (num, len(refused)) == (2, 1)
    assert json.loads((tmp_path / "out.jsonl.rejects.jsonl").read_text()) == refused[0]


def test_a_document_s_name_cannot_lead_out_of_the_folder(by, registry, tmp_path):
    version = import_rows(write(tmp_path / "rows.jsonl", pairs(2, doc_id="../../evil")), "evil", by=by)
    export_rows(rows_of(version, registry), tmp_path / "a" / "out", format_name="instructlab")
    assert [path.parent.parent for path in tmp_path.rglob("qna.yaml")] == [tmp_path / "a" / "out"]


def test_versions_are_compared_row_by_row(by, registry, tmp_path):
    first = import_rows(write(tmp_path / "rows.jsonl", pairs(20)), "fees", by=by)
    changed = [*pairs(18)[1:], {**pairs(1)[0], "answer": "nothing"}, *pairs(4, start=30)]
    second = import_rows(write(tmp_path / "rows.jsonl", changed), "fees", by=by)
    found = compare(first, second, registry=registry).to_json()
    assert found["counts"] == {"added": 4, "removed": 2, "changed": 1, "same": 17, "moved": 0}
    assert found["changed"][0]["columns"][:1] == ["answer"]
    assert compare(first, first, registry=registry).to_json()["counts"]["same"] == 20


def test_an_earlier_version_is_curated_again_or_only_assessed(by, registry, tmp_path):
    records = [*pairs(20), {**pairs(1)[0], "id": "x", "question": "What  is the fee of account 0 ?"}]
    first = import_rows(write(tmp_path / "rows.jsonl", records), "fees", by=by)
    report = assess(first, by=by)
    strict = LIGHT.quality.model_copy(update={"near_duplicates": "drop"})
    settings = LIGHT.model_copy(update={"quality": strict})
    second = curate(first, "fees", by=Curation(registry, settings, here))
    assert (report.kind, report.parents, sorted(report.manifest["files"])) == (
        "quality", [first.digest], ["findings.parquet", "quality.json"]
    )  # fmt: skip
    assert assess(first, by=by).digest == report.digest
    assert (second.ref, second.parents, second.facts["num_rows"]) == ("fees@2", [first.digest], 20)
    assert compare(first, second, registry=registry).to_json()["counts"]["removed"] == 1


CHUNK = {"document_id": "d", "source": "a.md", "text": "The office of the bank opens at nine on every working day."}


def published(registry, folder, kind, rows, *, name, schema):
    folder.mkdir()
    columns = pa.schema([column.with_nullable(True) for column in schema])
    write_rows(folder / name, [dict.fromkeys(schema.names) | row for row in rows], schema=columns)
    return registry.publish(kind, "handbook", folder=folder, inputs={"n": 1})


@pytest.mark.parametrize(
    ("kind", "rows", "name", "schema", "findings"),
    [
        ("dataset", [{**CHUNK, "chunk_id": "1"}, {**CHUNK, "chunk_id": "2", "text": CHUNK["text"] + " Call \ufffd."}],
         "chunks.parquet", CHUNKS, {"encoding": 1, "near_duplicate": 1}),
        ("dataset", [{**CHUNK, "chunk_id": "1"}, {**CHUNK, "chunk_id": "2"}], "chunks.parquet", CHUNKS,
         {"exact_duplicate": 1}),
        ("dataset", [], "chunks.parquet", CHUNKS, {}),
        ("synthetic", [{"row_id": "r", "question": "Who?", "answer": "Jo", "answers": ["Jo"], "split": "train"}],
         "rows.parquet", SYNTHETIC, {}),
    ],
)  # fmt: skip
def test_documents_and_synthetic_rows_have_a_report_beside_them(
    by, registry, tmp_path, kind, rows, name, schema, findings
):
    version = published(registry, tmp_path / "made", kind, rows, name=name, schema=schema)
    report = assess(version, by=by)
    assert (report.parents, report.facts["num_rows"], report.facts["num_rejected"]) == ([version.digest], len(rows), 0)
    assert report.facts["rows_with_finding"] == findings
    assert assess(version, by=by).digest == report.digest
    assert {row["row_id"] for row in table(registry, report, "findings")} <= {row.get("chunk_id") for row in rows}


def test_the_data_gate_of_rows_is_green_for_whole_ones_and_red_for_few(by, registry, tmp_path):
    policy = load_policy("rows")
    whole = import_rows(write(tmp_path / "rows.jsonl", pairs(300)), "fees", by=by)
    few = import_rows(write(tmp_path / "few.jsonl", pairs(3)), "few", by=by)
    lights = {
        name: {check["kind"]: check["light"] for check in judge(policy, Evidence(each, registry), registry=registry)
               .facts["checks"]}
        for name, each in (("whole", whole), ("few", few))
    }  # fmt: skip
    assert "red" not in lights["whole"].values(), lights
    assert lights["few"]["min_rows"] == "red"


def test_a_file_s_reach_is_known_and_once_erased_it_stays_out(by, registry, tmp_path):
    source = write(tmp_path / "rows.jsonl", pairs(20))
    version = import_rows(source, "fees", by=by)
    assess(version, by=by)
    found = find_impact(registry, "rows.jsonl").counts()
    assert (found["synthetic rows"], found["quality versions"]) == (20, 1)
    erase(registry, documents=["rows.jsonl"], reason="asked for", actor="test")
    assert verify(registry.workspace).faults == []
    assert table(registry, version, "rows") == []
    with pytest.raises(NoRows, match="erased: leaf"):
        import_rows(source, "fees", by=by)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "template", "limit", "least"),
    [("instructlab_taxonomy/qna.jsonl.gz", "instructlab", 60, 300), ("alpaca_5000", "alpaca", 300, 450),
     ("gsm8k_train", "pairs", 300, 290)],
)  # fmt: skip
def test_public_sets(by, registry, shared_data, tmp_path, name, template, limit, least):
    version = import_rows(shared_data / name, "public", by=by, reading=Reading(limit=limit))
    rows, rejects = rows_of(version, registry), table(registry, version, "rejects")
    assert len(rows) >= least
    assert {row["template"] for row in rows} == {template}
    assert all(row["reason"] for row in rejects)
    out = tmp_path / "out"
    assert export_rows(rows, out, format_name="instructlab") == (len(rows), [])
    again = import_rows(out, "again", by=by)
    assert {(row["question"], row["answer"]) for row in rows_of(again, registry)} == {
        (row["question"], row["answer"]) for row in rows
    }


@pytest.mark.data
def test_alpaca_s_two_rows_without_an_output_are_rejects(by, registry, shared_data, tmp_path):
    with gzip.open(shared_data / "alpaca_5000" / "alpaca_5000.jsonl.gz", "rt") as file:
        records = [json.loads(line) for line in file]
    empty = [n for n, record in enumerate(records) if not record["output"]]
    chosen = [records[n] for n in [*range(20), *empty]]
    version = import_rows(write(tmp_path / "rows.jsonl", chosen), "alpaca", by=by)
    assert [row["reason"] for row in table(registry, version, "rejects")] == ["`output` is empty"] * 2


def test_imported_rows_are_no_documents_to_index_or_to_ask_about(by, registry, tmp_path):
    from app.retrieval.pipeline import build_index
    from app.synthesis.pipeline import synthesize

    version = import_rows(write(tmp_path / "rows.jsonl", pairs(3)), "fees", by=by)
    for make, settings in ((build_index, RetrievalSettings()), (synthesize, SynthesisSettings())):
        with pytest.raises(NoChunks, match="fees@1 holds rows"):
            make(version, name="fees", registry=registry, settings=settings)
