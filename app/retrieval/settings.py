"""Settings of the retrieval stage."""

from typing import Any

from pydantic import PositiveInt

from app.core.settings import Settings


class RetrievalSettings(Settings):
    """How chunks are embedded and indexed."""

    embed_headings: bool = True
    """Embed a chunk's heading path together with its text; off for corpora whose text names its subject itself."""

    batch_size: PositiveInt = 64
    """Chunks embedded at a time."""

    num_workers: PositiveInt = 1
    """Embedding actors."""

    worker_memory_bytes: PositiveInt = 768 << 20
    """Memory that Ray reserves for an embedding actor."""

    def identity(self) -> dict[str, Any]:
        """The settings that decide the content of a version; batches decide the last bits of a bf16 vector."""
        return self.model_dump(mode="json", include={"embed_headings", "batch_size"})
