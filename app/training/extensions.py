"""Environment that DeepSpeed needs, and the extension that it compiles on first use.

Guarantees: compiled extensions lie in one lasting folder, whatever the workspace: $SIGNALBOX_EXTENSIONS_DIR, else
~/.cache/signalbox/torch_extensions. Call :func:`prepare_environment` before torch or DeepSpeed is imported.
"""

import logging
import os
import sys
import warnings
from pathlib import Path

VARIABLE = "SIGNALBOX_EXTENSIONS_DIR"
DEFAULT_FOLDER = "~/.cache/signalbox/torch_extensions"


def extensions_dir() -> Path:
    """The folder of compiled extensions; made when missing."""
    folder = Path(os.environ.get(VARIABLE) or DEFAULT_FOLDER).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def prepare_environment(*, num_threads: int = 1) -> None:
    """Set what DeepSpeed, torch and the tokenizers read from the environment, for training on CPUs."""
    ninja_folder = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([ninja_folder, os.environ.get("PATH", os.defpath)])
    os.environ["TORCH_EXTENSIONS_DIR"] = str(extensions_dir())
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"


def quieten() -> None:
    """Keep DeepSpeed's and transformers' information to warnings, and those about its own use of torch away."""
    for name in ("DeepSpeed", "deepspeed", "transformers", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")


def compile_extensions() -> Path:
    """Compile DeepSpeed's shared-memory collectives unless they are there (39 s once); returns their folder."""
    prepare_environment()
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    ShareMemCommBuilder().load(verbose=False)
    return extensions_dir()
