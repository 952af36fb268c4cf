"""How a model is spoken to: Signalbox's own format, or the chat template that the model brought.

Training and inference get their tokens from the same object, so that a prompt at inference is, token for token, what
training saw. A template is rendered by transformers, in its sandbox.

Guarantees: models that Signalbox made from a random start keep the bytes of :mod:`app.inference.chat`; the control
tokens of a template (special ones, and added ones that it names) in a message become ordinary text, so that a question
cannot speak for the model; the date that a template asks for is always the same, so that a row gives the same tokens
tomorrow. Not guaranteed: that a template which marks its roles by ordinary words alone can tell them from a question's
words; that a template ends (one is tried out, under limits, when its model is imported).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from app.core.errors import UsageError
from app.inference.chat import CHAT_TEMPLATE, END, PAD, SPECIAL_TOKENS, Message, Turns, plain, render, render_messages
from app.inference.passages import Grounded

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_FILE, TOKENIZER_CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
GENERATION_FILE = "generation_config.json"
DEFAULT_CONTEXT_TOKENS = 2048
"""Of a model whose configuration states none."""

Prompt = Turns | Grounded
"""What an engine is asked; one with passages becomes turns where its tokens are counted."""

ROLES = ("system", "user", "assistant")
_MARKS = "".join(f" | replace('<|{role}|>', ' ')" for role in ROLES)
DEFAULT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- set said = message['content']" + _MARKS + " | trim -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{- '<|assistant|>\\n' -}}{%- generation -%}{{- said + eos_token -}}{%- endgeneration -%}{{- '\\n' -}}"
    "{%- elif message['role'] == 'system' -%}{{- '<|system|>\\n' + said + '\\n' -}}"
    "{%- else -%}{{- '<|user|>\\n' + said + '\\n' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}"
)
"""For a base that brings no template: lines that name the role, as ordinary text, and the model's own end token.

No token is added, so the embeddings stay as they are, and the end is a token that the base knows; ChatML would want two
new ones. Each line ends where tokenizers part words, so that a prompt's tokens are the beginning of the whole's. The
template itself takes the marks out of messages: plain transformers renders what training saw."""

DATE = (
    "{%- macro strftime_now(format) -%}{{- format | replace('%d', '26') | replace('%B', 'July') | replace('%b', 'Jul')"
    " | replace('%m', '07') | replace('%Y', '2024') | replace('%y', '24') -}}{%- endmacro -%}{{ '' }}"
)
"""Stands before a template that asks for today's date: it gets the day that Llama's templates fall back to."""
PROBE = ({"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello"})
SYSTEM_PROBE = {"role": "system", "content": "Kestrel"}


class CannotRender(UsageError):
    """A template cannot put these messages into tokens: the message says why; mend the row, or choose another base."""


class NoChatFormat(UsageError):
    """A folder holds no tokenizer that can be used: the message says what is missing."""


class ChatFormat(Protocol):
    """Messages to tokens, for training and inference alike."""

    @property
    def pad_token(self) -> int:
        """What fills rows up; never learned."""

    @property
    def special_tokens(self) -> frozenset[int]:
        """Ids that noise neither touches nor brings."""

    @property
    def end_tokens(self) -> frozenset[int]:
        """Any of these ends an answer."""

    @property
    def vocabulary_size(self) -> int:
        """All ids are less than this."""

    def prompt(self, prompt: Turns) -> list[int]:
        """What the model is given before it answers a question or a conversation."""

    def turn(self, messages: Sequence[Message]) -> tuple[list[int], int]:
        """Tokens of a conversation up to the end of its last answer, and how many stand before what is learned."""

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of running texts, each with its end."""


