"""Work on files: one outcome a document, duplicates and limits in the order of the documents."""

from pathlib import Path

from app.core.digests import digest_bytes
from app.documents.errors import CannotConvert
from app.documents.read import SourceFile, scan
from app.documents.sections import Converted, Section
from app.documents.settings import DocumentSettings
from app.documents.work import FileWorker, Outcome, Part, merge_outcomes, plan_batches, split_work

SETTINGS = DocumentSettings()


class Converts:
    """A converter that refuses what is named bad."""

    def convert(self, file: SourceFile) -> Converted:
        if "bad" in file.source:
            raise CannotConvert("it is bad")
        return Converted("T", (Section(("T",), file.path.read_text()),))


def work(folder: Path, *, limit: int | None = None, num_workers: int = 3) -> list[Outcome]:
    worker = FileWorker(settings=SETTINGS, count_tokens=lambda text: len(text.split()), sandbox=Converts())
    parts = split_work(scan(folder, limits=SETTINGS.limits).files, num_workers=num_workers, limit=limit)
    outcomes = [outcome for part in reversed(parts) for outcome in worker.outcomes(part)]
    return list(merge_outcomes(sorted(outcomes, key=lambda outcome: outcome["order"]), limit=limit))


def names(outcomes: list[Outcome]) -> list[str]:
    return [(outcome["document"] or outcome["reject"] or {})["source"] for outcome in outcomes]


def test_each_document_has_one_outcome_and_the_first_of_two_alike_is_kept(tmp_path: Path):
    for name, text in (("a.md", "same"), ("b.md", "same"), ("bad.md", "other")):
        (tmp_path / name).write_text(text)
    one, two, bad = work(tmp_path)
    assert one["document"]["num_chunks"] == 1
    assert one["chunks"][0]["document_id"] == one["document"]["document_id"]
    assert two["reject"]["reason"] == "duplicate of a.md"
    wanted = {"source": "bad.md", "reason": "it is bad", "stage": "convert", "bytes": 5}
    assert bad["reject"] == wanted | {"digest": digest_bytes(b"other")}


def test_rows_are_shared_between_workers_without_loss(tmp_path: Path):
    (tmp_path / "d.jsonl").write_text("".join(f'{{"id": {n}, "text": "text {n}"}}\n' for n in range(10)))
    (tmp_path / "z.md").write_text("last")
    outcomes = work(tmp_path)
    assert names(outcomes) == [*(f"d.jsonl#{n}" for n in range(10)), "z.md"]
    assert outcomes == work(tmp_path, num_workers=1)
    assert names(work(tmp_path, limit=4)) == [f"d.jsonl#{n}" for n in range(4)]


def file_of(num_bytes: int, kind: str = "md") -> SourceFile:
    return SourceFile(Path("x"), f"{num_bytes}.{kind}", kind, "sha256:0", num_bytes)


def test_the_dearest_parts_come_first_and_batches_shrink():
    parts = [Part(index, file_of(size)) for index, size in enumerate([10, 2_000_000, *[50_000] * 60, 900_000])]
    batches = plan_batches(parts, num_workers=2, max_parts=16)
    sizes = [len(batch) for batch in batches]
    assert [part.file.num_bytes for batch in batches[:2] for part in batch] == [2_000_000, 900_000]
    assert sizes[2:] == sorted(sizes[2:], reverse=True)
    assert sizes[-3:] == [1, 1, 1]
    assert sorted(part.index for batch in batches for part in batch) == list(range(63))


def test_a_batch_is_bounded_and_bytes_of_packed_formats_count_less():
    small = [Part(index, file_of(10)) for index in range(100)]
    assert max(map(len, plan_batches(small, num_workers=1, max_parts=7))) == 7
    pair = [Part(0, file_of(400_000, "pdf")), Part(1, file_of(100_000, "md"))]
    assert [part.index for batch in plan_batches(pair, num_workers=1, max_parts=4) for part in batch] == [1, 0]
    assert plan_batches([], num_workers=2, max_parts=4) == []
