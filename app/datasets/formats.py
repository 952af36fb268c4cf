"""The formats that users have for rows, each read into the one schema and written back.

Guarantees: what a format can say comes back from it: reading what was written gives rows of the same ids, but for the
cases that `write` refuses with a reason. A record that is not of its format raises ``BadRow`` with the reason; nothing
is guessed. Not guaranteed: fields that no format names keep their place; they are carried along as ``extra``.

Sources: Taori et al., Stanford Alpaca (2023); OpenAI's chat completions and batch formats; InstructLab's taxonomy
(qna.yaml, versions 1 to 3) and its training library (`messages`, `unmask`, `input_ids`, `labels`); TRL's preference
format (`prompt`, `chosen`, `rejected`).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.core.errors import UsageError
from app.datasets.annotated import (
    is_located,
    is_tagged,
    paired,
    parse_located,
    parse_scored,
    parse_tagged,
    write_located,
    write_scored,
    write_tagged,
)
from app.datasets.instructlab import parse_qna
from app.datasets.messages import (
    BadRow,
    conversation,
    each_or_fault,
    json_text,
    preference,
    text_of,
    turns_of,
    with_context,
    without_context,
)
from app.datasets.schema import ASKING, PREFERENCE, QA, ROWS, TEXT, TOKENS, with_columns, with_identity

Record = Mapping[str, Any]
Row = dict[str, Any]

IDS = ("origin_id", "id", "qid", "custom_id", "request_id")
DOCUMENTS = ("doc_id", "document_id", "document", "group", "source_document", "path")
SUBJECTS = ("subject", "category", "topic", "qtype")
IGNORED = -100


class UnknownFormat(UsageError):
    """No such format; the message names those that there are."""


@dataclass(frozen=True)
class Format:
    """How records of a format become rows, and rows records.

    ``fits`` says by a record's keys whether it may be of this format; ``used`` are the keys that become columns.
    """

    name: str
    fits: Callable[[Record], bool]
    parse: Callable[[Record], Iterator[Row | BadRow]]
    write: Callable[[Row], dict[str, Any]]
    used: tuple[str, ...]


def parse(record: Record, *, format_name: str = "auto") -> list[Row | BadRow]:
    """The rows of a record, with what the record says beside them; a fault where one of several examples is none.

    Raises:
        BadRow: it is not of the format, or of none.
        UnknownFormat: there is no such format.
    """
    chosen = detect(record) if format_name == "auto" else format_of(format_name)
    found = chosen.parse(record)
    return [each if isinstance(each, BadRow) else _described(each, record, chosen) for each in found]


def format_of(name: str) -> Format:
    """The format of a name."""
    if name not in FORMATS:
        raise UnknownFormat(f"there is no format {name!r}: name one of {', '.join(FORMATS)}")
    return FORMATS[name]


def detect(record: Record) -> Format:
    """The first format that a record's keys fit."""
    found = next((each for each in FORMATS.values() if each.fits(record)), None)
    if found is None:
        raise BadRow(f"is of no known format (its fields: {', '.join(map(str, record))[:200]}): name one, or rename")
    return found


def _described(row: Row, record: Record, chosen: Format) -> Row:
    """The row with the record's own id, document, subject, split and whatever else it says."""
    plain = {key: value for key, value in record.items() if isinstance(value, str | int) and key not in chosen.used}
    wanted = {"origin_id": IDS, "document": DOCUMENTS, "subject": SUBJECTS, "split": ("split",)}
    named = {
        column: next((key for key in keys if plain.get(key) not in (None, "")), "") for column, keys in wanted.items()
    }
    found = {column: row[column] or str(plain.get(key, "")) for column, key in named.items()}
    said = {*chosen.used, *named.values()}
    extra = {key: value for key, value in record.items() if key not in said and value not in (None, "")}
    whole = {**row, **found, "extra": row["extra"] or (json_text(extra) if extra else ""), "template": chosen.name}
    return with_identity(whole)


def _parse_messages(record: Record) -> Iterator[Row | BadRow]:
    given = record.get("messages", record.get("conversations"))
    unmask = record.get("unmask")
    unmask = False if unmask is None else unmask
    if not isinstance(unmask, bool):
        raise BadRow("`unmask` is neither true nor false")
    turns = turns_of(given)
    if [turn["role"] for turn in turns] == ["pretraining"]:
        yield with_columns(TEXT, text=turns[0]["content"], unmask=True)
        return
    yield with_columns(QA, unmask=unmask, **conversation(turns))


def _write_messages(row: Row) -> dict[str, Any]:
    if row["form"] == TEXT:
        return {"messages": [{"role": "pretraining", "content": row["text"]}], "unmask": True}
    return {"messages": _turns(row), **({"unmask": True} if row["unmask"] else {})}


def _turns(row: Row) -> list[dict[str, str]]:
    _need(row, QA)
    last = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
    return [dict(turn) for turn in row["history"]] + last


