"""Where the workers compute, by what is there: as far as it can be told without a GPU."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from app.training.data import Batch
from app.training.errors import CannotTrain
from app.training.extensions import on_gpu, prepare_environment
from app.training.placement import placed
from app.training.plan import Plan
from app.training.settings import TrainSettings
from app.training.workers import WorkerSettings

CPU = {"CPU": 1, "memory": 2_000_000_000}


@pytest.mark.parametrize(
    ("workers", "num_gpus", "expected"),
    [
        ({}, 0, (False, "gloo", CPU)),
        ({}, 1, (False, "gloo", CPU)),
        ({}, 2, (True, "nccl", CPU | {"GPU": 1})),
        ({"min_workers": 1}, 1, (True, "nccl", CPU | {"GPU": 1})),
        ({"gpu": "off"}, 8, (False, "gloo", CPU)),
        ({"gpu": "on", "num_workers": 8}, 8, (True, "nccl", CPU | {"GPU": 1})),
    ],
)
def test_workers_get_a_gpu_each_where_there_is_one_for_every_one(workers, num_gpus, expected):
    settings = WorkerSettings(**workers)
    found = placed(settings, num_gpus=num_gpus)
    assert (found.on_gpu, found.backend, found.resources) == expected
    scaling = found.scaling(settings)
    assert (scaling["use_gpu"], scaling["resources_per_worker"]) == (expected[0], expected[2])
    assert scaling["num_workers"] == ((1, 2) if "min_workers" in workers else settings.num_workers)


def test_gpus_that_are_asked_for_and_not_there_are_named():
    with pytest.raises(CannotTrain, match="the cluster has 1 GPUs for 2 workers: take fewer, or auto"):
        placed(WorkerSettings(gpu="on"), num_gpus=1)


def test_ray_train_takes_what_is_built():
    from ray.train import ScalingConfig

    made = ScalingConfig(**placed(WorkerSettings(), num_gpus=2).scaling(WorkerSettings()))
    assert (made.use_gpu, made.num_workers) == (True, 2)
    assert made._resources_per_worker_not_none == {**CPU, "GPU": 1}


@pytest.fixture
def environment():
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ |= before


@pytest.mark.usefixtures("environment")
def test_a_worker_on_a_gpu_computes_there_and_one_beside_it_does_not():
    from app.training.loop import device
    from app.training.model import attention

    prepare_environment()
    assert (on_gpu(), device(), attention()) == (False, torch.device("cpu"), "eager")
    prepare_environment(on_gpu=True)
    os.environ["LOCAL_RANK"] = "3"
    assert (on_gpu(), device(), attention()) == (True, torch.device("cuda:3"), "sdpa")


def test_a_batch_goes_where_the_worker_computes():
    from app.training.loop import tensors

    ids = np.zeros((2, 4), dtype=np.int64)
    given = tensors(Batch(ids, ids, 0.5, None), "meta")
    assert {name: getattr(each, "device", None) for name, each in given.items()} == {
        "input_ids": torch.device("meta"), "labels": torch.device("meta"), "scale": None,
    }  # fmt: skip


def test_a_gpu_has_its_price():
    from app.training.trainer import train_figures

    curve = [{"loss": 1.0, "step": 1, "learning_rate": 1.0, "tokens_per_s": 1.0}]
    summary = {"curve": curve, "worker_s": 3600.0, "num_tokens": 10, "duration_s": 1800.0, "peak_memory_bytes": 1}
    summary |= {"step": 1, "energy_j": None}
    plan = Plan(name="m", settings=TrainSettings(), vocabulary_size=300, num_rows=1)
    costs = [train_figures(each, plan, counts=[2]) for each in (summary, summary | {"peak_gpu_memory_bytes": 7})]
    assert [each["cost_usd"] for each in costs] == pytest.approx([0.05, 3.05])
    assert ("peak_gpu_memory_bytes" in costs[0], costs[1]["peak_gpu_memory_bytes"]) == (False, 7)


def test_figures_of_held_out_rows_are_the_versions():
    from app.training.trainer import train_figures

    curve = [{"loss": 1.0, "step": 1, "learning_rate": 1.0, "tokens_per_s": 1.0}]
    summary = {"curve": curve, "worker_s": 1.0, "num_tokens": 10, "duration_s": 1.0, "peak_memory_bytes": 1}
    plan = SimpleNamespace(settings=TrainSettings(), num_rows=1, num_left_out=0)
    figures = train_figures(summary | {"step": 1, "energy_j": None, "heldout_span_f1": 0.5}, plan, counts=[1])
    assert figures["heldout_span_f1"] == 0.5
