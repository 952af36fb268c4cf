"""OpenLineage events: what a job read and made, how it ended, and that a broken transport breaks no job."""

import json
import logging
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from openlineage.client import event_v2
from openlineage.client.serde import Serde

from app.governance.openlineage import EVENTS_FILE, recorded


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch, tmp_path):
    """Neither the environment nor a file of the developer's decides where events go."""
    for name in ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE_DISABLED", "OPENLINEAGE_PARENT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def events_of(registry):
    path = registry.workspace.root / EVENTS_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(registry, work=lambda registry: None, **options):
    with recorded(registry, job="jobs.work", **options):
        work(registry)
    return events_of(registry)


def test_a_job_begins_and_ends(registry):
    start, complete = run(registry, source=Path(__file__))
    assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
    assert start["run"]["runId"] == complete["run"]["runId"]
    assert start["job"]["name"] == "jobs.work"
    assert start["job"]["namespace"] == "signalbox"
    assert start["job"]["facets"]["sourceCode"]["sourceCode"] == Path(__file__).read_text()
    assert start["job"]["facets"]["jobType"]["processingType"] == "BATCH"
    assert start["run"]["facets"]["processing_engine"]["name"] == "Ray"
    assert registry.observer is None


def test_what_is_read_and_made_is_told_with_its_version(registry):
    rows = registry.publish("synthetic", "rows", inputs={}, facts={"num_rows": 7})
    made = []

    def work(registry):
        registry.get("synthetic", "rows")
        made.append(registry.publish("model", "small", inputs={}, parents=[rows.digest]))

    start, step, stepped, complete = run(registry, work)
    assert [event["eventType"] for event in (start, step, stepped, complete)] == [
        "START",
        "START",
        "COMPLETE",
        "COMPLETE",
    ]
    for event in (stepped, complete):
        assert [each["name"] for each in event["inputs"]] == ["synthetic/rows"]
        assert [each["name"] for each in event["outputs"]] == ["model/small"]
        assert event["outputs"][0]["facets"]["version"]["datasetVersion"] == made[0].digest
        assert event["inputs"][0]["facets"]["version"]["datasetVersion"] == rows.digest
        assert event["inputs"][0]["namespace"] == registry.store.uri
    assert stepped["job"]["name"] == "jobs.work.model"
    parent = stepped["run"]["facets"]["parent"]
    assert parent["run"]["runId"] == start["run"]["runId"] != stepped["run"]["runId"]
    assert start["eventTime"] <= step["eventTime"] <= stepped["eventTime"] <= complete["eventTime"]


def test_a_version_found_made_already_is_an_output_too(registry):
    made = registry.publish("synthetic", "rows", inputs={"n": 1}, facts={"num_rows": 7})
    complete = run(registry, lambda registry: registry.find("synthetic", "rows", {"n": 1}))[-1]
    assert complete["outputs"][0]["facets"]["version"]["datasetVersion"] == made.digest
    assert complete["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 7


@pytest.mark.parametrize(("error", "state"), [(ValueError("rows are missing"), "FAIL"), (SystemExit(15), "ABORT")])
def test_how_a_job_failed_is_told_and_the_error_goes_on(registry, error, state):
    def work(_):
        raise error

    with pytest.raises(type(error)):
        run(registry, work)
    last = events_of(registry)[-1]
    assert last["eventType"] == state
    assert last["run"]["facets"]["errorMessage"]["message"] == str(error)


def test_a_transport_that_fails_is_warned_about_once_and_the_job_goes_on(registry, caplog):
    (registry.workspace.root / EVENTS_FILE).mkdir()
    with caplog.at_level(logging.WARNING), recorded(registry, job="jobs.work"):
        made = registry.publish("model", "small", inputs={})
    assert registry.get("model", "small") == made
    assert len([entry for entry in caplog.records if "OpenLineage events" in entry.message]) == 1


def test_the_standard_configuration_takes_the_place_of_the_file(registry, monkeypatch, tmp_path):
    (tmp_path / "openlineage.yml").write_text(
        f"transport: {{type: file, log_file_path: {tmp_path}/mine, append: true}}\n"
    )
    assert run(registry) == []
    assert len((tmp_path / "mine").read_text().splitlines()) == 2
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")
    (tmp_path / "openlineage.yml").unlink()
    assert run(registry) == []


def test_the_run_that_started_the_job_is_its_parent(registry, monkeypatch):
    run_id = "01941f29-7c00-7087-8940-40e767daa3fe"
    monkeypatch.setenv("OPENLINEAGE_PARENT_ID", f"airflow/nightly/{run_id}")
    parent = run(registry)[0]["run"]["facets"]["parent"]
    assert (parent["job"]["namespace"], parent["job"]["name"]) == ("airflow", "nightly")
    assert parent["run"]["runId"] == run_id


class Collector(BaseHTTPRequestHandler):
    """Takes events as an OpenLineage server does."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.events.append((self.path, json.loads(body)))
        self.send_response(201)
        self.end_headers()

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def collector(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    server.events = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    before = dict(os.environ)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    thread.join()
    for name in os.environ.keys() - before.keys():  # the client writes its configuration there
        del os.environ[name]


def test_events_go_to_a_server_by_http(registry, collector):
    assert run(registry) == []
    assert [path for path, _ in collector.events] == ["/api/v1/lineage"] * 2
    assert [event["eventType"] for _, event in collector.events] == ["START", "COMPLETE"]


@pytest.mark.parametrize("made", [False, True])
def test_events_are_read_by_the_clients_own_classes(registry, made):
    work = (lambda registry: registry.publish("model", "small", inputs={})) if made else (lambda registry: None)
    for event in run(registry, work, source=Path(__file__)):
        again = event_v2.RunEvent(
            eventTime=event["eventTime"],
            eventType=event_v2.RunState[event["eventType"]],
            run=event_v2.Run(**event["run"]),
            job=event_v2.Job(**event["job"]),
            inputs=[event_v2.InputDataset(**each) for each in event["inputs"]],
            outputs=[event_v2.OutputDataset(**each) for each in event["outputs"]],
            producer=event["producer"],
        )
        assert json.loads(Serde.to_json(again)) == event
