"""Records that say something of a text, or of two: a score, a tag for each word, where in a context an answer stands.

What no column holds stays in the row's ``extra``, where the recipe `head` reads it. Sources: CoNLL-2003's `tokens` and
`tags` as JSON; SQuAD's `question`, `context` and `answers` with `text` and `answer_start` (arXiv 1606.05250), which
are empty where the context does not answer (arXiv 1806.03822): such a row is text, for no answer can be learned of it.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from app.datasets.messages import BadRow, text_of, with_context, without_context
from app.datasets.schema import QA, TEXT, with_columns

Record = Mapping[str, Any]
Row = dict[str, Any]


def paired(record: Record) -> tuple[str, str]:
    """The text with the one that it is set beside, as one, and that other text, empty where there is none."""
    pair = text_of(record, "text_pair") if record.get("text_pair") else ""
    return with_context(text_of(record, "text"), pair, first=False), pair


def parse_scored(record: Record) -> Iterator[Row | BadRow]:
    """Running text; the score stays in `extra`."""
    score = record["score"]
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise BadRow("`score` is no number")
    text, pair = paired(record)
    yield with_columns(TEXT, text=text, context=pair)


def write_scored(row: Row) -> dict[str, Any]:
    """The text, the other one, and the score."""
    score = _extra(row).get("score")
    if row["form"] != TEXT or score is None:
        raise BadRow("has no score")
    text, pair = without_context({**row, "question": row["text"]}, first=False)
    return {"text": text, **({"text_pair": pair} if pair else {}), "score": score}


def is_tagged(record: Record) -> bool:
    """Whether a record may be words with tags."""
    return "tokens" in record and "tags" in record


def parse_tagged(record: Record) -> Iterator[Row | BadRow]:
    """The words as running text; both lists stay in `extra`."""
    words, tags = record["tokens"], record["tags"]
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise BadRow("`tokens` is no list of words")
    if not isinstance(tags, list) or len(tags) != len(words):
        raise BadRow(f"has {len(words)} `tokens` and {len(tags) if isinstance(tags, list) else 'no list of'} `tags`")
    yield with_columns(TEXT, text=" ".join(words))


def write_tagged(row: Row) -> dict[str, Any]:
    """The words and their tags."""
    said = _extra(row)
    if row["form"] != TEXT or not is_tagged(said):
        raise BadRow("has no words with tags")
    return {"tokens": said["tokens"], "tags": said["tags"]}


def is_located(record: Record) -> bool:
    """Whether a record may be a question whose answers have a place in a context."""
    return "question" in record and "context" in record and isinstance(record.get("answers"), Mapping)


def parse_located(record: Record) -> Iterator[Row | BadRow]:
    """A question with its context; the first answer is the row's, and all with their places stay in `extra`."""
    texts = record["answers"].get("text")
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise BadRow("`answers` holds no `text`: write an empty list where the context does not answer")
    context = text_of(record, "context")
    question = with_context(text_of(record, "question"), context)
    if not texts:
        yield with_columns(TEXT, text=question, context=context)
        return
    yield with_columns(QA, question=question, answer=texts[0], answers=list(dict.fromkeys(texts)), context=context)


def write_located(row: Row) -> dict[str, Any]:
    """The question, its context, and its answers with their places."""
    answers = _extra(row).get("answers")
    if row["form"] not in (QA, TEXT) or row["history"] or not isinstance(answers, Mapping):
        raise BadRow("has no answers with places in a context")
    question, context = without_context({**row, "question": row["question"] or row["text"]})
    return {"question": question, "context": context, "answers": dict(answers)}


def _extra(row: Row) -> dict[str, Any]:
    found = json.loads(row["extra"]) if row["extra"] else {}
    return found if isinstance(found, dict) else {}
