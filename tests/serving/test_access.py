"""API keys and access labels: no key, a wrong key, a revoked key and a damaged file all see public chunks alone."""

import asyncio
import json

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app.cli import app
from app.serving.access import AccessList, AccessUnreadable, BadGrant, add_grant, read_grants, remove_grant
from app.serving.http import create_app
from tests.serving.conftest import make_release


@pytest.fixture
def path(tmp_path):
    return tmp_path / "access.json"


def test_only_the_key_itself_opens_what_it_was_granted(path):
    access = AccessList(path)
    assert access.labels_of("Bearer anything") == frozenset()
    key = add_grant(path, "jane", ["hr", "board", "hr"])
    held = frozenset({"hr", "board"})
    assert access.labels_of(f"Bearer {key}") == access.labels_of(f"  bearer  {key} ") == held
    digest = next(iter(read_grants(path)))
    wrong = [None, "", "Bearer", f"Basic {key}", key, f"Bearer {key}x", f"Bearer {key[:-1]}", f"Bearer {digest}"]
    wrong += ["Bearer jane", f"Bearer {key} {key}", f"Bearer {key.upper()}", "Bearer \ud800", f"Bearer x, Bearer {key}"]
    assert {access.labels_of(shown) for shown in wrong} == {frozenset()}
    assert key not in path.read_text()


def test_a_revocation_and_a_damaged_file_count_at_once(path):
    access, key = AccessList(path), add_grant(path, "jane", ["hr"])
    other = add_grant(path, "joe", ["board"])
    assert access.labels_of(f"Bearer {key}") == {"hr"}
    remove_grant(path, "jane")
    assert (access.labels_of(f"Bearer {key}"), access.labels_of(f"Bearer {other}")) == (frozenset(), {"board"})
    for damage in ("{", "[]", json.dumps({"x": {"labels": ["hr"]}}), json.dumps({"x": 1})):
        path.write_text(damage)
        assert access.labels_of(f"Bearer {other}") == frozenset()
        with pytest.raises(AccessUnreadable, match="restore it"):
            read_grants(path)
    path.unlink()
    assert access.labels_of(f"Bearer {other}") == frozenset()


@pytest.mark.parametrize(("name", "labels"), [("", ["hr"]), ("a b", ["hr"]), ("jane", []), ("jane", [" hr"])])
def test_grants_without_name_or_label_are_refused(path, name, labels):
    with pytest.raises(BadGrant):
        add_grant(path, name, labels)
    assert not path.exists()


def test_a_name_is_granted_once(path):
    add_grant(path, "jane", ["hr"])
    with pytest.raises(BadGrant, match="already"):
        add_grant(path, "jane", ["board"])
    with pytest.raises(BadGrant, match="no key named"):
        remove_grant(path, "joe")


def test_search_and_chat_look_with_the_callers_labels_and_filter(gateway, backends, releases, path):
    releases["assistant@production"] = make_release()
    asyncio.run(gateway.take("assistant@production"))
    key = add_grant(path, "jane", ["hr"])
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
    assert found["scores"] == {"dense": 0.8, "lexical": 3.0, "fused": 0.9, "reranked": None}


def test_the_commands_print_the_key_once_and_never_again(workspace):
    def run(*words):
        return CliRunner().invoke(app, ["access", *words, "--workspace", str(workspace.root)]).output

    key = run("grant", "jane", "--label", "hr", "--label", "board").strip()
    assert AccessList(workspace.access_path).labels_of(f"Bearer {key}") == {"hr", "board"}
    assert json.loads(run("list", "--json")) == [{"name": "jane", "labels": ["board", "hr"]}]
    assert key not in run("list")
    assert "public chunks alone" in run("revoke", "jane")
    assert run("list").strip() == ""
