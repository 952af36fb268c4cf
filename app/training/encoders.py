"""Which models are encoders: they read a text from both sides and write none, so that only `head` trains them."""

import json
from pathlib import Path

from app.core.files import read_text
from app.training.errors import CannotTrain
from app.training.settings import TrainSettings

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


def check_kind(settings: TrainSettings, base: Path | None) -> None:
    """Refuse a base that the recipe cannot train, as far as its configuration says so.

    Raises:
        CannotTrain: an encoder, or a model with a head, is to write; or `head` has no base.
    """
    if settings.recipe == "head":
        if base is None:
            raise CannotTrain("head stands on a model that is there: name it with --base")
    elif base is not None and (is_encoder(base) or has_head(base)):
        raise CannotTrain(f"the base writes nothing, so {settings.recipe} cannot train it: take the recipe head")
