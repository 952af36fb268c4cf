"""From published versions to a run folder: texts, tokenizer, examples, plan. Plain Python, no Ray, no torch.

Guarantees: the folder follows from the versions and the settings; a row that is left out stands in ``rejects.parquet``
with its reason.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from app.core.parquet import read_rows, write_rows
from app.inference.chat import plain
from app.inference.chat_format import DEFAULT_CONTEXT_TOKENS, ChatFormat, OwnFormat, context_tokens, is_own, load_format
from app.inference.chat_format import load_tokenizer as read_tokenizer
from app.inference.kinds import writes
from app.registry.tables import CHUNKS_FILE, REJECTS_FILE, ROWS_FILE
from app.registry.versions import Registry, Version
from app.registry.whole import whole_folder
from app.training.adapters import check_adapters
from app.training.data import Example, id_of, save_examples
from app.training.encode import Encoder
from app.training.errors import CannotTrain, NothingToReplay, NothingToTrain, TooLong
from app.training.expand import check_expansion
from app.training.new_tokens import Added, add_tokens
from app.training.plan import EXAMPLES_FILE, PLAN_FILE, Plan, read_plan, write_plan
from app.training.replay import divide_for_replay, remembered
from app.training.settings import ModelSettings, TrainSettings
from app.training.tokenizer import OLD_FORMS, load_tokenizer, save_tokenizer, tokenizer_files, train_tokenizer

TRAIN_SPLIT, HELD_OUT_SPLIT = "train", "heldout"
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
    """Fill a run folder, unless it is whole already: then only where and at what price it computes may be new.

    Raises:
        NothingToTrain: no row is left that the recipe can use.
        CannotExpand: the base cannot be changed as the settings ask.
        CannotAddTokens: the base's tokenizer takes none, or the data have none to add.
        CannotAdapt: the base cannot have such adapters, or not here.
        CannotTrain: the recipe is not for such a base.
        NothingToReplay: there are older data and a replay share, but no row to replay.
    """
    if (folder / PLAN_FILE).exists():
        return _planned_again(folder, settings)
    folder.mkdir(parents=True, exist_ok=True)
    base_folder = whole_folder(base, registry) if base else None
    _check_base(settings, base_folder)
    if base and base_folder and settings.recipe == "head":
        from app.training.heads.prepare import prepare_head

        return prepare_head(
            folder, name=name, base=base, base_folder=base_folder, data=data, registry=registry, settings=settings
        )
    tables = [read_version(version, registry) for version in data]
    extra = [read_version(version, registry) for version in vocabulary]
    encoder = make_encoder(folder, base_folder, model, [*tables, *extra], settings=settings)
    encoder, added = _with_new_tokens(encoder, folder, base_folder, tables, settings)
    examples = make_examples(tables, encoder, settings=settings)
    kept, too_long = divide_by_length(examples, settings)
    rejects = [*_unusable(data, tables, settings), *encoder.rejects, *too_long]
    if not any(example.pool == 0 for example in kept):
        raise NothingToTrain(f"{', '.join(v.ref for v in data)} hold no new row for {settings.recipe}: name other data")
    save_examples(kept, folder / EXAMPLES_FILE)
    if rejects:
        write_rows(folder / REJECTS_FILE, rejects, schema=REJECTS)
    chat = encoder.chat
    plan = Plan(
        name=name,
        settings=with_steps(settings, num_rows=sum(example.pool == 0 for example in kept) // settings.sides),
        model=model,
        base_folder=base_folder,
        base_digest=base.digest if base else None,
        vocabulary_size=chat.vocabulary_size,
        new_tokens=added.pieces,
        tokens_per_text=added.tokens_per_text,
        pad_token=chat.pad_token,
        special_tokens=tuple(sorted(chat.special_tokens)),
        end_tokens=None if isinstance(chat, OwnFormat) else tuple(sorted(chat.end_tokens)),
        num_rows=len(kept) // settings.sides,
        num_left_out=len(rejects),
    )
    write_plan(plan, folder)
    return plan


def _planned_again(folder: Path, settings: TrainSettings) -> Plan:
    """The plan that is there, with the workers of now; steps and batch stay as the rows decided them."""
    plan = read_plan(folder)
    plan = plan.model_copy(update={"settings": plan.settings.model_copy(update={"workers": settings.workers})})
    write_plan(plan, folder)
    return plan


def _check_base(settings: TrainSettings, base: Path | None) -> None:
    """Refuse a base that the recipe cannot take, before any row is read."""
    check_expansion(settings, base)
    check_kind(settings, base)
    if base and settings.by_adapters:
        check_adapters(settings.lora, base)


def _with_new_tokens(
    encoder: Encoder, folder: Path, base: Path | None, tables: Sequence[Rows], settings: TrainSettings
) -> tuple[Encoder, Added]:
    """The encoder with the tokens that the data add to a base's, where the settings ask for some."""
    if not settings.new_tokens:
        return encoder, Added()
    texts = [plain(text) for table in tables for row in table for text in texts_of(row)]
    added = add_tokens(folder, texts, settings.new_tokens)
    return Encoder(_extended_format(folder, base), context_tokens=encoder.context_tokens), added


def check_kind(settings: TrainSettings, base: Path | None) -> None:
    """Refuse a base that the recipe cannot train, as far as its configuration says so.

    Raises:
        CannotTrain: an encoder, or a model with a head, is to write; or `head` has no base.
    """
    if settings.recipe == "head":
        if base is None:
            raise CannotTrain("head stands on a model that is there: name it with --base")
    elif base is not None and not writes(base):
        raise CannotTrain(f"the base writes nothing, so {settings.recipe} cannot train it: take the recipe head")


