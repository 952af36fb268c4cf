"""Environment that DeepSpeed needs, and the extension that it compiles on first use.

Guarantees: compiled extensions lie in one lasting folder, whatever the workspace: $SIGNALBOX_EXTENSIONS_DIR, else one
of this installation's own below ~/.cache/signalbox/torch_extensions (two that shared one would compile it anew in turn,
since the paths of their headers differ). Call :func:`prepare_environment` before torch or DeepSpeed is imported.
"""

import hashlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.inference.processor import computes_bf16

VARIABLE = "SIGNALBOX_EXTENSIONS_DIR"
DEFAULT_FOLDER = "~/.cache/signalbox/torch_extensions"
ACCELERATOR, GPU = "DS_ACCELERATOR", "cuda"
"""What DeepSpeed computes on."""
UNUSED = ("mlflow", "xgboost")
"""What DeepSpeed's autotuner, which nobody calls here, imports where it is installed: 1.5 s of every worker's start."""


def extensions_dir() -> Path:
    """The folder of compiled extensions; made when missing."""
    own = hashlib.sha256(sys.prefix.encode()).hexdigest()[:10]
    folder = Path(os.environ.get(VARIABLE) or f"{DEFAULT_FOLDER}/{own}").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def without_autotuning() -> Iterator[None]:
    """Let an import of DeepSpeed in the block take what its autotuner alone would use for not installed."""
    hidden = [name for name in UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: an import of it fails
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def prepare_environment(*, num_threads: int = 1, on_gpu: bool = False) -> None:
    """Set what DeepSpeed, torch and the tokenizers read from the environment, for training on CPUs or on a GPU."""
    ninja_folder = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([ninja_folder, os.environ.get("PATH", os.defpath)])
    os.environ["TORCH_EXTENSIONS_DIR"] = str(extensions_dir())
    os.environ[ACCELERATOR] = GPU if on_gpu else "cpu"
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"


def on_gpu() -> bool:
    """Whether this process was prepared for a GPU."""
    return os.environ.get(ACCELERATOR) == GPU


def number_type(asked: str, *, with_gpu: bool | None = None) -> str:
    """The type of numbers for a recipe's ``dtype``: for `auto` bfloat16 on a GPU and on a processor that multiplies it,
    elsewhere float32.

    Args:
        with_gpu: whether it is a GPU that computes; by default whether this process was prepared for one.
    """
    if asked != "auto":
        return asked
    with_gpu = on_gpu() if with_gpu is None else with_gpu
    return "bfloat16" if with_gpu or computes_bf16() else "float32"


def quieten() -> None:
    """Keep DeepSpeed's and transformers' information to warnings, and those about its own use of torch away."""
    for name in ("DeepSpeed", "deepspeed", "transformers", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")


def compile_extensions() -> Path:
    """Compile DeepSpeed's shared-memory collectives unless they are there (39 s once); returns their folder."""
    prepare_environment()
    with without_autotuning():
        from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    ShareMemCommBuilder().load(verbose=False)
    return extensions_dir()
