"""Rows to examples of the recipe `head`: texts as the base's own tokenizer makes them, with what is to be said of them.

Fields, of the row itself or of its `extra`: `text` (or `question`), `text_pair` (or `context`, where the text ends with
it) and `label`; the same and `labels`, a list; the same and `score`;
`tokens` and `tags`, or `text` and `spans` (`start`, `end`, `label`; the end is the first character after it);
`question`, `context` and `answers` (`text` and `answer_start`, as in SQuAD; without any, as in SQuAD 2.0, the context
does not answer, arXiv 1806.03822) or `answer`.

Guarantees: a row that says none of what its task needs, or says it wrongly, is a reject with the reason; tokens are
those that `AutoTokenizer` makes of the same texts; a context that is too long gives several windows, each with the
question. Of a word's tokens the first carries its tag. Not guaranteed: that
control tokens in a text are ordinary text; plain transformers does not see to that either. Imports no torch.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from tokenizers import Encoding, Tokenizer

from app.training.data import IGNORED, Example, id_of
from app.training.heads.settings import Task

Row = Mapping[str, Any]
JOINT = "\n\n"
"""Between two texts in a row whose question is the whole prompt."""
WORDS = re.compile(r"\w+|[^\w\s]")
OUTSIDE, BEGIN, INSIDE = "O", "B-", "I-"
LABELLED: tuple[Task, ...] = ("classification", "multilabel", "token")
MAY_BE_EMPTY = ("labels", "answers")
"""Fields of `extra` of which none is something said."""
NOWHERE = (0, 0)
"""The place of an answer that a window does not hold: its first token, as BERT's authors do for SQuAD 2.0."""


class Unusable(ValueError):
    """A row is none of its task; the message becomes the reason of a reject."""


@dataclass(frozen=True)
class Said:
    """What a row says: one text or two, and of these labels, words' places with their tags, answers' places or a score.

    A question without a place is one that its context does not answer.
    """

    text: str
    pair: str | None = None
    labels: tuple[str, ...] = ()
    places: tuple[tuple[int, int], ...] = ()
    score: float = 0.0


def read_row(row: Row, task: Task) -> Said:
    """What a row says to a task.

    Raises:
        Unusable: it lacks something, or holds what is none.
    """
    return READERS[task](_fields(row))


def _fields(row: Row) -> dict[str, Any]:
    """The row's own fields and those of its `extra`; empty ones are none, but for what may be so in `extra`."""
    try:
        extra = json.loads(row["extra"]) if row.get("extra") else {}
    except ValueError as error:
        raise Unusable("`extra` is no JSON") from error
    extra = extra if isinstance(extra, dict) else {}
    given = {name: value for name, value in {**row, **extra}.items() if value is not None and value not in ("", [])}
    return given | {name: [] for name in MAY_BE_EMPTY if extra.get(name) == []}


def _text(fields: Mapping[str, Any], *names: str) -> str:
    found = next((fields[name] for name in names if name in fields), None)
    if not isinstance(found, str) or not found.strip():
        raise Unusable(f"has no `{names[0]}`" if found is None else f"`{names[0]}` is no text")
    return found


def _texts(fields: Mapping[str, Any]) -> tuple[str, str | None]:
    """A text and the one that it is set beside, where there is one: a field of its own, or the text's end."""
    text = _text(fields, "text", "question")
    if "text_pair" in fields:
        return text, _text(fields, "text_pair")
    pair = fields.get("context")
    apart = text.removesuffix(f"{JOINT}{pair}") if isinstance(pair, str) else text
    return (apart, pair) if apart != text else (text, None)


def _classified(fields: Mapping[str, Any]) -> Said:
    label = fields.get("label")
    if not isinstance(label, str | int) or isinstance(label, bool):
        raise Unusable("has no `label`" if label is None else "`label` is neither text nor a whole number")
    return Said(*_texts(fields), labels=(str(label),))


def _labelled(fields: Mapping[str, Any]) -> Said:
    labels = fields.get("labels")
    if not isinstance(labels, list):
        raise Unusable("has no `labels`" if labels is None else "`labels` is no list")
    if not all(isinstance(label, str | int) and not isinstance(label, bool) for label in labels):
        raise Unusable("`labels` holds something else than text and whole numbers")
    return Said(*_texts(fields), labels=tuple(dict.fromkeys(map(str, labels))))


