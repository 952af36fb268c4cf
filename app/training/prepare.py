"""From published versions to a run folder: texts, tokenizer, examples, plan. Plain Python, no Ray, no torch.

Guarantees: the folder follows from the versions and the settings; a row that is left out stands in ``rejects.parquet``
with its reason.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from tokenizers import Tokenizer

from app.core.parquet import read_rows, write_rows
from app.inference.chat import plain
from app.registry.tables import CHUNKS_FILE, REJECTS_FILE, ROWS_FILE
from app.registry.versions import Registry, Version
from app.registry.whole import whole_folder
from app.training.adapters import check_adapters
from app.training.data import Example, encode_rows, encode_texts, id_of, learned_spans, save_examples
from app.training.errors import NothingToReplay, NothingToTrain
from app.training.expand import check_expansion
from app.training.new_tokens import Added, add_tokens
from app.training.pairs import encode_pairs
from app.training.plan import EXAMPLES_FILE, PLAN_FILE, Plan, read_plan, write_plan
from app.training.replay import divide_for_replay, remembered
from app.training.settings import ModelSettings, TrainSettings
from app.training.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer

TRAIN_SPLIT = "train"
REJECTS = pa.schema({"dataset": pa.string(), "row_id": pa.string(), "num_tokens": pa.int64(), "reason": pa.string()})
"""What the run does not learn from: a row, or one answer of a conversation (``dataset`` is null there)."""
Rows = list[dict[str, Any]]


def prepare(
    folder: Path,
    *,
    name: str,
    base: Version | None,
    model: ModelSettings | None,
    data: Sequence[Version],
    vocabulary: Sequence[Version],
    registry: Registry,
    settings: TrainSettings,
) -> Plan:
    """Fill a run folder, unless it is whole already.

    Raises:
        NothingToTrain: no row is left that the recipe can use.
        CannotExpand: the base cannot be changed as the settings ask.
        CannotAddTokens: the base's tokenizer takes none, or the data have none to add.
        CannotAdapt: the base cannot have such adapters, or not here.
        NothingToReplay: there are older data and a replay share, but no row to replay.
    """
    if (folder / PLAN_FILE).exists():
        return read_plan(folder)
    folder.mkdir(parents=True, exist_ok=True)
    base_folder = whole_folder(base, registry) if base else None
    check_expansion(settings, base_folder)
    if base_folder and settings.by_adapters:
        check_adapters(settings.lora, base_folder)
    tables = [read_version(version, registry) for version in data]
    extra = [read_version(version, registry) for version in vocabulary]
    tokenizer = make_tokenizer(folder, base_folder, model, [*tables, *extra])
    added = Added()
    if settings.new_tokens:
        texts = [plain(text) for table in tables for row in table for text in texts_of(row)]
        added = add_tokens(folder, texts, settings.new_tokens)
        tokenizer = load_tokenizer(folder)
    examples = make_examples(tables, tokenizer, settings=settings)
    kept, too_long = divide_by_length(examples, settings)
    rejects = [*_unusable(data, tables, settings), *too_long]
    if not any(example.pool == 0 for example in kept):
        raise NothingToTrain(f"{', '.join(v.ref for v in data)} hold no new row for {settings.recipe}: name other data")
    save_examples(kept, folder / EXAMPLES_FILE)
    if rejects:
        write_rows(folder / REJECTS_FILE, rejects, schema=REJECTS)
    plan = Plan(
        name=name,
        settings=settings,
        model=model,
        base_folder=base_folder,
        base_digest=base.digest if base else None,
        vocabulary_size=tokenizer.get_vocab_size(),
        new_tokens=added.pieces,
        tokens_per_text=added.tokens_per_text,
        num_rows=len(kept) // settings.sides,
        num_left_out=len(rejects),
    )
    write_plan(plan, folder)
    return plan


def read_version(version: Version, registry: Registry) -> Rows:
    """The rows of a version: chunks of a dataset, the training rows of anything else."""
    folder = whole_folder(version, registry)
    if (folder / CHUNKS_FILE).exists():
        return read_rows(folder / CHUNKS_FILE)
    rows = read_rows(folder / ROWS_FILE)
    return [row for row in rows if row.get("split", TRAIN_SPLIT) == TRAIN_SPLIT]


def make_tokenizer(folder: Path, base: Path | None, model: ModelSettings | None, tables: Sequence[Rows]) -> Tokenizer:
    """The base model's tokenizer, or a new one trained on the texts of all tables; its files go into ``folder``."""
    if base is not None:
        tokenizer = load_tokenizer(base)
        context_tokens = json.loads((base / "config.json").read_text())["max_position_embeddings"]
    else:
        assert model is not None
        texts = (text for table in tables for row in table for text in texts_of(row))
        tokenizer = train_tokenizer(texts, vocabulary_size=model.vocabulary_size)
        context_tokens = model.max_context_tokens
    save_tokenizer(tokenizer, folder, max_context_tokens=context_tokens)
    return tokenizer


