"""The next version of an index embeds what changed alone, and is the one that a build from nothing gives."""

from pathlib import Path

import numpy as np
import pytest

from app.core.parquet import write_rows
from app.core.workspace import Workspace
from app.inference.encoder import Encoder
from app.registry.tables import CHUNKS, CHUNKS_FILE
from app.registry.versions import Registry, Version, open_registry
from app.retrieval.pipeline import build_index
from app.retrieval.search import SearchIndex
from app.retrieval.settings import RetrievalSettings

LONG = " ".join(f"Rule {n} sets fee {n * 7}." for n in range(60))
FIRST = {
    "fees.md": ["The annual fee is 12 euros.", LONG],
    "loans.md": ["A loan runs ten years."],
    "gone.md": ["A secret."],
}
NEXT = {"fees.md": ["The annual fee is 15 euros.", LONG], "loans.md": ["A loan runs ten years."], "new.md": ["Votes."]}


class Counting:
    """The encoder, which counts what it is given; it fails at the call that it is told to."""

    def __init__(self, encoder: Encoder, *, fails: bool = False) -> None:
        self.encoder, self.given, self.fails = encoder, [], fails

    def __call__(self, texts):
        self.given += texts
        if self.fails:
            raise KeyboardInterrupt
        return self.encoder.encode_apart(texts)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder()


def dataset(registry: Registry, folder: Path, documents: dict[str, list[str]]) -> Version:
    rows = [
        {
            "chunk_id": f"{source}:{text[:30]}",
            "document_id": source,
            "source": source,
            "title": source.removesuffix(".md"),
            "heading_path": [source.removesuffix(".md")],
            "ordinal": number,
            "text": text,
        }
        for source, texts in documents.items()
        for number, text in enumerate(texts)
    ]
    folder.mkdir(parents=True)
    write_rows(folder / CHUNKS_FILE, rows, schema=CHUNKS)
    return registry.publish("dataset", "rules", folder=folder, inputs={"rows": rows})


def built(registry: Registry, folder: Path, documents: dict[str, list[str]], embed: Counting, **more) -> Version:
    made = dataset(registry, folder, documents)
    return build_index(made, name="rules", registry=registry, settings=RetrievalSettings(**more), embed=embed)


def files_of(registry: Registry, version: Version) -> dict[str, str]:
    return {name: entry["sha256"] for name, entry in version.manifest["files"].items()}


@pytest.mark.parametrize(("kind", "most"), [("flat", 99), ("flat", 3), ("hnsw", 99), ("ivf", 99), ("ivf-rabitq", 99)])
def test_a_next_version_is_that_of_a_build_from_nothing(tmp_path: Path, encoder: Encoder, kind: str, most: int):
    here, fresh = (open_registry(Workspace.find(tmp_path / name)) for name in ("here", "fresh"))
    how = {"kind": kind, "max_shard_vectors": most}
    built(here, tmp_path / "1", FIRST, Counting(encoder), **how)
    embed, whole = Counting(encoder), Counting(encoder)
    after = built(here, tmp_path / "2", NEXT, embed, **how)
    other = built(fresh, tmp_path / "3", NEXT, whole, **how)
    assert files_of(here, after) == files_of(fresh, other)
    assert after.digest == other.digest
    changed = ["fees. The annual fee is 15 euros.", "new. Votes."]
    assert embed.given == (whole.given if kind == "ivf-rabitq" else changed)
    assert (after.facts["num_shards"] > 1) == (most == 3)
    assert len(SearchIndex.open(here.folder(after))) == 4
    assert after.facts["num_vectors"] > after.facts["num_chunks"] == 4


def test_a_changed_document_replaces_its_chunks_and_a_withdrawn_one_is_found_no_more(tmp_path: Path, registry, encoder):
    versions = [built(registry, tmp_path / name, each, Counting(encoder)) for name, each in (("1", FIRST), ("2", NEXT))]
    asked = ["What is the annual fee?", "Is there a secret?", "sets fee 399"]
    found = []
    for version in versions:
        hits = SearchIndex.open(registry.folder(version)).search(asked, encoder.encode(asked), 4)
        found.append([[hit.text for hit in each] for each in hits])
    assert [texts[0][0][:30] for texts in found] == ["The annual fee is 12 euros.", "The annual fee is 15 euros."]
    assert not any("12 euros" in text or "secret" in text for texts in found[1] for text in texts)
    assert found[0][1][0] == "A secret."
    assert found[0][2][0] == found[1][2][0] == LONG


def test_killed_while_embedding_and_run_again_gives_the_same_version(tmp_path: Path, registry, encoder):
    first = built(registry, tmp_path / "1", FIRST, Counting(encoder))
    with pytest.raises(KeyboardInterrupt):
        built(registry, tmp_path / "2", NEXT, Counting(encoder, fails=True))
    assert [each.digest for each in registry.versions("index")] == [first.digest]
    again = built(registry, tmp_path / "3", NEXT, Counting(encoder))
    undisturbed = open_registry(Workspace.find(tmp_path / "undisturbed"))
    assert again.digest == built(undisturbed, tmp_path / "4", NEXT, Counting(encoder)).digest


@pytest.mark.parametrize("change", ["settings", "a swapped file", "nothing"])
def test_vectors_are_taken_over_only_where_they_are_what_embedding_again_would_give(
    tmp_path: Path, registry, encoder, change: str, caplog
):
    first = built(registry, tmp_path / "1", FIRST, Counting(encoder))
    if change == "a swapped file":
        path = registry.folder(first) / "index.faiss"
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    embed = Counting(encoder)
    built(registry, tmp_path / "2", NEXT, embed, **({"embed_headings": False} if change == "settings" else {}))
    assert (len(embed.given) > 2) == (change != "nothing")
    assert ("embedded anew" in caplog.text) == (change == "a swapped file")


def test_no_vector_depends_on_the_batch_or_on_other_chunks(tmp_path: Path, encoder: Encoder):
    each = [open_registry(Workspace.find(tmp_path / name)) for name in ("one", "other")]
    backwards = dict(reversed([*FIRST.items(), *((f"x{n}.md", [f"more {n}"]) for n in range(9))]))
    parts = []
    for registry, documents, name in zip(each, (FIRST, backwards), ("1", "2"), strict=True):
        version = built(registry, tmp_path / name, documents, Counting(encoder))
        index = SearchIndex.open(registry.folder(version))
        parts.append({row: index.places(chunk_id=row)[0] for row in ("fees.md:The annual fee is 12 euros.",)})
        vectors = index._parts.shards[0].parts.vectors.of_chunks()
        parts[-1] = [vectors[place] for place in parts[-1].values()]
    assert np.array_equal(parts[0][0], parts[1][0])
