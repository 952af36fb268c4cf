"""Erasure: everything of a person or a document goes, and every proof stays."""

import json
import os

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from app.cli import app
from app.core.digests import canonical_json
from app.core.parquet import write_rows
from app.governance import erasure
from app.governance.erasing import _without
from app.governance.erasure import ErasureBlocked, NothingToErase, erase, resume, unfinished
from app.governance.matching import Matcher, SubjectTooShort
from app.inference.retrievers import Source
from app.ledger import merkle
from app.ledger.batches import read_part
from app.ledger.erasures import ErasedDocuments
from app.ledger.log import ERASURE
from app.ledger.note import read_checkpoint
from app.ledger.receipts import check_receipt, commit
from app.ledger.verify import verify
from app.registry.tables import CHUNKS
from app.retrieval.filters import Scope
from app.retrieval.learnt import Asked, Learnt, Terms, codes_of
from app.retrieval.lexical import Analyser
from app.retrieval.search import SearchIndex
from app.retrieval.shards import write_shards
from app.retrieval.vectors import build, search
from app.serving import replicas
from app.serving.log import receipt_proof
from app.serving.settings import ServingSettings
from tests.attacks.erasable import DIM, NAME, TEXTS, all_bytes, answer_row, chunk, erasable, places_of, rows_of


@pytest.fixture
def world(registry, tmp_path):
    return erasable(registry, tmp_path)


