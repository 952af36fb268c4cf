"""Runs a plan with some workers in processes of their own, without Ray: for tests of what several workers do.

`python -m tests.training._workers` reads lines of JSON from its input, `{"folder":, "num_workers":, "restore_from":}`,
and answers each with the steps at which checkpoints were made; torch and DeepSpeed are imported once. Checkpoints lie
in `checkpoint-STEP` below the folder, the workers' parts together, as Ray Train puts them.
"""

import json
import os
import sys
import time
from multiprocessing import get_context
from pathlib import Path


def work(folder: str, rank: int, num_workers: int, restore_from: str | None, store: str) -> None:
    import torch.distributed as group

    from app.training import loop
    from app.training.durable import copy_durably

    loop.PROGRESS_EVERY_S = 0.0

    def keep(metrics, checkpoint: Path) -> None:
        copy_durably(checkpoint, Path(folder) / f"checkpoint-{metrics['step']}")

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(num_workers), "LOCAL_SIZE": str(num_workers)}
    group.init_process_group("gloo", init_method=store, rank=rank, world_size=num_workers)
    start = Path(restore_from) if restore_from else None
    loop.run_worker(Path(folder), rank=rank, num_workers=num_workers, restore_from=start, report=keep)
    group.barrier()


def main() -> None:
    from app.training.extensions import prepare_environment, without_autotuning

    prepare_environment()
    with without_autotuning():
        import deepspeed  # noqa: F401

    import app.training.loop  # noqa: F401

    fork = get_context("fork")
    for line in sys.stdin:
        asked = json.loads(line)
        store = (Path(asked["folder"]) / f"store-{time.monotonic_ns()}").as_uri()
        given = (asked["num_workers"], asked.get("restore_from"), store)
        children = [fork.Process(target=work, args=(asked["folder"], rank, *given)) for rank in range(given[0])]
        for child in children:
            child.start()
        for child in children:
            child.join()
        made = sorted(int(each.name.partition("-")[2]) for each in Path(asked["folder"]).glob("checkpoint-*"))
        print(json.dumps({"steps": made, "ended": [child.exitcode for child in children]}), flush=True)


if __name__ == "__main__":
    main()
