"""Continuous batching: requests join the answers under way between two steps, and leave as soon as they are done.

A step draws one token for every row; a request's prompt is worked through in a batch of its own before it joins. The
rows lie in one window of a cache (:mod:`app.inference.window`). Steps are taken by whoever waits for an answer, or by
a thread that runs while there is work.

Guarantees: an answer does not depend on the rows beside it, up to rounding; a request whose ``answer`` is cancelled
leaves before the next step; a pass that fails takes the requests in it along, and no others, and a request whose text
cannot be told fails alone. Not guaranteed: that a long prompt does not hold up the others for the time it takes.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from transformers import DynamicCache

from app.core.errors import SignalboxError
from app.inference.drawing import draw
from app.inference.pacing import Pace, at_once
from app.inference.prefixes import PrefixCache
from app.inference.sampling import Delta, Generation, Sampling
from app.inference.shaping import Shape
from app.inference.spelling import Speller, Vocabulary
from app.inference.window import RowCache, fits

JOIN_EVERY = 4
"""Steps between two joinings while at least half of the rows are taken: a prompt's pass costs about as much as a
step, and several prompts pass together for the price of one."""
LINGER_S = 0.5
"""How long the thread waits for more work before it ends."""


class EngineBusy(SignalboxError):
    """As many requests wait as may: ask again in a moment, or run more replicas."""


class EngineFailed(SignalboxError):
    """The model failed in the middle of an answer: the message says how; the replica's log says more."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much an engine takes on at once."""

    max_rows: int = 32
    """Answers under way together."""

    max_waiting: int = 256
    """Requests that wait for a row; beyond that they are refused."""

    max_tokens: int = 131_072
    """Tokens that the rows may come to together, each counted as the longest."""

    max_prompt_tokens: int = 4096
    """Tokens of prompts, padding counted, that pass together."""

    prefix_tokens: int = 0
    """Tokens of prompts' beginnings whose keys and values are kept. 0: none, and the same prompts in the same order
    give the same bits whatever was asked before, as an evaluation must."""


class Load(NamedTuple):
    """How busy an engine is."""

    num_rows: int
    """Answers under way."""

    num_waiting: int
    num_cancelled: int
    """Requests since the beginning that somebody gave up while they waited or were under way."""

    num_tokens: int = 0
    """Tokens that the requests may come to, prompts included."""


class Network(Protocol):
    """A causal model: logits after the last token of every row."""

    def __call__(
        self, *, input_ids: Any, attention_mask: Any, position_ids: Any, cache: Any, owners: Sequence[str]
    ) -> Any: ...

    @property
    def device(self) -> Any: ...
    @property
    def config(self) -> Any: ...


@dataclass(eq=False)
class Request:
    """A prompt on its way; cancelling ``answer`` ends it."""

    tokens: Sequence[int]
    sampling: Sampling
    owner: str = ""
    """The adapter that answers; empty: the model as it is."""
    listen: Callable[[Delta], None] | None = None
    """Is told every piece, in the thread that takes the steps."""
    pace: Pace = at_once
    due_s: float = 0.0
    """Before this nothing is said, but for the end."""
    limit: int = 0
    answer: Future[Generation] = field(default_factory=Future)
    shape: Shape | None = None
    """What the answer must fit."""
    num_passages: int = 0
    """How many of the prompt's passages stand in the tokens."""
    speller: Speller = field(init=False)
    random: random.Random = field(init=False)
    logprobs: list[float] = field(default_factory=list)
    last: int = 0
    num_cached: int = 0
    ended: bool = False

    def take(self, token: int, logprob: float, top: Sequence[tuple[int, float]], vocabulary: Vocabulary) -> bool:
        """The next token of the answer; true when it was the last."""
        self.last, self.ended = token, token in vocabulary.end_tokens
        self.logprobs.append(logprob)
        if not self.ended:
            if self.shape is not None:
                self.shape.accept(token)
            asked = self.sampling.num_logprobs >= 0
            self.speller.add(token, vocabulary.spell(token, logprob, top) if asked else None)
        return self.ended or self.speller.stopped or len(self.logprobs) >= self.limit

    def say(self, *, done: bool) -> None:
        """Tell the listener what can be said, and whoever waits the whole when it is done."""
        if not done and time.monotonic() < self.due_s:
            return
        text, tokens = self.speller.rest() if done else self.speller.piece()
        whole = self._whole() if done else None
        if self.listen is not None and (text or whole):
            self.due_s = time.monotonic() + self.pace()
            self.listen(Delta(text=text, tokens=tokens, num_passages=self.num_passages, whole=whole))
        if whole is not None and self.answer.set_running_or_notify_cancel():
            self.answer.set_result(whole)

    def fail(self, error: Exception) -> None:
        """The answer will not come."""
        if not self.answer.done() and self.answer.set_running_or_notify_cancel():
            self.answer.set_exception(error)

    @property
    def failed(self) -> bool:
        """Whether the answer will not come."""
        return self.answer.done() and not self.answer.cancelled() and self.answer.exception() is not None

    def _whole(self) -> Generation:
        text, tokens = self.speller.whole
        return Generation(
            text=text,
            mean_logprob=sum(self.logprobs) / len(self.logprobs),
            min_logprob=min(self.logprobs),
            num_prompt_tokens=len(self.tokens),
            num_completion_tokens=len(self.logprobs),
            finish_reason="stop" if self.ended or self.speller.stopped else "length",
            num_cached_tokens=self.num_cached,
            tokens=tokens,
            num_passages=self.num_passages,
        )


