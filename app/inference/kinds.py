"""What kind of model a folder holds, by its configuration: does it write, or only say something of a text?"""

import json
from pathlib import Path

from app.core.files import read_text

CONFIG_FILE = "config.json"
ENCODERS = frozenset(
    {"albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "modernbert", "mpnet"}
    | {"roberta", "roformer", "xlm-roberta"}
)
"""Their `model_type`."""
HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
"""How the architecture of a model with a head ends."""


def is_encoder(folder: Path) -> bool:
    """Whether a folder holds an encoder; one that was made a decoder is none."""
    config = json.loads(read_text(folder / CONFIG_FILE))
    return config.get("model_type") in ENCODERS and not config.get("is_decoder")


def has_head(folder: Path) -> bool:
    """Whether a folder holds a model with a head, which does not write."""
    config = json.loads(read_text(folder / CONFIG_FILE))
    return any(str(name).endswith(HEADS) for name in config.get("architectures") or ())


def writes(folder: Path) -> bool:
    """Whether a folder holds a model that writes, as far as its configuration says so."""
    return not (is_encoder(folder) or has_head(folder))