def _scored(fields: Mapping[str, Any]) -> Said:
    score = fields.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise Unusable("has no `score`" if score is None else "`score` is no finite number")
    return Said(*_texts(fields), score=float(score))


def _tagged(fields: Mapping[str, Any]) -> Said:
    if "spans" in fields:
        return _with_spans(_text(fields, "text"), fields["spans"])
    words, tags = fields.get("tokens"), fields.get("tags")
    if not isinstance(words, list) or not isinstance(tags, list) or len(words) != len(tags):
        raise Unusable("has neither `spans` nor as many `tags` as `tokens`")
    if not all(isinstance(word, str) and word.strip() for word in words):
        raise Unusable("`tokens` holds something else than words")
    if not all(isinstance(tag, str | int) and not isinstance(tag, bool) for tag in tags):
        raise Unusable("`tags` holds something else than text and whole numbers")
    ends = [sum(map(len, words[: place + 1])) + place for place in range(len(words))]
    places = tuple((end - len(word), end) for word, end in zip(words, ends, strict=True))
    return Said(" ".join(words), labels=tuple(map(str, tags)), places=places)


def _with_spans(text: str, spans: Any) -> Said:
    """Tags of the text's words: B- where a span begins, I- where it goes on, O elsewhere."""
    places = [match.span() for match in WORDS.finditer(text)]
    tags = [OUTSIDE] * len(places)
    given: list[Any] = spans if isinstance(spans, list) else [spans]
    for span in given:
        try:
            start, end, label = int(span["start"]), int(span["end"]), str(span["label"])
        except (TypeError, KeyError, ValueError) as error:
            raise Unusable("a span has no `start`, `end` and `label`") from error
        inside = [number for number, place in enumerate(places) if start <= place[0] and place[1] <= end]
        if not inside or places[inside[0]][0] != start or places[inside[-1]][1] != end:
            raise Unusable(f"the span {start} to {end} does not begin and end with words")
        if any(tags[number] != OUTSIDE for number in inside):
            raise Unusable(f"the span {start} to {end} overlaps another")
        tags[inside[0]] = BEGIN + label
        tags[inside[0] + 1 : inside[-1] + 1] = [INSIDE + label] * (len(inside) - 1)
    return Said(text, labels=tuple(tags), places=tuple(places))


def _answered(fields: Mapping[str, Any]) -> Said:
    context = _text(fields, "context")
    question = _text(fields, "question", "text").removeprefix(context + JOINT).removesuffix(JOINT + context)
    answers: Any = fields.get("answers", fields.get("answer"))
    starts: list[Any] = []
    if isinstance(answers, dict):
        answers, starts = answers.get("text"), answers.get("answer_start") or []
    texts = [answers] if isinstance(answers, str) else answers
    if texts == []:
        return Said(question, context)
    if not isinstance(texts, list) or not texts or not all(isinstance(each, str) and each for each in texts):
        raise Unusable("has no `answers`: say so by an empty list where its context answers nothing")
    found = [_place(context, text, starts[number : number + 1]) for number, text in enumerate(texts)]
    return Said(question, context, places=tuple(dict.fromkeys(found)))


def _place(context: str, answer: str, start: Sequence[Any]) -> tuple[int, int]:
    """Where an answer stands in its context: where the row says, else where it is found first."""
    at = start[0] if start else context.find(answer)
    if not isinstance(at, int) or at < 0 or context[at : at + len(answer)] != answer:
        where = f" at {at}" if start else ""
        raise Unusable(f"the answer {answer[:60]!r} does not stand in the context{where}")
    return at, at + len(answer)


READERS: dict[Task, Callable[[Mapping[str, Any]], Said]] = {
    "classification": _classified,
    "multilabel": _labelled,
    "score": _scored,
    "token": _tagged,
    "span": _answered,
}