class Scheduler:
    """Requests waiting and requests under way with one model."""

    def __init__(self, network: Network, vocabulary: Vocabulary, *, limits: Limits, max_context_tokens: int) -> None:
        self._network, self._vocabulary, self._limits = network, vocabulary, limits
        self._max_context_tokens = max_context_tokens
        config = network.config.get_text_config()
        self._joins = fits(DynamicCache(config=config))
        slides = "sliding_attention" in (getattr(config, "layer_types", None) or ()) or getattr(
            config, "sliding_window", None
        )
        self._prefixes = PrefixCache(0 if slides or not self._joins else limits.prefix_tokens)
        self._waiting: deque[Request] = deque()
        self._rows: list[Request] = []
        self._cache: Any = RowCache()
        self._stepping, self._changed = threading.Lock(), threading.Condition()
        self._thread: threading.Thread | None = None
        self._since_join, self._num_cancelled, self._moved_s = 0, 0, time.monotonic()
        self.num_failed = 0
        """Passes in a row that failed."""

    @property
    def load(self) -> Load:
        """What there is to do now."""
        requests = [*self._rows, *self._waiting.copy()]
        num_tokens = sum(len(each.tokens) + each.limit for each in requests)
        return Load(len(self._rows), len(self._waiting), self._num_cancelled, num_tokens)

    @property
    def _busy(self) -> bool:
        return bool(self._rows or self._waiting)

    @property
    def stalled_s(self) -> float:
        """How long no step has ended although there is work."""
        return time.monotonic() - self._moved_s if self._busy else 0.0

    def submit(self, request: Request, *, bounded: bool = True) -> Request:
        """Queue a request.

        Raises:
            EngineBusy: too many wait already.
        """
        room = max(self._max_context_tokens - len(request.tokens), 1)
        request.limit = min(request.sampling.max_new_tokens, room)
        request.speller = Speller(self._vocabulary, request.sampling)
        seed = request.sampling.seed
        request.random = random.Random(None if seed is None else seed % 2**64)  # Random drops the sign
        with self._changed:
            if bounded and len(self._waiting) >= self._limits.max_waiting:
                raise EngineBusy(f"{len(self._waiting)} requests wait already: ask again in a moment")
            if not self._busy:
                self._moved_s = time.monotonic()
            self._waiting.append(request)
            self._changed.notify_all()
        return request

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No step is taken meanwhile."""
        with self._stepping:
            yield

    def start(self) -> None:
        """Have a thread take the steps while there is work."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="signalbox-engine", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._busy and not self._changed.wait_for(lambda: self._busy, LINGER_S):
                    self._thread = None
                    return
            self.step()

    def step(self) -> None:
        """Let requests in, and draw a token for every row."""
        with self._stepping, torch.inference_mode():
            taken: list[Request] = []
            try:
                self._drop_ended()
                taken = self._admit()
                if taken:
                    self._join(taken)
                if self._rows:
                    self._decode()
            except Exception as error:  # whatever it is, those in the batch are told, and the engine goes on
                failed = [*self._rows, *(each for each in taken if each not in self._rows)]
                self._rows, self._cache = [], RowCache()
                self._fail(failed, error)
            self._since_join += 1
            self._moved_s = time.monotonic()

    def _fail(self, requests: Sequence[Request], error: Exception) -> None:
        self.num_failed += 1
        for request in requests:
            request.fail(_failure(error))

    def _drop_ended(self) -> None:
        """Take out what was given up, or failed by itself."""
        with self._changed:
            kept = [each for each in self._waiting if not each.answer.cancelled()]
            if len(kept) < len(self._waiting):
                self._num_cancelled += len(self._waiting) - len(kept)
                self._waiting = deque(kept)
        for row in reversed(range(len(self._rows))):
            if self._rows[row].answer.done():
                self._num_cancelled += self._rows[row].answer.cancelled()
                self._leave(row)

    def _admit(self) -> list[Request]:
        """Requests that join now."""
        limits, taken = self._limits, list[Request]()
        most = limits.max_rows if self._joins else 1
        if self._rows and (not self._joins or (2 * len(self._rows) >= most and self._since_join < JOIN_EVERY)):
            return []
        with self._changed:
            longest = max((len(each.tokens) + each.limit for each in self._rows), default=0)
            prompt = 0
            while self._waiting and len(self._rows) + len(taken) < most:
                first = self._waiting[0]
                longest, prompt = max(longest, len(first.tokens) + first.limit), max(prompt, len(first.tokens))
                num_rows = len(self._rows) + len(taken) + 1
                fits_in = longest * num_rows <= limits.max_tokens
                passes = prompt * (len(taken) + 1) <= limits.max_prompt_tokens
                if not (fits_in and passes) and (taken or (self._rows and not fits_in)):
                    break
                taken.append(self._waiting.popleft())
        if taken:
            self._since_join = 0
        return taken

    def _join(self, requests: list[Request]) -> None:
        """Work the prompts through, draw their first tokens, and let those join whose answers go on."""
        try:
            known = [self._prefixes.find(each.tokens, owner=each.owner) for each in requests]
            cache, logits, spans = self._prefill(requests, known)
            layers = [(layer.keys, layer.values) for layer in cache.layers] if self._joins else []
            self._keep(requests, layers, spans)
            alive = self._take(requests, logits)
        except Exception as error:  # whatever it is, the rows under way have no part in it
            self._fail(requests, error)
            return
        if not self._joins:
            self._cache, self._rows = cache, [requests[row] for row in alive]
        elif alive:
            rows = torch.tensor(alive, device=self._network.device)
            chosen = layers if len(alive) == len(requests) else [(keys[rows], values[rows]) for keys, values in layers]
            self._cache.join(chosen, [spans[row] for row in alive])
            self._rows += [requests[row] for row in alive]
        _tell(requests, alive)

    def _prefill(self, requests: list[Request], known: list[list[torch.Tensor]]) -> tuple[Any, Any, list[list[slice]]]:
        """A cache of the prompts, their last logits, and where each prompt's tokens lie in the cache."""
        beginnings = [torch.cat(blocks, dim=-2) if blocks else None for blocks in known]
        sizes = [0 if each is None else each.shape[-2] for each in beginnings]
        rests = [each.tokens[size:] for each, size in zip(requests, sizes, strict=True)]
        before, after = max(sizes), max(map(len, rests))
        for request, size in zip(requests, sizes, strict=True):
            request.num_cached = size
        spans = [
            [slice(before - size, before), slice(before + after - len(rest), before + after)]
            for size, rest in zip(sizes, rests, strict=True)
        ]
        device = self._network.device
        ids = torch.tensor([[0] * (after - len(rest)) + list(rest) for rest in rests], device=device)
        mask = torch.zeros(len(requests), before + after, dtype=torch.long, device=device)
        for row, each in enumerate(spans):
            for span in each:
                mask[row, span] = 1
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, before:]
        cache = DynamicCache() if self._joins else DynamicCache(config=self._network.config.get_text_config())
        if before:
            _fill(cache, beginnings, before)
        logits = self._forward(ids, mask, positions, cache, requests)
        return cache, logits, spans

    def _keep(self, requests: list[Request], layers: Any, spans: list[list[slice]]) -> None:
        """Remember the prompts' beginnings."""
        if not layers or len({keys.shape[1:] for keys, _ in layers}) > 1:
            return
        for row, (request, each) in enumerate(zip(requests, spans, strict=True)):
            if not self._prefixes.knows(request.tokens, owner=request.owner):
                parts = [torch.stack([keys[row], values[row]]) for keys, values in layers]
                whole = torch.cat([torch.stack(parts)[..., span, :] for span in each], dim=-2)
                self._prefixes.keep(request.tokens, whole, owner=request.owner)

    def _decode(self) -> None:
        """One step of all rows."""
        device, rows = self._network.device, self._rows
        ids = torch.tensor([[each.last] for each in rows], device=device)
        places = [len(each.tokens) + len(each.logprobs) - 1 for each in rows]
        positions = torch.tensor(places, device=device)[:, None]
        if self._joins:
            self._cache.begin_step()
            logits = self._forward(ids, self._cache.mask(), positions, self._cache, rows)
            self._cache.end_step()
        else:
            mask = torch.ones(1, places[0] + 1, dtype=torch.long, device=device)
            logits = self._forward(ids, mask, positions, self._cache, rows)
        requests, alive = list(rows), self._take(rows, logits)
        for row in reversed(range(len(requests))):
            if row not in alive:
                self._leave(row)
        _tell(requests, alive)

    def _forward(self, ids: Any, mask: Any, positions: Any, cache: Any, requests: Sequence[Request]) -> Any:
        owners = [each.owner for each in requests]
        return self._network(
            input_ids=ids, attention_mask=mask, position_ids=positions, cache=cache, owners=owners
        )  # fmt: skip

    def _take(self, requests: Sequence[Request], logits: Any) -> list[int]:
        """Draw a token for each; which of them go on. One whose shape fails, fails alone."""
        numbers = [each.random.random() for each in requests]
        drawn = draw(logits, [each.sampling for each in requests], numbers, _allowed(requests))
        alive = []
        for row, request in enumerate(requests):
            top = drawn.top.get(row, ())
            with _alone(request):
                taken = (drawn.tokens[row], drawn.logprobs[row], top, self._vocabulary)
                if not request.failed and not request.take(*taken):
                    alive.append(row)
        self.num_failed = 0
        return alive

    def _leave(self, row: int) -> None:
        """Take a row out: the last one takes its place."""
        last = self._rows.pop()
        if row < len(self._rows):
            self._rows[row] = last
        if self._joins:
            self._cache.leave(row)


