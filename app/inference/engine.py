"""Text generation with a local Hugging Face model: greedy, batched, with a key-value cache.

Guarantees: the same prompts give the same texts; an answer does not depend on the prompts beside it, up to rounding;
the log-probabilities are those of the tokens that were chosen. Not guaranteed: speed (it measures nothing), sampling,
streaming. Knows neither Ray nor the registry; torch and transformers are imported when an engine is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.core.errors import UsageError
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
from app.inference.kinds import writes
from app.inference.sampling import Generation, Sampling

if TYPE_CHECKING:
    import torch

BATCH_SIZE = 64
THOUGHT = "</think>"
"""Where a token of its own, it ends what a reasoning model says to itself before it answers."""
ADAPTER_FILE = "adapter_config.json"


class ModelUnusable(UsageError):
    """The folder holds no model that can be loaded; the message says what is missing."""


class TransformersEngine:
    """A causal language model in a folder, ready to answer.

    Args:
        folder: a Hugging Face folder (config.json, model.safetensors, tokenizer.json, tokenizer_config.json).
        adapter: a PEFT adapter folder to merge into the model.
        num_threads: torch threads of this process.
        dtype: torch's name of the type to compute in.

    Raises:
        ModelUnusable: a folder is not what it should be.
    """

    def __init__(
        self, folder: Path, *, adapter: Path | None = None, num_threads: int = 1, dtype: str = "float32"
    ) -> None:
        import torch

        torch.set_num_threads(num_threads)
        self._model = _load_model(Path(folder), adapter, getattr(torch, dtype))
        self._tokenizer, self._format = _load_format(Path(folder))
        self._ends, self._pad = torch.tensor(sorted(self._format.end_tokens)), self._format.pad_token
        self._thinks = THOUGHT in self._tokenizer.get_added_vocab()
        self.max_context_tokens = context_tokens(Path(folder)) or DEFAULT_CONTEXT_TOKENS

    def count_tokens(self, text: str) -> int:
        """Length of a text in the model's tokens."""
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def lacks(self, sampling: Sampling) -> tuple[str, ...]:
        """What is asked for and not there: names of ``Sampling``'s fields."""
        return sampling.asked

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling | None = None, *, max_new_tokens: int = 32
    ) -> list[Generation]:
        """Answer every prompt: a string is a question, a sequence of messages a conversation.

        A prompt that leaves no room for the answer loses its beginning; a conversation that the model's template
        refuses is asked as one question.

        Args:
            sampling: how answers are drawn; None: greedily, of at most ``max_new_tokens``.
        """
        max_new_tokens = sampling.max_new_tokens if sampling else max_new_tokens
        encoded = [self._encode(prompt, max_new_tokens) for prompt in prompts]
        order = sorted(range(len(encoded)), key=lambda position: len(encoded[position]))
        answers: dict[int, Generation] = {}
        for start in range(0, len(order), BATCH_SIZE):
            chosen = order[start : start + BATCH_SIZE]
            answers |= zip(chosen, self._answer([encoded[i] for i in chosen], max_new_tokens), strict=True)
        return [answers[position] for position in range(len(encoded))]

    def _encode(self, prompt: Prompt, max_new_tokens: int) -> list[int]:
        room = max(self.max_context_tokens - max_new_tokens, 1)
        try:
            return self._format.prompt(prompt)[-room:]
        except CannotRender:  # others are asked in the same batch: what a template has no place for is one question
            turns = [prompt] if isinstance(prompt, str) else [turn["content"] for turn in prompt]
            return self._format.prompt("\n\n".join(turns))[-room:]

    def _answer(self, prompts: list[list[int]], max_new_tokens: int) -> list[Generation]:
        tokens, logprobs = self._decode(prompts, max_new_tokens)
        rows = zip(prompts, tokens, logprobs, strict=True)
        return [self._generation(len(prompt), ids, values) for prompt, ids, values in rows]

    def _generation(self, num_prompt_tokens: int, ids: list[int], logprobs: list[float]) -> Generation:
        end = next((place for place, token in enumerate(ids) if token in self._format.end_tokens), None)
        stopped, num_tokens = end is not None, len(ids) if end is None else end + 1
        kept = logprobs[:num_tokens]
        text = self._tokenizer.decode(ids[: num_tokens - stopped], skip_special_tokens=True)
        return Generation(
            text=(text.rpartition(THOUGHT)[2] if self._thinks else text).strip(),
            mean_logprob=sum(kept) / num_tokens,
            min_logprob=min(kept),
            num_prompt_tokens=num_prompt_tokens,
            num_completion_tokens=num_tokens,
            finish_reason="stop" if stopped else "length",
        )

    def _decode(self, prompts: list[list[int]], max_new_tokens: int) -> tuple[list[list[int]], list[list[float]]]:
        """Greedy decoding of left-padded prompts; ends when every row has met its end token."""
        import torch

        ids, mask = self._left_padded(prompts)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache: Any = None
        tokens: list[torch.Tensor] = []
        logprobs: list[torch.Tensor] = []
        done = torch.zeros(len(prompts), dtype=torch.bool)
        with torch.inference_mode():
            while len(tokens) < max_new_tokens and not done.all():
                output = self._model(
                    input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
                    logits_to_keep=1,
                )  # fmt: skip
                cache = output.past_key_values
                best = output.logits[:, -1].float().log_softmax(-1).max(-1)
                tokens.append(best.indices)
                logprobs.append(best.values)
                done |= torch.isin(best.indices, self._ends)
                ids, positions = best.indices[:, None], positions[:, -1:] + 1
                mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
        return torch.stack(tokens, 1).tolist(), torch.stack(logprobs, 1).tolist()

    def _left_padded(self, prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        length = max(len(prompt) for prompt in prompts)
        ids = torch.tensor([[self._pad] * (length - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        return ids, mask


def _load_model(folder: Path, adapter: Path | None, dtype: torch.dtype) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    if not (folder / "config.json").is_file():
        raise ModelUnusable(f"{folder} holds no config.json: name the folder of a whole Hugging Face model")
    if not writes(folder):
        raise ModelUnusable(f"the model in {folder} writes nothing (an encoder, or a head): name a language model")
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except (OSError, ValueError, SafetensorError) as error:
        hint = "run `signalbox verify`, then restore it or train it again"
        raise ModelUnusable(f"the model in {folder} cannot be loaded ({_line(error)}): {hint}") from error
    if adapter is not None:
        if not (adapter / ADAPTER_FILE).is_file():
            raise ModelUnusable(f"{adapter} holds no {ADAPTER_FILE}: name the folder of a PEFT adapter")
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return model.eval().requires_grad_(False)


def _load_format(folder: Path) -> tuple[Any, ChatFormat]:
    """The tokenizer, to decode with, and the format that prompts are made in."""
    try:
        tokenizer = load_tokenizer(folder)
        return tokenizer, load_format(folder, tokenizer)
    except NoChatFormat as error:
        raise ModelUnusable(str(error)) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