class OwnFormat:
    """The format of models that Signalbox made from a random start; :mod:`app.inference.chat` as tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.vocabulary_size = int(tokenizer.get_vocab_size())
        self.pad_token, end = SPECIAL_TOKENS.index(PAD), SPECIAL_TOKENS.index(END)
        self.special_tokens, self.end_tokens = frozenset(range(len(SPECIAL_TOKENS))), frozenset([end])
        self._end = end

    def prompt(self, prompt: Turns) -> list[int]:
        """See :class:`ChatFormat`."""
        return self._ids(render(prompt) if isinstance(prompt, str) else render_messages(prompt))

    def turn(self, messages: Sequence[Message]) -> tuple[list[int], int]:
        """See :class:`ChatFormat`."""
        before = self.prompt(messages[:-1])
        return before + self._ids(plain(messages[-1]["content"]) + END), len(before)

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """See :class:`ChatFormat`."""
        encoded = self.tokenizer.encode_batch([plain(text) for text in texts], add_special_tokens=False)
        return [[*each.ids, self._end] for each in encoded]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)


class TemplateFormat:
    """The format of a model from elsewhere: its tokenizer and its template, else the default one.

    Args:
        tokenizer: transformers' tokenizer of the model.
        end_tokens: ids that the model's own configuration ends answers with.

    Raises:
        NoChatFormat: the tokenizer has no end token.
    """

    def __init__(self, tokenizer: Any, *, end_tokens: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        eos, unknown = tokenizer.eos_token_id, tokenizer.unk_token_id
        if eos is None:
            raise NoChatFormat(
                "the tokenizer names no end token, so no answer would end: set eos_token in tokenizer_config.json"
            )
        pads = [each for each in (tokenizer.pad_token_id, eos, unknown) if each is not None]
        self._end, self.pad_token = int(eos), int(pads[0])
        added = [number for number, token in tokenizer.added_tokens_decoder.items() if token.special]
        self.special_tokens = frozenset(map(int, [*added, *tokenizer.all_special_ids]))
        self.vocabulary_size = max(tokenizer.get_vocab().values()) + 1
        self._configured = frozenset(end_tokens)
        self._template = dated(template_of(tokenizer))

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Any of these ends an answer: the template's own end of a turn, the tokenizer's, the configuration's."""
        return self._configured | {self._end, self.turn_end}

    @cached_property
    def turn_end(self) -> int:
        """The special token that the template puts after an answer; the tokenizer's end where it puts none."""
        start = len(self._render(PROBE[:1], asks=True))
        after = (token for token in self._render(PROBE)[start:] if token in self.special_tokens)
        return next(after, self._end)

    def prompt(self, prompt: Turns) -> list[int]:
        """See :class:`ChatFormat`.

        Raises:
            CannotRender: the template refuses the messages.
        """
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return self._render(messages, asks=True)

    def turn(self, messages: Sequence[Message]) -> tuple[list[int], int]:
        """See :class:`ChatFormat`. What the template marks with `{% generation %}` is learned, else what it adds to the
        prompt; an answer that ends with no special token gets the end token, so that the model learns to end.

        Raises:
            CannotRender: the template refuses the messages, or what it makes of them does not begin with the prompt.
        """
        whole = self._render(messages)
        start = self._generated(messages, whole)
        if start is None:
            before = self._render(messages[:-1], asks=True)
            whole, start = self._after(messages, whole, before), len(before)
        return self._ended(whole, start), start

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """See :class:`ChatFormat`; a tokenizer that puts a begin token before texts puts it here too."""
        begin = self._begin
        return [
            [*begin, *self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True), self._end]
            for text in texts
        ]

    @cached_property
    def _begin(self) -> list[int]:
        return [self.tokenizer.bos_token_id] if begins(self.tokenizer) else []

    def _generated(self, messages: Sequence[Message], whole: list[int]) -> int | None:
        """Where the last answer begins by the template's own marks; None where it has none that can be used."""
        if "endgeneration" not in self._template:
            return None
        given = self._apply(messages, return_assistant_tokens_mask=True)
        mask = list(given["assistant_masks"])
        if list(given["input_ids"]) != whole or 1 not in mask:  # control tokens in a message shift the marks
            return None
        last = len(mask) - 1 - mask[::-1].index(1)
        return last + 1 - next((n for n, on in enumerate(reversed(mask[: last + 1])) if not on), last + 1)

    def _after(self, messages: Sequence[Message], whole: list[int], before: list[int]) -> list[int]:
        """The whole, beginning with the prompt's own tokens; where a token stands across the border, it is parted."""
        if whole[: len(before)] == before and len(whole) > len(before):
            return whole
        texts = [self._text(messages[:-1], asks=True), self._text(messages)]
        rest = texts[1].removeprefix(texts[0])
        if rest == texts[1] or not rest:
            raise CannotRender("the chat template does not render the conversation as its prompt and then the answer")
        parted = [*before, *self.tokenizer.encode(rest, add_special_tokens=False)]
        if _squeezed(self.tokenizer.decode(parted)) != _squeezed(self.tokenizer.decode(whole)):
            raise CannotRender("the prompt's tokens are not the beginning of the conversation's, and cannot be parted")
        return parted

    def _ended(self, tokens: list[int], start: int) -> list[int]:
        """Up to the first end of a turn after ``start``; with an end where there is none."""
        end = next((n for n in range(start, len(tokens)) if tokens[n] in (self.turn_end, self._end)), None)
        return [*tokens, self._end] if end is None else tokens[: end + 1]

    def _render(self, messages: Sequence[Message], *, asks: bool = False) -> list[int]:
        """Tokens of messages, in which control tokens are ordinary text; an answer may think, in tokens of that."""
        from transformers.utils.chat_template_utils import encode_marked_chat, mark_control_tokens

        marked = [
            {**each, "content": mark_control_tokens(each["content"], self._controls[each["role"] == "assistant"])}
            for each in messages
        ]
        try:
            return list(encode_marked_chat(self.tokenizer, self._text(marked, asks=asks)))
        except ValueError as error:
            raise CannotRender(f"a message cannot be made ordinary text ({one_line(error)})") from error

    @cached_property
    def _controls(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        """What is a control token in a question, and in an answer: there, special ones alone."""
        added = self.tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special} | set(self.tokenizer.all_special_tokens)
        named = {each.content for each in added if each.content in self._template and not each.content.isspace()}
        return _any_of(special | named), _any_of(special)

    def _text(self, messages: Sequence[Message], *, asks: bool = False) -> str:
        return str(self._apply(messages, add_generation_prompt=asks, tokenize=False))

    def _apply(self, messages: Sequence[Message], **options: Any) -> Any:
        """What transformers makes of messages; a template that refuses them, or would leave one out, gets a system's
        turns as the user's, and neighbours that one side said as one turn."""
        given = self._heard([{"role": each["role"], "content": each["content"]} for each in messages])
        try:
            return self._made(given, **options)
        except CannotRender:
            if (simpler := alternating(given)) == given:
                raise
        return self._made(simpler, **options)

    def _made(self, given: Sequence[Message], **options: Any) -> Any:
        from jinja2 import TemplateError

        faults: tuple[type[Exception], ...] = (TemplateError, *_FAULTS)
        try:
            return self.tokenizer.apply_chat_template(list(given), chat_template=self._template, **options)
        except faults as error:
            raise CannotRender(f"the chat template refuses the conversation ({one_line(error)})") from error

    def _heard(self, given: list[dict[str, str]]) -> list[dict[str, str]]:
        """The same where the template has a place for all of it; a system's first turn keeps the one that it has."""
        first, later = self._lost
        system = [each["role"] == "system" for each in given]
        if not (first and any(system[:1])) and not (later and any(system[1:])):
            return given
        kept = int(system[0] and not first)
        return [*given[:kept], *alternating(given[kept:])]

    @cached_property
    def _lost(self) -> tuple[bool, bool]:
        """Whether the template leaves out, in silence, a system's turn at the beginning, and one later on."""
        return self._loses([SYSTEM_PROBE, *PROBE[:1]]), self._loses([*PROBE, SYSTEM_PROBE, *PROBE[:1]])

    def _loses(self, probe: Sequence[Message]) -> bool:
        try:
            return SYSTEM_PROBE["content"] not in str(self._made(probe, tokenize=False))
        except CannotRender:
            return False


