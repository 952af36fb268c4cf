"""Turns of a conversation, as OpenAI, ShareGPT and InstructLab write them, checked one by one.

Guarantees: a conversation ends with a question and its answer, or is refused with the reason; nothing is left out of
it. Not guaranteed: pictures, sound and calls of tools, which no row can hold.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from app.core.errors import SignalboxError

JOINT = "\n\n"
ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "developer": "system"}
KNOWN = ("system", "user", "assistant", "pretraining")


class BadRow(SignalboxError):
    """A record, or a row, is not of the format; the message says what is wrong, and becomes a reject's reason."""


def text_of(record: Mapping[str, Any], key: str) -> str:
    """A field that must hold text."""
    value = record.get(key)
    if not isinstance(value, str):
        raise BadRow(f"`{key}` is missing" if value is None else f"`{key}` is not text")
    if not value.strip():
        raise BadRow(f"`{key}` is empty")
    return value


def with_context(question: str, context: str, *, first: bool = True) -> str:
    """The whole prompt: the context before the question, or after it."""
    return JOINT.join(filter(None, [context, question] if first else [question, context]))


def without_context(row: Mapping[str, Any], *, first: bool = True) -> tuple[str, str]:
    """The question and its context apart, where the context stands before the question (or, not ``first``, after it).

    Where it stands elsewhere, the whole prompt is the question, so that whoever puts them together has the same prompt.
    """
    question, context = str(row["question"]), str(row["context"] or "")
    if context and first and question.startswith(context + JOINT):
        return question.removeprefix(context + JOINT), context
    if context and not first and question.endswith(JOINT + context):
        return question.removesuffix(JOINT + context), context
    return question, ""


def each_or_fault(
    given: Sequence[object], read: Callable[[Mapping[str, Any]], Iterable[dict[str, Any]]], *, name: str
) -> Iterator[dict[str, Any] | BadRow]:
    """What ``read`` makes of each of several examples of a record; a fault with its number where that is nothing.

    Raises:
        BadRow: the only example there is, is none.
    """
    for number, each in enumerate(given, 1):
        try:
            if not isinstance(each, Mapping):
                raise BadRow("is no mapping")
            yield from list(read(each))
        except BadRow as error:
            if len(given) == 1:
                raise
            yield BadRow(f"{name} {number}: {error}")


def json_text(value: object) -> str:
    """A value as JSON, its fields in order."""
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRow(f"says something beside it that is no JSON ({error})") from error


def turns_of(given: object, *, may_be_empty: bool = False) -> list[dict[str, str]]:
    """``{"role", "content"}`` of every turn, in order."""
    if may_be_empty and not given:
        return []
    if not isinstance(given, list) or not given:
        raise BadRow("`messages` is no list of turns")
    return [_turn(each) for each in given]


def conversation(turns: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The columns ``question``, ``answer`` and ``history`` of a conversation."""
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise BadRow("does not end with an answer of the assistant")
    if turns[-2]["role"] != "user":
        raise BadRow(f"has a {turns[-2]['role']} turn before the answer, not a user's")
    if any(turn["role"] == "pretraining" for turn in turns):
        raise BadRow("mixes a pretraining turn with others")
    return {"question": turns[-2]["content"], "answer": turns[-1]["content"], "history": list(turns[:-2])}


def preference(prompt: object, chosen: object, rejected: object) -> dict[str, Any]:
    """The columns of a preference: a prompt (text, turns, or None) with two ways to go on (text, or turns).

    Without a prompt, the turns that both have in common are it.

    Raises:
        BadRow: the two differ in more than their last turn, or not at all.
    """
    asked = _turns_or_text(prompt, "prompt", role="user") if prompt is not None else []
    better, worse = (
        conversation([*asked, *_turns_or_text(given, name, role="assistant")])
        for given, name in ((chosen, "chosen"), (rejected, "rejected"))
    )
    if any(better[name] != worse[name] for name in ("question", "history")):
        raise BadRow("`chosen` and `rejected` differ in more than their last turn")
    if better["answer"] == worse["answer"]:
        raise BadRow("`chosen` and `rejected` are the same")
    return {**better, "rejected": worse["answer"]}


def _turns_or_text(given: object, name: str, *, role: str) -> list[dict[str, str]]:
    return turns_of(given) if isinstance(given, list) else [{"role": role, "content": text_of({name: given}, name)}]


def _turn(given: object) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise BadRow("has a turn that is no mapping")
    role = given.get("role", given.get("from"))
    role = ROLES.get(str(role), role)
    if role not in KNOWN:
        raise BadRow(f"has a turn of the role {role!r}, which no row can hold")
    if given.get("tool_calls") or given.get("function_call"):
        raise BadRow("has a call of a tool, which no row can hold")
    content = given.get("content", given.get("value"))
    if isinstance(content, list):
        content = "".join(map(_part, content))
    if not isinstance(content, str) or not content.strip():
        raise BadRow(f"has a {role} turn without text")
    return {"role": str(role), "content": content}


def _part(part: object) -> str:
    """A part of a turn's content; only text can be held."""
    if isinstance(part, Mapping) and part.get("type") in ("text", "input_text") and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise BadRow(f"has a turn with {kind!r}, not text")
