"""From requests through the gateway to outcomes of the log, and to an audit with its page and its commands."""

import asyncio
import json
from dataclasses import dataclass, replace

import pytest
from typer.testing import CliRunner

from app.cli import app
from app.console.routing import render_audit
from app.inference.sampling import Generation
from app.routing.collect import Question, collect, qualities
from app.routing.limits import ModelCard
from app.routing.sample import Row, Sample
from app.routing.settings import RoutingSettings
from app.serving.audit import audit, read_requests, rewards_of
from app.serving.cascade import Retrieval
from app.serving.feedback import Scores
from app.serving.outcomes import (
    BadFeedback,
    NoQuestions,
    ask_models,
    facts_of,
    find_source,
    is_sampled,
    questions_of_log,
    read_feedback,
)
from app.serving.requests import ChatRequest
from app.serving.steering import Steering, Watch
from tests.serving.conftest import PASSAGE, make_release

NUM = 60


@dataclass
class Engine:
    """Says the fee; ``right`` tells for which questions."""

    right: object
    max_context_tokens: int = 256

    def generate(self, prompts, sampling):
        texts = ["2,000 euros" if self.right(prompt) else "nothing" for prompt in prompts]
        return [
            Generation(text=text, mean_logprob=-0.1, min_logprob=-0.2, num_prompt_tokens=6, num_completion_tokens=4)
            for text in texts
        ]


def search(questions):
    return [Retrieval([PASSAGE], [0.5] * 4) for _ in questions]


@pytest.fixture
def answered(make_gateway, releases, registry, request_log):
    """Requests of two workloads, a third of them explored, in the log; their release is published."""
    draws = iter([0.001, 0.299, 0.9] * NUM)
    steering = Steering(Watch(lambda _: "", period_s=60.0), explore=0.3, chance=lambda: next(draws))
    gateway = make_gateway(steering)
    facts = {"small": "sha256:small", "large": "sha256:large"}
    facts["prices"] = {"small_usd_per_1k_tokens": 0.1, "large_usd_per_1k_tokens": 1.0}
    release = make_release(registry.publish("release", "assistant", inputs={}, facts=facts).digest)
    releases["r"] = release

    async def story():
        await gateway.take("r")
        for number in range(NUM):
            asked = {"messages": [{"role": "user", "content": f"What is fee {number}?"}]}
            asked["metadata"] = {"workload": "web" if number % 2 else "mail"}
            await gateway.chat(ChatRequest(**asked), request_id=f"r{number:03}")
        by_name = ChatRequest(model="small", messages=[{"role": "user", "content": "What?"}])
        await gateway.chat(by_name, request_id="by-name")

    asyncio.run(story())
    request_log.close()
    return release


def test_the_log_tells_who_was_explored_and_the_audit_what_it_was_worth(registry, answered, tmp_path):
    requests = read_requests(registry)
    assert len(requests) == NUM
    assert sum(each.routing.explored for each in requests) == 2 * NUM // 3
    assert {round(each.routing.propensities["small"], 3) for each in requests} == {0.85}
    scores = {each.request_id: 1.0 if each.routing.used == "large" else 0.5 for each in requests}
    report = audit(requests, rewards_of(requests, Scores(by_request=scores), []))
    assert report["cost_usd_per_1000"]["always-large"]["value"] == pytest.approx(14.0)
    assert report["cost_usd_per_1000"]["always-small"]["value"] == pytest.approx(1.4)
    assert report["quality"]["always-large"]["ips"]["value"] > report["quality"]["always-small"]["ips"]["value"]
    assert report["quality"]["always-small"]["dr"]["value"] == pytest.approx(0.5)
    assert report["quality"]["always-large"]["dr"]["value"] == pytest.approx(1.0)
    assert report["regret"] == {"against": "always-large", "value": pytest.approx(0.5)}
    assert {row["workload"] for row in report["by"]} == {"mail", "web"}
    page = render_audit(report, about="<all>")
    assert page.count("<svg") == 3
    assert "&lt;all&gt;" in page
    nothing = audit(requests[:1], {})
    assert "no reward is known" in " ".join(nothing["notes"])
    assert "not known" in render_audit(nothing, about="one")
    assert "0 requests were routed" in render_audit(audit([], {}), about="none").replace("\n", " ")


def test_commands(registry, answered, tmp_path):
    feedback, page = tmp_path / "f.jsonl", tmp_path / "audit.html"
    feedback.write_text("".join(json.dumps({"request_id": f"r{n:03}", "score": 1}) + "\n" for n in range(NUM)))
    asked = ["router", "audit", "--json", "--feedback", str(feedback), "--out", str(page), "--release", "assistant"]
    ended = CliRunner().invoke(app, [*asked, "--workspace", str(registry.workspace.root)])
    assert ended.exit_code == 0, ended.output
    assert json.loads(ended.stdout)["num_rewarded"] == NUM
    assert "Audit of routing" in page.read_text()
    router = registry.publish("router", "router", inputs={}, facts={"guarantee": None})
    for command, status in (("show", 0), ("guarantee", 1)):
        ended = CliRunner().invoke(app, ["router", command, router.ref, "--workspace", str(registry.workspace.root)])
        assert ended.exit_code == status
        assert "it promises nothing" in ended.stdout