def read_version(version: Version, registry: Registry, *, split: str = TRAIN_SPLIT) -> Rows:
    """The rows of a version: chunks of a dataset, which are to be trained on, the rows of a split of anything else."""
    folder = whole_folder(version, registry)
    if (folder / CHUNKS_FILE).exists():
        return read_rows(folder / CHUNKS_FILE) if split == TRAIN_SPLIT else []
    rows = read_rows(folder / ROWS_FILE)
    return [row for row in rows if row.get("split", TRAIN_SPLIT) == split]


def make_encoder(
    folder: Path, base: Path | None, model: ModelSettings | None, tables: Sequence[Rows], *, settings: TrainSettings
) -> Encoder:
    """What encodes rows for the base model, or for a new one whose tokenizer is trained on the texts of all tables.

    The tokenizer's files go into ``folder``; those of a base from elsewhere just as they are.

    Raises:
        TooLong: the recipe's blocks or rows are longer than the base can take.
    """
    if base is not None and not is_own(base):
        for file in tokenizer_files(base):
            if not (settings.new_tokens and file.name in OLD_FORMS):
                shutil.copyfile(file, folder / file.name)
        encoder = Encoder(load_format(base), context_tokens=context_tokens(base))
        check_lengths(settings, encoder.context_tokens)
        return encoder
    if base is not None:
        tokenizer = load_tokenizer(base)
        most = context_tokens(base) or DEFAULT_CONTEXT_TOKENS
    else:
        assert model is not None
        texts = (text for table in tables for row in table for text in texts_of(row))
        tokenizer = train_tokenizer(texts, vocabulary_size=model.vocabulary_size)
        most = model.max_context_tokens
    if model is not None and model.config is not None:
        check_lengths(settings, most)
    save_tokenizer(tokenizer, folder, max_context_tokens=most)
    return Encoder(OwnFormat(tokenizer))


def _extended_format(folder: Path, base: Path | None) -> ChatFormat:
    """The base's format with the tokenizer in a run's folder."""
    if base is None or is_own(base):
        return load_format(folder)
    return load_format(base, read_tokenizer(folder))


def with_steps(settings: TrainSettings, *, num_rows: int) -> TrainSettings:
    """The settings of a run over so many new rows: where passes over them are asked for, these decide the steps."""
    if settings.num_epochs is None:
        return settings
    num_workers = settings.workers.num_workers
    batch_size = min(settings.batch_size, max(num_rows // num_workers, 1) * num_workers)
    num_new = batch_size - round(settings.replay_share * batch_size)
    num_steps = max(1, -(-num_rows // num_new)) * settings.num_epochs
    return settings.model_copy(update={"batch_size": batch_size, "num_steps": num_steps})


def check_lengths(settings: TrainSettings, context_tokens: int | None) -> None:
    """Refuse settings under which a row may be longer than the base can take; TooLong."""
    name = "block_tokens" if settings.recipe == "cpt" else "max_row_tokens"
    if context_tokens and getattr(settings, name) > context_tokens:
        raise TooLong(f"the model takes {context_tokens} tokens at once: set train.{name} to that or less")


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


def make_examples(tables: Sequence[Rows], encoder: Encoder, *, settings: TrainSettings) -> list[Example]:
    """Examples of a recipe: blocks of text for `cpt`, pairs for `dpo`; else rows, the first table's new facts apart."""
    if settings.recipe == "dpo":
        return _pairs(tables, encoder, settings)
    if settings.recipe == "cpt":
        return [*_blocks([row for table in tables for row in table], encoder, settings), *_tokens(tables, encoder)]
    new, *older = [[row for row in table if row.get("question")] for table in tables]
    if not older or not settings.replay_share:
        return [*encoder.rows(new), *_tokens(tables[:1], encoder)]
    old = [row for table in older for row in table]
    learned, known = divide_for_replay(new, old, withdrawn=settings.replay_withdrawn)
    replayed = remembered(known, num_rows=settings.replay_rows, by=settings.replay_by, seed=settings.seed)
    again = [*encoder.rows(replayed, pool=1), *_tokens(tables[1:], encoder, pool=1)]
    if not again:
        raise NothingToReplay("no row of the older data is left to replay: set train.replay_withdrawn, or no share")
    return [*encoder.rows(learned), *_tokens(tables[:1], encoder), *again]


def _pairs(tables: Sequence[Rows], encoder: Encoder, settings: TrainSettings) -> list[Example]:
    """Both sides of every pair; those of older tables are replayed."""
    new, *older = [[row for row in table if is_usable(row, settings)] for table in tables]
    old = [row for table in older for row in table] if settings.replay_share else []
    replayed = remembered(old, num_rows=settings.replay_rows, by=settings.replay_by, seed=settings.seed)
    return [*encoder.pairs(new), *encoder.pairs(replayed, pool=1)]


def _tokens(tables: Sequence[Rows], encoder: Encoder, *, pool: int = 0) -> list[Example]:
    """Examples of the rows that are tokens already; they must be of the model's own vocabulary."""
    try:
        return encoder.tokens([row for table in tables for row in table if row.get("input_ids")], pool=pool)
    except ValueError as error:
        raise NothingToTrain(
            f"rows of tokens do not fit: {error}; make them with the base model's tokenizer"
        ) from error


def _blocks(rows: Rows, encoder: Encoder, settings: TrainSettings) -> list[Example]:
    texts = [text for row in rows for text in texts_of(row)]
    return encoder.texts(texts, block_tokens=settings.block_tokens)
