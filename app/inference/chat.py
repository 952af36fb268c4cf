"""The one chat format of the models that Signalbox trains itself: special tokens, template, rendering.

Guarantees: training and inference render through the same functions, so that a prompt at inference is byte for byte
what training saw. Not guaranteed: that models from elsewhere know these tokens; they bring a template of their own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

PAD, END, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = (PAD, END, USER, ASSISTANT)
"""In the order of their ids, which begin at 0."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|end|>"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Jinja, as `tokenizer_config.json` carries it; the same text as :func:`render_messages`."""

Message = Mapping[str, Any]
"""``role``, ``content``, and what OpenAI's form may have beside them: ``name``, ``tool_calls``, ``tool_call_id``."""

Turns = str | Sequence[Message]
"""A question alone, or a conversation."""


def render(question: str) -> str:
    """The prompt of one question."""
    return f"{USER}{plain(question)}{ASSISTANT}"


def render_messages(messages: Sequence[Message]) -> str:
    """The prompt of a conversation; every role but `assistant` speaks as the user."""
    return "".join(_turn(message) for message in messages) + ASSISTANT


def plain(text: str) -> str:
    """The text without special tokens, so that a question cannot speak for the model."""
    for token in SPECIAL_TOKENS:
        text = text.replace(token, " ")
    return text.strip()


def _turn(message: Message) -> str:
    content = plain(message["content"])
    return f"{ASSISTANT}{content}{END}" if message["role"] == "assistant" else f"{USER}{content}"