def _tell(requests: Sequence[Request], alive: Sequence[int]) -> None:
    """Say what there is to say: last of all, so that whoever hears of an end finds the place free."""
    for row, request in enumerate(requests):
        if not request.failed and (row not in alive or request.listen is not None):
            with _alone(request):
                request.say(done=row not in alive)


def _allowed(requests: Sequence[Request]) -> dict[int, Any]:
    """What the rows that have a shape may draw."""
    found = {}
    for row, request in enumerate(requests):
        if request.shape is not None:
            with _alone(request):
                found[row] = request.shape.allowed()
    return found


@contextmanager
def _alone(request: Request) -> Iterator[None]:
    """Whatever fails in the block is this request's alone."""
    try:
        yield
    except Exception as error:  # whatever it is, the others in the pass have no part in it
        request.fail(_failure(error))


def _failure(error: Exception) -> EngineFailed:
    """The same as those hear it who wait."""
    failure = EngineFailed(f"the model failed ({type(error).__name__}: {error})")
    failure.__cause__ = error
    return failure


def _fill(cache: Any, beginnings: list[torch.Tensor | None], length: int) -> None:
    """Put known beginnings into a new cache, each ending at ``length``."""
    shape = next(each.shape for each in beginnings if each is not None)
    like = next(each for each in beginnings if each is not None)
    whole = like.new_zeros(len(beginnings), *shape[:3], length, shape[4])
    for row, each in enumerate(beginnings):
        if each is not None:
            whole[row, ..., length - each.shape[-2] :, :] = each
    for number in range(shape[0]):
        cache.update(whole[:, number, 0], whole[:, number, 1], number)