def _parse_preference(record: Record) -> Iterator[Row | BadRow]:
    sides = (record.get(name) for name in ("prompt", "chosen", "rejected"))
    yield with_columns(PREFERENCE, **preference(*sides))


def _write_preference(row: Row) -> dict[str, Any]:
    _need(row, PREFERENCE)
    if not row["history"]:
        return {"prompt": row["question"], "chosen": row["answer"], "rejected": row["rejected"]}
    asked = [*(dict(turn) for turn in row["history"]), {"role": "user", "content": row["question"]}]
    sides = {"chosen": row["answer"], "rejected": row["rejected"]}
    said = {name: [{"role": "assistant", "content": content}] for name, content in sides.items()}
    return {"prompt": asked, **said}


def _parse_alpaca(record: Record) -> Iterator[Row | BadRow]:
    instruction = text_of(record, "instruction")
    given = record["instances"] if isinstance(record.get("instances"), list) else [record]
    yield from each_or_fault(given, lambda each: [_followed(instruction, each)], name="instance")


def _followed(instruction: str, record: Record) -> Row:
    context = text_of(record, "input") if record.get("input") else ""
    return _asked(instruction, text_of(record, "output"), context=context, first=False)


def _write_alpaca(row: Row) -> dict[str, Any]:
    _need(row, QA, history=False)
    question, context = without_context(row, first=False)
    return {"instruction": question, "input": context, "output": row["answer"]}


def _parse_pair(record: Record) -> Iterator[Row | BadRow]:
    ask, say = next((pair for pair in PAIRS if all(key in record for key in pair)), PAIRS[0])
    context = text_of(record, "context") if record.get("context") else ""
    answers = record.get("answers")
    row = _asked(text_of(record, ask), text_of(record, say), context=context)
    yield {**row, "answers": [str(each) for each in answers] if isinstance(answers, list) else row["answers"]}


def _write_pair(row: Row) -> dict[str, Any]:
    _need(row, QA, history=False)
    question, context = without_context(row)
    return {**({"context": context} if context else {}), "prompt": question, "completion": row["answer"]}


def _asked(question: str, answer: str, *, context: str = "", first: bool = True) -> Row:
    """A row whose prompt is the question with its context, before it or after it."""
    return with_columns(QA, question=with_context(question, context, first=first), answer=answer, context=context)


def _parse_document(record: Record) -> Iterator[Row | BadRow]:
    yield with_columns(TEXT, text=text_of(record, "document" if isinstance(record.get("document"), str) else "text"))


def _write_document(row: Row) -> dict[str, Any]:
    _need(row, TEXT)
    return {"document": row["text"]}


def _parse_labelled(record: Record) -> Iterator[Row | BadRow]:
    label = record["label"]
    if not isinstance(label, str | int) or isinstance(label, bool) or label == "":
        raise BadRow("`label` is neither text nor a whole number")
    question, pair = paired(record)
    yield with_columns(QA, question=question, context=pair, answer=str(label), label=str(label))


def _write_labelled(row: Row) -> dict[str, Any]:
    _need(row, QA, history=False)
    if not row["label"]:
        raise BadRow("has no label")
    text, pair = without_context(row, first=False)
    return {"text": text, **({"text_pair": pair} if pair else {}), "label": row["label"]}


def _parse_tokens(record: Record) -> Iterator[Row | BadRow]:
    ids = _numbers(record, "input_ids", least=0)
    labels = _numbers(record, "labels", least=IGNORED) if record.get("labels") is not None else list(ids)
    if len(labels) != len(ids):
        raise BadRow(f"has {len(ids)} `input_ids` and {len(labels)} `labels`")
    if wrong := [n for n, (token, label) in enumerate(zip(ids, labels, strict=True)) if label not in (token, IGNORED)]:
        raise BadRow(f"has a label at {wrong[0]} that is neither its token nor {IGNORED}")
    if not any(label != IGNORED for label in labels):
        raise BadRow("has no token to learn")
    yield with_columns(TOKENS, input_ids=ids, labels=labels)


def _write_tokens(row: Row) -> dict[str, Any]:
    _need(row, TOKENS)
    ids = list(row["input_ids"])
    return {"input_ids": ids, "labels": list(row["labels"]), "attention_mask": [1] * len(ids), "len": len(ids)}


def _numbers(record: Record, key: str, *, least: int) -> list[int]:
    given = record.get(key)
    if not isinstance(given, list) or not given:
        raise BadRow(f"`{key}` is no list of numbers")
    if not all(type(each) is int and least <= each < 2**31 for each in given):
        raise BadRow(f"`{key}` holds something else than token numbers")
    return given


def _parse_request(record: Record) -> Iterator[Row | BadRow]:
    asked, said = _body(record, "request", "request_json", "body"), _body(record, "response", "response_json")
    status = said.get("status_code", record.get("status_code", 200))
    said = said.get("body", said)
    error = record.get("error") or (said.get("error") if isinstance(said, Mapping) else "no body")
    if status != 200 or error:
        raise BadRow(f"is a request that failed (status {status})")
    choices = said.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise BadRow("has a response without choices")
    if choices[0].get("finish_reason") not in ("stop", None):
        raise BadRow(f"has an answer that ended by {choices[0]['finish_reason']!r}, not by itself")
    yield with_columns(QA, **conversation([*turns_of(asked.get("messages")), *turns_of([choices[0].get("message")])]))


