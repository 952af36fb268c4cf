"""The sample corpus: every format, the same bytes each time, every fact somewhere."""

import io
import time
import zipfile
from collections import Counter

import pytest

from app.core.digests import digest_bytes
from app.demo.corpus import BROKEN_PATH, corpus_files, pages, write_corpus
from app.demo.facts import WITHDRAWN, facts
from app.demo.render import markdown
from app.demo.render_office import EPOCH


@pytest.fixture(scope="module")
def first():
    return corpus_files(1)


def test_at_least_forty_documents_over_all_formats(first):
    formats = Counter(path.rpartition(".")[2] for path in first)
    assert len(first) >= 40
    assert set(formats) == {"md", "html", "docx", "pptx", "xlsx", "csv", "txt", "pdf"}
    assert min(formats.values()) >= 2


def test_the_same_bytes_on_another_day(first, monkeypatch):
    day_s = 86_400
    later = time.time() + 400 * day_s
    monkeypatch.setattr(time, "time", lambda: later)
    again = corpus_files(1)
    assert {path: digest_bytes(data) for path, data in again.items()} == {
        path: digest_bytes(data) for path, data in first.items()
    }


def test_archives_carry_no_date_of_their_making(first):
    for path, data in first.items():
        if path.endswith((".docx", ".pptx", ".xlsx")) and path != BROKEN_PATH:
            entries = zipfile.ZipFile(io.BytesIO(data)).infolist()
            assert {entry.date_time for entry in entries} == {EPOCH}, path


def test_one_document_is_broken(first):
    assert not zipfile.is_zipfile(io.BytesIO(first[BROKEN_PATH]))


@pytest.mark.parametrize("revision", [1, 2])
def test_every_fact_stands_in_a_document(revision):
    texts = [markdown(page) for page in pages(revision)]
    missing = [
        fact
        for fact in facts(revision)
        if not any(fact.entity in text and fact.attribute in text.lower() and fact.value in text for text in texts)
    ]
    assert missing == []


def test_the_second_revision_withdraws_documents_and_leaves_other_files_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("not the corpus's")
    before = write_corpus(tmp_path, revision=1)
    after = write_corpus(tmp_path, revision=2)
    gone = {path.stem for path in before} - {path.stem for path in after}
    assert gone == {name.lower().replace(" ", "-") for name in WITHDRAWN}
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {*after, tmp_path / "mine.txt"}


def test_withdrawn_entities_are_in_no_document_of_the_second_revision():
    texts = [markdown(page) for page in pages(2)]
    assert not [name for name in WITHDRAWN for text in texts if name in text]
