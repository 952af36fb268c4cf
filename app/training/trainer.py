"""Training on Ray Train: data-parallel workers with DeepSpeed, checkpoints, resumption, and a model version at the end.

Guarantees: the same inputs give the version that is there already; a run whose workers die goes on from its last
checkpoint, and so does one whose driver died or was told to end when it is called again, with other numbers of workers
too; a checkpoint is on the disk before it counts; nothing is published before the last step; with
a signer, the model says who trained it under a signature over data, base, recipe and weights.
Not guaranteed: equal weights from equal inputs on machines that round differently, or by another number of workers;
that Ray's list of checkpoints outlives a loss of power.
"""

import json
import math
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.train.v2.api.report_config import CheckpointUploadMode

from app.core.digests import digest_json, hex_of
from app.core.progress import Progress, progress, watched
from app.core.store import describe_files
from app.core.workspace import Workspace
from app.governance.keys import key_book
from app.ledger.keys import Signer
from app.ledger.log import SERVICE_KEY
from app.ledger.trainings import sign_training, trainer_objection
from app.registry.tables import REJECTS_FILE
from app.registry.tracking import Tracker
from app.registry.versions import Registry, Version
from app.training.architecture import with_architecture
from app.training.budget import Probe, allowed, failure, measured
from app.training.durable import copy_durably
from app.training.errors import NoStart, TrainerRefused, TrainingFailed, TrainingSaved
from app.training.estimate import Estimate
from app.training.loss import CURVE, CURVE_FILE, PLOT_FILE, write_curve
from app.training.placement import placed
from app.training.plan import EXPORT, SUMMARY_FILE, Plan, read_progress, worker_counts
from app.training.prepare import prepare
from app.training.requests import by_signal
from app.training.settings import ModelSettings, TrainSettings
from app.training.speed import publish_speed
from app.training.tokenizer import tokenizer_files

KIND = "model"
CODE_VERSION = "1"
POLL_S = 1.0
SECONDS_PER_HOUR = 3600


def train(
    *,
    name: str,
    data: Sequence[Version],
    registry: Registry,
    workspace: Workspace,
    settings: TrainSettings,
    base: Version | None = None,
    model: ModelSettings | None = None,
    vocabulary: Sequence[Version] = (),
    signer: Signer | None = None,
) -> Version:
    """Train a model on published data and publish it.

    Args:
        data: what to learn; for a model that goes on learning, the newest first and then what it knows already, of
            which ``settings.replay_share`` of every batch is replayed.
        base: the model to start from; its tokenizer is kept.
        model: or the shape of a new one; of a configuration file, its content is what counts.
        vocabulary: more versions whose texts a new tokenizer should know.
        signer: a trainer's key, which the model's manifest then bears a signature of; what it signs is a version of its
            own, beside one that nobody signed.

    Raises:
        NoStart: both or neither of base and model are given.
        TrainerRefused: the signer's key is no trainer's, not on record, or revoked.
        OverBudget: the run is estimated to need more memory, time or money than its settings allow.
        StopLight: or more than the policy of ``settings.workers.budget_policy`` allows.
        OutOfMemory: a worker had not enough.
        TrainingSaved: SIGTERM came, and the run saved where it stood; calling again goes on from that step.
        TrainingFailed: workers failed more often than allowed; calling again goes on from the last checkpoint.
    """
    if (base is None) == (model is None):
        raise NoStart("training starts from a base model or from a model shape: name exactly one of them")
    model = with_architecture(model) if model else None
    inputs = _inputs(base=base, model=model, data=data, vocabulary=vocabulary, settings=settings)
    if signer:
        _check_trainer(signer, registry)
        inputs["trainer"] = signer.public.vkey
    if found := registry.find(KIND, name, inputs):
        return found
    folder = workspace.runs_dir / f"{name}-{hex_of(digest_json(inputs))[:12]}"
    plan = prepare(
        folder / "plan", name=name, base=base, model=model, data=data, vocabulary=vocabulary, registry=registry,
        settings=settings,
    )  # fmt: skip
    forecast, verdict = allowed(
        plan, folder / "plan", registry=registry, parents=[*([base] if base else []), *data],
        on_gpu=is_on_gpu(plan), probe=prober(registry),
    )  # fmt: skip
    tracker = Tracker(workspace)
    checkpoint, run_id = _tracked(folder, plan, tracker, inputs)
    version = _publish(
        checkpoint, plan, folder, registry=registry, tracker=tracker, run_id=run_id, inputs=inputs, signer=signer,
        forecast=forecast, verdict=verdict,
    )  # fmt: skip
    shutil.rmtree(folder)
    return version


