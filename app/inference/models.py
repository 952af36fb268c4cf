"""From a model version to the folders that an engine loads: a whole model, or an adapter on the model it belongs to."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.inference.engine import ADAPTER_FILE, TransformersEngine
from app.registry.versions import Registry, Version
from app.registry.whole import whole_folder

if TYPE_CHECKING:
    from app.inference.batching import Limits


@dataclass(frozen=True)
class ModelSource:
    """Where a model lies: its folder, and that of an adapter on it."""

    folder: Path
    adapter: Path | None = None

    def load(self, *, num_threads: int, limits: "Limits | None" = None) -> TransformersEngine:
        """The engine; ModelUnusable when a folder is not what it should be."""
        return TransformersEngine(self.folder, adapter=self.adapter, num_threads=num_threads, limits=limits)


def find_model(model: Version, *, registry: Registry) -> ModelSource:
    """The folders of a model version; an adapter stands on the model that it was trained on.

    Raises:
        ArtifactChanged: a file is not the one that was published.
    """
    folder = whole_folder(model, registry)
    if not (folder / ADAPTER_FILE).exists():
        return ModelSource(folder)
    return ModelSource(whole_folder(registry.get("model", model.facts["base"]), registry), adapter=folder)