class HeadEncoder:
    """Encodes what rows say for one task.

    Args:
        tokenizer: of the base; it neither cuts nor fills up.
        labels: all labels, or tags, in the order of their numbers; None for tasks without.
        max_tokens: longest window of a `span`; None: a row is one, however long.
        overlap_tokens: tokens that two windows share.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        task: Task,
        *,
        labels: Sequence[str] | None,
        max_tokens: int | None = None,
        overlap_tokens: int = 0,
    ) -> None:
        self._tokenizer, self._task = tokenizer, task
        self._numbers = {label: number for number, label in enumerate(labels or ())}
        self._max_tokens, self._overlap_tokens = max_tokens, overlap_tokens

    def examples(self, row: Row, said: Said, *, pool: int = 0, group: int = -1) -> list[Example]:
        """The windows of a row, mostly one: ``num_prompt`` tokens stand before the second text, and ``target`` is what
        is learned.

        Raises:
            Unusable: a label is unknown, no token stands for a word or an answer, or no window holds an answer.
        """
        coded = self._tokenizer.encode(said.text, said.pair) if said.pair else self._tokenizer.encode(said.text)
        if unknown := sorted(set(said.labels) - set(self._numbers)):
            raise Unusable(f"the label {unknown[0]!r} is none of those to learn")
        second = [number for number, which in enumerate(coded.sequence_ids) if which == 1]
        if self._task == "span":
            return self._windows(coded, said, second, Example([], 0, pool, id_of(row), group=group))
        target = tuple(map(float, self._target(coded, said)))
        return [Example(list(coded.ids), second[0] if second else len(coded.ids), pool, id_of(row), target)]

    def _windows(self, coded: Encoding, said: Said, second: Sequence[int], like: Example) -> list[Example]:
        """The question with one part of the context after another; of an answer that a part lacks, the first token."""
        places = [self._ends(coded, place) for place in said.places]
        before, after = list(coded.ids[: second[0]]), list(coded.ids[second[-1] + 1 :])
        room = (self._max_tokens or len(coded.ids)) - len(before) - len(after)
        if room < len(second) and room <= self._overlap_tokens:
            raise Unusable(f"a question of {len(before)} tokens leaves no room for its context: raise max_row_tokens")
        made, last = [], second[-1] + 1
        for start in range(second[0], last, max(1, room - self._overlap_tokens)):
            end, shift = min(start + room, last), start - second[0]
            inside = [(one - shift, two - shift) for one, two in places if start <= one and two < end]
            target = tuple(map(float, chain.from_iterable(inside or [NOWHERE])))
            tokens = [*before, *coded.ids[start:end], *after]
            made.append(replace(like, tokens=tokens, num_prompt=len(before), target=target))
            if end == last:
                break
        if places and all(each.target == NOWHERE for each in made):
            raise Unusable("no window holds the answer: raise head.overlap_tokens")
        return made

    def _target(self, coded: Encoding, said: Said) -> Sequence[float]:
        if self._task == "multilabel":
            return [float(label in said.labels) for label in self._numbers]
        if self._task == "classification":
            return [self._numbers[said.labels[0]]]
        if self._task == "score":
            return [said.score]
        return self._tags(coded, said)

    def _tags(self, coded: Encoding, said: Said) -> list[int]:
        """The number of the tag at the first token of each word, -100 at all others."""
        target = [IGNORED] * len(coded.ids)
        for place, label in zip(said.places, said.labels, strict=True):
            at = next((token for token in _within(coded, place, sequence=0) if target[token] == IGNORED), None)
            if at is None:
                raise Unusable(f"no token of its own stands for the word {said.text[slice(*place)]!r}")
            target[at] = self._numbers[label]
        return target

    def _ends(self, coded: Encoding, place: tuple[int, int]) -> tuple[int, int]:
        """The first and the last token of an answer in the second text."""
        inside = list(_within(coded, place, sequence=1))
        if not inside:
            raise Unusable("no token stands for the answer")
        return inside[0], inside[-1]


def _within(coded: Encoding, place: tuple[int, int], *, sequence: int) -> Iterator[int]:
    """Tokens of a text that share a character with a place in it."""
    for number, (which, (start, end)) in enumerate(zip(coded.sequence_ids, coded.offsets, strict=True)):
        if which == sequence and start < place[1] and place[0] < end:
            yield number
