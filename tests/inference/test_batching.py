"""Continuous batching, step by step, beside transformers' own ``generate``; no thread, no clock."""

import random

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from app.inference import batching
from app.inference.batching import EngineBusy, EngineFailed, Limits, Request, Scheduler
from app.inference.sampling import Sampling
from app.inference.window import RowCache

VOCABULARY, CONTEXT = 64, 512


class Spelled:
    """Tokens as numbers; none ends an answer."""

    thought, end_tokens = None, frozenset()

    def decode(self, ids):
        return " ".join(map(str, ids))

    def spell(self, token, logprob, top=()):
        return (token, logprob, tuple(top))


class Network:
    """A random Llama; notes the size of every pass, and fails on demand."""

    device = torch.device("cpu")

    def __init__(self):
        torch.manual_seed(0)
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = LlamaConfig(
            vocab_size=VOCABULARY, num_key_value_heads=2, initializer_range=0.2, eos_token_id=None, **shape
        )
        self.model = LlamaForCausalLM(config).eval().requires_grad_(False)
        self.model.generation_config.eos_token_id = None
        self.config, self.passes, self.broken = self.model.config, [], False

    def __call__(self, *, input_ids, attention_mask, position_ids, cache, owners):
        self.passes.append(tuple(input_ids.shape))
        if self.broken:
            raise RuntimeError("out of memory")
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        return self.model(**given, past_key_values=cache, use_cache=True).logits[:, -1]

    def plain(self, tokens, num):
        ids = torch.tensor([tokens])
        mask = torch.ones_like(ids)
        said = self.model.generate(ids, attention_mask=mask, max_new_tokens=num, do_sample=False, pad_token_id=0)
        return " ".join(map(str, said[0, len(tokens) :].tolist()))


@pytest.fixture(scope="module")
def network():
    torch.set_num_threads(1)
    return Network()


def scheduler(network, **limits):
    return Scheduler(network, Spelled(), limits=Limits(**{"prefix_tokens": 4096, **limits}), max_context_tokens=CONTEXT)


class AnyShape:
    """A shape that everything fits."""

    def allowed(self):
        return np.ones(VOCABULARY, dtype=bool)

    def accept(self, token):
        pass


def fails(*_):
    raise RuntimeError("out of memory")


def finish(engine, requests):
    while not all(each.answer.done() for each in requests):
        engine.step()
    return [each.answer.result() for each in requests]


def prompt(seed, length):
    numbers = random.Random(seed)
    return [numbers.randrange(VOCABULARY) for _ in range(length)]


def test_whoever_comes_and_goes_every_answer_is_that_of_generate(network):
    engine, numbers = scheduler(network, max_rows=3), random.Random(0)
    asked = [(prompt(seed, numbers.randrange(1, 40)), numbers.randrange(1, 12)) for seed in range(9)]
    asked.append((prompt(99, 70), 90))  # outgrows the first buffers
    requests = []
    for tokens, num in asked:
        requests.append(engine.submit(Request(tokens, Sampling(max_new_tokens=num))))
        engine.step()
    assert [each.text for each in finish(engine, requests)] == [network.plain(*each) for each in asked]
    assert engine.load == (0, 0, 0, 0)


def test_drawn_answers_depend_on_their_seed_alone(network):
    asked = [
        Sampling(max_new_tokens=6, temperature=1.0, seed=1),
        Sampling(max_new_tokens=6),
        Sampling(max_new_tokens=6, temperature=0.7, top_p=0.8, seed=2),
        Sampling(max_new_tokens=6, temperature=1.0, seed=3),
    ]
    tokens = prompt(0, 12)
    together = scheduler(network)
    batch = finish(together, [together.submit(Request(tokens, each)) for each in asked])
    for sampling, given in zip(asked, batch, strict=True):
        engine = scheduler(network)
        (alone,) = finish(engine, [engine.submit(Request(tokens, sampling))])
        assert alone.text == given.text
        assert alone.mean_logprob == pytest.approx(given.mean_logprob, abs=1e-5)
    assert batch[1].text == network.plain(tokens, 6)
    assert len({each.text for each in batch}) == 4


