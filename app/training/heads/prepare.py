"""From published versions to the run folder of the recipe `head`: tokenizer, examples, held-out examples, plan.

Guarantees: those of :mod:`app.training.prepare`; rows of the split `heldout` are not learned, the run is judged by them
at every checkpoint; the labels are those of the rows that are learned, in the order of their names; a held-out row with
another label is a reject. Imports no torch; transformers for a tokenizer that is not our own.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from app.core.parquet import write_rows
from app.inference.chat_format import TOKENIZER_CONFIG_FILE, context_tokens, is_own
from app.inference.chat_format import load_tokenizer as read_tokenizer
from app.inference.kinds import CONFIG_FILE
from app.registry.tables import REJECTS_FILE
from app.registry.versions import Registry, Version
from app.training.data import PAD_TOKEN, Example, id_of, save_examples
from app.training.errors import CannotTrain, NothingToTrain
from app.training.heads.rows import LABELLED, HeadEncoder, Said, Unusable, read_row
from app.training.heads.settings import Task
from app.training.plan import EXAMPLES_FILE, HELD_OUT_FILE, Plan, write_plan
from app.training.prepare import (
    HELD_OUT_SPLIT,
    REJECTS,
    TRAIN_SPLIT,
    check_lengths,
    divide_by_length,
    read_version,
    with_steps,
)
from app.training.replay import remembered
from app.training.settings import TrainSettings
from app.training.tokenizer import TOKENIZER_FILE, load_tokenizer, tokenizer_files

HEADED: dict[Task, str] = {
    "classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "multilabel": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "score": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "token": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "span": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
}
"""Where transformers lists the architectures that have a head."""
Read = list[tuple[dict[str, Any], Said]]
"""Rows, and what they say."""


def prepare_head(
    folder: Path, *, name: str, base: Version, base_folder: Path, data: Sequence[Version], registry: Registry,
    settings: TrainSettings,
) -> Plan:  # fmt: skip
    """Fill a run folder.

    Raises:
        NothingToTrain: no row is left that the task can use, or all say the same.
        TooLong: rows may be longer than the base can take.
        CannotTrain: transformers has no such head for the base's architecture.
    """
    rejects: list[dict[str, Any]] = []
    task = settings.head.task
    check_head(task, base_folder)
    tokenizer, pad_token = copy_tokenizer(base_folder, folder)
    check_lengths(settings, _longest(base_folder))
    new, *older = [_read(each, TRAIN_SPLIT, registry, task, rejects) for each in data]
    old = [pair for table in older for pair in table] if settings.replay_share else []
    labels = labels_of([*new, *old], task)
    encoder = HeadEncoder(
        tokenizer, task, labels=labels, max_tokens=settings.max_row_tokens, overlap_tokens=settings.head.overlap_tokens
    )
    kept = {id(row): (row, said) for row, said in old}
    again = remembered(
        [row for row, _ in old], num_rows=settings.replay_rows, by=settings.replay_by, seed=settings.seed
    )
    held_out = [pair for each in data for pair in _read(each, HELD_OUT_SPLIT, registry, task, rejects)]
    parts = [(new, 0), ([kept[id(row)] for row in again], 1), (held_out, 0)]
    learned, replayed, judged = (
        _divided([*_encoded(pairs, encoder, pool, rejects)], settings, rejects) for pairs, pool in parts
    )
    if not learned:
        refs, why = ", ".join(version.ref for version in data), rejects[0]["reason"] if rejects else "there is none"
        raise NothingToTrain(f"{refs} hold no row for head ({task}), the first because: {why}; name other data")
    save_examples([*learned, *replayed], folder / EXAMPLES_FILE)
    if judged:
        save_examples(judged, folder / HELD_OUT_FILE)
    if rejects:
        write_rows(folder / REJECTS_FILE, rejects, schema=REJECTS)
    plan = Plan(
        name=name,
        settings=with_steps(settings, num_rows=len(learned)),
        base_folder=base_folder,
        base_digest=base.digest,
        vocabulary_size=tokenizer.get_vocab_size(),
        pad_token=pad_token,
        labels=labels,
        has_unanswered=task == "span" and any(not said.places for _, said in [*new, *old]),
        num_rows=len(learned) + len(replayed),
        num_held_out=len(judged),
        num_left_out=len(rejects),
    )
    write_plan(plan, folder)
    return plan


def check_head(task: Task, base: Path) -> None:
    """Refuse a task for which transformers has no head on the base's architecture; CannotTrain."""
    from transformers.models.auto import modeling_auto

    kind = json.loads((base / CONFIG_FILE).read_text(encoding="utf-8"))["model_type"]
    if kind not in getattr(modeling_auto, HEADED[task]):
        raise CannotTrain(f"there is no head for `{task}` on {kind}: name another base, or another train.head.task")


