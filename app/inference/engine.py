"""Text generation with a local Hugging Face model: requests of many callers in one running batch.

Guarantees: the same prompts, and the same seeds, give the same texts; an answer does not depend on the prompts beside
it, up to rounding; the log-probabilities are the model's own, of the tokens that were chosen. Not guaranteed: a JSON
schema for a model that thinks aloud first. Knows neither Ray nor the registry; torch and transformers are imported when
an engine is built.

Why not transformers' own continuous batching (5.23): its log-probabilities are those after temperature and without
alternatives, one random stream and one choice between greedy and drawn answers serve the whole batch, and stop strings
and adapters are missing. Its paged attention needs a GPU kernel to pay off; on a CPU a step looks at the cache of all
rows for every row (`python -m benchmarks.engine` measures both).
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.core.errors import UsageError
from app.inference.chat import Turns
from app.inference.chat_format import (
    DEFAULT_CONTEXT_TOKENS,
    CannotRender,
    ChatFormat,
    NoChatFormat,
    Prompt,
    context_tokens,
    load_format,
    load_tokenizer,
)
from app.inference.conversation import as_one_text
from app.inference.kinds import writes
from app.inference.pacing import Pace, at_once
from app.inference.passages import Grounded, turns_of
from app.inference.sampling import TOOLS, Delta, Generation, PromptTooLong, Sampling
from app.inference.shaping import Shapes

if TYPE_CHECKING:
    import torch

    from app.inference.batching import Limits, Load, Request, Scheduler

ADAPTER_FILE = "adapter_config.json"
LOADING = threading.Lock()
"""One model at a time in a process: while transformers (5.23) loads one, it switches off the tying of weights in its
classes (``initialization.no_tie_weights``), and two loads at once would leave that off for good."""


class ModelUnusable(UsageError):
    """The folder holds no model that can be loaded; the message says what is missing."""


class TransformersEngine:
    """A causal language model in a folder, ready to answer.

    Args:
        folder: a Hugging Face folder (config.json, model.safetensors, tokenizer.json, tokenizer_config.json).
        adapter: a PEFT adapter folder to merge into the model.
        num_threads: torch threads of this process.
        dtype: torch's name of the type to compute in.
        device: where to compute, as torch names it.
        limits: how much is taken on at once.

    Raises:
        ModelUnusable: a folder is not what it should be.
    """

    def __init__(
        self,
        folder: Path,
        *,
        adapter: Path | None = None,
        num_threads: int = 1,
        dtype: str = "float32",
        device: str = "cpu",
        limits: Limits | None = None,
    ) -> None:
        import torch

        from app.inference.adapters import AdaptedNetwork
        from app.inference.batching import Limits, Scheduler
        from app.inference.spelling import Vocabulary

        torch.set_num_threads(num_threads)
        self._model = _load_model(Path(folder), adapter, getattr(torch, dtype)).to(device)
        self._tokenizer, self._format = _load_format(Path(folder))
        self.max_context_tokens = context_tokens(Path(folder)) or DEFAULT_CONTEXT_TOKENS
        self._owner, self._network = "", AdaptedNetwork(self._model)
        vocabulary = Vocabulary(self._tokenizer, end_tokens=self._format.end_tokens)
        self._shapes = None if vocabulary.thought is not None else self._shapes_of()
        self._scheduler = Scheduler(
            self._network,
            vocabulary,
            limits=limits or Limits(),
            max_context_tokens=self.max_context_tokens,
        )

    def count_tokens(self, text: str) -> int:
        """Length of a text in the model's tokens."""
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def _shapes_of(self) -> Shapes | None:
        """Shapes in the model's tokens; None for a tokenizer that is not one of the `tokenizers` library."""
        from transformers import PreTrainedTokenizerFast

        if not isinstance(self._tokenizer, PreTrainedTokenizerFast):
            return None
        num_tokens = self._model.get_output_embeddings().weight.shape[0]
        return Shapes(self._tokenizer, num_tokens=num_tokens, end_tokens=self._format.end_tokens)

    def lacks(self, sampling: Sampling) -> tuple[str, ...]:
        """What is asked for and not there: names of ``Sampling``'s fields."""
        lacking = TOOLS if self._shapes is not None else ("schema", *TOOLS)
        return tuple(name for name in sampling.asked if name in lacking)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling | None = None, *, max_new_tokens: int = 32
    ) -> list[Generation]:
        """Answer every prompt: a string is a question, a sequence of messages a conversation.

        A prompt that leaves no room for the answer loses its passages, the last first, then its beginning; a
        conversation that the model's template refuses is asked as one question. Requests of others are answered in the
        same steps.

        Args:
            sampling: how answers are drawn; None: greedily, of at most ``max_new_tokens``.

        Raises:
            EngineFailed: the model failed.
        """
        sampling = sampling or Sampling(max_new_tokens=max_new_tokens)
        requests = [self._cut(prompt, sampling) for prompt in prompts]
        for request in sorted(requests, key=lambda each: len(each.tokens)):
            self._scheduler.submit(request, bounded=False)
        while not all(request.answer.done() for request in requests):
            self._scheduler.step()
        return [request.answer.result() for request in requests]

    async def answer(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """One answer, drawn together with those of other callers; cancelling the call frees its place.

        Raises:
            PromptTooLong: the prompt leaves no room for an answer.
            SchemaUnusable: the answer's schema cannot be met.
            EngineBusy: too many requests wait already.
            EngineFailed: the model failed.
        """
        request = self._scheduler.submit(await self._asked(prompt, sampling))
        self._scheduler.start()
        return await asyncio.wrap_future(request.answer)

    async def stream(self, prompt: Prompt, sampling: Sampling, *, pace: Pace = at_once) -> AsyncGenerator[Delta]:
        """An answer piece by piece, the last with the whole; closing the iterator frees its place. Raises as above."""
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[Delta | None]()

        def tell(delta: Delta | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody listens any more
                loop.call_soon_threadsafe(pieces.put_nowait, delta)

        request = await self._asked(prompt, sampling, tell)
        request.pace = pace
        self._scheduler.submit(request)
        request.answer.add_done_callback(
            lambda answer: tell(None) if answer.cancelled() or answer.exception() else None
        )
        self._scheduler.start()
        try:
            while (delta := await pieces.get()) is not None:
                yield delta
                if delta.whole is not None:
                    return
            request.answer.result()
        finally:
            request.answer.cancel()

    def adapted(self, adapter: Path) -> TransformersEngine:
        """The same model with an adapter on it: both answer in the same steps, and share the model's memory.

        Raises:
            NotMixable: the adapter is no plain LoRA.
            ModelUnusable: it is none at all, or none of this model.
        """
        from safetensors import SafetensorError

        _check_adapter(adapter)
        try:
            with self._scheduler.paused():
                name = self._network.add(adapter)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            hint = "run `signalbox verify`, then restore it or train it again"
            raise ModelUnusable(f"the adapter in {adapter} cannot be loaded ({_line(error)}): {hint}") from error
        view = copy.copy(self)
        view._owner = name
        weakref.finalize(view, self._network.drop, name)
        return view

    @property
    def steps(self) -> Scheduler:
        """What takes the steps: one for all engines that share a model."""
        return self._scheduler

    @property
    def load(self) -> Load:
        """Requests under way, and requests that wait."""
        return self._scheduler.load

    @property
    def stalled_s(self) -> float:
        """Seconds since the last step, while there is work; 0 without."""
        return self._scheduler.stalled_s

    @property
    def num_failed(self) -> int:
        """Passes of the model in a row that failed."""
        return self._scheduler.num_failed

    async def _asked(
        self, prompt: Prompt, sampling: Sampling, listen: Callable[[Delta], None] | None = None
    ) -> Request:
        """A request; a schema is read beside the event loop, as it may take a second."""
        if sampling.schema is None:
            return self._request(prompt, sampling, listen)
        return await asyncio.to_thread(self._request, prompt, sampling, listen)

    def _request(self, prompt: Prompt, sampling: Sampling, listen: Callable[[Delta], None] | None = None) -> Request:
        tokens, num_passages = self._fitted(prompt, sampling)
        if len(tokens) >= self.max_context_tokens:
            raise PromptTooLong.of(len(tokens), sampling.max_new_tokens, self.max_context_tokens)
        return self._made(tokens, sampling, listen, num_passages)

    def _cut(self, prompt: Prompt, sampling: Sampling) -> Request:
        """The same with so much of the prompt's end as leaves room for the answer."""
        tokens, num_passages = self._fitted(prompt, sampling)
        kept = tokens[-max(self.max_context_tokens - sampling.max_new_tokens, 1) :]
        return self._made(kept, sampling, num_passages=num_passages)

    def _fitted(self, prompt: Prompt, sampling: Sampling) -> tuple[list[int], int]:
        """A prompt's tokens, with as many of its passages as leave room for the answer; and how many these are."""
        room = self.max_context_tokens - sampling.max_new_tokens
        number = prompt.fitted(lambda turns: len(self._encode(turns)), room) if isinstance(prompt, Grounded) else 0
        return self._encode(turns_of(prompt, number)), number

    def _made(
        self,
        tokens: list[int],
        sampling: Sampling,
        listen: Callable[[Delta], None] | None = None,
        num_passages: int = 0,
    ) -> Request:
        from app.inference.batching import Request

        shape = self._shapes.of(sampling.schema) if self._shapes and sampling.schema is not None else None
        return Request(tokens, sampling, self._owner, listen, shape=shape, num_passages=num_passages)

    def _encode(self, prompt: Turns) -> list[int]:
        try:
            return self._format.prompt(prompt)
        except CannotRender:  # others are asked in the same batch: what a template has no place for is one question
            return self._format.prompt(prompt if isinstance(prompt, str) else as_one_text(prompt))


def _load_model(folder: Path, adapter: Path | None, dtype: torch.dtype) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    if not (folder / "config.json").is_file():
        raise ModelUnusable(f"{folder} holds no config.json: name the folder of a whole Hugging Face model")
    if not writes(folder):
        raise ModelUnusable(f"the model in {folder} writes nothing (an encoder, or a head): name a language model")
    if adapter is not None:
        _check_adapter(adapter)
    try:
        with LOADING:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except (OSError, ValueError, SafetensorError) as error:
        hint = "run `signalbox verify`, then restore it or train it again"
        raise ModelUnusable(f"the model in {folder} cannot be loaded ({_line(error)}): {hint}") from error
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return model.eval().requires_grad_(False)


def _check_adapter(adapter: Path) -> None:
    if not (adapter / ADAPTER_FILE).is_file():
        raise ModelUnusable(f"{adapter} holds no {ADAPTER_FILE}: name the folder of a PEFT adapter")


def _load_format(folder: Path) -> tuple[Any, ChatFormat]:
    """The tokenizer, to decode with, and the format that prompts are made in."""
    try:
        tokenizer = load_tokenizer(folder)
        return tokenizer, load_format(folder, tokenizer)
    except NoChatFormat as error:
        raise ModelUnusable(str(error)) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