def test_a_seed_and_its_negative_draw_their_own(network):
    engine = scheduler(network)
    seeds = [engine.submit(Request([1, 2], Sampling(seed=seed, temperature=1.0))).random for seed in (1, -1, -1)]
    first = [each.random() for each in seeds]
    assert (first[0] != first[1], first[1] == first[2]) == (True, True)
    assert first[0] == random.Random(1).random()


def test_log_probabilities_are_the_models_own(network):
    engine, tokens = scheduler(network), prompt(5, 9)
    sampling = Sampling(max_new_tokens=4, temperature=2.0, seed=7, num_logprobs=3)
    (given,) = finish(engine, [engine.submit(Request(tokens, sampling))])
    said = [token for token, _, _ in given.tokens]
    logits = network.model(torch.tensor([tokens + said])).logits[0].log_softmax(-1)[len(tokens) - 1 :]
    for place, (token, logprob, top) in enumerate(given.tokens):
        values, best = logits[place].topk(3)
        assert logprob == pytest.approx(logits[place, token].item(), abs=1e-4)
        assert [each for each, _ in top] == best.tolist()
        assert [value for _, value in top] == pytest.approx(values.tolist(), abs=1e-4)
    assert given.mean_logprob == pytest.approx(sum(logprob for _, logprob, _ in given.tokens) / 4)
    (plain,) = finish(engine, [engine.submit(Request(tokens, Sampling(max_new_tokens=4)))])
    assert plain.tokens == ()


def test_a_prompts_known_beginning_is_not_worked_through_again(network):
    engine, tokens = scheduler(network), prompt(1, 40)
    other = tokens[:35] + prompt(2, 5)
    asked = [(tokens, 0, ""), (tokens, 32, ""), (other, 32, ""), (tokens, 0, "b"), (tokens[:32], 16, ""), ([7], 0, "")]
    for each, num_cached, owner in asked:
        (given,) = finish(engine, [engine.submit(Request(each, Sampling(max_new_tokens=5), owner))])
        assert (given.num_cached_tokens, given.text) == (num_cached, network.plain(each, 5))
    mixed = [engine.submit(Request(each, Sampling(max_new_tokens=5))) for each in (tokens, prompt(3, 50), other, [3])]
    wanted = [network.plain(each.tokens, 5) for each in mixed]
    assert [each.text for each in finish(engine, mixed)] == wanted
    assert [each.num_cached for each in mixed] == [32, 0, 32, 0]


def test_without_a_prefix_cache_the_same_prompts_give_the_same_bits_again(network):
    engine, tokens = scheduler(network, prefix_tokens=0), prompt(1, 40)
    asked = [[tokens, tokens[:35]], [prompt(4, 50)], [tokens, tokens[:35]]]
    given = [finish(engine, [engine.submit(Request(each, Sampling())) for each in part]) for part in asked]
    assert given[0] == given[2]
    assert given[2][0].num_cached_tokens == 0


def test_prefixes_that_were_not_used_for_long_are_forgotten(network):
    engine = scheduler(network, prefix_tokens=48)
    for seed, num_cached in ((1, 0), (2, 0), (1, 16), (3, 0), (2, 0)):
        (given,) = finish(engine, [engine.submit(Request(prompt(seed, 33)[:32], Sampling(max_new_tokens=1)))])
        assert given.num_cached_tokens == num_cached
        assert len(engine._prefixes) <= 3


