"""A conversation as it is put before a model: all of its turns, behind the release's system prompt.

Guarantees: one question alone, with no system prompt, is that text and nothing else, so that models trained on single
turns read what they were trained on; no turn is cut or left out: a prompt that is too long is the engine's to refuse.
Not guaranteed: that a search finds what a follow-up means; whether it leans on the question before is told from its
words (English pronouns and openings, or that it is very short), and then both are searched together.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from app.inference.chat import Message, Turns

SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"
SHORT_WORDS = 3
"""A later question of no more words than these is searched with the one before it."""
LEANS = re.compile(
    r"\b(?:it|its|they|them|their|theirs|he|him|his|she|her|hers|this|these|those|ones?)\b"
    r"|^(?:and|but|or|so|also|what about|how about|what else|why)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Conversation:
    """Turns in their order; at least one is the user's, and the last of those is the question."""

    messages: tuple[Message, ...]

    @classmethod
    def of(cls, question: str) -> Self:
        """A question alone."""
        return cls(({"role": USER, "content": question},))

    @property
    def question(self) -> str:
        """What the user said last."""
        return str(self._said[-1])

    @property
    def searched(self) -> str:
        """What is looked for in the documents: the question, with the one before where it leans on that."""
        *before, last = self._said
        if not before or not (LEANS.search(last) or len(last.split()) <= SHORT_WORDS):
            return last
        return f"{last}\n{before[-1]}"

    @property
    def num_chars(self) -> int:
        """Characters of all turns: of names and calls, too."""
        return sum(len(text) for each in self.messages for text in _texts(each))

    @property
    def num_bytes(self) -> int:
        """The same as bytes in UTF-8."""
        return sum(len(text.encode()) for each in self.messages for text in _texts(each))

    def behind(self, system: str) -> list[Message]:
        """The turns behind a system prompt; those with which the conversation's own begins join it in one turn."""
        start = next(place for place, each in enumerate(self.messages) if each["role"] != SYSTEM)
        texts = [text for text in (system, *(each["content"] for each in self.messages[:start])) if text]
        return [*([{"role": SYSTEM, "content": joined(texts)}] if texts else []), *self.messages[start:]]

    def prompt(self, system: str = "") -> Turns:
        """What a model is given: the question's text where it stands alone, else the turns."""
        turns = self.behind(system)
        return str(turns[0]["content"]) if len(turns) == 1 and "name" not in turns[0] else turns

    @property
    def calls_tools(self) -> bool:
        """Whether a turn calls a tool, or holds what one gave."""
        return any(each["role"] == TOOL or "tool_calls" in each for each in self.messages)

    def without_tools(self) -> Self:
        """The same for a model that has none: calls and what they gave are left out, what was said stays."""
        said = [{**each} for each in self.messages if each["role"] != TOOL and each["content"]]
        for each in said:
            each.pop("tool_calls", None)
        return type(self)(tuple(said))

    @property
    def _said(self) -> list[str]:
        """The user's turns."""
        return [each["content"] for each in self.messages if each["role"] == USER]


def _texts(turn: Message) -> Iterator[str]:
    """All that a model reads of a turn."""
    yield turn["content"]
    yield turn.get("name", "")
    yield turn.get("tool_call_id", "")
    for call in turn.get("tool_calls", ()):
        yield from (call["id"], call["function"]["name"], call["function"]["arguments"])


def joined(texts: Iterable[str]) -> str:
    """Texts of one turn, apart from each other."""
    return "\n\n".join(texts)


def as_one_text(messages: Sequence[Message]) -> str:
    """Turns as one text, for a template that has no place for them; who spoke is said where the assistant did."""
    named = any(each["role"] == ASSISTANT for each in messages)
    return joined(f"{each['role']}: {each['content']}" if named else each["content"] for each in messages)