def _write_request(row: Row) -> dict[str, Any]:
    *asked, said = _turns(row)
    choice = {"index": 0, "message": said, "finish_reason": "stop"}
    identity = {"custom_id": row["origin_id"]} if row["origin_id"] else {}
    request, response = {"model": "", "messages": asked}, {"object": "chat.completion", "choices": [choice]}
    return {**identity, "request": request, "response": response}


def _body(record: Record, *names: str) -> Mapping[str, Any]:
    given = next((record[name] for name in names if record.get(name) is not None), None)
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise BadRow(f"`{names[0]}` is not JSON") from error
    if not isinstance(given, Mapping):
        raise BadRow(f"has no {names[0]}")
    inner = given.get("body")
    return inner if names[0] == "request" and isinstance(inner, Mapping) else given


def _parse_own(record: Record) -> Iterator[Row | BadRow]:
    row = {name: record.get(name) for name in ("question", "answer", "context", "history", "text", "label")}
    row |= {"rejected": text_of(record, "rejected")} if record["form"] == PREFERENCE else {}
    row |= {name: record.get(name) or "" for name in ("context", "label", "subject", "attribute", "document", "extra")}
    form = str(record["form"])
    if form == TOKENS:
        yield from _parse_tokens(record)
    elif form == TEXT:
        kept = {name: row[name] for name in ("context", "subject", "document", "extra")}
        yield with_columns(TEXT, text=text_of(record, "text"), unmask=_flag(record.get("unmask")), **kept)
    elif form in ASKING:
        row |= {"question": text_of(record, "question"), "answer": text_of(record, "answer"), "text": None}
        kept = {"answers": record.get("answers") or [], "history": turns_of(record["history"], may_be_empty=True)}
        yield with_columns(form, unmask=_flag(record.get("unmask")), **{**row, **kept})
    else:
        raise BadRow(f"is of the unknown form {form!r}")


def _flag(value: object) -> bool:
    """A truth value, or its text in a cell."""
    return value is True or str(value).casefold() == "true"


def _need(row: Row, form: str, *, history: bool = True) -> None:
    if row["form"] != form:
        raise BadRow(f"is of the form {row['form']}, this format holds {form}")
    if not history and (row["history"] or row["unmask"]):
        raise BadRow("has turns before the question, or unmask, which this format cannot hold")


def _has(*names: str) -> Callable[[Record], bool]:
    return lambda record: all(name in record for name in names)


def _refuse(_: Row) -> dict[str, Any]:
    raise BadRow("is written with others: use `instructlab` or `parquet` as the format of the whole export")


def _is_request(record: Record) -> bool:
    asks = any(name in record for name in ("request", "request_json", "body"))
    return asks and any(name in record for name in ("response", "response_json"))


PAIRS = (("prompt", "completion"), ("question", "answer"), ("prompt", "response"), ("query", "response"))
_OWN = tuple(name for name in ROWS.names if name not in ("origin_id", "split"))
FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        Format("signalbox", _has("row_id", "form", "history"), _parse_own, dict, _OWN),
        Format("instructlab", _has("seed_examples"), parse_qna, _refuse, ("seed_examples",)),
        Format("requests", _is_request, _parse_request, _write_request, ("request", "response", "body")),
        Format(
            "preferences",
            _has("chosen", "rejected"),
            _parse_preference,
            _write_preference,
            ("prompt", "chosen", "rejected"),
        ),
        Format(
            "messages",
            lambda record: "messages" in record or "conversations" in record,
            _parse_messages,
            _write_messages,
            ("messages", "conversations", "unmask"),
        ),
        Format("tokens", _has("input_ids"), _parse_tokens, _write_tokens, ("input_ids", "labels", "attention_mask")),
        Format(
            "alpaca",
            lambda record: "instruction" in record and ("output" in record or "instances" in record),
            _parse_alpaca,
            _write_alpaca,
            ("instruction", "input", "output", "instances"),
        ),
        Format("squad", is_located, parse_located, write_located, ("question", "context")),
        Format(
            "pairs",
            lambda record: any(all(key in record for key in pair) for pair in PAIRS),
            _parse_pair,
            _write_pair,
            ("prompt", "completion", "question", "answer", "answers", "response", "query", "context"),
        ),
        Format("tagged", is_tagged, parse_tagged, write_tagged, ()),
        Format("labelled", _has("text", "label"), _parse_labelled, _write_labelled, ("text", "text_pair", "label")),
        Format("scored", _has("text", "score"), parse_scored, write_scored, ("text", "text_pair")),
        Format(
            "document",
            lambda record: isinstance(record.get("document"), str) or "text" in record,
            _parse_document,
            _write_document,
            ("text", "document"),
        ),
    )
}
