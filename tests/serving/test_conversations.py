"""Conversations over HTTP: what of a request reaches a model, what is searched, and what is refused."""

import asyncio
import json
from dataclasses import replace

import pytest

from app.inference.sampling import PromptTooLong, Sampling
from app.serving.cascade import answer
from app.serving.counters import ANONYMOUS
from app.serving.log import read_log
from app.serving.outcomes import conversation_of, questions_of_log
from app.serving.requests import ChatRequest
from app.serving.rules import change_rule
from app.serving.steering import Steering, Watch
from tests.serving.asked import ask, proven
from tests.serving.conftest import make_release

TALK = [
    {"role": "developer", "content": "Answer in German."},
    {"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "text", "text": "the fee?"}]},
    {"role": "assistant", "content": "40 euros."},
    {"role": "user", "content": " And for students? ", "name": "jane"},
]
READ = [
    {"role": "system", "content": "Be brief.\n\nAnswer in German."},
    {"role": "user", "content": "What is\nthe fee?"},
    {"role": "assistant", "content": "40 euros."},
    {"role": "user", "content": "And for students?", "name": "jane"},
]


@pytest.fixture(autouse=True)
def _serving(releases):
    releases["assistant@production"] = replace(make_release(), prompt="Be brief.")


@pytest.mark.parametrize(("model", "stream"), [("small", False), ("small", True), ("signalbox", False)])
def test_the_whole_conversation_reaches_the_model_and_the_receipt(
    gateway, backends, request_log, registry, model, stream
):
    searched, retrieve = [], backends.retrieve

    async def noted(index, question, *rest):
        searched.append(question)
        return await retrieve(index, question, *rest)

    backends.retrieve = noted
    sent = {"model": model, "messages": TALK, "stream": stream}
    response = ask(gateway, **sent)
    assert backends.prompts == [READ]
    assert searched == ["And for students?\nWhat is\nthe fee?"]
    assert len(proven(request_log, registry, response, sent)) == 5
    request_log.close()
    (row,) = read_log(registry.workspace.requests_dir).to_pylist()
    assert (row["question"], json.loads(row["request_json"])["messages"]) == ("And for students?", TALK)
    assert list(conversation_of(row).messages[1:]) == READ[1:]


def test_the_shadow_sample_asks_the_models_the_whole_conversation(gateway, request_log, registry, releases):
    ask(gateway, model="signalbox", messages=TALK)
    ask(gateway, model="signalbox")
    request_log.close()
    release = releases["assistant@production"]
    folder = registry.workspace.requests_dir
    asked = {each.text: each for each in questions_of_log(folder, release=release.digest, share=1.0)}
    assert release.prompt_for(asked["And for students?"].conversation) == READ
    assert asked["What is the fee?"].within is None


def test_a_single_question_reaches_the_model_as_it_always_did(gateway, backends, releases):
    ask(gateway)
    releases["assistant@production"] = make_release()
    asyncio.run(gateway.take("assistant@production"))
    ask(gateway)
    system = {"role": "system", "content": "Be brief."}
    assert backends.prompts == [[system, {"role": "user", "content": "What is the fee?"}], "What is the fee?"]


@pytest.mark.parametrize("mode", ["exact", "semantic"])
def test_no_cache_gives_the_answer_to_another_conversation(gateway, mode):
    def state(*messages):
        return ask(gateway, messages=list(messages), cache=mode).headers["x-signalbox-cache"]

    other = [TALK[0], {"role": "user", "content": "What is the deposit?"}, *TALK[2:]]
    asked = [TALK, TALK[1:], other, TALK[-1:]]
    assert [state(*each) for each in asked] == ["miss"] * 4
    assert [state(*each) for each in asked] == ["hit"] * 4


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "at least 1 item"),
        ([{"role": "user", "content": ""}], "no question"),
        ([{"role": "user", "content": " \n"}, {"role": "assistant", "content": "x"}], "no question"),
        ([{"role": "user"}], "no question"),
        ([{"role": "system", "content": "Be brief."}], "no question"),
        (TALK[:3], "end with a user's"),
        ([*TALK[:3], {"role": "system", "content": " "}], "end with a user's"),
        ([{"role": "critic", "content": "x"}], "messages.0.role"),
        ([{"content": "x"}], "messages.0.role"),
        (["What?"], "messages.0"),
        ("What?", "messages"),
        ([{"role": "user", "content": 7}], "messages.0.content"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "not a part of type 'ima"),
        ([{"role": "user", "content": [{"type": "text", "text": 5}]}], "only text parts"),
        ([*TALK[:2], {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, TALK[3]], "'refusal'"),
    ],
)
def test_messages_that_are_none_are_refused_with_a_sentence(gateway, messages, says):
    response = ask(gateway, messages=messages)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")
    assert says in response.json()["error"]["message"]
    assert ask(gateway).status_code == 200


def test_roles_in_any_order_reach_the_model_and_empty_turns_do_not(gateway, backends):
    said = [("assistant", "Hello!"), ("user", "Hi"), ("user", "What is the fee?"), ("assistant", ""), ("user", "Why?")]
    said += [("system", "Be kind."), ("assistant", None)]
    messages = [{"role": role, "content": content} for role, content in said]
    assert ask(gateway, messages=messages[:-1]).status_code == 200
    system = {"role": "system", "content": "Be brief."}
    assert backends.prompts == [[system, *messages[:3], *messages[4:-1]]]
    assert "end with a user's" in ask(gateway, messages=messages).json()["error"]["message"]


def test_a_conversation_over_the_context_limit_is_refused_as_openai_does(gateway, backends):
    long = [{"role": role, "content": "fee " * 30_000} for role in ("user", "assistant") * 2] + TALK[3:]
    over = ask(gateway, messages=long).json()["error"]
    assert (over["code"], "480,021 characters" in over["message"]) == ("context_length_exceeded", True)

    async def short(*asked):
        raise PromptTooLong.of(600, 32, 512)

    backends.generate = short
    refused = ask(gateway, messages=TALK)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert "leave earlier turns out" in refused.json()["error"]["message"]


def test_the_reservation_counts_every_turn(gateway, registry):
    change_rule(registry, ANONYMOUS, {"tokens_per_minute": 300})
    assert ask(gateway, max_tokens=5).status_code == 200
    history = [{"role": "user", "content": "fee " * 300}, *TALK[2:]]
    assert ask(gateway, max_tokens=5, messages=history).status_code == 429


def test_a_conversation_is_known_again_whatever_space_stands_around_its_turns(backends):
    first = ChatRequest(messages=[{"role": "user", "content": " What is the fee? "}])
    said = {"role": "assistant", "content": " 2,000 euros\n"}
    then = ChatRequest(messages=[*first.messages, said, {"role": "user", "content": "Why?"}])
    steering = Steering(Watch(lambda _: "", period_s=60.0))

    async def story():
        release = make_release()
        asked = {"requested": "signalbox", "rungs": list(release.models), "backends": backends}
        backends.texts |= {"small": "no idea", "large": "2,000 euros"}
        given = await answer(first.conversation(), release=release, top_k=4, sampling=Sampling(), **asked)
        steering.end(first, given, authorization=None)
        return await steering.begin(then, release, max_new_tokens=5, authorization=None)

    about = asyncio.run(story())
    assert (about.floor, about.num_chars) == ("large", then.conversation().num_chars)