def _tracked(folder: Path, plan: Plan, tracker: Tracker, inputs: Mapping[str, Any]) -> tuple[ray.train.Checkpoint, str]:
    """The last checkpoint, and the id of the run in MLflow, which knows of one that failed, too."""
    run = tracker.begin_run(plan.name, params=inputs, tags={"recipe": plan.settings.recipe})
    try:
        return fit(folder, plan), run.result()
    except TrainingFailed:
        tracker.fail_run(run.result())
        raise


def fit(folder: Path, plan: Plan) -> ray.train.Checkpoint:
    """Run the workers to the last step; the last checkpoint comes back."""
    workers = plan.settings.workers
    run_config = RunConfig(
        name="ray",
        storage_path=str(folder),
        failure_config=FailureConfig(max_failures=workers.max_failures),
        checkpoint_config=CheckpointConfig(num_to_keep=workers.num_kept_checkpoints),
        logging_config=LoggingConfig(log_level="WARNING"),
    )
    trainer = _trainer(_worker, folder / "plan", plan, run_config)
    try:
        with watched(partial(_watch, folder / "plan", plan)), by_signal(folder / "plan"):
            checkpoint = trainer.fit().checkpoint
    except TrainingFailedError as error:
        raise failure(error, plan) from error
    if checkpoint is None or not (Path(checkpoint.path) / SUMMARY_FILE).exists():
        raise TrainingSaved(f"training {plan.name} was asked to end and has saved its last step: the same call goes on")
    return checkpoint


def prober(registry: Registry) -> Probe:
    """What measures a few steps of a run on its own workers, and publishes how fast they were."""

    def probe(plan: Plan, folder: Path) -> Version:
        with tempfile.TemporaryDirectory(prefix="probe-", dir=registry.workspace.runs_dir) as storage:
            run_config = RunConfig(name="ray", storage_path=storage, logging_config=LoggingConfig(log_level="WARNING"))
            try:
                _trainer(_probe_worker, folder, plan, run_config).fit()
            except TrainingFailedError as error:
                raise failure(error, plan) from error
        return publish_speed(plan, folder, registry=registry)

    return probe


def forecast(plan: Plan, folder: Path, *, registry: Registry) -> Estimate:
    """The estimate of a run's folder, at a rate that a probe measures where none is known."""
    return measured(plan, folder, registry=registry, on_gpu=is_on_gpu(plan), probe=prober(registry), policy=None)


def is_on_gpu(plan: Plan) -> bool:
    """Whether the cluster has a GPU for each worker of a run that may use some."""
    return placed(plan.settings.workers, num_gpus=ray.cluster_resources().get("GPU", 0)).on_gpu


def _trainer(work: Callable[[Mapping[str, Any]], None], folder: Path, plan: Plan, run_config: RunConfig) -> Any:
    """Ray Train's trainer of a plan's workers, each of which does ``work`` from a run folder."""
    from ray.train.torch import TorchConfig, TorchTrainer  # brings torch: a job's --help does without

    workers = plan.settings.workers
    placement = placed(workers, num_gpus=ray.cluster_resources().get("GPU", 0))
    return TorchTrainer(
        work,
        train_loop_config={"folder": str(folder), "num_threads": workers.num_threads, "on_gpu": placement.on_gpu},
        torch_config=TorchConfig(backend=placement.backend, timeout_s=workers.start_timeout_s),
        scaling_config=ScalingConfig(**placement.scaling(workers)),
        run_config=run_config,
    )


