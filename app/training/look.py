"""What a folder of a Hugging Face model is, seen by transformers: run in a process of its own, under limits.

Configuration, tokenizer and chat template come from strangers: a configuration may ask for more layers than memory
holds, a template may never end. ``look`` is called by ``python -m app.training.look FOLDER``, which prints a line for
each step that it begins, and last what it found.

Guarantees: no code of the folder runs but its chat template, in transformers' sandbox; no weight is read into memory.
Not guaranteed: isolation from files and network.
"""

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.core.errors import SignalboxError
from app.inference.kinds import is_encoder
from app.training.errors import BaseRefused

MEMORY_BYTES = 6 * 1024**3
TEMPLATE_CPU_S = 5
"""Longest computing time of the chat template on ``PROBES``, and of the tokenizer on what it says."""
TEMPLATE = "the chat template"
POOLER = "pooler"
ANSWERS = ("Hello", "12 euros a year.\n\nThen nothing.")
PROBES: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": ANSWERS[0]}],
    [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "What is the fee?"},
        {"role": "assistant", "content": ANSWERS[1]},
        {"role": "user", "content": "Thanks"},
        {"role": "assistant", "content": ANSWERS[0]},
    ],
)


def look(folder: Path, say: Callable[[str], None] = lambda step: None) -> dict[str, Any]:
    """Facts about a base model in a folder.

    Raises:
        BaseRefused: it is none that can be trained; the message says why.
    """
    say("the configuration")
    config = _config(folder)
    reads_only = is_encoder(folder)
    say("the weights' names and shapes")
    model = _model(folder, reads_only=reads_only)
    say("the tokenizer")
    num_embeddings = int(model.get_input_embeddings().weight.shape[0])
    tokenizer = _tokenizer(folder, num_embeddings=num_embeddings, reads_only=reads_only)
    say(TEMPLATE)
    return {
        "architecture": type(model).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary_size": int(config.get_text_config().vocab_size),
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        **({"chat_template": None, "end_tokens": []} if reads_only else _chat(folder, tokenizer)),
    }


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a configuration makes transformers' classes raise
        raise BaseRefused(
            f"config.json cannot be read ({_line(error)}): name a model that transformers knows"
        ) from error
    if config.is_encoder_decoder:
        raise BaseRefused(f"{config.model_type} has an encoder and a decoder: name a causal language model")
    return config


def _model(folder: Path, *, reads_only: bool) -> Any:
    """The model without weights, whose names and shapes are those in the folder; of an encoder, with or without a
    pooler and whatever stands on top."""
    from transformers import AutoModel, AutoModelForCausalLM

    try:
        model, loading = (AutoModel if reads_only else AutoModelForCausalLM).from_pretrained(
            folder, device_map="meta", output_loading_info=True, ignore_mismatched_sizes=True, use_safetensors=True,
            local_files_only=True, trust_remote_code=False,
        )  # fmt: skip
    except Exception as error:  # as above
        raise BaseRefused(f"it is no causal language model that can be loaded ({_line(error)})") from error
    inside = {model.base_model_prefix, *(name for name, _ in model.named_children())} - {POOLER}

    def counts(name: str) -> bool:
        return not reads_only or name.split(".")[0] in inside

    faults = [f"{name} is missing" for name in loading["missing_keys"] if counts(name)]
    faults += [f"{name} has no place in the model" for name in loading["unexpected_keys"] if counts(name)]
    faults += [f"{name} is {list(found)}, not {list(wanted)}" for name, found, wanted in loading["mismatched_keys"]]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise BaseRefused(f"weights and config.json do not go together: {min(faults)}{more}; copy the folder anew")
    return model


def _tokenizer(folder: Path, *, num_embeddings: int, reads_only: bool) -> Any:
    from app.inference.chat_format import NoChatFormat, TemplateFormat, load_tokenizer

    try:
        tokenizer = load_tokenizer(folder)
        _ = None if reads_only else TemplateFormat(tokenizer)
    except NoChatFormat as error:
        raise BaseRefused(str(error)) from error
    if not getattr(tokenizer, "is_fast", False):
        raise BaseRefused("its tokenizer is of no kind that tokenizer.json can hold: convert it first")
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if not 0 <= highest < num_embeddings:
        raise BaseRefused(
            f"its tokenizer has ids up to {highest}, the model embeds {num_embeddings}: they do not match"
        )
    if tokenizer.decode(tokenizer.encode("12 euros", add_special_tokens=False)).strip() == "":
        raise BaseRefused("its tokenizer makes nothing of a plain sentence: copy its files anew")
    return tokenizer


def _chat(folder: Path, tokenizer: Any) -> dict[str, Any]:
    """The template that the model will be spoken to with, tried out; its own, else the default one."""
    from app.inference.chat_format import CannotRender, default_template, is_own, load_format

    chat = load_format(folder, tokenizer)
    faults = []
    for probe in PROBES:
        try:
            tokens, start = chat.turn(probe)
            if not 0 < start < len(tokens) or len(set(tokens)) < 2:
                faults.append("it makes no answer of an answer")
        except CannotRender as error:
            faults.append(str(error))
    if len(faults) == len(PROBES):
        raise BaseRefused(f"its chat template cannot be used: {faults[0]}")
    if is_own(folder):
        return {"chat_template": "signalbox", "end_tokens": sorted(chat.end_tokens)}
    default = None if tokenizer.chat_template else default_template(tokenizer)
    chosen = "default" if default else "own"
    return {"chat_template": chosen, "default_template": default, "end_tokens": sorted(chat.end_tokens)}


def _line(error: Exception) -> str:
    from app.inference.chat_format import one_line

    return one_line(error)


def main(folder: str) -> None:
    """Print the steps as they begin, and then what was found, or why the folder is refused: a line of JSON each."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    out, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no part of the answer

    def say(**line: Any) -> None:
        print(json.dumps(line), file=out, flush=True)

    def begin(step: str) -> None:
        say(step=step)
        if step == TEMPLATE:
            used_s = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2])) + 1
            resource.setrlimit(resource.RLIMIT_CPU, (used_s + TEMPLATE_CPU_S, used_s + TEMPLATE_CPU_S))

    try:
        say(found=look(Path(folder), begin))
    except SignalboxError as error:
        say(refused=str(error))


if __name__ == "__main__":
    main(sys.argv[1])
