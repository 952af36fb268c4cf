"""API keys and access labels: no key, a wrong or revoked one, a damaged or edited file all see public chunks alone."""

import asyncio
import json

import pytest
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app.cli import app
from app.ledger.access_book import AccessUnreadable, digest_of, read_grants
from app.ledger.verify import verify
from app.registry.versions import open_registry
from app.serving.access import AccessList, BadGrant, add_grant, recorded_access, remove_grant
from app.serving.http import create_app
from tests.serving.conftest import make_release


@pytest.fixture
def path(registry):
    return registry.workspace.access_path


def labels_of(access, shown):
    """Labels of the key in a header; none for an unknown one."""
    found = access.find(shown)
    return frozenset(found[1].labels) if found else frozenset()


def test_only_the_key_itself_opens_what_it_was_granted(registry, path):
    access = AccessList.of(registry)
    assert labels_of(access, "Bearer anything") == frozenset()
    key = add_grant(registry, "jane", ["hr", "board", "hr"])
    held = frozenset({"hr", "board"})
    assert labels_of(access, f"Bearer {key}") == labels_of(access, f"  bearer  {key} ") == held
    digest = next(iter(read_grants(path)))
    wrong = [None, "", "Bearer", f"Basic {key}", key, f"Bearer {key}x", f"Bearer {key[:-1]}", f"Bearer {digest}"]
    wrong += ["Bearer jane", f"Bearer {key} {key}", f"Bearer {key.upper()}", "Bearer \ud800", f"Bearer x, Bearer {key}"]
    assert {labels_of(access, shown) for shown in wrong} == {frozenset()}
    assert key not in path.read_text()


def test_a_revocation_and_a_damaged_file_count_at_once(registry, path):
    access, key = AccessList.of(registry), add_grant(registry, "jane", ["hr"])
    other = add_grant(registry, "joe", ["board"])
    assert labels_of(access, f"Bearer {key}") == {"hr"}
    remove_grant(registry, "jane")
    assert (labels_of(access, f"Bearer {key}"), labels_of(access, f"Bearer {other}")) == (frozenset(), {"board"})
    for damage in ("{", "[]", json.dumps({"x": {"labels": ["hr"]}}), json.dumps({"x": 1})):
        path.write_text(damage)
        assert labels_of(access, f"Bearer {other}") == frozenset()
        with pytest.raises(AccessUnreadable, match="restore it"):
            read_grants(path)
    path.unlink()
    assert labels_of(access, f"Bearer {other}") == frozenset()


@pytest.mark.parametrize(("name", "labels"), [("", ["hr"]), ("a b", ["hr"]), ("jane", [""]), ("jane", [" hr"])])
def test_grants_without_a_name_or_with_an_empty_label_are_refused(registry, path, name, labels):
    with pytest.raises(BadGrant):
        add_grant(registry, name, labels)
    assert not path.exists()


def test_a_name_is_granted_once(registry, path):
    add_grant(registry, "jane", ["hr"])
    with pytest.raises(BadGrant, match="already"):
        add_grant(registry, "jane", ["board"])
    with pytest.raises(BadGrant, match="no key named"):
        remove_grant(registry, "joe")


def test_search_and_chat_look_with_the_callers_labels_and_filter(gateway, backends, releases, registry):
    releases["assistant@production"] = make_release()
    asyncio.run(gateway.take("assistant@production"))
    key = add_grant(registry, "jane", ["hr"])
    chat = {"messages": [{"role": "user", "content": "What is the fee?"}]}
    asked = {"query": "fee", "filter": {"documents": ["loans.md"], "section": "Fees", "dated_from": "2026-01-01"}}
    with TestClient(create_app(gateway)) as http:
        for headers in ({}, {"authorization": f"Bearer {key}"}):
            assert http.post("/v1/search", json=asked, headers=headers).status_code == 200
            assert http.post("/v1/chat/completions", json=chat, headers=headers).status_code == 200
        sneaky = [{"labels": ["hr"]}, {"access_labels": ["hr"]}, {"documents": "loans.md"}]
        assert {http.post("/v1/search", json={"query": "fee", "filter": each}).status_code for each in sneaky} == {400}
        odd = '{"query": "fee", "filter": {"documents": ["\\ud800"], "section": "\\ud800"}}'
        assert http.post("/v1/search", content=odd, headers={"content-type": "application/json"}).status_code == 400
        assert http.post("/v1/search", json={"query": "fee " * 50_000}).status_code == 400
        found = http.post("/v1/search", json=asked).json()["data"][0]
    assert [scope.labels for scope in backends.scopes[:4]] == [frozenset(), frozenset(), {"hr"}, {"hr"}]
    assert (backends.scopes[0].documents, backends.scopes[0].section) == ({"loans.md"}, "Fees")
    assert found["scores"] == {"dense": 0.8, "lexical": 3.0, "fused": 0.9, "title": 0.0, "reranked": None}


def test_what_the_ledger_does_not_say_opens_nothing_and_is_named(registry, path):
    """A line written into the file, more labels on a key that is there, a file from before a revocation."""
    access, key, gone = AccessList.of(registry), add_grant(registry, "jane", ["hr"]), add_grant(registry, "joe", ["hr"])
    whole = json.loads(path.read_text())
    assert verify(registry.workspace).ok
    assert labels_of(access, f"Bearer {key}") == {"hr"}
    remove_grant(registry, "joe")
    mine, of_jane, of_joe = digest_of("sb-mine"), digest_of(key), digest_of(gone)
    forged = {
        "mallory": {of_jane: whole[of_jane], mine: {"name": "mallory", "labels": ["hr"]}},
        "jane": {of_jane: {"name": "jane", "labels": ["board", "hr"]}},
        "joe": whole,
    }
    for name, held in forged.items():
        path.write_text(json.dumps(held))
        shown = {"mallory": "sb-mine", "jane": key, "joe": gone}[name]
        assert labels_of(access, f"Bearer {shown}") == frozenset()
        assert [(fault.kind, name in fault.where) for fault in verify(registry.workspace).faults] == [
            ("unrecorded-access", True)
        ]
    path.write_text(json.dumps({of_jane: whole[of_jane]}))
    assert labels_of(access, f"Bearer {key}") == {"hr"}
    assert labels_of(access, f"Bearer {gone}") == frozenset()
    assert verify(registry.workspace).ok
    assert of_joe in {leaf.statement.subject for leaf in registry.ledger.leaves("access")}


def test_a_ledger_that_cannot_be_asked_grants_nothing_and_is_asked_again(registry):
    key, asked = add_grant(registry, "jane", ["hr"]), []

    def recorded():
        asked.append(True)
        if len(asked) == 1:
            raise OperationalError("SELECT", {}, Exception("locked"))
        return recorded_access(registry)

    access = AccessList(registry.workspace.access_path, recorded)
    assert [labels_of(access, f"Bearer {key}") for _ in range(3)] == [frozenset(), {"hr"}, {"hr"}]
    assert len(asked) == 2


def test_the_commands_print_the_key_once_and_never_again(workspace):
    def run(*words):
        return CliRunner().invoke(app, ["access", *words, "--workspace", str(workspace.root)]).output

    key = run("grant", "jane", "--label", "hr", "--label", "board").strip()
    assert labels_of(AccessList.of(open_registry(workspace)), f"Bearer {key}") == {"hr", "board"}
    assert json.loads(run("list", "--json")) == [{"name": "jane", "labels": ["board", "hr"]}]
    assert key not in run("list")
    assert "public chunks alone" in run("revoke", "jane")
    assert run("list").strip() == ""