def test_a_shadow_sample_is_a_share_by_hash_with_what_people_said(registry, answered):
    folder, about = registry.workspace.requests_dir, {"release": answered.digest}
    whole = questions_of_log(folder, share=1.0, **about)
    assert len(whole) == NUM
    some = questions_of_log(folder, share=0.3, feedback=Scores(by_request={"r000": 0.0, "by-name": 1.0}), **about)
    assert {each.row_id for each in some} == {each.row_id for each in whole if is_sampled(each.row_id, 0.3)} | {"r000"}
    (judged,) = [each for each in some if each.source == "feedback"]
    assert (judged.row_id, list(judged.scores.values())) == ("r000", [0.0])
    assert questions_of_log(folder, share=1.0, release="sha256:other") == []


def test_a_score_of_a_quotation_says_nothing_of_the_model_that_was_refused(
    make_gateway, backends, releases, registry, request_log
):
    releases["r"] = release = make_release()
    backends.texts |= {"small": "wrong", "large": "wrong as well"}

    async def story(gateway):
        await gateway.take("r")
        await gateway.chat(ChatRequest(messages=[{"role": "user", "content": "What is the fee?"}]), request_id="quoted")
        releases["r"] = replace(release, models={}, router=None, digest="sha256:stopped")
        await gateway.take("r")
        await gateway.chat(ChatRequest(messages=[{"role": "user", "content": "What?"}]), request_id="unasked")

    asyncio.run(story(make_gateway()))
    request_log.close()
    folder, said = registry.workspace.requests_dir, Scores(by_request={"quoted": 1.0, "unasked": 1.0})
    assert questions_of_log(folder, release=release.digest, share=0.0, feedback=said) == []
    (asked,) = questions_of_log(folder, release=release.digest, share=1.0, feedback=said)
    assert (asked.source, asked.scores) == ("shadow", {})
    requests = read_requests(registry)
    assert [(each.routing.used, each.route) for each in requests] == [("large", "extractive"), ("", "extractive")]
    keys = {each.request_id: each.asked_by for each in requests}
    rows = [Row("quoted", "log", [0.0], [[0.0]] * 2, [], [0.5, 0.25], [1.0, 1.0])]
    shadow = [Sample(("small", "large"), tuple(rows), 0)]
    assert rewards_of(requests, Scores(), shadow) == {}
    answered = [replace(requests[0], route="large")]
    assert rewards_of(answered, Scores(), shadow) == {keys["quoted"]: 0.25}
    report = audit(requests, rewards_of(requests, said, shadow))
    assert [report[name] for name in ("num_requests", "num_unasked", "num_rewarded")] == [2, 1, 1]
    assert "1 requests are in no estimate" in " ".join(report["notes"])
    assert "1 requests are in no estimate" in render_audit(audit(requests[1:], {}), about="one")


def test_every_model_is_asked_and_the_largest_is_the_measure_where_nothing_else_is():
    questions = [Question(f"q{n}", f"What is fee {n}?", "shadow") for n in range(20)]
    questions += [
        Question("known", "What is fee 5?", "suite", ("nothing",)),
        Question("said", "?", "feedback", (), {"small": 0.25}),
    ]
    engines = {"small": lambda: Engine(lambda asked: "5" in asked), "large": lambda: Engine(lambda asked: True)}
    sample, cards = collect(
        questions,
        engines,
        search=search,
        prompt_for=lambda conversation, passages: conversation.prompt(),
        settings=RoutingSettings(),
        prices={"small": 0.1, "large": 1.0},
    )
    by_id = {row.row_id: row.quality for row in sample.rows}
    assert (by_id["q5"], by_id["q15"], by_id["q7"]) == ([1.0, 1.0], [1.0, 1.0], [0.0, 1.0])
    assert (by_id["known"], by_id["said"]) == ([0.0, 0.0], [0.25, 1.0])
    assert (sample.embedded, len(sample.rows[0].before), len(sample.rows[0].after[0])) == (4, 66, 88)
    assert cards["large"].context_tokens == 256
    assert cards["large"].chars_per_token == pytest.approx(
        sum(len(each.text) for each in questions) / (6 * len(questions))
    )
    stated = facts_of(sample, cards, models={"small": "s", "large": "l"}, index="i", settings=RoutingSettings())
    assert stated["num_by_source"] == {"feedback": 1, "shadow": 20, "suite": 1}
    assert stated["promise"]["parts"] == {"learn": 0.5, "calibrate": 0.3, "held-out": 0.2}
    assert qualities(Question("q", "?", "x"), {"small": "a", "large": "b"}) == [0.0, 1.0]
    assert ModelCard.from_json(stated["cards"]["small"]) == cards["small"]


def test_what_cannot_be_asked_is_said_in_a_sentence(registry, tmp_path):
    settings = RoutingSettings()
    with pytest.raises(NoQuestions, match="a larger share"):
        ask_models("log", [], make_release(), sources=[], registry=registry, settings=settings)
    with pytest.raises(NoQuestions, match="or `log`"):
        find_source("nothing", registry)
    for text, said in (("{}", "line 1"), ('{"request_id": "a", "score": 7}', "from 0 to 1"), ("[", "as JSON")):
        path = tmp_path / "bad.jsonl"
        path.write_text(text)
        with pytest.raises(BadFeedback, match=said):
            read_feedback(path)
    assert replace(Question("a", "b", "c"), scores={"x": 1.0}).scores == {"x": 1.0}
