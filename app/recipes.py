"""Training from Python, under the names that users of Training Hub know: `sft`, `osft`, `lora_sft`; and `head`.

    from app.recipes import sft
    sft(model_path="base", data_path="rows.jsonl", ckpt_output_dir="out", num_epochs=3, max_seq_len=1024)

A call publishes the model folder and the data file as versions of a workspace, asks the data gate, trains as
`jobs.train` does, and copies the model to ``ckpt_output_dir`` as a plain Hugging Face or PEFT folder.

Guarantees: what the call returns names the versions, and so does `signalbox.json` in the folder; the same call again
gives the same version, without work, and takes up a run that was cut off; an argument that is not known here is
refused by name, with what takes its place. Rows without a split are all trained on. A cluster must be up
(`signalbox up`). Not guaranteed: the values that Training Hub has where an argument is left out.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

from pydantic import ValidationError

from app.core.cluster import connect
from app.core.errors import UsageError
from app.core.settings import first_fault
from app.core.workspace import Workspace
from app.datasets.curate import Curation, Reading, import_rows
from app.datasets.pipeline import on_cluster
from app.datasets.settings import SplitSettings
from app.governance.stoplights import DATA, ask
from app.inference.chat_format import context_tokens
from app.registry.versions import Registry, Version, open_registry
from app.settings import load_settings
from app.training.bases import import_base
from app.training.settings import Recipe, TrainSettings
from app.training.trainer import train

ROWS_POLICY = "rows"
NOTE_FILE, ADAPTER_FILE = "signalbox.json", "adapter_config.json"
MAX_SEQ_LEN = 2048
SUFFIXES = re.compile(r"(\.(jsonl?|csv|parquet|ya?ml|gz))+$")
PATHS = {
    "num_epochs": "num_epochs",
    "effective_batch_size": "batch_size",
    "learning_rate": "learning_rate",
    "max_seq_len": "max_row_tokens",
    "max_tokens_per_gpu": "max_tokens_per_worker",
    "warmup_steps": "num_warmup_steps",
    "weight_decay": "weight_decay",
    "seed": "seed",
    "nproc_per_node": "workers.num_workers",
    "block_size": "block_tokens",
    "unfreeze_rank_ratio": "osft.unfreeze_rank_ratio",
    "lora_r": "lora.rank",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "target_modules": "lora.target_modules",
    "use_rslora": "lora.use_rslora",
    "use_dora": "lora.use_dora",
    "load_in_4bit": "lora.quantize",
    "task": "head.task",
    "base": "head.base",
    "head_learning_rate": "head.learning_rate",
}
"""Their names, and ours below `train`."""
OF_RECIPES = {
    "osft": ("unfreeze_rank_ratio",),
    "lora": ("lora_r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora", "load_in_4bit"),
    "head": ("task", "base", "head_learning_rate", "heldout_share"),
}
SCHEDULES: Mapping[str, Mapping[str, float]] = {
    "cosine": {"hold_share": 0.0, "final_share": 0.0},
    "constant": {"hold_share": 1.0},
    "constant_with_warmup": {"hold_share": 1.0},
}
DEFAULTS: Mapping[str, Any] = {
    "num_epochs": 1, "effective_batch_size": 32, "learning_rate": 2e-5, "warmup_steps": 0, "lr_scheduler": "cosine",
    "nproc_per_node": 1,
}  # fmt: skip
INSTEAD = {
    "backend": "there is one backend, Ray Train with DeepSpeed: leave it out",
    "micro_batch_size": "set max_tokens_per_gpu, which takes a step in passes that fit",
    "gradient_accumulation_steps": "set effective_batch_size and max_tokens_per_gpu, which take a step in passes",
    "max_batch_len": "set max_tokens_per_gpu",
    "data_output_dir": "the data lie in the workspace as a version: set workspace",
    "save_samples": "set checkpoint_at_epoch, or settings={'num_checkpoints': N}",
    "accelerate_full_state_at_epoch": "checkpoints always hold the full state: leave it out",
    "save_final_checkpoint": "the finished model is always saved: leave it out",
    "use_processed_dataset": "rows with input_ids and labels are known by their fields: leave it out",
    "unmask_messages": 'say it row by row: "unmask": true beside the messages',
    "use_liger": "leave it out",
    "target_patterns": "osft takes every linear layer of the blocks: leave it out",
    "trust_remote_code": "code of a model is never run: name a model that transformers knows",
    "load_in_8bit": "set load_in_4bit, or leave it out",
    "bf16": "set settings={'dtype': 'bfloat16'}; by default it is where the hardware multiplies it",
    "fp16": "set settings={'dtype': 'bfloat16'}",
    "beta1": "AdamW's betas are 0.9 and 0.95: leave it out",
    "beta2": "AdamW's betas are 0.9 and 0.95: leave it out",
    "eps": "AdamW's eps is 1e-8: leave it out",
    "lr_scheduler_kwargs": "set settings={'hold_share': ..., 'final_share': ...}",
    "callbacks": "runs, curves and models are in the workspace's MLflow: leave it out",
    **dict.fromkeys(
        ("nnodes", "node_rank", "rdzv_id", "rdzv_endpoint", "master_addr", "master_port"),
        "Ray places the workers on whatever nodes its cluster has: leave it out",
    ),
    **dict.fromkeys(
        ("wandb_project", "wandb_entity", "wandb_run_name", "tensorboard_log_dir", "logging_steps"),
        "runs and curves are in the workspace's MLflow: leave it out",
    ),
    **dict.fromkeys(
        ("mlflow_tracking_uri", "mlflow_experiment_name", "mlflow_run_name"),
        "runs and curves are in the workspace's MLflow: leave it out",
    ),
}
"""What Training Hub's other arguments are here."""