def test_a_cancelled_request_frees_its_place(network):
    engine = scheduler(network, max_rows=1)
    first, second, third = (
        engine.submit(Request(prompt(each, 8), Sampling(max_new_tokens=300 if each < 2 else 3))) for each in range(3)
    )
    assert engine.load == (0, 3, 0, 3 * 8 + 300 + 300 + 3)
    engine.step()
    assert engine.load[:3] == (1, 2, 0)
    first.answer.cancel()
    second.answer.cancel()
    engine.step()
    assert engine.load[:3] == (1, 0, 2)
    assert finish(engine, [third])[0].text == network.plain(prompt(2, 8), 3)


def test_the_cache_has_the_room_that_its_rows_need():
    cache = RowCache()

    def join(num_rows, length):
        part = torch.zeros(num_rows, 1, length, 2)
        cache.join([(part, part)], [[slice(0, length)]] * num_rows)

    def room():
        return [layer.keys.shape[0] * layer.keys.shape[2] for layer in cache.layers]

    join(32, 8)
    assert room() == [32 * 128]
    for _ in range(32):
        cache.leave(0)
    assert room() == [32 * 128]
    join(1, 4000)
    assert room() == [8192]
    join(2, 3000)
    assert room() == [4 * 8192]
    for _ in range(3):
        cache.leave(0)
    assert room() == []
    join(1, 8)
    assert (room(), cache.mask().tolist()) == ([128], [[1] * 8 + [0]])


def test_one_too_many_is_refused(network):
    engine = scheduler(network, max_rows=1, max_waiting=2)
    requests = [engine.submit(Request([1, 2], Sampling(max_new_tokens=2))) for _ in range(2)]
    with pytest.raises(EngineBusy, match="2 requests wait"):
        engine.submit(Request([1, 2], Sampling()))
    engine.submit(Request([1, 2], Sampling(max_new_tokens=1)), bounded=False)
    assert len(finish(engine, requests)) == 2


def test_the_rows_together_stay_within_the_budget(network):
    engine = scheduler(network, max_tokens=60)
    requests = [engine.submit(Request(prompt(each, 15), Sampling(max_new_tokens=5))) for each in range(4)]
    huge = engine.submit(Request(prompt(9, 80), Sampling(max_new_tokens=3)))
    most, order = 0, []
    while not all(each.answer.done() for each in (*requests, huge)):
        engine.step()
        most, order = max(most, engine.load[0]), [*order, huge.answer.done()]
    assert most == 3
    assert huge.answer.result().text == network.plain(huge.tokens, 3)


def test_a_step_that_fails_takes_its_own_requests_along_and_no_others(network):
    engine = scheduler(network, max_rows=2)
    requests = [engine.submit(Request(prompt(each, 5), Sampling(max_new_tokens=3))) for each in range(3)]
    network.broken = True
    engine.step()
    network.broken = False
    for failed in requests[:2]:
        with pytest.raises(EngineFailed, match=r"RuntimeError: out of memory"):
            failed.answer.result(timeout=0)
    assert finish(engine, requests[2:])[0].text == network.plain(prompt(2, 5), 3)


def test_a_prompt_that_fails_takes_no_row_under_way_along(network, monkeypatch):
    engine = scheduler(network, max_rows=3)
    request = engine.submit(Request(prompt(0, 5), Sampling(max_new_tokens=9)))
    engine.step()
    huge = engine.submit(Request(prompt(1, 40), Sampling(max_new_tokens=3)))
    with monkeypatch.context() as patched:
        patched.setattr(engine, "_prefill", fails)
        engine.step()
    with pytest.raises(EngineFailed, match=r"RuntimeError: out of memory"):
        huge.answer.result(timeout=0)
    assert (finish(engine, [request])[0].text, engine.num_failed) == (network.plain(prompt(0, 5), 9), 0)


def test_passes_that_fail_in_a_row_are_counted_until_one_does_not(network, monkeypatch):
    engine = scheduler(network)
    with monkeypatch.context() as patched:
        patched.setattr(network, "broken", True)
        for num_failed in (1, 2):
            failed = engine.submit(Request([1, 2], Sampling()))
            engine.step()
            engine.step()  # nothing to do: no news
            assert (failed.answer.done(), engine.num_failed) == (True, num_failed)
    finish(engine, [engine.submit(Request([1, 2], Sampling(max_new_tokens=1)))])
    assert engine.num_failed == 0


