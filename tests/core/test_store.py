"""The store publishes whole versions or nothing."""

import json

import pytest

from app.core.digests import digest_bytes
from app.core.store import ArtifactMissing, Store, StoreUnusable


@pytest.fixture
def store(tmp_path):
    return Store((tmp_path / "store").as_uri())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "a.txt").write_bytes(b"one")
    (tmp_path / "in" / "deep" / "b.txt").write_bytes(b"two")
    return tmp_path / "in"


def test_a_published_version_names_every_file(store, folder):
    digest = store.publish("dataset", folder, {"name": "x"})
    manifest = store.manifest("dataset", digest)
    assert manifest["files"]["deep/b.txt"] == {"sha256": digest_bytes(b"two"), "bytes": 3}
    assert digest_bytes(store.manifest_bytes("dataset", digest)) == digest
    assert (store.folder("dataset", digest) / "deep" / "b.txt").read_bytes() == b"two"
    assert store.list_files("dataset", digest) == {"a.txt", "deep/b.txt"}


def test_publishing_again_changes_nothing(store, folder):
    digest = store.publish("dataset", folder, {"name": "x"})
    before = (store.folder("dataset", digest) / "a.txt").stat().st_mtime_ns
    assert store.publish("dataset", folder, {"name": "x"}) == digest
    assert (store.folder("dataset", digest) / "a.txt").stat().st_mtime_ns == before


def test_other_bytes_are_another_version(store, folder):
    first = store.publish("dataset", folder, {"name": "x"})
    (folder / "a.txt").write_bytes(b"One")
    assert store.publish("dataset", folder, {"name": "x"}) != first


def test_a_version_without_its_manifest_is_none(store, folder, tmp_path):
    digest = store.publish("dataset", folder, {"name": "x"})
    (tmp_path / "store" / "dataset" / digest.removeprefix("sha256:") / "manifest.json").unlink()
    assert not store.has("dataset", digest)
    with pytest.raises(ArtifactMissing, match="restore it, or publish it again"):
        store.folder("dataset", digest)
    assert store.publish("dataset", folder, {"name": "x"}) == digest
    assert store.has("dataset", digest)


def test_facts_alone_can_be_published(store):
    digest = store.publish("verdict", None, {"name": "v", "facts": {"light": "green"}})
    assert json.loads(store.manifest_bytes("verdict", digest)) == {
        "name": "v",
        "facts": {"light": "green"},
        "files": {},
    }


@pytest.mark.parametrize("uri", ["nonsense", "gopher://x"])
def test_a_store_that_is_none_is_named(uri):
    with pytest.raises(StoreUnusable, match="SIGNALBOX_STORE_URI"):
        Store(uri)


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A store that is not a local folder, and a cache of this test's own."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return Store("mock:///bucket")


def test_a_remote_version_is_read_through_a_private_cache(remote, folder, tmp_path):
    digest = remote.publish("dataset", folder, {"name": "x"})
    found = remote.folder("dataset", digest)
    assert found.is_relative_to(tmp_path)
    assert (found / "deep" / "b.txt").read_bytes() == b"two"
    assert remote.folder("dataset", digest) == found
    (cache,) = tmp_path.glob("signalbox-cache-*")
    assert cache.stat().st_mode & 0o777 == 0o700


def test_the_digest_of_a_remote_file_is_that_of_the_store_and_not_of_the_cache(remote, folder):
    digest = remote.publish("dataset", folder, {"name": "x"})
    (remote.folder("dataset", digest) / "a.txt").write_bytes(b"changed in the cache")
    assert remote.file_digest("dataset", digest, "a.txt") == digest_bytes(b"one")
    with remote._fs.open_output_stream(f"{remote._path('dataset', digest)}/files/a.txt") as stream:
        stream.write(b"changed in the store")
    assert remote.file_digest("dataset", digest, "a.txt") == digest_bytes(b"changed in the store")
    with pytest.raises(OSError, match="a-file-that-is-not-there"):
        remote.file_digest("dataset", digest, "a-file-that-is-not-there")
