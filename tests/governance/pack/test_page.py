"""The report for people: it shows what is there, escapes what others wrote, and claims no clause without its piece."""

import zipfile

import pytest

from app.governance.pack.page import PIECES, STATUSES, load_mapping
from app.governance.pack.write import write_pack


def page_of(path):
    with zipfile.ZipFile(path) as archive:
        return archive.read("index.html").decode()


CLAUSES = [(each["framework"], clause) for each in load_mapping() for clause in each["clauses"]]


@pytest.mark.parametrize(("framework", "clause"), CLAUSES, ids=lambda value: str(value)[:40])
def test_every_clause_has_a_known_status_and_known_pieces(framework, clause):
    assert clause["status"] in STATUSES
    assert set(clause.get("pieces", [])) <= PIECES.keys()
    assert bool(clause.get("pieces")) == (clause["status"] in ("evidence", "part"))
    assert clause["asks"]
    assert clause["note"]


def test_what_was_not_read_is_listed_and_not_mapped():
    iso = next(each for each in load_mapping() if "42001" in each["framework"])
    assert (iso["clauses"], iso["read"].partition(".")[0]) == ([], "Nothing")
    assert all(each["not_mapped"] for each in load_mapping())


def test_the_page_shows_figures_approvals_and_how_to_verify(packed):
    page = page_of(packed.pack)
    for text in ("Jane Doe", "approved for production", "0.910 to 0.990", "exact_match on target", "verify --pack"):
        assert text in page
    assert packed.registry.ledger.signer.public.vkey.replace("+", "&#43;") in page.replace("+", "&#43;")
    assert "This pack has no" not in page
    assert not any(outside in page for outside in ("http://", "https://", "<script", "src="))


def test_without_an_approval_no_clause_on_signatures_is_met(world, make_release, tmp_path):
    write_pack(make_release("handbook"), tmp_path / "pack.zip", registry=world.registry)
    page = page_of(tmp_path / "pack.zip")
    assert "This pack has no approvals. It covers the digests" in page
    assert "It was not promoted when this pack was made." in page


def test_what_others_wrote_is_escaped(world, make_release, tmp_path):
    write_pack(
        make_release("handbook", prompt="<script>alert(1)</script>"), tmp_path / "pack.zip", registry=world.registry
    )
    page = page_of(tmp_path / "pack.zip")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page


@pytest.fixture
def make_release(world, policy):
    """A release that only quotes, judged but approved by nobody."""
    from app.governance.gate import judge
    from app.governance.release import build_release

    def _make(name, prompt=""):
        dataset = world.dataset()
        index = world.registry.publish("index", "handbook", inputs={"n": 1}, parents=[dataset.digest])
        verdict = judge(policy, world.evidence(dataset), registry=world.registry)
        parts = {"index": index, "dataset": dataset, "verdict": verdict, "prompt": prompt}
        return build_release(name, registry=world.registry, **parts)

    return _make
