"""The settings tree: every stage's and service's settings, in one file that a user may write.

Guarantees: unknown keys are refused by name; environment variables (``SIGNALBOX_MONITORING__PERIOD_S=2``) beat the
file, the file beats the defaults, which are the local profile.
"""

from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.core.errors import UsageError
from app.core.files import FileUnusable, read_yaml
from app.core.settings import Settings, first_fault, refuse_unknown_keys
from app.datasets.settings import DatasetSettings
from app.documents.settings import DocumentSettings
from app.escalation.settings import LadderSettings
from app.evaluation.settings import EvaluationSettings
from app.monitoring.settings import MonitorSettings
from app.retrieval.settings import RetrievalSettings
from app.routing.settings import RoutingSettings
from app.synthesis.settings import SynthesisSettings
from app.training.presets import (
    EXPAND,
    HEAD,
    LARGE_SFT,
    NEW_TOKENS,
    PRETRAIN,
    SMALL_CONTINUAL,
    SMALL_CPT,
    SMALL_DPO,
    SMALL_LORA,
    SMALL_OSFT,
    SMALL_SFT,
)
from app.training.search.space import SearchSettings
from app.training.sequence import SequenceSettings
from app.training.settings import LARGE_MODEL, SMALL_MODEL, ModelSettings, TrainSettings


class BadSettings(UsageError):
    """The settings file cannot be used; the message names the key and what is wrong with it."""


class TrainingSettings(Settings):
    """Shapes of the two models, and the recipe of each training run."""

    small: ModelSettings = SMALL_MODEL
    """Shape of the small model."""

    large: ModelSettings = LARGE_MODEL
    """Shape of the large model."""

    small_cpt: TrainSettings = SMALL_CPT
    """Bootstrap of the small model on the documents' text."""

    small_sft: TrainSettings = SMALL_SFT
    """Fine-tuning of the small model on synthetic rows."""

    small_lora: TrainSettings = SMALL_LORA
    """Adapters on the small model, a rung of the ladder."""

    small_continual: TrainSettings = SMALL_CONTINUAL
    """Continual fine-tuning of the small model, with replay."""

    small_osft: TrainSettings = SMALL_OSFT
    """The same in the directions that the base uses least."""

    small_dpo: TrainSettings = SMALL_DPO
    """Which of two answers is better, from preferences."""

    head: TrainSettings = HEAD
    """A head on a base: labels, tags, answers' places or scores."""

    pretrain: TrainSettings = PRETRAIN
    """A new model of the small shape, or of a Hugging Face configuration, on the documents' text."""

    expand: TrainSettings = EXPAND
    """A base with more blocks, on the documents' text."""

    tokenizer: TrainSettings = NEW_TOKENS
    """A base with tokens for the documents' words, on the documents' text."""

    large_sft: TrainSettings = LARGE_SFT
    """Training of the large model from a random start."""

    sequence: SequenceSettings = SequenceSettings()
    """How a recipe changes from task to task of `jobs.train --continual`."""

    search: SearchSettings = SearchSettings()
    """How many settings `jobs.tune` tries, and how it judges them."""


class SignalboxSettings(BaseSettings):
    """Every setting of Signalbox."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="SIGNALBOX_",
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
        use_attribute_docstrings=True,
    )

    documents: DocumentSettings = DocumentSettings()
    """Reading, converting and chunking."""

    datasets: DatasetSettings = DatasetSettings()
    """Importing rows, their quality and their splits."""

    retrieval: RetrievalSettings = RetrievalSettings()
    """Embedding and indexing."""

    synthesis: SynthesisSettings = SynthesisSettings()
    """Questions and answers from chunks."""

    training: TrainingSettings = TrainingSettings()
    """Models and recipes."""

    evaluation: EvaluationSettings = EvaluationSettings()
    """Running suites."""

    routing: RoutingSettings = RoutingSettings()
    """When an answer is sure enough."""

    monitoring: MonitorSettings = MonitorSettings()
    """Windows, signals and thresholds."""

    ladder: LadderSettings = LadderSettings()
    """Targets of the escalation ladder."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment before the file."""
        return env_settings, init_settings


def load_settings(path: Path | None = None) -> SignalboxSettings:
    """The settings of a YAML file over the defaults; None gives the defaults.

    Raises:
        BadSettings: the file cannot be read, or a key or value in it is wrong.
    """
    try:
        given = read_yaml(path) if path else {}
        refuse_unknown_keys(SignalboxSettings, given)
        return SignalboxSettings(**given)
    except ValidationError as error:
        raise BadSettings(f"settings {path or 'from the environment'}: {first_fault(error)}") from error
    except FileUnusable as error:
        advice = "it must hold settings by name, such as `monitoring:`; mend it, or name another with --config"
        raise BadSettings(f"{error}: {advice}") from error
    except ValueError as error:
        raise BadSettings(f"settings {path}: {error}") from error