_FAULTS: tuple[type[Exception], ...] = (
    TypeError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    RecursionError,
    OverflowError,
)
"""What a template's code may raise, its filters and its arithmetic among them."""


def alternating(messages: Sequence[Message]) -> list[dict[str, str]]:
    """The same as turns of user and assistant by turns, for templates that have a place for nothing else."""
    turns: list[dict[str, str]] = []
    for each in messages:
        role = "assistant" if each["role"] == "assistant" else "user"
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n\n{each['content']}"
        else:
            turns.append({"role": role, "content": each["content"]})
    return turns


def _any_of(texts: Collection[str]) -> re.Pattern[str]:
    """What matches any of the texts, a longer one before what it contains."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")


def load_format(folder: Path, tokenizer: Any = None) -> ChatFormat:
    """The format of a model folder.

    Args:
        tokenizer: transformers' tokenizer of the folder, where it is loaded already.

    Raises:
        NoChatFormat: there is no tokenizer in it, or none that can be used.
    """
    _check_there(folder)
    if not is_own(folder):
        return TemplateFormat(tokenizer or load_tokenizer(folder), end_tokens=configured_ends(folder))
    if tokenizer is not None:
        return OwnFormat(tokenizer.backend_tokenizer)
    from tokenizers import Tokenizer

    return OwnFormat(Tokenizer.from_file(str(folder / TOKENIZER_FILE)))


def load_tokenizer(folder: Path) -> Any:
    """transformers' tokenizer of a folder.

    Raises:
        NoChatFormat: transformers cannot read it.
    """
    from transformers import AutoTokenizer

    _check_there(folder)
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises no class of its own, only this one
        raise NoChatFormat(f"the tokenizer in {folder} cannot be read ({one_line(error)})") from error


def _check_there(folder: Path) -> None:
    if not (folder / TOKENIZER_CONFIG_FILE).is_file():
        raise NoChatFormat(f"{folder} holds no {TOKENIZER_CONFIG_FILE}: export the model with its tokenizer")


def is_own(folder: Path) -> bool:
    """Whether a folder's tokenizer is one that Signalbox trained: our template, and our special tokens come first."""
    config = _json(folder / TOKENIZER_CONFIG_FILE)
    path = folder / TEMPLATE_FILE
    template = path.read_text(encoding="utf-8") if path.is_file() else config.get("chat_template")
    if template != CHAT_TEMPLATE:
        return False
    added = _json(folder / TOKENIZER_FILE).get("added_tokens", [])
    return [each["content"] for each in sorted(added, key=lambda each: each["id"])][: len(SPECIAL_TOKENS)] == [
        *SPECIAL_TOKENS
    ]


