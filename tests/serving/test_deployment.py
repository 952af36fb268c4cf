"""The whole application on the session's cluster: tiny models with random weights, a real index, OpenAI's client."""

import asyncio
import json
import os
import resource
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import numpy as np
import openai
import pytest

from app.core.cluster import connect, dashboard, wait_for_job
from app.governance import canary
from app.governance.promotion import rollback
from app.inference.passages import grounded
from app.inference.sampling import Sampling
from app.ledger.log import REQUEST_BATCH, Ledger
from app.registry.versions import open_registry
from app.routing.router import Router, Row
from app.routing.settings import RoutingSettings
from app.serving.counters import ANONYMOUS, NANO, Counter, Counters
from app.serving.deploy import APPLICATION, deploy
from app.serving.deployment import Handles, retry_of
from app.serving.errors import ApiError, NotDeployed, NotPromoted
from app.serving.log import read_log
from app.serving.replicas import Asked
from app.serving.rules import change_rule, clear_rule
from app.serving.schema import Passage
from app.serving.settings import ServingSettings
from app.serving.streams import response_of_stream
from tests.retrieval.tuned import TEXTS, build_index, publish_dataset, publish_retriever
from tests.routing.test_router import SURE, UNSURE
from tests.serving.asked import events_of
from tests.serving.promoted import build, let_through, put_into_production, run_as_canary
from tests.serving.tiny import publish_index, publish_model

pytestmark = pytest.mark.cluster
QUESTION = [{"role": "user", "content": "What is the yearly fee of a Harbour account?"}]


@pytest.fixture(scope="module")
def release_of(cluster_workspace, tmp_path_factory):
    """Promotes releases over models made from a seed; the router trusts nobody or everybody."""
    registry = open_registry(cluster_workspace)
    base = tmp_path_factory.mktemp("serving")
    index = publish_index(registry, base / "index")

    def publish(seed, *, trusting=False, index=index, place=put_into_production, **more):
        rows = [Row(SURE, True), Row(UNSURE, trusting)] * 50
        (base / f"router-{seed}").mkdir()
        Router.fit({"small": rows}, settings=RoutingSettings()).save(base / f"router-{seed}")
        router = registry.publish("router", "serving-test", folder=base / f"router-{seed}", inputs={"seed": seed})
        models = {
            rung: publish_model(registry, base / f"{rung}-{seed}", name=f"serving-{rung}", seed=seed).digest
            for rung in ("small", "large")
        }
        prices = {"small_usd_per_1k_tokens": 0.1, "large_usd_per_1k_tokens": 0.5}
        facts = {**models, "index": index.digest, "router": router.digest, "prices": prices, "extractive": True}
        facts |= more
        return place(registry, *build(registry, "serving-test", facts))

    return publish


@pytest.fixture(scope="module")
def first(release_of):
    """Its models are given passages, those of the releases after it are not."""
    return release_of(1, context_passages=2)


@pytest.fixture(scope="module")
def serving(bare, cluster_workspace, first):
    """The application's URL, with the first release deployed."""
    deploy(workspace=cluster_workspace, release_ref=first.digest)
    return bare


@pytest.fixture
def client(serving):
    return openai.OpenAI(base_url=f"{serving}/v1", api_key="-", max_retries=0, timeout=60)


class Load:
    """What the users saw while something happened to the application."""

    def __init__(self):
        self.answers, self.errors = [], []

    def ask_until(self, stop, url, max_retries):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=max_retries, timeout=60)
        while not stop.is_set():
            try:
                asked = {"messages": QUESTION, "user": f"{len(self.answers)}"}
                self.answers.append(client.chat.completions.create(model="signalbox", **asked))
            except openai.OpenAIError as error:
                self.errors.append(error)

    def wait_for(self, num_more):
        goal, end_s = len(self.answers) + num_more, time.monotonic() + 60
        while len(self.answers) < goal and time.monotonic() < end_s and not self.errors:
            time.sleep(0.05)


@contextmanager
def under_load(url, *, max_retries=0, num_users=3):
    load, stop = Load(), threading.Event()
    users = [threading.Thread(target=load.ask_until, args=(stop, url, max_retries)) for _ in range(num_users)]
    for user in users:
        user.start()
    try:
        load.wait_for(5)
        yield load
        load.wait_for(5)
    finally:
        stop.set()
        for user in users:
            user.join()