class UnknownArgument(UsageError):
    """A recipe has no such argument, or takes no such value; the message says what takes its place."""


class OutputTaken(UsageError):
    """The output folder holds something else: name an empty one."""


class Options(TypedDict, total=False):
    """What every recipe takes; the rest of :class:`app.training.settings.TrainSettings` goes in by ``settings``."""

    num_epochs: int
    effective_batch_size: int
    learning_rate: float
    max_seq_len: int
    max_tokens_per_gpu: int
    warmup_steps: int
    weight_decay: float
    lr_scheduler: str
    seed: int
    nproc_per_node: int
    checkpoint_at_epoch: bool
    is_pretraining: bool
    block_size: int
    document_column_name: str
    settings: Mapping[str, Any]
    name: str
    workspace: str | Path
    policy: str
    licence: str


class OsftOptions(Options, total=False):
    """What `osft` takes."""

    unfreeze_rank_ratio: float


class LoraOptions(Options, total=False):
    """What `lora_sft` takes."""

    lora_r: int
    lora_alpha: int
    lora_dropout: float
    target_modules: list[str]
    use_rslora: bool
    use_dora: bool
    load_in_4bit: bool


class HeadOptions(Options, total=False):
    """What `head` takes."""

    task: str
    base: str
    head_learning_rate: float
    heldout_share: float


OURS = ("settings", "name", "workspace", "policy", "licence", "heldout_share")
OTHERS = ("lr_scheduler", "checkpoint_at_epoch", "is_pretraining", "document_column_name")


@dataclass(frozen=True)
class Trained:
    """What a call made: the model's version, what it came of, and the folder with a plain copy."""

    version: Version
    base: Version
    data: Version
    folder: Path


def sft(
    *, model_path: str | Path, data_path: str | Path, ckpt_output_dir: str | Path, **options: Unpack[Options]
) -> Trained:
    """Fine-tune every weight of a model.

    Args:
        model_path: a Hugging Face folder in safetensors; nothing is fetched from a hub.
        data_path: a file or folder of rows in any format of `jobs.curate` (messages, Alpaca, prompts, tokens, ...).
        ckpt_output_dir: an empty folder, or one to be made, for the trained model.
        options: ``settings`` are further training settings by our names; ``name`` is the version's, by default the
            output folder's; ``policy`` judges the data; ``workspace`` is where versions go, by default the usual one.

    Raises:
        UnknownArgument: an argument is not known; the message says what takes its place.
        StopLight: the data gate is red.
    """
    return _run("sft", Path(model_path), Path(data_path), Path(ckpt_output_dir), options)


def osft(
    *, model_path: str | Path, data_path: str | Path, ckpt_output_dir: str | Path, **options: Unpack[OsftOptions]
) -> Trained:
    """Fine-tune a model in the directions that it uses least: ``unfreeze_rank_ratio`` is the share of each matrix's
    that learn. Otherwise as :func:`sft`.
    """
    return _run("osft", Path(model_path), Path(data_path), Path(ckpt_output_dir), options)


def lora_sft(
    *, model_path: str | Path, data_path: str | Path, ckpt_output_dir: str | Path, **options: Unpack[LoraOptions]
) -> Trained:
    """Train low-rank adapters on a model: ``lora_r``, ``lora_alpha``, ``lora_dropout``. Otherwise as :func:`sft`; the
    output is a PEFT folder that names ``model_path`` as its base.
    """
    return _run("lora", Path(model_path), Path(data_path), Path(ckpt_output_dir), options)


def head(
    *, model_path: str | Path, data_path: str | Path, ckpt_output_dir: str | Path, **options: Unpack[HeadOptions]
) -> Trained:
    """Train a head on an encoder or a causal model: ``task`` is `classification`, `multilabel`, `token`, `span` or
    `score`, ``base`` is `trained`, `adapted`, `frozen` or `subspaces`; ``heldout_share`` of the rows judges it (0.1).
    Otherwise as :func:`sft`; the output is a folder for `AutoModelForSequenceClassification`, or of the task's class.
    """
    return _run("head", Path(model_path), Path(data_path), Path(ckpt_output_dir), {"heldout_share": 0.1, **options})