def configured_ends(folder: Path) -> list[int]:
    """End tokens that a folder's generation_config.json names, else its config.json."""
    for name in (GENERATION_FILE, "config.json"):
        named = _json(folder / name).get("eos_token_id")
        if named is not None:
            return [int(each) for each in (named if isinstance(named, list) else [named])]
    return []


def context_tokens(folder: Path) -> int | None:
    """Longest sequence that a model folder's config.json states, by whichever name; None where it states none."""
    config = _json(folder / "config.json")
    config = config.get("text_config") or config
    found = (config.get(name) for name in ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len"))
    return next((int(each) for each in found if each), None)


def template_of(tokenizer: Any) -> str:
    """A tokenizer's own template, else the default one."""
    if not tokenizer.chat_template:
        return default_template(tokenizer)
    return str(tokenizer.get_chat_template())


def default_template(tokenizer: Any) -> str:
    """The template of a model that brings none; it begins as the tokenizer lets texts begin."""
    return ("{{- bos_token -}}" if begins(tokenizer) else "") + DEFAULT_TEMPLATE


def begins(tokenizer: Any) -> bool:
    """Whether a tokenizer puts its begin token before a text."""
    return tokenizer.bos_token_id is not None and tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]


def dated(template: str) -> str:
    """The template with one date for ever, where it asks for today's."""
    return DATE + template if "strftime_now" in template else template


def one_line(error: Exception) -> str:
    """An error's words on one line, shortened."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _json(path: Path) -> Mapping[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found if isinstance(found, dict) else {}