CASES = {
    "a name": ({"subjects": [NAME]}, [NAME, "extension 4411"], ["c1"], ["q1"]),
    "a name in other words": ({"subjects": ["zuzana  OKAFOR-lindqvist"]}, [NAME], ["c1"], ["q1"]),
    "a document by its source": (
        {"documents": ["staff.md"]},
        ["Quayside", "deputy", "staff.md"],
        ["c2", "c3"],
        ["q2", "q3"],
    ),
    "a document by its id": ({"documents": ["d1"]}, ["Quayside", "spare key"], ["c2", "c3"], ["q2", "q3"]),
    "a user": ({"subjects": ["user-7781"]}, ["user-7781"], [], ["q4"]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_content_is_gone_and_all_else_stays(world, case):
    what, texts, chunks, requests = CASES[case]
    for text in texts:
        assert places_of(world.workspace, text), "the search that follows can fail"
    erase(world, **what, reason="asked for", actor="jane")
    for text in texts:
        assert places_of(world.workspace, text) == set()
    report = verify(world.workspace)
    assert report.faults == []
    assert any("erased by leaf" in note for note in report.notes) or not chunks
    assert [row["chunk_id"] for row in rows_of(world, "dataset", "chunks.parquet")] == rest("c", chunks)
    parents = ["p1", "p2"] if "c1" in chunks else ["p0", "p2"] if "c2" in chunks else ["p0", "p1", "p2"]
    assert [row["parent_id"] for row in rows_of(world, "dataset", "parents.parquet")] == parents
    assert [row["chunk_id"] for row in rows_of(world, "index", "chunks.parquet")] == rest("c", chunks)
    assert [row["chunk_id"] for row in rows_of(world, "synthetic", "rows.parquet")] == rest("c", chunks)
    assert [row["question_id"] for row in rows_of(world, "suite", "rows.parquet")] == rest("s", [c[1:] for c in chunks])
    assert len(rows_of(world, "evaluation", "rows.parquet")) == 5 - len(chunks)
    part = read_part(world.workspace.requests_dir / "part.parquet")
    assert part["request_id"].to_pylist() == rest("q", requests)


def rest(letter, gone):
    return [f"{letter}{n}" for n in range(5) if f"{letter}{n}" not in gone and str(n) not in gone]


def test_the_index_forgets_the_vector_and_finds_the_others(world):
    erase(world, subjects=[NAME], reason="asked for", actor="jane")
    index = SearchIndex.open(world.folder(world.world["index"]))
    assert len(index) == 4
    assert [row["row"] for row in rows_of(world, "index", "windows.parquet")] == [0, 0, 1, 1, 2, 2, 3, 3]
    hits = index.search([""] * 5, np.eye(5, DIM, dtype=np.float32), 5)
    assert [found[0].chunk_id for place, found in enumerate(hits) if place != 1] == ["c0", "c2", "c3", "c4"]
    assert all(hit.chunk_id != "c1" for found in hits for hit in found)


@pytest.mark.parametrize(("case", "word"), [("a name", b"lindqvist"), ("a document by its id", b"quaysid")])
def test_a_divided_index_forgets_and_ranks_as_one_in_one_piece(world, tmp_path, case, word):
    """With the document, a whole shard is left without a chunk. What BM25 learnt stays, and holds no words."""
    vectors, indexes = np.eye(5, DIM, dtype=np.float32), []
    said, chunks = [f"Where is {NAME}?", "Who is at Quayside?", "How often are votes?"], [chunk(n) for n in range(5)]
    asked = Asked.of(said, [{1}, {2, 3}, {4}], [each["chunk_id"] for each in chunks], Analyser("english"))
    learnt = Learnt(Terms(codes_of(["lindqvist"]), np.array([2], np.float32)), asked)
    for most in (2, 99):
        folder = tmp_path / str(most)
        folder.mkdir()
        write_shards(folder, vectors, chunks, windows=np.arange(5), most=most, learnt=learnt)
        made = {"inputs": {"i": most}, "parents": [world.world["dataset"].digest]}
        indexes.append(world.publish("index", "divided", folder=folder, **made))
    what, _, gone, _ = CASES[case]
    asked = [text for _, _, text in TEXTS] + ["Who may vote on the spare key?"]
    queries = np.ones((6, DIM), dtype=np.float32) / DIM**0.5

    def found():
        opened = [SearchIndex.open(world.folder(index)) for index in indexes]
        one, other = ([[vars(hit) for hit in hits] for hits in each.search(asked, queries, 5)] for each in opened)
        assert one == other
        return opened[0], one

    before = found()[1]
    assert sum(word in data for path, data in all_bytes(world.workspace) if path.name == "vocab.index.json") == 5
    erase(world, **what, reason="asked for", actor="jane")
    left, after = found()
    assert (len(left), left.places(chunk_id=gone[0]), verify(world.workspace).faults) == (5 - len(gone), [], [])
    assert after[4][0]["scores"].lexical != before[4][0]["scores"].lexical, "no word is as rare as before"
    assert not {path for path, data in all_bytes(world.workspace) if word in data.lower()}
    holders = [replicas.ShardHolder(ServingSettings(workspace=str(world.workspace.root))) for _ in range(3)]
    for number, holder in enumerate(holders):
        given = holder.call(indexes[0].digest, number, "candidates", (asked, queries, 5, Scope()))
        here = SearchIndex.open(world.folder(indexes[0]))._parts.shards[number].candidates(asked, queries, 5)
        assert [each.lexical.tolist() for each in given] == [each.lexical.tolist() for each in here]


@pytest.mark.parametrize("kind", ["flat", "ivf", "ivf-rabitq", "hnsw"])
def test_every_kind_of_index_closes_up_behind_a_vector_that_goes(tmp_path, kind):
    vectors = np.random.default_rng(0).normal(size=(500, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    gone = np.arange(500) % 7 == 0
    kept = _without(build(vectors, kind), gone)
    _, found = search(kept, vectors[~gone][:50], 1)
    assert kept.ntotal == 500 - gone.sum()
    assert found[:, 0].tolist() == list(range(50))


def test_the_words_of_an_index_keep_nothing_of_what_goes(world):
    named = {path.name for path, data in all_bytes(world.workspace) if b"lindqvist" in data}
    assert "vocab.index.json" in named
    erase(world, subjects=[NAME], reason="asked for", actor="jane")
    assert not {path for path, data in all_bytes(world.workspace) if b"lindqvist" in data.lower()}


def test_a_serving_replica_finds_it_no_more(world, monkeypatch):
    class Encoder:
        dim = DIM

        def encode(self, texts):
            return np.eye(5, DIM, dtype=np.float32)[[1] * len(texts)]

    monkeypatch.setattr(Source, "load_encoder", lambda self, **_: Encoder())
    monkeypatch.setattr(replicas, "LOOK_AGAIN_S", 0.0)
    worker = replicas.Retriever(ServingSettings(workspace=str(world.workspace.root)))
    asked = [replicas.Asked(world.world["index"].digest, "Who?", 5)]
    assert "c1" in [passage.chunk_id for passage in worker.retrieve(asked)[0].passages]
    erase(world, subjects=[NAME], reason="asked for", actor="jane")
    assert sorted(passage.chunk_id for passage in worker.retrieve(asked)[0].passages) == ["c0", "c2", "c3", "c4"]


def test_every_older_proof_still_holds(world):
    key = world.ledger.signer.public
    before = world.ledger.checkpoint()
    old = read_checkpoint(before, [key])
    inclusion = [world.ledger.inclusion_proof(n, old.size) for n in range(old.size)]
    receipts = [receipt_proof(world.workspace.requests_dir, world.ledger, f"q{n}") for n in range(5)]
    digests = [version.digest for version in world.versions()]
    erase(world, subjects=[NAME], documents=["d1"], reason="asked for", actor="jane")
    assert [version.digest for version in world.versions()] == digests
    leaves = [leaf.statement.to_bytes() for leaf in world.ledger.leaves()]
    for n, proof in enumerate(inclusion):
        leaf = merkle.leaf_hash(leaves[n])
        assert merkle.verify_inclusion(leaf, index=n, size=old.size, proof=proof, root=old.root)
    path = world.ledger.consistency_proof(old.size)
    new = read_checkpoint(world.ledger.checkpoint(), [key])
    roots = {"old_root": old.root, "new_root": new.root}
    assert merkle.verify_consistency(old_size=old.size, new_size=new.size, proof=path, **roots)
    for n, proof in enumerate(receipts):
        again = receipt_proof(world.workspace.requests_dir, world.ledger, f"q{n}")
        asked = {"header": world.world["headers"][n], "response": answer_row(n)["response_json"]}
        for each in (proof, again):
            assert check_receipt(each, verifier=key, **asked).faults == [], n


def test_what_was_made_of_a_request_goes_by_its_id_and_nothing_else_of_that_name():
    matcher = Matcher(subjects=[NAME])
    log = pa.table({"request_id": ["r1", "r2"], "question": [f"Who is {NAME}?", "Who?"]})
    shadow = pa.table({"question_id": ["r1", "r2"], "judged_by": ["model", "model"]})
    sources = ["feedback", "shadow", "suite", "shadow"]
    outcomes = pa.table({"row_id": ["r1", "r1", "r1", "r2"], "source": sources, "judged": [[1.0]] * 4})
    judged = pa.table({"row_id": ["r1", "r2"], "quality_last": [1.0, 1.0]})
    suite = pa.table({"question_id": ["r1"], "question": ["Where is the vault?"]})
    for _ in range(2):
        for table in (log, shadow, outcomes, judged, suite):
            matcher.learn(table, matcher.rows(table))
    assert [list(matcher.rows(table)) for table in (shadow, judged)] == [[True, False]] * 2
    assert list(matcher.rows(outcomes)) == [True, True, False, False]
    assert list(matcher.rows(suite)) == [False]


def test_leaf_and_record_hold_the_subject_as_a_commitment_alone(world):
    result = erase(world, subjects=[NAME], reason="asked for", actor="jane")
    leaf = next(iter(world.ledger.leaves(ERASURE)))
    target = canonical_json({"documents": [], "subjects": [NAME]})
    assert leaf.index == result.leaf
    assert leaf.statement.subject == commit(bytes.fromhex(result.opening), target)
    record = world.store.manifest(ERASURE, leaf.statement.payload)
    assert NAME not in json.dumps(record)
    assert "handbook.md" not in json.dumps(record)
    assert record["inputs"]["reason"] == "asked for"
    assert {entry["file"] for entry in record["facts"]["files"]} >= {"chunks.parquet", "index.faiss", "part.parquet"}


def test_what_people_must_do_is_said(world):
    result = erase(world, subjects=[NAME], reason="asked for", actor="jane", dry_run=True)
    assert list(result.retrain) == ["small@1"]
    assert list(result.rebuild) == ["router handbook@1"]
    assert list(result.sources) == ["handbook.md"]
    assert result.leaf is None
    assert places_of(world.workspace, NAME), "a dry run changes nothing"
    assert {path.name for path in (world.workspace.root / "erasures").glob("*")} == {".lock"}
    text = "\n".join(erasure.lines(result))
    for said in ("must be retrained: model small@1", "router handbook@1", "handbook.md", "part.parquet: 1 rows"):
        assert said in text


def test_what_no_erasure_reaches_is_named(world):
    world.publish("trigger", "t", inputs={"who": NAME})
    (world.workspace.logs_dir).mkdir()
    (world.workspace.logs_dir / "job.log").write_text(f"question by {NAME}\n")
    stray = world.workspace.root / "store" / "dataset" / ("0" * 64) / "files"
    stray.mkdir(parents=True)
    write_rows(stray / "chunks.parquet", [chunk(1)], schema=CHUNKS)
    half = world.workspace.requests_dir / ".part.parquet.tmp"
    half.write_text(NAME)
    os.utime(half, (0, 0))
    left = erase(world, subjects=[NAME], reason="asked for", actor="jane").left_over
    assert not half.exists()
    assert any("files/chunks.parquet, which no version names" in each for each in left)
    assert any("manifest of trigger t@1" in each for each in left)
    assert any("logs/job.log" in each for each in left)


def test_models_are_deleted_when_asked_but_not_in_production(world, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"learned " + NAME.encode())
    parents = [world.world["synthetic"].digest]
    model = world.publish("model", "large", folder=folder, inputs={"m": 2}, parents=parents)
    release = world.publish("release", "assistant", inputs={"r": 1}, parents=[model.digest])
    move(world, release)
    with pytest.raises(ErasureBlocked, match="large@1 is in production"):
        erase(world, subjects=[NAME], reason="asked for", actor="jane", delete_models=True)
    assert places_of(world.workspace, NAME)
    move(world, None)
    erase(world, subjects=[NAME], reason="asked for", actor="jane", delete_models=True)
    assert places_of(world.workspace, NAME) == set()
    assert verify(world.workspace).faults == []


def move(registry, release):
    from sqlalchemy import delete, insert, select

    from app.core.schema import aliases, versions

    with registry.database.write() as connection:
        connection.execute(delete(aliases))
        if release:
            row = connection.execute(select(versions.c.id).where(versions.c.digest == release.digest)).scalar_one()
            values = {"kind": "release", "name": release.name, "alias": "production", "version_id": row}
            connection.execute(insert(aliases).values(**values, updated_at=""))


@pytest.mark.parametrize("step", ["publish", "append", "first file", "last file"])
def test_an_erasure_killed_in_the_middle_goes_on(world, step, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*_, **__):
        raise Killed

    real = erasure._apply
    targets = {"publish": (world.store, "publish", killed), "append": (world.ledger, "append", killed)}
    applied = []

    def some(entry, staged, registry):
        if step == "first file" or len(applied) == 5:
            raise Killed
        applied.append(entry)
        real(entry, staged, registry)

    with monkeypatch.context() as patch:
        patch.setattr(*targets.get(step, (erasure, "_apply", some)))
        with pytest.raises(Killed):
            erase(world, subjects=[NAME], reason="asked for", actor="jane")
    kinds = {fault.kind for fault in verify(world.workspace).faults}
    assert kinds == (set() if step in targets else {"erasure-under-way"})
    assert len(unfinished(world)) == 1
    with pytest.raises(ErasureBlocked, match="--resume"):
        erase(world, subjects=["somebody else"], reason="asked for", actor="jane")
    resume(world)
    assert resume(world) == []
    assert verify(world.workspace).faults == []
    assert places_of(world.workspace, NAME) == set()
    assert len(list(world.ledger.leaves(ERASURE))) == 1


def test_one_erasure_after_another(world):
    erase(world, subjects=[NAME], reason="asked for", actor="jane")
    erase(world, documents=["d1"], reason="withdrawn", actor="jane")
    assert verify(world.workspace).faults == []
    assert [row["chunk_id"] for row in rows_of(world, "index", "chunks.parquet")] == ["c0", "c4"]
    with pytest.raises(NothingToErase):
        erase(world, subjects=[NAME], reason="asked for", actor="jane")


def test_an_erased_document_is_known_and_no_other(world):
    erase(world, documents=["staff.md"], reason="withdrawn", actor="jane")
    erased = ErasedDocuments(world.ledger, world.store)
    assert erased.leaf_of("d1") == next(iter(world.ledger.leaves(ERASURE))).index
    assert [erased.leaf_of(each) for each in ("d0", "d2", "")] == [None, None, None]


@pytest.mark.parametrize("subject", ["", "ab", "  a ", "?!?"])
def test_a_subject_that_is_in_everything_is_refused(world, subject):
    with pytest.raises(SubjectTooShort):
        erase(world, subjects=[subject], reason="asked for", actor="jane")


def test_a_reason_with_the_subject_in_it_is_refused(world):
    result = run(world, "--subject", NAME, "--reason", f"{NAME} asked")
    assert result.exit_code != 0
    assert list(world.ledger.leaves(ERASURE)) == []


def run(registry, *arguments):
    return CliRunner().invoke(app, ["erase", "-w", str(registry.workspace.root), *arguments])


def test_the_command(world):
    dry = json.loads(run(world, "--document", "staff.md", "--reason", "withdrawn", "--dry-run", "--json").stdout)
    assert (dry["num_rows"] > 0, dry["leaf"]) == (True, None)
    done = run(world, "--document", "staff.md", "--reason", "withdrawn", "--by", "jane")
    assert done.exit_code == 0
    assert "must be retrained: model small@1" in done.stdout
    assert "0 erasures finished" in run(world, "--resume").stdout
    assert run(world).exit_code != 0


# What an attacker makes of it