def _run(recipe: Recipe, model: Path, data: Path, out: Path, options: Mapping[str, Any]) -> Trained:
    settings = train_settings(recipe, options, context=context_tokens(model))
    _check_output(out)
    place = Workspace.find(options.get("workspace"))
    with connect(place, log_to_driver=False):
        registry = open_registry(place)
        base = import_base(model, name_of(model), registry=registry, licence=options.get("licence"))
        rows = _rows(data, registry, options)
        if settings.recipe != "cpt":
            ask(DATA, rows, registry=registry, policy=options.get("policy", ROWS_POLICY))
        name = options.get("name") or name_of(out)
        version = train(name=name, data=[rows], base=base, registry=registry, workspace=place, settings=settings)
        _copy_out(version, registry.folder(version), out, model)
    return Trained(version, base, rows, out)


def train_settings(recipe: Recipe, options: Mapping[str, Any], *, context: int | None = None) -> TrainSettings:
    """The settings that a recipe's arguments stand for.

    Args:
        context: longest sequence of the base.

    Raises:
        UnknownArgument: an argument is not known, or its value is none.
    """
    known = {*PATHS, *OTHERS, *OURS} - {each for name, own in OF_RECIPES.items() if name != recipe for each in own}
    for name in options:
        if name not in known:
            raise UnknownArgument(f"{recipe} takes no {name}: {INSTEAD.get(name) or _like(name, known)}")
    most = min(MAX_SEQ_LEN, context or MAX_SEQ_LEN, options.get("max_tokens_per_gpu") or MAX_SEQ_LEN)
    given = {**DEFAULTS, "max_seq_len": most, **options}
    if context and given["max_seq_len"] > context:
        raise UnknownArgument(f"the model takes {context} tokens at once: set max_seq_len to that or less")
    values: dict[str, Any] = {"recipe": "cpt" if given.get("is_pretraining") else recipe, "replay_share": 0.0}
    values |= {**_schedule(given["lr_scheduler"]), **({"dtype": "float32"} if recipe == "head" else {})}
    values["num_checkpoints"] = given["num_epochs"] if given.get("checkpoint_at_epoch") else 1
    for name, path in PATHS.items():
        if name in given:
            _put(values, path, given[name])
    for name, value in (options.get("settings") or {}).items():
        _put(values, name, value)
    try:
        return TrainSettings.model_validate(values)
    except ValidationError as error:
        raise UnknownArgument(f"{recipe}: {in_their_words(first_fault(error))}") from error


def _schedule(name: str) -> Mapping[str, float]:
    if name not in SCHEDULES:
        raise UnknownArgument(f"lr_scheduler is no {name!r} here: name one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name]


def in_their_words(fault: str) -> str:
    """A fault of our settings, said with the names that the caller used."""
    for name, path in sorted(PATHS.items(), key=lambda pair: -len(pair[1])):
        fault = re.sub(rf"(?<![\w.])(train\.)?{re.escape(path)}(?!\w)", name, fault)
    return fault


def _like(name: str, known: set[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"


def _put(values: dict[str, Any], path: str, value: Any) -> None:
    group, _, name = path.rpartition(".")
    target = values.setdefault(group, {}) if group else values
    target[name] = (
        {**target[name], **value} if isinstance(value, dict) and isinstance(target.get(name), dict) else value
    )


def _rows(data: Path, registry: Registry, options: Mapping[str, Any]) -> Version:
    """The data as a dataset version, all of it to train on but what says its split itself, and what judges a head."""
    judging = options.get("heldout_share", 0.0)
    splits = SplitSettings(train=1.0 - judging, calibration=0.0, heldout=judging)
    settings = load_settings(None).datasets.model_copy(update={"splits": splits})
    column = options.get("document_column_name")
    reading = Reading(renamed={column: "document"} if column else {})
    return import_rows(data, name_of(data), by=Curation(registry, settings, on_cluster), reading=reading)


def name_of(path: Path) -> str:
    """A version's name from a path: of a model in the hub's cache the model's, else the last part less its suffixes."""
    whole = path.expanduser().absolute()
    part = whole.parents[1].name if whole.parent.name == "snapshots" else SUFFIXES.sub("", whole.name) or whole.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", part.removeprefix("models--")).strip("-._")[:100] or "unnamed"


def _check_output(out: Path) -> None:
    """OutputTaken where the folder holds anything but what an earlier call left."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / NOTE_FILE).is_file())):
        raise OutputTaken(f"{out} holds something else: name an empty folder as ckpt_output_dir")


def _copy_out(version: Version, folder: Path, out: Path, model: Path) -> None:
    """A plain copy of a version's files; the note that names the version is written last."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    note = {"ref": version.ref, "digest": version.digest, "files": files}
    before = json.loads((out / NOTE_FILE).read_text()) if (out / NOTE_FILE).is_file() else {"files": []}
    if note == before:
        return
    for name in before["files"]:
        if (out / name).resolve().is_relative_to(out.resolve()):
            (out / name).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    for name in files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, out / name)
    if ADAPTER_FILE in files:
        adapter = json.loads((out / ADAPTER_FILE).read_text())
        adapter["base_model_name_or_path"] = str(model.absolute())
        (out / ADAPTER_FILE).write_text(json.dumps(adapter, indent=2) + "\n")
    (out / NOTE_FILE).write_text(json.dumps(note, indent=2) + "\n")
