"""Before the first release; then stop, resume and rollback on the cluster: what users see, and approvals by wire.

Runs before the tests of the other file that deploys: its gateway has served nothing yet.
"""

import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import openai
import pytest

from app.core.cluster import dashboard
from app.governance.approvals import draft_from
from app.governance.evidence import Evidence
from app.governance.gate import judge
from app.governance.keys import new_key
from app.governance.policy import parse_policy
from app.governance.promotion import promote
from app.governance.release import build_release
from app.governance.stoplights import ask_about_release
from app.ledger.keys import sign_facts
from app.ledger.verify import verify
from app.registry.versions import open_registry
from app.routing.router import Router, Row
from app.routing.settings import RoutingSettings
from app.serving.approvals import RemoteDesk
from app.serving.deploy import LOCAL_CONFIG, deploy, find_serve_url, read_config, render_config
from app.serving.settings import ReleaseConfig
from tests.routing.test_router import SURE, UNSURE
from tests.serving.promoted import answers_of
from tests.serving.tiny import publish_index, publish_model

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).resolve().parents[2]
CHECKS = [{"kind": "complete_lineage", "sources": []}, {"kind": "approvals"}]
POLICY = parse_policy({"name": "moves", "gate": "candidate", "checks": CHECKS})
QUESTION = [{"role": "user", "content": "What is the yearly fee of a Harbour account?"}]
NAME = "moves-test"
PATIENCE_S = 120


@pytest.fixture(scope="module")
def registry(cluster_workspace):
    return open_registry(cluster_workspace)


@pytest.fixture(scope="module")
def candidate(registry, tmp_path_factory):
    """Makes judged releases whose router trusts its models."""
    base = tmp_path_factory.mktemp("moves")
    index = publish_index(registry, base / "index")
    (base / "router").mkdir()
    rows = [Row(SURE, True), Row(UNSURE, True)] * 50
    Router.fit({"small": rows}, settings=RoutingSettings()).save(base / "router")

    def make(seed):
        small = publish_model(registry, base / f"small-{seed}", name="moves-small", seed=seed)
        verdict = judge(
            POLICY,
            Evidence.collect(small, registry=registry, candidate={"target": answers_of(registry, small)}),
            registry=registry,
        )
        router = registry.publish("router", NAME, folder=base / "router", inputs={"m": small.digest})
        dataset = registry.publish("dataset", NAME, inputs={})
        parts = {"small": small, "index": index, "dataset": dataset, "router": router, "verdict": verdict}
        release = build_release(NAME, **parts, prices={"small_usd_per_1k_tokens": 0.1}, registry=registry)
        ask_about_release(release, verdict=verdict, registry=registry)
        return release, verdict

    return make


@pytest.fixture(scope="module")
def jane(registry):
    return new_key(registry, "moves-jane", role="approver", person="Jane Doe")


def approve_by_wire(url, release, signer):
    desk = RemoteDesk(url, signer)
    about = desk.show(release.ref)
    body = draft_from(about, signer=signer, printed_name="Jane Doe", meaning=about["meaning"])
    assert desk.record(sign_facts(body, signer))["kind"] == "approval"


def serve_unpromoted(workspace, release):
    """Send Serve a config that names a release past ``deploy``; the gateway does not serve it."""
    url = find_serve_url(workspace)
    asked = ReleaseConfig(release=release.digest)
    dashboard(workspace).put_serve(render_config(read_config(LOCAL_CONFIG), asked, serve_url=url))
    end_s, said = time.monotonic() + PATIENCE_S, ""
    while "never promoted" not in said and time.monotonic() < end_s:
        with suppress(httpx.TransportError):
            said = httpx.get(f"{url}/healthz", timeout=60).text
        time.sleep(0.25)
    assert "never promoted" in said, dashboard(workspace).serve_status()["applications"]


def signalbox(workspace, *words):
    """A command, timed; in s."""
    command = [sys.executable, "-m", "app.cli", *words, "--workspace", str(workspace.root)]
    started_s = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - started_s


def test_before_the_first_release_it_says_what_to_do(bare):
    end_s = time.monotonic() + PATIENCE_S
    while "promote one" not in (said := httpx.get(f"{bare}/healthz", timeout=60).text) and time.monotonic() < end_s:
        time.sleep(0.25)  # until the gateway is up, Serve answers 503 by itself
    assert "promote one" in json.loads(said)["reason"]
    response = httpx.post(f"{bare}/v1/chat/completions", json={"messages": QUESTION})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "no_release")


def test_stop_resume_and_rollback_are_seen_by_users(bare, cluster_workspace, registry, candidate, jane):
    (first, first_verdict), (second, second_verdict) = candidate(1), candidate(2)
    serve_unpromoted(cluster_workspace, first)
    client = openai.OpenAI(base_url=f"{bare}/v1", api_key="-", max_retries=0, timeout=60)

    def ask():
        said = client.chat.completions.create(model="signalbox", messages=QUESTION).signalbox
        return said["release"], [attempt["rung"] for attempt in said["attempts"]]

    for release, verdict in ((first, first_verdict), (second, second_verdict)):
        approve_by_wire(bare, release, jane)
        promote(release, verdict=verdict, registry=registry, policy=POLICY, reason="a test")
        deploy(workspace=cluster_workspace, release_ref=release.digest)
    assert ask() == (second.digest, ["small"])
    why = ["--name", NAME, "--reason", "a test"]
    took = {"stop": signalbox(cluster_workspace, "stop", *why)}
    assert ask() == (second.digest, [])
    assert httpx.get(f"{bare}/healthz").json()["stopped"]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="small", messages=QUESTION)
    deploy(workspace=cluster_workspace, release_ref=second.digest)
    assert ask() == (second.digest, []), "whoever deploys it again does not end the stop"
    took["resume"] = signalbox(cluster_workspace, "resume", *why)
    assert ask() == (second.digest, ["small"])
    took["rollback"] = signalbox(cluster_workspace, "rollback", *why)
    assert ask() == (first.digest, ["small"])
    print("seconds from the command to the answer:", {name: round(value, 1) for name, value in took.items()})
    assert [fault for fault in verify(cluster_workspace).faults if NAME in fault.where] == []
