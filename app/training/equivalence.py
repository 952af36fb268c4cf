"""Whether a run that is killed and taken up again ends where an undisturbed one does: tried, and put on record.

The same run is made twice with one worker in float32: once left alone, once with its worker killed by its process id
(SIGKILL) in the middle. Guarantees: the figures are those of real runs of Ray Train on this cluster; a difference is
published as well. Not guaranteed: the same for several workers, whose sums may round differently after a restart on
another machine; their tolerance is tested (tests/training/test_resume.py).
"""

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from app.core.digests import digest_json, hex_of
from app.core.errors import SignalboxError
from app.core.store import describe_files
from app.registry.versions import Registry, Version
from app.training.architecture import with_architecture
from app.training.budget import allowed
from app.training.plan import EXPORT, Plan, read_progress
from app.training.prepare import prepare
from app.training.settings import ModelSettings, TrainSettings
from app.training.trainer import CODE_VERSION as LOOP_VERSION
from app.training.trainer import fit, is_on_gpu, prober

KIND, CODE_VERSION = "resumption", "1"
NUM_CHECKPOINTS = 4
POLL_S = 0.01


class NotDisturbed(SignalboxError):
    """The worker could not be killed in the middle of its run: take more steps, or run on a cluster of one machine."""


def prove_resumption(
    *,
    name: str,
    data: Sequence[Version],
    registry: Registry,
    settings: TrainSettings,
    base: Version | None = None,
    model: ModelSettings | None = None,
) -> Version:
    """Make a run twice, kill the worker of the second, compare what they made, and publish the finding.

    Returns:
        A version of kind ``resumption``; ``facts["is_equal"]`` says whether all files are the same, bit for bit.

    Raises:
        NotDisturbed: the second run was over before its worker was killed.
    """
    model = with_architecture(model) if model else None
    workers = settings.workers.model_copy(update={"num_workers": 1, "min_workers": None, "max_workers": None})
    tried = settings.model_copy(update={"dtype": "float32", "num_checkpoints": NUM_CHECKPOINTS, "workers": workers})
    inputs: dict[str, Any] = {
        "code_version": CODE_VERSION,
        "loop_version": LOOP_VERSION,
        "base": base.digest if base else None,
        "model": model.model_dump(mode="json") if model else None,
        "data": [version.digest for version in data],
        "settings": tried.inputs(),
    }
    if found := registry.find(KIND, name, inputs):
        return found
    given: dict[str, Any] = {"base": base, "model": model, "data": data, "vocabulary": (), "registry": registry}
    folder = registry.workspace.runs_dir / f"{name}-resumption-{hex_of(digest_json(inputs))[:12]}"
    shutil.rmtree(folder, ignore_errors=True)
    plans = {each: prepare(folder / each / "plan", name=name, settings=tried, **given) for each in ("alone", "killed")}
    alone_plan, starts = plans["alone"], [*([base] if base else []), *data]
    allowed(
        alone_plan, folder / "alone" / "plan", registry=registry, parents=starts, on_gpu=is_on_gpu(alone_plan),
        probe=prober(registry),
    )  # fmt: skip
    alone = _files(folder / "alone", plans["alone"])
    killer = Killer(folder / "killed" / "plan", after_step=tried.num_steps // 2)
    killer.start()
    killed = _files(folder / "killed", plans["killed"])
    killer.stop()
    facts = {**compared(alone, killed), **disturbed(list(read_progress(folder / "killed" / "plan")), killer.pid)}
    parents = [*inputs["data"], *([inputs["base"]] if inputs["base"] else [])]
    facts |= {"num_steps": tried.num_steps, "recipe": tried.recipe, "dtype": tried.dtype, "num_workers": 1}
    version = registry.publish(KIND, name, inputs=inputs, parents=parents, facts=facts)
    shutil.rmtree(folder)
    return version


def _files(folder: Path, plan: Plan) -> dict[str, str]:
    """Digests of the files that a run made."""
    with fit(folder, plan).as_directory() as trained, tempfile.TemporaryDirectory() as staged:
        shutil.copytree(Path(trained) / EXPORT, staged, dirs_exist_ok=True)
        return {path: file["sha256"] for path, file in describe_files(Path(staged)).items()}


def compared(alone: Mapping[str, str], killed: Mapping[str, str]) -> dict[str, Any]:
    """Whether two runs made the same files, and which differ."""
    names = sorted({*alone, *killed})
    differing = [name for name in names if alone.get(name) != killed.get(name)]
    return {"is_equal": not differing, "differing": differing, "files": dict(killed)}


def disturbed(lines: Sequence[Mapping[str, Any]], pid: int) -> dict[str, Any]:
    """Where a run was killed and where it went on.

    Raises:
        NotDisturbed: it was not.
    """
    starts = [place for place, line in enumerate(lines) if line["event"] == "start"]
    if not pid or len(starts) < 2:
        raise NotDisturbed("the run was over before its worker was killed: take more steps, or one machine")
    return {
        "killed_pid": pid,
        "killed_after_step": max(line["step"] for line in lines[: starts[1]]),
        "resumed_from_step": lines[starts[1]]["step"],
        "num_starts": len(starts),
    }


class Killer(threading.Thread):
    """Kills a run's first worker once it has passed a step; ``pid`` is 0 before."""

    def __init__(self, folder: Path, *, after_step: int) -> None:
        super().__init__(daemon=True)
        self._folder, self._after_step, self._over = folder, after_step, threading.Event()
        self.pid = 0

    def run(self) -> None:
        """Watch until it is killed or :meth:`stop` is called."""
        while not self.pid and not self._over.wait(POLL_S):
            lines = list(read_progress(self._folder))
            if lines and lines[-1]["step"] >= self._after_step:
                pid = int(next(line["pid"] for line in lines if line["event"] == "start"))
                with suppress(ProcessLookupError):  # it is on another machine
                    os.kill(pid, signal.SIGKILL)
                    self.pid = pid

    def stop(self) -> None:
        """The run is over."""
        self._over.set()
        self.join()