def texts_of(row: dict[str, Any]) -> list[str]:
    """What a tokenizer should know of a row; nothing of a row of tokens, nor the worse answer of a preference."""
    turns = [turn["content"] for turn in row.get("history") or []]
    return turns + [row[name] for name in ("question", "answer", "text") if row.get(name)]


def is_usable(row: dict[str, Any], settings: TrainSettings) -> bool:
    """Whether a recipe can learn from a row: `cpt` from any, `dpo` from preferences, the others from
    questions with answers and from tokens."""
    if settings.recipe == "dpo":
        return bool(row.get("rejected"))
    return settings.recipe == "cpt" or bool(row.get("question") or row.get("input_ids"))


def _unusable(data: Sequence[Version], tables: Sequence[Rows], settings: TrainSettings) -> list[dict[str, Any]]:
    reason = f"neither a question nor tokens, which {settings.recipe} learns from: train it by cpt"
    if settings.recipe == "dpo":
        reason = "no worse answer beside the better one, which dpo learns from: train it by sft or cpt"
    return [
        {"dataset": version.ref, "row_id": id_of(row), "num_tokens": None, "reason": reason}
        for version, table in zip(data, tables, strict=True)
        for row in table
        if not is_usable(row, settings)
    ]


def divide_by_length(
    examples: Sequence[Example], settings: TrainSettings
) -> tuple[list[Example], list[dict[str, Any]]]:
    """Examples that are short enough, and a reject for each of the others; the sides of a pair share their fate."""
    most, sides = settings.max_row_tokens, settings.sides
    rows = [examples[start : start + sides] for start in range(0, len(examples), sides)]
    longest = [max(len(side.tokens) for side in row) for row in rows]
    kept = [side for row, num in zip(rows, longest, strict=True) if num <= most for side in row]
    reason = f"longer than train.max_row_tokens ({most})"
    return kept, [
        {"dataset": None, "row_id": row[0].row_id, "num_tokens": num, "reason": reason}
        for row, num in zip(rows, longest, strict=True)
        if num > most
    ]


def make_examples(tables: Sequence[Rows], tokenizer: Tokenizer, *, settings: TrainSettings) -> list[Example]:
    """Examples of a recipe: blocks of text for `cpt`, pairs for `dpo`; else rows, the first table's new facts apart."""
    if settings.recipe == "dpo":
        return _pairs(tables, tokenizer, settings)
    if settings.recipe == "cpt":
        return [*_blocks([row for table in tables for row in table], tokenizer, settings), *_tokens(tables, tokenizer)]
    new, *older = [[row for row in table if row.get("question")] for table in tables]
    if not older or not settings.replay_share:
        return [*encode_rows(new, tokenizer), *_tokens(tables[:1], tokenizer)]
    old = [row for table in older for row in table]
    learned, known = divide_for_replay(new, old, withdrawn=settings.replay_withdrawn)
    replayed = remembered(known, num_rows=settings.replay_rows, by=settings.replay_by, seed=settings.seed)
    again = [*encode_rows(replayed, tokenizer, pool=1), *_tokens(tables[1:], tokenizer, pool=1)]
    if not again:
        raise NothingToReplay("no row of the older data is left to replay: set train.replay_withdrawn, or no share")
    return [*encode_rows(learned, tokenizer), *_tokens(tables[:1], tokenizer), *again]


def _pairs(tables: Sequence[Rows], tokenizer: Tokenizer, settings: TrainSettings) -> list[Example]:
    """Both sides of every pair; those of older tables are replayed."""
    new, *older = [[row for row in table if is_usable(row, settings)] for table in tables]
    old = [row for table in older for row in table] if settings.replay_share else []
    replayed = remembered(old, num_rows=settings.replay_rows, by=settings.replay_by, seed=settings.seed)
    return [*encode_pairs(new, tokenizer), *encode_pairs(replayed, tokenizer, pool=1)]


def _tokens(tables: Sequence[Rows], tokenizer: Tokenizer, *, pool: int = 0) -> list[Example]:
    """Examples of the rows that are tokens already; they must be of the model's own vocabulary."""
    size = tokenizer.get_vocab_size()
    try:
        rows = [row for table in tables for row in table if row.get("input_ids")]
        return [example for row in rows for example in learned_spans(row, vocabulary_size=size, pool=pool)]
    except ValueError as error:
        raise NothingToTrain(
            f"rows of tokens do not fit: {error}; make them with the base model's tokenizer"
        ) from error


def _blocks(rows: Rows, tokenizer: Tokenizer, settings: TrainSettings) -> list[Example]:
    texts = [text for row in rows for text in texts_of(row)]
    return encode_texts(texts, tokenizer, block_tokens=settings.block_tokens)
