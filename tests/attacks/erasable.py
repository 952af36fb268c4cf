"""A dataset of three documents and all that is made from it, for those who erase and those who attack erasures."""

import json
import sqlite3
from datetime import UTC, datetime

import numpy as np
import pyarrow.parquet as pq

from app.core.parquet import write_rows
from app.documents.schema import DOCUMENTS, PARENTS, REJECTS
from app.evaluation.schema import ROWS as OUTCOMES
from app.evaluation.suite import publish_suite
from app.ledger.batches import batch_statement, seal, write_part
from app.ledger.verify import verify
from app.registry.tables import CHUNKS
from app.retrieval.index import write_index
from app.synthesis.schema import ROWS

NAME = "Zuzana Okafor-Lindqvist"
DIM = 8
TIME = datetime(2026, 11, 22, 9, tzinfo=UTC)
TEXTS = [
    ("d0", "handbook.md", "The yearly fee is 12 crowns."),
    ("d0", "handbook.md", f"Ask {NAME} at extension 4411 about fees."),
    ("d1", "staff.md", "The manager of the branch at Quayside decides on loans."),
    ("d1", "staff.md", "Her deputy holds the spare key of the vault."),
    ("d2", "rules.md", "Members vote once a year."),
]


def chunk(number):
    document, source, text = TEXTS[number]
    return {
        "chunk_id": f"c{number}",
        "document_id": document,
        "source": source,
        "title": source.removesuffix(".md").title(),
        "heading_path": ["Part"],
        "ordinal": number,
        "text": text,
    }


def parent(number):
    """The row that both chunks of a document are cut from: it goes with one of them, and does not take the other."""
    own = [text for document, _, text in TEXTS if document == f"d{number}"]
    source = next(source for document, source, _ in TEXTS if document == f"d{number}")
    named = {"parent_id": f"p{number}", "document_id": f"d{number}", "source": source, "title": "Part"}
    return {**dict.fromkeys(PARENTS.names, 0), **named, "heading_path": ["Part"], "text": " ".join(own)}


def taught(number):
    empty = dict.fromkeys(ROWS.names, "")
    answer = TEXTS[number][2]
    ids = {"row_id": f"row{number}", "chunk_id": f"c{number}", "document_id": TEXTS[number][0], "seed": 1}
    words = {"question": f"What does passage {number} say?", "answer": answer, "answers": [answer], "split": "train"}
    return {**empty, **ids, **words, "source": TEXTS[number][1]}


def answer_row(number, **more):
    cited = {name: chunk(number)[name] for name in ("chunk_id", "document_id", "source", "title")}
    said = {"question": f"question {number}?", "answer": TEXTS[number][2], "citations": [cited], "status": 200}
    asked = {"messages": [{"role": "user", "content": f"question {number}?"}], **more}
    response = {"choices": [{"message": {"content": TEXTS[number][2]}}]}
    return {"request_id": f"q{number}", "time": TIME, **said, "request_json": asked, "response_json": response}


def erasable(registry, tmp_path):
    """A dataset of three documents and all that is made from it, with five answers in the log."""

    def publish(kind, name, files, **more):
        folder = tmp_path / kind
        folder.mkdir()
        for file, (schema, rows) in files.items():
            write_rows(folder / file, rows, schema=schema)
        return registry.publish(kind, name, folder=folder, inputs={"kind": kind}, **more)

    unsaid = dict.fromkeys([*DOCUMENTS.names, *PARENTS.names])
    documents = [
        {**unsaid, "document_id": d, "source": s, "title": s, "format": "md", "num_chunks": 2, "num_chars": 90}
        for d, s in dict((d, s) for d, s, _ in TEXTS).items()
    ]
    rejects = [{"source": "cv.pdf", "reason": f"the file of {NAME} is locked", "stage": "convert", "bytes": 5}]
    rejects[0]["digest"] = None
    chunks, rows = [chunk(n) for n in range(5)], [taught(n) for n in range(5)]
    files = {"documents.parquet": (DOCUMENTS, documents), "chunks.parquet": (CHUNKS, chunks)}
    files["parents.parquet"] = (PARENTS, [parent(n) for n in range(3)])
    dataset = publish("dataset", "handbook", {**files, "rejects.parquet": (REJECTS, rejects)})
    synthetic = publish("synthetic", "handbook-qa", {"rows.parquet": (ROWS, rows)}, parents=[dataset.digest])
    folder = tmp_path / "vectors"
    folder.mkdir()
    twice = np.repeat(np.arange(5), 2)
    write_index(folder, np.eye(5, DIM, dtype=np.float32)[twice], chunks, windows=twice)
    index = registry.publish("index", "handbook", folder=folder, inputs={"i": 1}, parents=[dataset.digest])
    model = publish("model", "small", {}, parents=[synthetic.digest])
    suite = publish_suite(
        "handbook",
        [{"question_id": f"s{n}", **{k: row[k] for k in ("question", "answers", "subject", "source")}}
         for n, row in enumerate(rows)],
        origin="test",
        registry=registry,
    )  # fmt: skip
    empty = dict.fromkeys(OUTCOMES.names)
    outcomes = [
        {**empty, "question_id": f"s{n}", "question": row["question"], "answers": row["answers"], "prediction": "?"}
        for n, row in enumerate(rows)
    ]
    evaluation = publish("evaluation", "small", {"rows.parquet": (OUTCOMES, outcomes)}, parents=[model.digest])
    router = publish("router", "handbook", {}, parents=[model.digest])
    part = registry.workspace.requests_dir / "part.parquet"
    part.parent.mkdir()
    sealed = [seal(answer_row(n, **({"user": "user-7781"} if n == 4 else {}))) for n in range(5)]
    write_part(part, sealed)
    registry.ledger.append([batch_statement(part)])
    made = (dataset, synthetic, index, model, suite, evaluation, router)
    registry.world = {version.kind: version for version in made} | {"headers": [each.header for each in sealed]}
    assert verify(registry.workspace).ok
    return registry


def rows_of(registry, kind, name):
    return pq.read_table(registry.folder(registry.world[kind]) / name).to_pylist()


def all_bytes(workspace):
    """Everything that the workspace holds, tables decompressed, JSON unescaped."""
    for path in sorted(workspace.root.rglob("*")):
        if not path.is_file():
            continue
        yield path, path.read_bytes()
        if path.suffix == ".parquet":
            yield path, json.dumps(pq.read_table(path).to_pylist(), default=str, ensure_ascii=False).encode()
        if path.suffix == ".db":
            with sqlite3.connect(path) as connection:
                yield path, "\n".join(connection.iterdump()).encode()


def places_of(workspace, text):
    return {path.name for path, data in all_bytes(workspace) if text.encode() in data}