def replica_pids(workspace, application=APPLICATION):
    deployments = dashboard(workspace).serve_status()["applications"][application]["deployments"]
    return {name: [replica["pid"] for replica in each["replicas"]] for name, each in deployments.items()}


def test_the_official_client_asks_lists_and_streams(client, serving, first):
    raw = client.chat.completions.with_raw_response.create(model="signalbox", messages=QUESTION)
    completion = raw.parse()
    assert raw.headers["x-signalbox-route"] == "extractive"
    assert raw.headers["x-signalbox-release"] == first.digest
    assert completion.id == f"chatcmpl-{raw.headers['x-request-id']}"
    assert completion.model == "extractive"
    assert "2,000 euros" in completion.choices[0].message.content
    assert completion.citations[0]["heading_path"] == ["Accounts", "Harbour account"]
    assert completion.citations[0]["quote"] == "A Harbour account has a yearly fee of 2,000 euros."
    assert [attempt["rung"] for attempt in completion.signalbox["attempts"]] == ["small", "large"]
    found = httpx.post(f"{serving}/v1/search", json={"query": QUESTION[0]["content"], "top_k": 2}).json()["data"]
    prompt = grounded(QUESTION[0]["content"], [Passage.model_validate(each) for each in found], 2)
    told = {**vars(prompt.given(2)), "chunk_ids": [each["chunk_id"] for each in found]}
    assert [attempt["passages"] for attempt in completion.signalbox["attempts"]] == [told, told]
    assert completion.usage.prompt_tokens > len(str(prompt.shown(2)).split())
    assert client.chat.completions.create(model="small", messages=QUESTION).model.startswith("serving-small@")
    assert {"signalbox", "small", "large", "extractive"} <= {model.id for model in client.models.list()}
    texts = ["fee", "A share of the valley"] * 40
    packed = client.embeddings.create(model="encoder", input=texts)
    assert (packed.model, len(packed.data), len(packed.data[0].embedding)) == ("all-minilm-l6-v2", 80, 384)
    assert packed.data[1].embedding == client.embeddings.create(model=packed.model, input=texts[1]).data[0].embedding
    chunks = list(client.chat.completions.create(model="extractive", messages=QUESTION, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == completion.choices[0].message.content
    asked = {"model": "small", "messages": QUESTION, "stream": True, "logprobs": True, "n": 2}
    events = events_of(httpx.post(f"{serving}/v1/chat/completions", json=asked, timeout=60))
    assert [bool(choice["logprobs"]["content"]) for choice in response_of_stream(events)["choices"]] == [True, True]
    assert events[-1]["receipt"]
    assert [each["passages"] for each in events[-1]["signalbox"]["attempts"]] == [told, told]


def test_a_batch_is_answered_by_the_large_model_while_nobody_waits(client, cluster_workspace, first):
    body = {"messages": QUESTION, "max_tokens": 4}
    lines = [{"custom_id": f"q{n}", "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(3)]
    content = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("asked.jsonl", content), purpose="batch")
    given = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = client.batches.create(**given)
    wait_for_job(cluster_workspace, batch.id, timeout_s=120)
    done = client.batches.retrieve(batch.id)
    assert (done.status, done.request_counts.completed) == ("completed", 3)
    answers = [json.loads(line) for line in client.files.content(done.output_file_id).text.splitlines()]
    assert [answer["custom_id"] for answer in answers] == ["q0", "q1", "q2"]
    accounts = [answer["response"]["body"]["signalbox"] for answer in answers]
    assert {(each["route"], each["release"]) for each in accounts} == {("large", first.digest)}
    assert {len(each["attempts"][0]["passages"]["chunk_ids"]) for each in accounts} == {2}
    logged = read_log(cluster_workspace.requests_dir)["request_id"].to_pylist()
    assert {answer["response"]["request_id"] for answer in answers} <= set(logged)


def test_search_and_errors(serving, client):
    found = httpx.post(f"{serving}/v1/search", json={"query": "fee of a Harbour account", "top_k": 2}).json()["data"]
    assert found[0]["heading_path"] == ["Accounts", "Harbour account"]
    assert found[0]["score"] > found[1]["score"]
    with pytest.raises(openai.NotFoundError, match="ask for one of"):
        client.chat.completions.create(model="gpt-4", messages=QUESTION)
    with pytest.raises(openai.BadRequestError, match="no question"):
        client.chat.completions.create(model="small", messages=[{"role": "user", "content": ""}])


def test_a_stream_comes_piece_by_piece_and_a_closed_one_ends_in_its_replica(serving, cluster_workspace, first):
    from ray import serve

    with connect(cluster_workspace, log_to_driver=False):
        small = serve.get_deployment_handle("small", APPLICATION)
        asked = (first.facts["small"], "What is the fee?")
        pieces = list(small.options(stream=True).stream.remote(*asked, Sampling(max_new_tokens=9, num_logprobs=1)))
        whole = small.generate.remote(*asked, Sampling(max_new_tokens=9, num_logprobs=1)).result(timeout_s=60)
        assert [piece.whole for piece in pieces if piece.whole] == [whole]
        assert "".join(piece.text for piece in pieces) == whole.text
        endless = small.options(stream=True).stream.remote(*asked, Sampling(max_new_tokens=2000))
        next(endless)
        endless.cancel()
        end_s, load = time.monotonic() + 30, small.load.remote().result(timeout_s=60)
        while load != (0, 0, 1, 0) and time.monotonic() < end_s:
            load = small.load.remote().result(timeout_s=60)
        assert load == (0, 0, 1, 0)


def test_a_promoted_index_in_shards_answers_as_the_one_in_one_piece(
    serving, client, cluster_workspace, release_of, tmp_path
):
    def given():
        asked = [{"query": query, "top_k": 4} for query in ("fee of a Harbour account", "share of the valley", "?")]
        found = [httpx.post(f"{serving}/v1/search", json=each).json() for each in asked]
        answers = [
            client.chat.completions.create(model=name, messages=QUESTION) for name in ("signalbox", "extractive")
        ]
        said = [(answer.choices[0].message.content, answer.citations) for answer in answers]
        hits = [(hit.pop("score"), *hit.pop("scores").values(), hit) for each in found for hit in each["data"]]
        return (
            [hit[-1]["chunk_id"] for hit in hits],
            said,
            [hit[:4] for hit in hits],
            {each["release"] for each in found},
        )

    *before, scores, _ = given()
    index = publish_index(open_registry(cluster_workspace), tmp_path / "index", most=1)
    divided = release_of(5, index=index)
    deploy(workspace=cluster_workspace, release_ref=divided.digest)
    *after, again, serves = given()
    assert (index.facts["num_shards"], serves) == (3, {divided.digest})
    assert after == before
    assert len(scores) == 12
    assert np.allclose(again, scores, atol=1e-5)


@pytest.fixture(scope="module")
def tuned(cluster_workspace, tmp_path_factory):
    """An index whose vectors are another encoder's, of another size, and the verdict that let it through."""
    registry, base = open_registry(cluster_workspace), tmp_path_factory.mktemp("tuned")
    retriever = publish_retriever(registry, base / "retriever", reranks=True, dim=48)
    index = publish_index(registry, base / "index", retriever=retriever)
    return {"index": index, "index_verdict": let_through(registry, index).digest}


def parts_seen(answers):
    """Of each answer its release, index and models: what is all of one release."""
    accounts = [answer.signalbox for answer in answers]
    return {(each["release"], each["index"], *(one["model"] for one in each["attempts"][:1])) for each in accounts}


def test_a_canary_with_another_encoder_begins_ends_and_is_promoted_under_load(
    serving, cluster_workspace, release_of, tuned, client
):
    registry, before = open_registry(cluster_workspace), replica_pids(cluster_workspace)
    built = release_of(2, trusting=True, place=lambda *built: built[1:], **tuned)
    second, production = built[0], registry.get("release", "serving-test@production")
    with under_load(serving) as load:
        run_as_canary(registry, *built, share=0.5)
        deploy(workspace=cluster_workspace, release_ref=production.digest)
        load.wait_for(20)
        both = parts_seen(load.answers)
        canary.end("serving-test", registry=registry, reason="a test")
        deploy(workspace=cluster_workspace, release_ref=production.digest)
        num_before = len(load.answers)
        load.wait_for(8)
        assert {each[0] for each in parts_seen(load.answers[num_before + 3 :])} == {production.digest}
    assert load.errors == []
    models = {release.digest: registry.get("model", release.facts["small"]).ref for release in (production, second)}
    assert both == {
        (release.digest, release.facts["index"], models[release.digest]) for release in (production, second)
    }
    put_into_production(registry, *built)
    with under_load(serving) as load:
        deploy(workspace=cluster_workspace, release_ref=second.digest)
        num_before = len(load.answers)
        load.wait_for(5)
        assert {answer.signalbox["release"] for answer in load.answers[num_before + 3 :]} == {second.digest}
    assert load.errors == []
    assert load.answers[0].signalbox["release"] != second.digest
    assert replica_pids(cluster_workspace) == before
    embedded = client.embeddings.create(model="encoder", input="lost card")
    assert (embedded.model.split("@")[0], len(embedded.data[0].embedding)) == ("tuned", 48)


def killed_in_mid_answer(workspace, pid, model):
    """What a stream of a model's replica ends with when that is killed."""
    from ray import serve

    async def ask():
        small, alive = serve.get_deployment_handle("small", APPLICATION), True
        handles = Handles(small, {"small": small}, small, retry_of(ServingSettings()))
        async for _ in handles.stream("small", model, "What is the fee?", Sampling(max_new_tokens=2000)):
            if alive:
                os.kill(pid, signal.SIGKILL)
            alive = False

    with connect(workspace, log_to_driver=False), pytest.raises(ApiError) as ended:
        asyncio.run(ask())
    return ended.value


@pytest.mark.chaos
@pytest.mark.parametrize("victim", ["small", "retriever"])
def test_a_killed_replica_costs_time_but_no_request(serving, cluster_workspace, first, victim):
    before = replica_pids(cluster_workspace)[victim]
    with under_load(serving) as load:
        if victim == "small":
            ended = killed_in_mid_answer(cluster_workspace, before[0], first.facts["small"])
            assert (ended.status, ended.code) == (503, "replica_unavailable")
        else:
            os.kill(before[0], signal.SIGKILL)
        load.wait_for(5)
    assert load.errors == []
    assert replica_pids(cluster_workspace)[victim] != before


def test_every_request_is_in_the_log_and_every_part_in_the_ledger(serving, client, cluster_workspace):
    last = client.chat.completions.create(model="small", messages=QUESTION)
    end_s, table = time.monotonic() + 20, read_log(cluster_workspace.requests_dir)
    while last.signalbox["request_id"] not in table["request_id"].to_pylist() and time.monotonic() < end_s:
        time.sleep(0.2)
        table = read_log(cluster_workspace.requests_dir)
    row = {row["request_id"]: row for row in table.to_pylist()}[last.signalbox["request_id"]]
    registry = open_registry(cluster_workspace)
    dim = registry.get("index", registry.get("release", row["release"]).facts["index"]).facts["dim"]
    assert (row["route"], row["status"], len(row["embedding"])) == ("small", 200, dim)
    assert row["cost_usd"] > 0
    assert len(set(table["request_id"].to_pylist())) == table.num_rows
    ledger: Ledger = registry.ledger
    answered: set[str] = set()
    while row["release"] not in answered and time.monotonic() < end_s:
        time.sleep(0.2)
        answered = {parent for leaf in ledger.leaves(REQUEST_BATCH) for parent in leaf.statement.parents}
    assert row["release"] in answered
    assert answered <= {version.digest for version in registry.versions("release")}


def test_a_release_that_cannot_be_loaded_leaves_the_old_one_serving(serving, cluster_workspace, release_of, client):
    registry, serves = open_registry(cluster_workspace), httpx.get(f"{serving}/healthz").json()["release"]
    broken = registry.publish("model", "serving-broken", inputs={"files": None}).digest
    facts = {**registry.get("release", serves).facts, "small": broken}
    release, verdict = build(registry, "serving-test", facts)
    with pytest.raises(NotPromoted):
        deploy(workspace=cluster_workspace, release_ref=release.digest)
    put_into_production(registry, release, verdict)
    with under_load(serving) as load, pytest.raises(NotDeployed, match=r"cannot be loaded.*config\.json"):
        deploy(workspace=cluster_workspace, release_ref=release.digest, timeout_s=60)
    assert load.errors == []
    assert {answer.signalbox["release"] for answer in load.answers} == {serves}
    rollback(registry.get("release", serves), registry=registry, reason="it cannot be loaded")
    deploy(workspace=cluster_workspace, release_ref=serves)


@pytest.mark.chaos
def test_a_killed_gateway_is_bridged_by_the_clients_retries_and_gives_nothing_away(serving, client, cluster_workspace):
    """Whatever was answered is counted against the budget and stands in the log."""
    before, registry = replica_pids(cluster_workspace)["gateway"], open_registry(cluster_workspace)
    change_rule(registry, ANONYMOUS, {"requests_per_minute": 10**6, "usd_total": 1000.0})
    create = client.chat.completions.with_raw_response.create
    wait_until(lambda: "x-ratelimit-limit-requests" in create(model="extractive", messages=QUESTION).headers)
    with under_load(serving, max_retries=8) as load:
        os.kill(before[0], signal.SIGKILL)
        load.wait_for(5)
    clear_rule(registry, ANONYMOUS)
    assert load.errors == []
    assert replica_pids(cluster_workspace)["gateway"] != before
    budget = Counter(ANONYMOUS, "usd_total", "", 1000 * NANO)
    spent = sum(answer.signalbox["cost_usd"] for answer in load.answers)
    assert 0 < spent * NANO <= Counters(registry.database).used([budget])[budget]
    given = {answer.signalbox["request_id"] for answer in load.answers}
    wait_until(lambda: given <= set(read_log(cluster_workspace.requests_dir)["request_id"].to_pylist()))


def test_a_thousand_connections_slow_bodies_and_odd_ones_keep_nobody_out(serving, client):
    few, many = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(few, 4096), many), many))
    url = httpx.URL(serving)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: box\r\ncontent-length: 99\r\n\r\n{"

    def post(content):
        given = httpx.post(f"{serving}/v1/chat/completions", content=content, timeout=60)
        return given.status_code, given.json()["error"]["code"]

    async def attack():
        connected = await asyncio.gather(*(asyncio.open_connection(url.host, url.port) for _ in range(1000)))
        for _, writer in connected[:200]:
            writer.write(head)
        answer = await asyncio.to_thread(client.chat.completions.create, model="extractive", messages=QUESTION)
        for _, writer in connected:
            writer.close()
        return answer.model

    assert asyncio.run(attack()) == "extractive"
    long = json.dumps({"model": "small", "messages": [{"role": "user", "content": "fee " * 9000}]}).encode()
    assert post(long) == (400, "context_length_exceeded")
    assert post(b'{"model": "\xff"}') == (400, None)
    assert post(b'{"prompt": "' + b"fee " * 2_500_000 + b'"}') == (413, "request_too_large")
    assert client.chat.completions.create(model="extractive", messages=QUESTION).model == "extractive"


def test_a_shards_holder_that_is_killed_loses_no_question_while_a_new_version_comes(cluster_workspace, tmp_path):
    """A retriever of its own, over two holders of shards, while users ask an index and then its next version."""
    from ray import serve

    from app.serving.deployment import build_retriever

    registry = open_registry(cluster_workspace)
    dataset = publish_dataset(registry, tmp_path / "dataset", name="divided")
    indexes = [build_index(registry, dataset, how={"max_shard_vectors": most}) for most in (2, 1, 99)]
    stop, found = threading.Event(), []

    def ask(handle):
        while not stop.is_set():
            number = int(len(found) > 40)
            asked = Asked(indexes[number].digest, TEXTS[len(found) % 5], 2)
            found.append((asked.question, handle.retrieve.remote(asked).result(timeout_s=60).passages[0].text))

    with connect(cluster_workspace, log_to_driver=False):
        settings = ServingSettings(workspace=str(cluster_workspace.root), shard_replicas=2)
        handle = serve.run(build_retriever(settings), name="divided", route_prefix=None)
        try:
            with ThreadPoolExecutor(2) as pool:
                users = [pool.submit(ask, handle) for _ in range(2)]
                wait_until(lambda: len(found) > 10, users)
                os.kill(replica_pids(cluster_workspace, "divided")["shards-1"][0], signal.SIGKILL)
                wait_until(lambda: len(found) > 60, users)
                stop.set()
                assert [user.result(timeout=60) for user in users] == [None, None]
                asked = [[Asked(index.digest, text, 4) for text in TEXTS] for index in indexes]
                given = [
                    [handle.retrieve.remote(each).result(timeout_s=60).passages for each in part] for part in asked
                ]
                alike = [[passage.text for each in part for passage in each] for part in given]
                assert alike[0] == alike[1] == alike[2]
        finally:
            stop.set()
            serve.delete("divided")
    assert [asked for asked, _ in found] == [answer for _, answer in found]


def wait_until(done, users=()):
    end_s = time.monotonic() + 90
    while not done() and time.monotonic() < end_s and not any(user.done() for user in users):
        time.sleep(0.05)
    assert done() or users