def labels_of(pairs: Read, task: Task) -> tuple[str, ...] | None:
    """All labels, or tags, by name; None for a task without.

    Raises:
        NothingToTrain: there are less than two, or none where a row may have several.
    """
    if task not in LABELLED:
        return None
    labels = tuple(sorted({label for _, said in pairs for label in said.labels}))
    if task == "multilabel" and not labels:
        raise NothingToTrain("no row names a label: name data that do")
    if task != "multilabel" and len(labels) == 1:
        raise NothingToTrain(f"every row says {labels[0]!r}: name data with two labels at least")
    return labels


def copy_tokenizer(base: Path, folder: Path) -> tuple[Tokenizer, int]:
    """The base's tokenizer, which neither cuts nor fills up, and the id that rows are filled up with.

    Its files go into ``folder``; where they name no padding, their copy does.
    """
    for file in tokenizer_files(base):
        shutil.copyfile(file, folder / file.name)
    if is_own(base):
        return _bare(load_tokenizer(base)), PAD_TOKEN
    whole = read_tokenizer(base)
    pad = whole.pad_token_id
    if pad is None:
        pad = next(each for each in (whole.eos_token_id, whole.unk_token_id, 0) if each is not None)
        config = json.loads((folder / TOKENIZER_CONFIG_FILE).read_text(encoding="utf-8"))
        named = {**config, "pad_token": whole.convert_ids_to_tokens(pad)}
        (folder / TOKENIZER_CONFIG_FILE).write_text(json.dumps(named, indent=2) + "\n", encoding="utf-8")
    if not (folder / TOKENIZER_FILE).exists():
        whole.backend_tokenizer.save(str(folder / TOKENIZER_FILE))
    return _bare(whole.backend_tokenizer), int(pad)


def _bare(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _longest(base: Path) -> int | None:
    """Tokens that the base takes: what its configuration states, or its tokenizer where that is less."""
    stated = json.loads((base / TOKENIZER_CONFIG_FILE).read_text(encoding="utf-8")).get("model_max_length")
    found = [each for each in (context_tokens(base), stated) if each]
    return int(min(found)) if found else None


def _read(version: Version, split: str, registry: Registry, task: Task, rejects: list[dict[str, Any]]) -> Read:
    """What the rows of a split say; those that say nothing to the task become rejects."""
    found: Read = []
    for row in read_version(version, registry, split=split):
        try:
            found.append((row, read_row(row, task)))
        except Unusable as error:
            rejects.append(_reject(row, str(error), dataset=version.ref))
    return found


def _encoded(pairs: Read, encoder: HeadEncoder, pool: int, rejects: list[dict[str, Any]]) -> Iterator[Example]:
    for number, (row, said) in enumerate(pairs):
        try:
            yield from encoder.examples(row, said, pool=pool, group=number)
        except Unusable as error:
            rejects.append(_reject(row, str(error)))


def _divided(examples: list[Example], settings: TrainSettings, rejects: list[dict[str, Any]]) -> list[Example]:
    kept, too_long = divide_by_length(examples, settings)
    rejects += too_long
    return kept


def _reject(row: dict[str, Any], reason: str, *, dataset: str | None = None) -> dict[str, Any]:
    return {"dataset": dataset, "row_id": id_of(row), "num_tokens": None, "reason": reason}