def _probe_worker(config: Mapping[str, Any]) -> None:
    """Runs in every worker of a probe."""
    from app.training.extensions import prepare_environment

    prepare_environment(num_threads=config["num_threads"], on_gpu=config["on_gpu"])
    from app.training.probe import probe_worker

    context = ray.train.get_context()
    probe_worker(Path(config["folder"]), rank=context.get_world_rank(), num_workers=context.get_world_size())


def _worker(config: Mapping[str, Any]) -> None:
    """Runs in every worker: wires the loop, which knows no Ray, to Ray Train."""
    from app.training.extensions import prepare_environment

    prepare_environment(num_threads=config["num_threads"], on_gpu=config["on_gpu"])
    from app.training.loop import run_worker

    context = ray.train.get_context()
    with _restored() as restore_from:
        run_worker(
            Path(config["folder"]),
            rank=context.get_world_rank(),
            num_workers=context.get_world_size(),
            restore_from=restore_from,
            report=_report,
        )


@contextmanager
def _restored() -> Iterator[Path | None]:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        yield None
    else:
        with checkpoint.as_directory() as name:
            yield Path(name)


def _report(metrics: Mapping[str, Any], folder: Path) -> None:
    """Training goes on while the checkpoint is copied; it counts when every worker's part is on the disk."""
    ray.train.report(
        dict(metrics),
        checkpoint=ray.train.Checkpoint.from_directory(folder),
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        checkpoint_upload_fn=_upload,
    )


