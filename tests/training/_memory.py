"""Measures what test_estimate.py compares estimates with: `python -m tests.training._memory FOLDER RECIPE...`.

Torch and DeepSpeed are imported once; each recipe then runs in a child of its own, whose peak begins at the parent's.
"""

import json
import os
import sys
from multiprocessing import get_context
from pathlib import Path


def peak_of(folder: str) -> None:
    """Run the plan in a folder with one worker; its summary is left beside it."""
    import torch.distributed as group

    from app.training.loop import run_worker

    def keep(metrics, checkpoint):
        (Path(folder) / "peak.json").write_text((checkpoint / "summary.json").read_text())

    group.init_process_group("gloo", init_method=(Path(folder) / "store").as_uri(), rank=0, world_size=1)
    run_worker(Path(folder), rank=0, num_workers=1, restore_from=None, report=keep)


def main() -> None:
    from app.training.extensions import prepare_environment, without_autotuning

    prepare_environment()
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}
    with without_autotuning():
        import deepspeed  # noqa: F401

    import peft  # noqa: F401

    import app.training.loop  # noqa: F401

    for folder in sys.argv[1:]:
        child = get_context("fork").Process(target=peak_of, args=(folder,))
        child.start()
        child.join()
        print(json.loads((Path(folder) / "peak.json").read_text())["peak_memory_bytes"])


if __name__ == "__main__":
    main()
