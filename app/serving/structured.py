"""Answers in JSON: what ``response_format`` asks for, and how an answer comes to have that form.

The rule. An engine that can constrain its answer to a schema does. From another one JSON is asked for in words; an
answer that is not of the form is asked for once more, with its fault named. What is not of the form then is refused
(422); for the router it is an answer that nobody accepts, so that the next model is asked. Whatever the engine did, the
answer that goes out was checked here. Not guaranteed: ``format`` annotations, which JSON Schema makes optional.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.inference.chat import Turns
from app.inference.chat_format import Prompt
from app.inference.passages import Grounded
from app.inference.sampling import Generation, Sampling
from app.serving.cascade import Backends
from app.serving.errors import ApiError, invalid
from app.serving.wrapped import Wrapped

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
MAX_SCHEMA_CHARACTERS, MAX_REFERENCES = 16_384, 24
PARAM = "response_format"
REFUSED = ("pattern", "patternProperties", "$dynamicRef")
"""Keywords with which a schema could take any time to check."""


@dataclass(frozen=True)
class ResponseFormat:
    """The form of an answer; no schema: any text."""

    schema: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> "ResponseFormat":
        """What ``response_format`` asks for.

        Raises:
            ApiError: it is none of text, json_object and json_schema, or the schema cannot be used.
        """
        kind = (given or {}).get("type", "text")
        if kind == "text":
            return cls()
        if kind == "json_object":
            return cls(ANY_OBJECT)
        if kind != "json_schema":
            raise invalid("response_format.type is text, json_object or json_schema", param=PARAM)
        held = (given or {}).get("json_schema")
        schema = held.get("schema") if isinstance(held, Mapping) else None
        if not isinstance(schema, Mapping):
            raise invalid("response_format.json_schema.schema is missing: give a JSON schema", param=PARAM)
        _check_schema(schema)
        return cls(schema)

    def fault(self, text: str) -> str:
        """Why a text is not of the form, in a few words; empty when it is."""
        if self.schema is None:
            return ""
        try:
            value = json.loads(text)
            found = next(iter(_validator(self.schema).iter_errors(value)), None)
        except ValueError:
            return "the answer is no JSON"
        except RecursionError:
            return "the answer or the schema goes too deep"
        return f"{found.json_path}: {found.message}"[:300] if found else ""

    def refuse(self, text: str, finish_reason: str) -> None:
        """Raise an ApiError, 422, for an answer that is not of the form."""
        fault = self.fault(text)
        if fault:
            hint = "raise max_tokens" if finish_reason == "length" else "simplify the schema, or ask another model"
            said = f"no answer of the form that response_format asks for came about ({fault}): {hint}"
            raise ApiError(said, status=422, kind="invalid_request_error", code="response_format_failed", param=PARAM)


class Structured(Wrapped):
    """Backends that ask for JSON in words, look, and ask once more; an answer of another form has no text then."""

    def __init__(self, inner: Backends, form: ResponseFormat) -> None:
        super().__init__(inner)
        self._form = form

    async def generate(self, rung: str, model: str, prompt: Prompt, sampling: Sampling) -> Generation:
        plain, schema = sampling.without(["schema"]), json.dumps(self._form.schema)
        asked = _and(prompt, f"Answer with JSON alone, which this JSON schema describes: {schema}")
        first = await self._inner.generate(rung, model, asked, plain)
        fault = "" if first.tool_calls else await asyncio.to_thread(self._form.fault, first.text)
        if not fault:
            return first
        told = _and(asked, f"This answer was wrong: {first.text}\nBecause: {fault}\nAnswer again, with JSON alone.")
        second = await self._inner.generate(rung, model, told, plain)
        kept = second.text if not await asyncio.to_thread(self._form.fault, second.text) else ""
        return replace(
            second,
            text=kept,
            num_prompt_tokens=first.num_prompt_tokens + second.num_prompt_tokens,
            num_completion_tokens=first.num_completion_tokens + second.num_completion_tokens,
            num_cached_tokens=first.num_cached_tokens + second.num_cached_tokens,
        )


def _and(prompt: Prompt, more: str) -> Prompt:
    """A prompt with something added at the end of its last message."""

    def added(turns: Turns) -> Turns:
        if isinstance(turns, str):
            return f"{turns}\n\n{more}"
        return [*turns[:-1], {**turns[-1], "content": f"{turns[-1]['content']}\n\n{more}"}]

    return prompt.with_more(added) if isinstance(prompt, Grounded) else added(prompt)


def _check_schema(schema: Mapping[str, Any]) -> None:
    from jsonschema import Draft202012Validator, SchemaError

    try:
        if (size := len(json.dumps(schema))) > MAX_SCHEMA_CHARACTERS:
            raise invalid(f"the schema has {size} characters: send at most {MAX_SCHEMA_CHARACTERS}", param=PARAM)
        Draft202012Validator.check_schema(schema)
        _check_keywords(list(_nodes(schema)))
    except (SchemaError, RecursionError) as error:
        message = (str(error).splitlines() or ["?"])[0][:300]
        raise invalid(f"response_format.json_schema.schema is no JSON schema: {message}", param=PARAM) from error


def _check_keywords(nodes: Sequence[Mapping[str, Any]]) -> None:
    """Refuse what could take any time to check, and what lies elsewhere."""
    references = [node["$ref"] for node in nodes if isinstance(node.get("$ref"), str)]
    refused = next((name for node in nodes for name in REFUSED if isinstance(node.get(name), str | dict)), None)
    if refused:
        raise invalid(f"{refused} is not checked here: leave it out of the schema", param=PARAM)
    if len(references) > MAX_REFERENCES or not all(each.startswith("#") for each in references):
        raise invalid(f"a schema may hold {MAX_REFERENCES} references, all within itself: spell it out", param=PARAM)


def _nodes(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every object in a JSON value; a property that is called like a keyword is refused with it."""
    if isinstance(value, Mapping):
        yield value
    for each in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _nodes(each)


def _validator(schema: Mapping[str, Any]) -> Any:
    """A validator that never fetches what a schema refers to."""
    from jsonschema import Draft202012Validator
    from referencing import Registry

    return Draft202012Validator(schema, registry=Registry())
