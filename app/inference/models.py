"""From a model version to what answers: a whole model, an adapter on the model it belongs to, or a server's model."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.core.digests import digest_json
from app.inference.engine import ADAPTER_FILE, TransformersEngine
from app.inference.remote import REMOTE_FILE, OpenAIEngine, Remote, read_remote
from app.registry.versions import Registry, Version
from app.registry.whole import whole_folder

if TYPE_CHECKING:
    from app.inference.batching import Limits

RECIPE = "openai"


@dataclass(frozen=True)
class ModelSource:
    """Where a model lies: its folder, and that of an adapter on it; or which servers it stands behind."""

    folder: Path
    adapter: Path | None = None
    remote: Remote | None = None

    def load(
        self, *, num_threads: int, limits: "Limits | None" = None, device: str = "cpu", dtype: str = "float32"
    ) -> TransformersEngine | OpenAIEngine:
        """The engine; ModelUnusable when a folder is not what it should be, RemoteKeyMissing without a server's key."""
        if self.remote is not None:
            return OpenAIEngine(self.remote)
        return TransformersEngine(
            self.folder, adapter=self.adapter, num_threads=num_threads, dtype=dtype, device=device, limits=limits
        )


def find_model(model: Version, *, registry: Registry) -> ModelSource:
    """The folders of a model version; an adapter stands on the model that it was trained on.

    Raises:
        ArtifactChanged: a file is not the one that was published.
    """
    folder = whole_folder(model, registry)
    if (remote := read_remote(folder)) is not None:
        return ModelSource(folder, remote=remote)
    if not (folder / ADAPTER_FILE).exists():
        return ModelSource(folder)
    return ModelSource(whole_folder(registry.get("model", model.facts["base"]), registry), adapter=folder)


def add_remote(name: str, remote: Remote, *, registry: Registry) -> Version:
    """Register a model behind servers; the same description gives the version that is there already.

    Its digest is that of the description. What weights the servers run, nobody can prove.
    """
    described = remote.model_dump(mode="json")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, REMOTE_FILE).write_text(remote.model_dump_json(indent=2), encoding="utf-8")
        facts = {"recipe": RECIPE, "weights": "not ours: behind the servers, unproven", **described}
        inputs = {"remote": digest_json(described)}
        return registry.publish("model", name, folder=Path(folder), inputs=inputs, facts=facts)