def _upload(checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
    storage = ray.train.get_context().get_storage()
    target = Path(storage.build_checkpoint_path_from_name(name))
    copy_durably(Path(checkpoint.path), target)
    return ray.train.Checkpoint(str(target), filesystem=storage.storage_filesystem)


def _watch(folder: Path, plan: Plan, stop: threading.Event) -> None:
    usd_per_hour = plan.settings.workers.usd_per_hour(on_gpu=is_on_gpu(plan))
    with progress(f"train {plan.name} ({plan.settings.recipe})", plan.settings.num_steps) as bar:
        while not stop.wait(POLL_S):
            show_state(bar, list(read_progress(folder)), usd_per_hour=usd_per_hour)
        show_state(bar, list(read_progress(folder)), usd_per_hour=usd_per_hour)


def show_state(bar: Progress, lines: Sequence[Mapping[str, Any]], *, usd_per_hour: float) -> None:
    """Show the last of a run's lines, and the dollars that its workers' steps took so far.

    Args:
        usd_per_hour: price of one worker.
    """
    if lines:
        last, state = lines[-1], "workers are up"
        started = [line for line in lines if line["event"] == "start"]
        if "loss" in last:
            cost_usd = last.get("worker_s", 0.0) / SECONDS_PER_HOUR * usd_per_hour
            state = f"loss {last['loss']:.3f}, {last['tokens_per_s']:,.0f} tokens/s, ${cost_usd:.4f}"
        if started and started[-1].get("is_slow"):
            state += ", slow here: bfloat16, as the run began"
        bar.advance(int(last["step"]) - bar.done, state)


def _inputs(
    *,
    base: Version | None,
    model: ModelSettings | None,
    data: Sequence[Version],
    vocabulary: Sequence[Version],
    settings: TrainSettings,
) -> dict[str, Any]:
    return {
        "code_version": CODE_VERSION,
        "base": base.digest if base else None,
        "model": model.model_dump(mode="json") if model else None,
        "data": [version.digest for version in data],
        "vocabulary": [version.digest for version in vocabulary],
        "settings": settings.inputs(),
    }


def _publish(
    checkpoint: ray.train.Checkpoint,
    plan: Plan,
    folder: Path,
    *,
    registry: Registry,
    tracker: Tracker,
    run_id: str,
    inputs: Mapping[str, Any],
    signer: Signer | None,
    forecast: Estimate,
    verdict: Version,
) -> Version:
    """Gather the model's files, close the run in MLflow, publish the version and enter it in MLflow's list."""
    counts = worker_counts(list(read_progress(folder / "plan")))
    with tempfile.TemporaryDirectory(dir=folder) as name, checkpoint.as_directory() as trained:
        staged = Path(name) / "model"
        shutil.copytree(Path(trained) / EXPORT, staged)
        summary = json.loads((Path(trained) / SUMMARY_FILE).read_text())
        write_curve(summary["curve"], staged, title=f"{plan.name}: {plan.settings.recipe}")
        for file in (*tokenizer_files(folder / "plan"), folder / "plan" / REJECTS_FILE):
            if file.exists():
                shutil.copy(file, staged / file.name)
        figures = train_figures(summary, plan, counts=counts)
        files = [staged / PLOT_FILE, staged / CURVE_FILE]
        tracker.finish_run(run_id, curve=summary["curve"], metrics=figures, files=files)
        version = registry.publish(
            KIND,
            plan.name,
            folder=staged,
            inputs=inputs,
            parents=[*([plan.base_digest] if plan.base_digest else []), *inputs["data"], *inputs["vocabulary"]],
            facts={
                **_facts(plan, summary, inputs, figures, run_id),
                "worker_counts": counts,
                "estimate": forecast.as_json(),
                "budget_verdict": verdict.digest,
                **_signed(plan, inputs, staged, signer, registry),
            },
            actor=signer.public.key_name if signer else SERVICE_KEY,
        )
    tracker.add_version(version, run_id=run_id, source=registry.folder(version))
    return version


def _check_trainer(signer: Signer, registry: Registry) -> None:
    if objection := trainer_objection(signer.public, key_book(registry)):
        said = f"key {signer.public.key_name} may not sign a training ({objection})"
        raise TrainerRefused(f"{said}: make one with `signalbox keys new NAME --role trainer --person NAME`")


def _signed(
    plan: Plan, inputs: Mapping[str, Any], staged: Path, signer: Signer | None, registry: Registry
) -> dict[str, Any]:
    if signer is None:
        return {}
    files, log_key = describe_files(staged), registry.ledger.log_key
    return {"signed": sign_training(plan.name, inputs=inputs, files=files, signer=signer, log_key=log_key)}


def train_figures(summary: Mapping[str, Any], plan: Plan, *, counts: Sequence[int]) -> dict[str, float]:
    """The run in figures; the cost is that of the workers' CPUs, and GPUs, while they stepped.

    Args:
        counts: how many workers there were at each start.
    """
    workers, curve = plan.settings.workers, summary["curve"]
    hours, on_gpu = summary["worker_s"] / SECONDS_PER_HOUR, "peak_gpu_memory_bytes" in summary
    return {
        "loss_first": curve[0]["loss"],
        "loss_last": curve[-1]["loss"],
        **{f"{name}_last": value for name, value in curve[-1].items() if name not in CURVE.names},
        "num_losses_not_finite": sum(not math.isfinite(point["loss"]) for point in curve),
        "tokens_per_s": summary["num_tokens"] / summary["duration_s"],
        "num_tokens": summary["num_tokens"],
        "num_workers": counts[-1],
        "num_threads": workers.num_threads,
        "peak_memory_bytes": summary["peak_memory_bytes"],
        "num_starts": len(counts),
        "steps": summary["step"],
        "num_rows": plan.num_rows,
        "num_left_out": plan.num_left_out,
        "duration_s": summary["duration_s"],
        "cost_usd": hours * workers.usd_per_hour(on_gpu=on_gpu),
        **({"peak_gpu_memory_bytes": summary["peak_gpu_memory_bytes"]} if on_gpu else {}),
        **{name: value for name, value in summary.items() if name.startswith(("leak_", "heldout_"))},
        **({"energy_j": summary["energy_j"]} if summary["energy_j"] is not None else {}),
    }


def _facts(
    plan: Plan, summary: Mapping[str, Any], inputs: Mapping[str, Any], figures: Mapping[str, float], run_id: str
) -> dict[str, Any]:
    return {
        "recipe": plan.settings.recipe,
        "base": plan.base_digest,
        "dataset": inputs["data"][0],
        "run_id": run_id,
        "dtype": summary["dtype"],
        "device": summary["device"],
        "num_parameters": summary["num_parameters"],
        "num_trained_parameters": summary["num_trained_parameters"],
        **({"tokens_per_text": plan.tokens_per_text} if plan.tokens_per_text else {}),
        "train": dict(figures),
    }