@pytest.mark.parametrize("hears", [True, False])
def test_a_request_whose_text_cannot_be_told_fails_alone(network, hears):
    def listen(delta):
        raise IndexError("piece id is out of range")

    engine, listener = scheduler(network), listen if hears else None
    failed = engine.submit(Request([1, 2], Sampling(max_new_tokens=3), listen=listener))
    if not hears:
        failed.speller.rest = lambda: listen(None)
    whole = engine.submit(Request([3, 4], Sampling(max_new_tokens=4)))
    assert finish(engine, [whole])[0].text == network.plain([3, 4], 4)
    with pytest.raises(EngineFailed, match="IndexError: piece id"):
        failed.answer.result(timeout=0)
    assert (engine.load[:3], engine.num_failed) == ((0, 0, 0), 0)


@pytest.mark.parametrize("fault", ["allowed", "accept"])
def test_a_request_whose_shape_fails_fails_alone(network, fault):
    shape, heard, engine = AnyShape(), [], scheduler(network)
    setattr(shape, fault, fails)
    failed = engine.submit(Request([1, 2], Sampling(max_new_tokens=3), listen=heard.append, shape=shape))
    whole = engine.submit(Request([3, 4], Sampling(max_new_tokens=4), shape=AnyShape()))
    assert finish(engine, [whole])[0].text == network.plain([3, 4], 4)
    with pytest.raises(EngineFailed, match="RuntimeError: out of memory"):
        failed.answer.result(timeout=0)
    assert (heard, engine.load[:3], engine.num_failed) == ([], (0, 0, 0), 0)


def test_a_stream_is_told_in_pieces_of_its_pace_and_its_end_at_once(network):
    engine, heard = scheduler(network), {0.0: [], 3600.0: []}
    for pace_s, mine in heard.items():
        asked = Request([3, 4], Sampling(max_new_tokens=6), listen=mine.append, pace=lambda pace_s=pace_s: pace_s)
        finish(engine, [engine.submit(asked)])
    texts = ["".join(delta.text for delta in mine) for mine in heard.values()]
    assert texts == [network.plain([3, 4], 6)] * 2
    assert (len(heard[0.0]) > 2, len(heard[3600.0])) == (True, 2)


def test_prompts_pass_together_and_not_at_every_step(network):
    engine = scheduler(network, max_rows=8)
    requests = [engine.submit(Request(prompt(each, 6), Sampling(max_new_tokens=20))) for each in range(5)]
    network.passes.clear()
    engine.step()
    assert network.passes == [(5, 6), (5, 1)]
    requests += [engine.submit(Request(prompt(7, 4), Sampling(max_new_tokens=20)))]
    engine.step()
    engine.step()
    assert network.passes[2:] == [(5, 1), (5, 1)]
    engine.step()
    engine.step()
    assert (1, 4) in network.passes
    finish(engine, requests)


def test_an_engine_that_has_work_and_takes_no_step_is_stalled(network, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(batching.time, "monotonic", lambda: now[0])
    engine = scheduler(network)
    now[0] = 500.0
    assert engine.stalled_s == 0.0
    request = engine.submit(Request([1], Sampling(max_new_tokens=3)))
    now[0] = 530.0
    assert engine.stalled_s == 30.0
    engine.step()
    assert engine.stalled_s == 0.0
    now[0] = 540.0
    assert engine.stalled_s == 10.0
    finish(engine, [request])
    assert engine.stalled_s == 0.0


def test_a_thread_takes_the_steps_where_nobody_else_does(network):
    engine = scheduler(network)
    for _ in range(2):
        request = engine.submit(Request([5, 6], Sampling(max_new_tokens=3)))
        engine.start()
        assert request.answer.result(timeout=60).text == network.plain([5, 6], 3)
