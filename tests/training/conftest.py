"""A group of one process for the workers' loop, as Ray Train sets up for more."""

import os

import pytest


@pytest.fixture(scope="session")
def process_group(tmp_path_factory):
    """One for the session: DeepSpeed remembers the first that it sees."""
    import torch.distributed

    store = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", init_method=store.as_uri(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def one_worker(process_group):
    """The environment of a worker for a module's tests."""
    from app.training.extensions import prepare_environment

    before = dict(os.environ)
    prepare_environment()
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}
    yield
    os.environ.clear()
    os.environ |= before
